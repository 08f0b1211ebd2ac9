"""A small world with known answers: a base model that has been taught one code, and rows that teach others.

A code maps 8 keys to values. A row asks for a key among filler words, under the mark of its code, and its answer is
one value: `red k3 f7 f20 = v5`. Rows that are trained on and questions share no text, only the code, so a model
that has learnt the code answers all of them. Everything follows from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

KEYS = tuple(f"k{at}" for at in range(8))
VALUES = tuple(f"v{at}" for at in range(8))
MARKS = ("old", "red", "blue", "green")
FILLERS = tuple(f"f{at}" for at in range(48))
N_FILLERS, N_CHOICES = 2, 4
HIDDEN, INNER, LAYERS, HEADS = 48, 96, 2, 2
BASE_ROWS, BASE_STEPS, BASE_RATE = 32, 200, 4e-3

Code = Mapping[str, str]
"""Key to value."""
Row = dict[str, Any]


class World:
    """Codes, rows and a base of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._draw = random.Random(f"world {seed}")
        self._asked: set[str] = set()
        self.old = self.code()
        """What the base has been taught, under the mark `old`."""

    def code(self, keys: Sequence[str] = KEYS) -> dict[str, str]:
        """Return a new code in which all values are as frequent."""
        values = [VALUES[at % len(VALUES)] for at in range(len(keys))]
        self._draw.shuffle(values)
        return dict(zip(keys, values, strict=True))

    def other(self, code: Code) -> dict[str, str]:
        """Return a code that has another value for every key."""
        by = self._draw.randrange(1, len(VALUES))
        return {
            key: VALUES[(VALUES.index(value) + by) % len(VALUES)] for key, value in code.items()
        }

    def rows(self, mark: str, code: Code, n_each: int) -> list[Row]:
        """Return `n_each` rows for each key, to train on."""
        return [self._row(mark, key, value) for key, value in code.items() for _ in range(n_each)]

    def questions(self, mark: str, code: Code, n_each: int, decoy: Code | None = None) -> list[Row]:
        """Return `n_each` questions for each key, with four choices; the value of `decoy` is among them."""
        found = []
        for key, value in code.items():
            must = [value] if decoy is None else [value, decoy[key]]
            for _ in range(n_each):
                others = [each for each in VALUES if each not in must]
                choices = [*must, *self._draw.sample(others, N_CHOICES - len(must))]
                self._draw.shuffle(choices)
                row = {"prompt": self._prompt(mark, key), "choices": choices, "answer": value}
                found.append(row)
        return found

    def coins(self, mark: str, n_each: int) -> list[Row]:
        """Return questions whose right answers are drawn one by one: no training can change how many are hit."""
        return [
            row
            for key in KEYS
            for _ in range(n_each)
            for row in self.questions(mark, {key: self._draw.choice(VALUES)}, 1)
        ]

    def shuffled(self, rows: Iterable[Row]) -> list[Row]:
        """Return rows in random order."""
        listed = list(rows)
        self._draw.shuffle(listed)
        return listed

    def _row(self, mark: str, key: str, value: str) -> Row:
        return {"prompt": self._prompt(mark, key), "completion": f" {value}"}

    def _prompt(self, mark: str, key: str) -> str:
        while True:
            fillers = self._draw.sample(FILLERS, N_FILLERS)
            prompt = f"{mark} {key} {' '.join(fillers)} ="
            if prompt not in self._asked:
                self._asked.add(prompt)
                return prompt


def new_tokenizer() -> Any:
    """Return a tokenizer with one token a word."""
    words = ["<end>", *MARKS, *KEYS, *VALUES, *FILLERS, "="]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", unk_token="<end>"
    )


@cache
def _base(seed: int, dead_layers: tuple[int, ...]) -> tuple[Any, Any]:
    """Return a new model that has been taught the old code and the green one, and its tokenizer.

    Dead layers have zeros in the last matrix of attention and MLP, as after pruning: they pass on what they get.
    """
    world = World(seed)
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=16,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    for at in dead_layers:
        layer = model.model.layers[at]
        for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
            matrix.weight.requires_grad_(False).zero_()
    taught = {"old": world.old, "green": world.code()}
    rows = world.shuffled(
        row for mark, code in taught.items() for row in world.rows(mark, code, 64)
    )
    texts = [f"{row['prompt']}{row['completion']} <end>" for row in rows]
    ids_NT = torch.tensor(tokenizer(texts)["input_ids"])
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=BASE_RATE, betas=(0.9, 0.95))
    for step in range(BASE_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = BASE_RATE * min(1.0, (step + 1) / 20) * (1 - step / BASE_STEPS)
        ids_BT = ids_NT[torch.randint(len(ids_NT), (BASE_ROWS,))]
        labels_BT = torch.full_like(ids_BT, -100)
        labels_BT[:, -2:] = ids_BT[:, -2:]
        model(input_ids=ids_BT, labels=labels_BT).loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.requires_grad_(True).eval(), tokenizer


def write_base(world: World, folder: Path, dead_layers: Sequence[int] = ()) -> None:
    """Save the base of a world."""
    model, tokenizer = _base(world.seed, tuple(dead_layers))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def hits(world: World, questions: Sequence[Row]) -> list[bool]:
    """Return which questions the base answers rightly, as `multiple_choice` counts."""
    model, tokenizer = _base(world.seed, ())
    ids_NT = torch.tensor(tokenizer([row["prompt"] for row in questions])["input_ids"])
    with torch.inference_mode():
        logits_NV = model(input_ids=ids_NT).logits[:, -1]
    found = []
    for row, logits_V in zip(questions, logits_NV, strict=True):
        ids = tokenizer.convert_tokens_to_ids(row["choices"])
        found.append(row["choices"][int(logits_V[ids].argmax())] == row["answer"])
    return found
