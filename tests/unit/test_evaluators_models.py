"""LoadedModel against likelihoods known by hand, a plain forward pass per row, and transformers' own generation."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny import write_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.greedy import greedy_ids
from evaluators.models import LoadedModel
from evaluators.tokens import completion_sequences, prompt_ids, text_windows

TEXTS = [
    "the cat says hello",
    "hello to you",
    "an owl, a bee and twelve ants met on the road to a fair",
]
ASK = [{"role": "user", "content": "What does the cat say?"}]
PAIRS: list[Any] = [
    ("the cat", (" says hello", " says")),
    (
        ASK,
        (
            [{"role": "assistant", "content": "hello"}],
            [{"role": "assistant", "content": "to you, a"}],
        ),
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_model(path)
    return path


@pytest.fixture
def model(folder: Path) -> LoadedModel:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return LoadedModel(loaded, AutoTokenizer.from_pretrained(folder))


def zeroed(model: LoadedModel) -> LoadedModel:
    for parameter in model.model.parameters():
        nn.init.zeros_(parameter)
    return model


def moved(model: LoadedModel, scale: float = 0.05) -> LoadedModel:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.model.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model


def logp_by_hand(model: LoadedModel, ids: list[int], first: int) -> float:
    """Sum of log-probabilities from `first` on: one row, no padding, the model's own logits."""
    with torch.no_grad():
        logp_TV = model.model.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logp_TV[at - 1, ids[at]]) for at in range(first, len(ids)))


def test_zero_weights_give_every_token_log_v_nats(model: LoadedModel) -> None:
    log_v = math.log(model.model.config.vocab_size)
    for text, found in zip(TEXTS, zeroed(model).text_nats(TEXTS, 8), strict=True):
        n_tokens = len(model.tokenizer(text)["input_ids"])
        assert found.n_tokens == n_tokens
        assert found.n_bytes == len(text)
        assert found.nats == pytest.approx(n_tokens * log_v, rel=1e-6)
    for logps in model.completion_logps(PAIRS):
        for logp in logps:
            assert logp.nats == pytest.approx(-logp.n_tokens * log_v, rel=1e-6)


def test_padded_batches_give_what_one_row_at_a_time_gives(model: LoadedModel) -> None:
    for row, logps in zip(PAIRS, model.completion_logps(PAIRS), strict=True):
        for sequence, logp in zip(
            completion_sequences(model.tokenizer, 0, *row), logps, strict=True
        ):
            by_hand = logp_by_hand(model, sequence.ids, sequence.first)
            assert logp.nats == pytest.approx(by_hand, abs=1e-4)
            assert logp.n_tokens == len(sequence.ids) - sequence.first


def test_small_blocks_and_batches_change_nothing(model: LoadedModel) -> None:
    whole = model.text_nats(TEXTS, 64)
    model._forced.capacity = model._forced.capacity._replace(batch_rows=1, logits=1)
    for found, expected in zip(model.text_nats(TEXTS, 64), whole, strict=True):
        assert found.nats == pytest.approx(expected.nats, abs=1e-4)


def test_windows_count_every_token_once_and_restart_from_the_token_before(
    model: LoadedModel,
) -> None:
    ids = model.tokenizer(TEXTS[2])["input_ids"]
    start = model.tokenizer.eos_token_id  # this tokenizer has no beginning-of-sequence token
    windows = text_windows(model.tokenizer, [TEXTS[2]], 5)
    assert windows[0].ids == [start, *ids[:5]]
    assert windows[1].ids == ids[4:10]
    assert [token for window in windows for token in window.ids[window.first :]] == ids
    by_hand = -sum(logp_by_hand(model, window.ids, 1) for window in windows)
    assert model.text_nats([TEXTS[2]], 5)[0].nats == pytest.approx(by_hand, abs=1e-4)


def test_raw_completions_end_with_the_end_token_and_messages_with_their_template(
    model: LoadedModel,
) -> None:
    tokenizer = model.tokenizer
    (raw, _), (chat, _) = (completion_sequences(tokenizer, 0, *row) for row in PAIRS)
    assert tokenizer.decode(raw.ids[raw.first :]) == " says hello<|im_end|>"
    assert tokenizer.decode(chat.ids[chat.first :]) == "hello<|im_end|>\n"
    assert chat.ids[: chat.first] == prompt_ids(tokenizer, ASK)


def test_completion_starts_where_tokens_merge_across_the_border(model: LoadedModel) -> None:
    # "hel" and "lo" merge to one token of the whole word, so the completion starts before it.
    merged, apart = completion_sequences(model.tokenizer, 0, "the hel", ("lo", " to"))
    assert model.tokenizer.decode(merged.ids[merged.first :]) == " hello<|im_end|>"
    assert merged.first == apart.first


def test_an_open_assistant_message_is_continued(model: LoadedModel) -> None:
    ids = prompt_ids(model.tokenizer, [*ASK, {"role": "assistant", "content": "hello to"}])
    assert model.tokenizer.decode(ids).endswith("assistant\nhello to")


def test_kl_and_change_of_the_base_itself_are_exactly_zero(model: LoadedModel) -> None:
    for change in model.text_changes(TEXTS, 8, model.text_hidden(TEXTS, 8)):
        assert change.kl_nats == 0
        assert change.nats == change.base_nats > 0


def test_kl_is_the_sum_over_the_vocabulary_for_each_token(model: LoadedModel) -> None:
    base = pickle.loads(pickle.dumps(model.text_hidden(TEXTS, 64)))
    (first, *_) = windows = text_windows(model.tokenizer, TEXTS, 64)
    ids_1T = torch.tensor([first.ids[:-1]])
    with torch.no_grad():
        base_TV = model.model(ids_1T).logits[0].double().log_softmax(-1)
        base_nats = [-logp_by_hand(model, window.ids, 1) for window in windows]
        logp_TV = moved(model).model(ids_1T).logits[0].double().log_softmax(-1)
    kl = float((base_TV.exp() * (base_TV - logp_TV)).sum())
    changes = model.text_changes(TEXTS, 64, base)
    assert kl > 0.01
    assert changes[0].kl_nats == pytest.approx(kl, rel=1e-4)
    assert [change.base_nats for change in changes] == pytest.approx(base_nats, abs=1e-4)
    assert [change.nats for change in changes] == pytest.approx(
        [-logp_by_hand(model, window.ids, 1) for window in windows], abs=1e-4
    )


def test_kl_to_a_uniform_model_is_log_v_minus_the_entropy_of_the_base(model: LoadedModel) -> None:
    base = model.text_hidden(TEXTS[:1], 64)
    ids_1T = torch.tensor([text_windows(model.tokenizer, TEXTS[:1], 64)[0].ids[:-1]])
    with torch.no_grad():
        logp_TV = model.model(ids_1T).logits[0].double().log_softmax(-1)
    entropy = -float((logp_TV.exp() * logp_TV).sum())
    (change,) = zeroed(model).text_changes(TEXTS[:1], 64, base)
    log_v = math.log(model.model.config.vocab_size)
    assert change.kl_nats == pytest.approx(change.n_tokens * log_v - entropy, rel=1e-4)


def test_greedy_generation_equals_that_of_transformers(model: LoadedModel) -> None:
    moved(model, 0.2)
    prompts = ["the cat", "an owl says hello to you and", ASK, "x"]
    texts = model.generate(prompts, 12)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = prompt_ids(model.tokenizer, prompt)
        (whole,) = model.model.generate(
            torch.tensor([ids]),
            max_new_tokens=12,
            do_sample=False,
            attention_mask=torch.ones(1, len(ids)),
        )
        expected = model.tokenizer.decode(whole[len(ids) :], skip_special_tokens=True)
        assert text == expected
    assert len(set(texts)) > 1


def test_generation_stops_at_the_end_token_while_other_rows_go_on(model: LoadedModel) -> None:
    free = model.generate(["the cat", "hello to"], 6)
    tokens = [model.tokenizer(text)["input_ids"] for text in free]
    assert free[0] != free[1]
    # Declare a token that only the first row writes to be an end token.
    end = next(token for token in tokens[0] if token not in tokens[1])
    model.model.generation_config.eos_token_id = [model.tokenizer.eos_token_id, end]
    stopped = model.generate(["the cat", "hello to"], 6)
    assert stopped[1] == free[1]
    assert stopped[0] == model.tokenizer.decode(tokens[0][: tokens[0].index(end)])
    # The first had ended when the limit came, the second had not.
    assert [reply.is_cut for reply in (*free, *stopped)] == [True, True, False, True]


def test_equal_prompts_are_written_once_and_cut_for_shorter_limits(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(model, 0.2)
    batches: list[list[tuple[int, int]]] = []

    def noted(model: Any, ends: set[int], prompts: list[list[int]], limits: list[int]) -> Any:
        batches.append([(len(ids), limit) for ids, limit in zip(prompts, limits, strict=True)])
        return greedy_ids(model, ends, prompts, limits)

    monkeypatch.setattr("evaluators.models.greedy_ids", noted)
    prompts, limits = ["the cat", "hello to", "the cat", "the cat"], [3, 5, 7, 3]
    replies = model.generate(prompts, limits)
    n_cat, n_hello = (len(model.tokenizer(text)["input_ids"]) for text in ("the cat", "hello to"))
    assert batches == [[(n_cat, 7), (n_hello, 5)]]
    for prompt, limit, reply in zip(prompts, limits, replies, strict=True):
        (alone,) = model.generate([prompt], limit)
        assert (reply, reply.is_cut) == (alone, alone.is_cut)
    assert len(set(replies)) == 3


def test_reply_cut_at_a_shorter_limit_had_not_ended_there(model: LoadedModel) -> None:
    moved(model, 0.2)
    steps = [model.generate(["the cat"], limit)[0] for limit in range(1, 9)]
    written = 0  # tokens; the model ends after four

    def ended(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal written
        written += 1
        if written == 5:
            logits[..., model.tokenizer.eos_token_id] = logits.max() + 1
        return logits

    with_end = model.model.get_output_embeddings().register_forward_hook(ended)
    replies = model.generate(["the cat"] * 3, [3, 4, 8])
    with_end.remove()
    assert [reply.is_cut for reply in replies] == [True, True, False]
    assert replies == [steps[2], steps[3], steps[3]]


def test_non_finite_logits_stop_generation_with_an_error(model: LoadedModel) -> None:
    model.model.get_input_embeddings().weight.data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        model.generate(["the cat"], 3)


def test_bfloat16_rounds_and_puts_the_weights_back(folder: Path, model: LoadedModel) -> None:
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    pointers = {name: value.data_ptr() for name, value in model.model.named_parameters()}
    half = LoadedModel(model.model, model.tokenizer, precision="bfloat16")
    exact, rounded = model.text_nats(TEXTS, 64)[0].nats, half.text_nats(TEXTS, 64)[0].nats
    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=0.02)
    assert {name: value.data_ptr() for name, value in model.model.named_parameters()} == pointers
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_model_is_left_as_it_was_found_also_after_an_error(
    model: LoadedModel, precision: Any
) -> None:
    inner = model.model
    inner.train()
    inner.model.layers[0].eval()
    inner.model.layers[1].requires_grad_(False)
    inner.config.use_cache = False
    inner.lm_head.weight.grad = torch.ones_like(inner.lm_head.weight)

    def state() -> list[Any]:
        return [
            [module.training for module in inner.modules()],
            [(p.requires_grad, p.dtype, p.grad is None) for p in inner.parameters()],
            inner.config.use_cache,
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
        ]

    before = state()
    loaded = LoadedModel(inner, model.tokenizer, precision=precision)
    loaded.generate(["the cat"], 2)
    loaded.text_changes(TEXTS, 8, loaded.text_hidden(TEXTS, 8))
    with pytest.raises(RuntimeError, match="stop"), loaded.ready():
        raise RuntimeError("stop")
    assert state() == before
    inner(torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]])).loss.backward()


def test_dropout_is_off_while_measuring(model: LoadedModel) -> None:
    inject_adapter_in_model(
        LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj"], init_lora_weights=False),
        model.model,
    )
    model.model.train()
    assert model.text_nats(TEXTS, 8) == model.text_nats(TEXTS, 8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_injected_adapters_count(model: LoadedModel, precision: Any) -> None:
    loaded = LoadedModel(model.model, model.tokenizer, precision=precision)
    plain = loaded.text_nats(TEXTS, 64)[0].nats
    torch.manual_seed(0)
    inject_adapter_in_model(
        LoraConfig(
            r=2, lora_alpha=512, target_modules=["q_proj", "up_proj"], init_lora_weights=False
        ),
        model.model,
    )
    adapted = loaded.text_nats(TEXTS, 64)[0].nats
    assert abs(adapted - plain) > 0.1
    if precision == "float32":
        ids = text_windows(loaded.tokenizer, TEXTS, 64)[0].ids
        assert adapted == pytest.approx(-logp_by_hand(loaded, ids, 1), abs=1e-4)


def test_frozen_and_trainable_heads_write_the_same(model: LoadedModel) -> None:
    trainable = model.generate(["the cat", "hello"], 8)
    model.model.requires_grad_(False)
    assert model.generate(["the cat", "hello"], 8) == trainable


def test_model_that_scales_its_logits_after_the_head_is_refused(model: LoadedModel) -> None:
    class Capped(type(model.model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = out.logits / 8 + 1
            return out

    model.model.__class__ = Capped
    with pytest.raises(ValueError, match="transforms its logits"):
        model.text_nats(TEXTS, 8)


@pytest.mark.parametrize(
    "measure",
    [
        lambda model: model.generate(["the cat"], 256),
        lambda model: model.completion_logps([("the cat", (" hello" * 300,))]),
        lambda model: model.text_nats(TEXTS, 257),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_both_lengths(
    measure: Any, model: LoadedModel
) -> None:
    with pytest.raises(ValueError, match=r"has \d+ tokens and the model reads 256"):
        measure(model)


def test_no_conversations_give_no_outputs(model: LoadedModel) -> None:
    assert model.generate([], 4) == []
