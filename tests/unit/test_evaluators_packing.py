"""Completions of one prompt share a row, and each is as likely as in a row of its own."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
)

from evaluators.forced import TeacherForcing
from evaluators.packing import LONGEST_TOKENS, input_of, rows_of
from evaluators.tokens import TokenSequence

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
LLAMA = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}
PROMPT = list(range(10, 22))
QUESTION = [
    *(TokenSequence(PROMPT + tail, len(PROMPT), 0) for tail in ([5], [6, 7, 8], [9, 5, 6, 7, 8])),
    TokenSequence([30, 31, 32, 33], 2, 1),
    TokenSequence([30, 31, 40], 2, 1),
    TokenSequence([1, 2, 3, 4, 5], 1, 2),
]


class Counting(TeacherForcing):
    """Counts the tokens that its model reads."""

    n_read = 0

    def _hidden(self, batch):  # type: ignore[no-untyped-def]
        self.n_read += batch.ids.numel()
        return super()._hidden(batch)


def forced(config: PretrainedConfig) -> Counting:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # wide weights, so that what is seen matters
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return Counting(model, torch.device("cpu"))


def logps(reader: TeacherForcing) -> list[float]:
    with torch.inference_mode():
        return [float(total) for total in reader.summed(QUESTION, reader.logps)[:, 0]]


def by_hand(reader: TeacherForcing) -> list[float]:
    sums = []
    for sequence in QUESTION:
        with torch.no_grad():
            logits_TV = reader.model(torch.tensor([sequence.ids])).logits[0]
        logp_TV = logits_TV.double().log_softmax(-1)
        places = range(sequence.first, len(sequence.ids))
        sums.append(sum(float(logp_TV[at - 1, sequence.ids[at]]) for at in places))
    return sums


def test_rows_hold_a_shared_prompt_once() -> None:
    rows = rows_of(QUESTION, is_packing=True)
    assert [row.indices for row in rows] == [[0, 1, 2], [3, 4], [5]]
    assert rows[0].ids == [*PROMPT, 6, 7, 9, 5, 6, 7]
    assert rows[0].positions == [*range(12), 12, 13, 12, 13, 14, 15]
    assert rows[0].predicting == [11, 11, 12, 13, 11, 14, 15, 16, 17]
    assert [row.indices for row in rows_of(QUESTION, is_packing=False)] == [[at] for at in range(6)]


def test_a_completion_sees_the_prompt_and_itself() -> None:
    mask = input_of(rows_of(QUESTION[1:3], is_packing=True), "cpu").mask
    assert mask is not None
    last_of_first, last_of_second = mask[0, 0, 13], mask[0, 0, 17]
    assert last_of_first.nonzero().flatten().tolist() == list(range(14))
    assert last_of_second.nonzero().flatten().tolist() == [*range(12), 14, 15, 16, 17]


def test_prompts_that_only_look_alike_have_rows_of_their_own() -> None:
    other = TokenSequence([*PROMPT[:-1], 49, 5], len(PROMPT), 0)
    longer = TokenSequence([*PROMPT, 5, 6], len(PROMPT) + 1, 0)
    assert len(rows_of([QUESTION[0], other, longer], is_packing=True)) == 3


def test_a_row_stays_short_enough_for_its_mask() -> None:
    half = LONGEST_TOKENS // 2
    many = [TokenSequence([*PROMPT, *range(half)], len(PROMPT), 0) for _ in range(5)]
    assert max(len(row.ids) for row in rows_of(many, is_packing=True)) <= LONGEST_TOKENS


@pytest.mark.parametrize(
    "config", [LlamaConfig(**LLAMA), GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50)]
)
def test_packed_completions_are_as_likely_as_alone_and_cost_fewer_tokens(
    config: PretrainedConfig,
) -> None:
    reader = forced(config)
    assert logps(reader) == pytest.approx(by_hand(reader), abs=1e-4)
    alone = forced(config)
    alone._is_packing = False
    logps(alone)
    n_check = 8 + (7 + 6)  # both ways of reading two short sequences, once per model
    assert reader.n_read - n_check < alone.n_read


@pytest.mark.parametrize(
    "config",
    [
        FalconConfig(**SMALL, alibi=True),  # biases by distance in a row
        MistralConfig(**LLAMA, sliding_window=6),  # looks back over six tokens of a row
    ],
)
def test_a_model_that_would_see_other_things_in_a_shared_row_is_not_given_one(
    config: PretrainedConfig,
) -> None:
    reader = forced(config)
    assert logps(reader) == pytest.approx(by_hand(reader), abs=1e-4)
    assert reader._is_packing is False
