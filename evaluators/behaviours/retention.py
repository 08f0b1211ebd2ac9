"""Retention: what has training cost the model elsewhere?

Claim    `<name>.bits_per_byte_change` is how many more bits per byte the model needs than the base, on text that
         training did not touch; 0 for the base. `<name>.kl` is KL(base || model) in nats, mean over the tokens of the
         same text: how far its predictions have moved at all, for better or worse; 0 for the base.
Data     A source of format `text`, or by default passages of English prose from the Python language reference
         (`pydoc_data.topics` of the standard library): paragraphs of 300 to 900 characters that are prose, each once,
         in the order of their SHA-256, so that the first ones are a fixed mixture of topics. They differ a little
         between Python versions; the suite's version tells them apart.
Values   `nats`, `base_nats`: negative log-likelihoods of the passage under model and base; `kl_nats`: KL summed over
         its `tokens`; `bytes`. change = sum(nats - base_nats) / ln 2 / sum(bytes); kl = sum(kl_nats) / sum(tokens);
         standard errors by `stats.ratio_estimate`, passages as clusters.
Version  1
Limits   Text that overlaps the training sources hides forgetting. In bfloat16 rounding alone adds about 0.002 nats per
         token to `kl` as soon as any weight has moved. Answers to questions may be lost while plain text is kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.base import (
    PROMPT_CHARACTERS,
    Evaluator,
    Row,
    first_rows,
    hash_of,
    item,
    score,
    text_of,
)
from evaluators.scores import Measurement
from evaluators.spec import RetentionSpec
from evaluators.stats import ratio_estimate
from evaluators.tokens import text_windows

if TYPE_CHECKING:
    from evaluators.models import LoadedModel, TextHidden

DEFAULT_SOURCE = "pydoc_data.topics"
HIDDEN = "hidden"
"""Name of the tensor in a kept reference: hidden states of all windows, (N, H)."""


class Retention(Evaluator):
    """Change of bits per byte, and KL divergence, from the base."""

    version: ClassVar[int] = 1
    needs_reference: ClassVar[bool] = True

    def __init__(self, name: str, spec: RetentionSpec, rows: Sequence[Row] = ()) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec
        given = [{"text": passage} for passage in prose_passages()] if spec.source is None else rows
        chosen = first_rows(name, spec.source or DEFAULT_SOURCE, given, spec.limit)
        self.texts = [text_of(name, index, row, "text") for index, row in enumerate(chosen)]

    def fingerprint(self) -> str:
        """Return a hash of version, spec and texts."""
        return hash_of(self.version, self.spec, self.texts)

    def reference(self, base: LoadedModel) -> TextHidden:
        """Return the base's final hidden states of the texts, and its head."""
        return base.text_hidden(self.texts, self.spec.max_tokens)

    def write_reference(self, reference: Any) -> bytes | None:
        """Return the hidden states as safetensors; not the head, which the base has. None if they are not finite."""
        import torch
        from safetensors.torch import save

        hidden_NH = torch.cat(reference.hidden)
        if not bool(hidden_NH.isfinite().all()):
            return None
        data: bytes = save({HIDDEN: hidden_NH})
        return data

    def read_reference(self, data: bytes, base: LoadedModel) -> TextHidden:
        """Return what `write_reference` was given, with the head of the base.

        Raises:
            ValueError: It holds other than one row of the base's width per token, in the dtype of its head.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        windows = text_windows(base.tokenizer, self.texts, self.spec.max_tokens)
        counts = [len(window.ids) - window.first for window in windows]
        of_base = base.text_hidden((), self.spec.max_tokens)
        try:
            hidden_NH = load(data)[HIDDEN]
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"the reference is no file of hidden states ({error})") from None
        shape = (sum(counts), of_base.head_weight.shape[1])
        if hidden_NH.shape != shape or hidden_NH.dtype != of_base.head_weight.dtype:
            raise ValueError(f"the reference's hidden states are not of shape {shape}")
        parts = torch.split(hidden_NH, counts)
        return of_base._replace(hidden=tuple(part.clone() for part in parts))

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return the change of bits per byte and the KL divergence.

        Raises:
            ValueError: Nothing is known of the base.
        """
        if reference is None:
            raise ValueError("nothing is known of the base: measure the suite's reference first")
        found = model.text_changes(self.texts, self.spec.max_tokens, reference)
        items = tuple(
            item(
                self.name,
                index,
                {
                    "nats": each.nats,
                    "base_nats": each.base_nats,
                    "kl_nats": each.kl_nats,
                    "tokens": each.n_tokens,
                    "bytes": each.n_bytes,
                },
                prompt=text[:PROMPT_CHARACTERS],
            )
            for index, (text, each) in enumerate(zip(self.texts, found, strict=True))
        )
        change = ratio_estimate(
            [(each.nats - each.base_nats) / math.log(2) for each in found],
            [each.n_bytes for each in found],
        )
        kl = ratio_estimate([each.kl_nats for each in found], [each.n_tokens for each in found])
        change_info, kl_info = self.infos
        n = len(items)
        return Measurement(
            scores=(score(change_info, change, n), score(kl_info, kl, n)), items=items
        )


@cache
def prose_passages() -> tuple[str, ...]:
    """Return the default passages: paragraphs of prose, each once, in the order of their SHA-256."""
    passages = {
        " ".join(paragraph.split())
        for text in topics.values()
        for paragraph in text.split("\n\n")
        if _is_prose(paragraph)
    }
    return tuple(sorted(passages, key=lambda passage: hashlib.sha256(passage.encode()).hexdigest()))


def _is_prose(paragraph: str) -> bool:
    """Return whether a paragraph is running text: no indent, grammar rule, list or code, and mostly letters."""
    n_letters = sum(character.isalpha() or character == " " for character in paragraph)
    return (
        300 <= len(paragraph) <= 900
        and paragraph[0].isupper()
        and "::=" not in paragraph
        and ">>>" not in paragraph
        and paragraph.rstrip().endswith(".")
        and not any(line.startswith((" ", "*", "+", "|", "-")) for line in paragraph.splitlines())
        and n_letters > 0.88 * len(paragraph)
    )
