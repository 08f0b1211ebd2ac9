"""What a stage draws of its sources: rows as token ids, their plan, and where stages before it stopped.

Needs the tokenizer of the base and none of its weights, so it serves training, `apportion data` and exports alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from search.errors import DataError
from search.sources import Source
from search.spec import TrainingSpec
from search.stages.going_on import Before, Earlier, draws_again, places_after
from search.stages.joint import LOSSES
from search.stages.mix import Places, StagePlan, plan_stage
from search.stages.tokens import TokenRows, tokenise, unpaired
from spaces.loss import mix_sources
from spaces.stage import Stage

LossRows = dict[str, dict[str, TokenRows]]
"""Loss to source to its tokenised rows."""


@dataclass(frozen=True)
class Drawing:
    """How stages read their sources."""

    sources: Mapping[str, Source]
    """By name; at least those that the stages draw from."""
    training: TrainingSpec
    """How all stages train."""
    tokenizer: Any
    """Of the base."""
    tokenizer_hash: str
    """Names it."""

    @property
    def hashes(self) -> dict[str, str]:
        """Content hashes of the sources by name."""
        return {name: source.content_hash for name, source in self.sources.items()}

    def rows(self, stage: Stage) -> LossRows:
        """Return the tokenised sources of each loss that has a weight at any time.

        Raises:
            DataError: A source has the wrong format for the loss, or no row that can be trained on.
        """
        found: LossRows = {}
        for loss, term in stage.losses.items():
            if loss == "kl" or not term.is_active:
                continue
            formats = import_module(LOSSES[loss]).FORMATS
            found[loss] = {}
            for name in mix_sources(term):
                source = self.sources[name]
                if source.format not in formats:
                    raise DataError(
                        f"source {name}: {loss} cannot train on format {source.format}; "
                        f"it takes {', '.join(formats)}"
                    )
                tokens = tokenise(
                    source,
                    self.tokenizer,
                    self.tokenizer_hash,
                    self.training.max_length,
                    self.training.loss_on,
                )
                found[loss][name] = unpaired(tokens) if loss == "kto" else tokens
        return found

    def plan(self, stage: Stage, rows: LossRows, seed: int, places: Places) -> StagePlan:
        """Return the steps of a stage; see `plan_stage`."""
        counts = {
            loss: {name: tokens.n_tokens for name, tokens in found.items()}
            for loss, found in rows.items()
        }
        rows_per_step = self.training.rows_per_step
        return plan_stage(
            stage.losses, counts, seed, stage.dose_tokens, rows_per_step, self.hashes, places
        )

    def places(self, stage: Stage, earlier: Sequence[Earlier]) -> Places:
        """Return where a stage begins in its sources: where the plans of the stages before it end."""

        def plan(one: Stage, seed: int, places: Places) -> Places:
            return self.plan(one, self.rows(one), seed, places).places

        return places_after(earlier, plan) if draws_again(stage, earlier, self.hashes) else {}

    def plans(self, stages: Sequence[Before]) -> list[tuple[LossRows, StagePlan]]:
        """Return rows and steps of stages that follow one another, first to last."""
        found = []
        for at, one in enumerate(stages):
            rows = self.rows(one.stage)
            places = self.places(one.stage, stages[:at])
            found.append((rows, self.plan(one.stage, rows, one.seed, places)))
        return found
