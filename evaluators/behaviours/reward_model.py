"""Reward model: what does a given classifier think of the replies?

Claim    `<name>` is the mean, over greedy continuations, of the one number that a reward model gives prompt and
         reply.
Data     A source of format `prompt`; a folder or hub id of a sequence classifier with one output.
Values   `reward`: the classifier's output as it is, no sigmoid; absent for replies without text. `truncated`: 1 if
         the beginning of prompt and reply was cut to `max_length` tokens, else 0. score = mean of `reward` with
         `stats.mean_estimate`; missing where more than a tenth of the replies are empty or a reward is not finite.
Method   Where the reward model's tokenizer has a chat template, prompt and reply go through it as a conversation (raw
         text as a user message). Else the tokenizer takes them as a pair of texts, earlier messages as `shown` writes
         them. The end is kept, since it holds the reply. float32, 8 rows at a time, of like length, padded on the
         right and masked. The weights come from safetensors; no code of the checkpoint runs.
Version  1
Limits   A reward is what its model learnt to like: length, flattery and lists among it. Rewards of two models do not
         compare, and the zero means nothing. The score is easily overdone: keep `diversity`, `retention` and a
         holdout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from evaluators.base import Conversation, Row, hash_of, score, shown
from evaluators.replies import ReplyEvaluator, empty_fault, is_empty
from evaluators.reply_specs import RewardModelSpec
from evaluators.scores import Measurement, Score
from evaluators.stats import mean_estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel

BATCH_ROWS = 8


class Reward(NamedTuple):
    """What a reward model says of one prompt and reply."""

    value: float
    """May be not finite."""
    is_truncated: bool


class RewardModel(ReplyEvaluator[RewardModelSpec]):
    """Mean reward of prompts and replies."""

    version: ClassVar[int] = 1

    def __init__(self, name: str, spec: RewardModelSpec, rows: Sequence[Row], root: Path) -> None:
        super().__init__(name, spec, rows)
        self.folder = None if spec.path is None else root / spec.path
        self._loaded: tuple[Any, Any] | None = None
        if self.folder is not None:
            fault = folder_fault(self.folder)
            if fault is not None:
                raise ValueError(f"evaluator {name}: {fault}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the weights out: another process loads its own."""
        return {**vars(self), "_loaded": None}

    def fingerprint(self) -> str:
        """Return a hash of version, spec, rows and the files of a local reward model."""
        files: list[tuple[str, str]] = []
        if self.folder is not None:
            files = [
                (path.name, _file_hash(path))
                for path in sorted(self.folder.iterdir())
                if path.is_file()
            ]
        return hash_of(self.version, self.spec, [self.rows, files])

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return the mean reward."""
        said = [index for index, output in enumerate(outputs) if not is_empty(output)]
        network, tokenizer = self._model(str(model.device))
        pairs = [(self.conversations[index], str(outputs[index])) for index in said]
        rewards = dict(
            zip(said, rewards_of(network, tokenizer, pairs, self.spec.max_length), strict=True)
        )
        items = []
        for index, output in enumerate(outputs):
            reward = rewards.get(index)
            values = (
                {}
                if reward is None
                else {
                    "reward": reward.value,
                    "truncated": float(reward.is_truncated),
                }
            )
            items.append(self.reply_item(index, output, values))
        column = [reward.value for reward in rewards.values()]
        n_bad = int((~np.isfinite(column)).sum())
        fault = empty_fault(outputs)
        if n_bad:
            fault = f"{n_bad} of {len(column)} rewards are not finite"
        if fault is not None:
            return Measurement(scores=(Score.missing(self.infos[0], fault),), items=tuple(items))
        mean = score(self.infos[0], mean_estimate(column), len(column))
        return Measurement(scores=(mean,), items=tuple(items))

    def _model(self, device: str) -> tuple[Any, Any]:
        """Return the reward model and its tokenizer, loaded once per process."""
        if self._loaded is None:
            place = str(self.folder) if self.folder is not None else str(self.spec.hub)
            self._loaded = load_reward_model(place, self.spec.revision, device)
        return self._loaded


def load_reward_model(place: str, revision: str | None, device: str) -> tuple[Any, Any]:
    """Return a sequence classifier with one output, and its tokenizer.

    Raises:
        ValueError: It has more outputs than one, or weights that the checkpoint lacks.
        OSError: It is not there, or has no safetensors.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options = {"revision": revision, "trust_remote_code": False}
    network, info = AutoModelForSequenceClassification.from_pretrained(
        place, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
    )
    # A language model's checkpoint would load too, with a head of random numbers.
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise ValueError(f"{place} lacks weights of a classifier, such as {lacking[0]}")
    if network.config.num_labels != 1:
        raise ValueError(f"{place} has {network.config.num_labels} outputs; a reward model has one")
    tokenizer = AutoTokenizer.from_pretrained(place, **options)
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    return network.to(device).eval(), tokenizer


def rewards_of(
    network: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[Conversation, str]],
    max_length: int,
) -> list[Reward]:
    """Return what a reward model says of prompts and replies, in their order.

    Args:
        network: A sequence classifier with one output.
        tokenizer: Its tokenizer.
        pairs: Prompt and reply.
        max_length: Tokens that are read; of longer ones the beginning is cut off.
    """
    import torch

    inputs = [_inputs(tokenizer, *pair, max_length) for pair in pairs]
    lengths = [len(each["input_ids"]) for each, _ in inputs]
    order = sorted(range(len(inputs)), key=lambda index: -lengths[index])
    pad = network.config.pad_token_id
    # Without a pad token a classifier cannot find the end of shorter rows.
    n_rows = 1 if pad is None else BATCH_ROWS
    found: dict[int, Reward] = {}
    for start in range(0, len(order), n_rows):
        indices = order[start : start + n_rows]
        width = lengths[indices[0]]
        batch = {
            key: torch.tensor(
                [
                    inputs[index][0][key]
                    + [(pad or 0) if key == "input_ids" else 0] * (width - lengths[index])
                    for index in indices
                ],
                device=network.device,
            )
            for key in inputs[indices[0]][0]
        }
        with torch.inference_mode():
            logits_B1 = network(**batch).logits.float().cpu()
        for index, value in zip(indices, logits_B1[:, 0].tolist(), strict=True):
            found[index] = Reward(value, inputs[index][1])
    return [found[index] for index in range(len(pairs))]


def folder_fault(folder: Path) -> str | None:
    """Return why a folder cannot hold a reward model, or None if it can."""
    if not folder.is_dir():
        return f"{folder} is no folder; mend path"
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json; name the folder of a saved model"
    if not any(folder.glob("*.safetensors")):
        return (
            f"{folder} has no weights in safetensors; save the model so, other formats can run code"
        )
    return None


def _inputs(
    tokenizer: Any, prompt: Conversation, reply: str, max_length: int
) -> tuple[dict[str, list[int]], bool]:
    """Return the tokens of prompt and reply with their masks, and whether their beginning was cut."""
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        encoded = tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": reply}], tokenize=True, return_dict=True
        )
    else:
        encoded = tokenizer(shown(prompt), reply)
    rows = {
        key: list(encoded[key])[-max_length:]
        for key in ("input_ids", "attention_mask", "token_type_ids")
        if key in encoded
    }
    return rows, len(encoded["input_ids"]) > max_length


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
