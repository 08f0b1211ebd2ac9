"""Likelihood: how well does the model predict a text?

Claim    `<name>` is bits per byte over all rows together: lower is better, and tokenizers compare.
Data     A source of format `text`: `text`.
Values   `nats`: negative log-likelihood of the row, all its tokens counted once; `bytes`: its UTF-8 length; `tokens`.
         score = sum(nats) / ln 2 / sum(bytes); its standard error is `stats.ratio_estimate`, rows as clusters.
Version  1
Limits   A window of `max_tokens` forgets all before it but one token, so the figure depends on `max_tokens`. It is a
         property of the text as well: compare models on one text only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from evaluators.spec import LikelihoodSpec
from evaluators.stats import ratio_estimate

if TYPE_CHECKING:
    from evaluators.models import LoadedModel


class Likelihood(Evaluator):
    """Bits per byte of a text."""

    version: ClassVar[int] = 1

    def __init__(self, name: str, spec: LikelihoodSpec, rows: Sequence[Row]) -> None:
        super().__init__(name, spec.infos(name))
        self.spec = spec
        self.rows = first_rows(name, spec.source, rows, spec.limit)
        self.texts = [text_of(name, index, row, "text") for index, row in enumerate(self.rows)]

    def fingerprint(self) -> str:
        """Return a hash of version, spec and texts."""
        return hash_of(self.version, self.spec, self.texts)

    def measure(self, model: LoadedModel, reference: Any, outputs: Sequence[str]) -> Measurement:
        """Return bits per byte over all rows."""
        found = model.text_nats(self.texts, self.spec.max_tokens)
        items = tuple(
            item(
                self.name,
                index,
                {"nats": each.nats, "bytes": each.n_bytes, "tokens": each.n_tokens},
                kind=None if row.get("kind") is None else str(row["kind"]),
                prompt=text[:PROMPT_CHARACTERS],
            )
            for index, (row, text, each) in enumerate(
                zip(self.rows, self.texts, found, strict=True)
            )
        )
        estimate = ratio_estimate(
            [each.nats / math.log(2) for each in found], [each.n_bytes for each in found]
        )
        return Measurement(scores=(score(self.infos[0], estimate, len(items)),), items=items)
