"""Recipe: stages in order, fully decided, frozen, with a canonical form and a digest for every prefix.

A prefix of a recipe is a recipe, so `Recipe.prefix_digests` names every intermediate model. So is a prefix with one
branch of the parallel stage after it: branches share their results with recipes that train the same in series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise

from pydantic import model_validator

from spaces.adapter import TARGET_MODULES as TARGET_MODULES
from spaces.adapter import Adapter as Adapter
from spaces.adapter import Full as Full
from spaces.adapter import Lora as Lora
from spaces.adapter import layer_range as layer_range
from spaces.parallel import AnyStage as AnyStage
from spaces.parallel import Branch as Branch
from spaces.parallel import Member as Member
from spaces.parallel import Merge as Merge
from spaces.parallel import Parallel as Parallel
from spaces.parallel import continue_conflict, first_stages
from spaces.spec import Spec
from spaces.stage import Handoff as Handoff
from spaces.stage import Method as Method
from spaces.stage import Stage as Stage


class Recipe(Spec):
    """An ordered list of stages on a base model. No stages: the untouched base."""

    stages: tuple[AnyStage, ...] = ()
    """The stages, first to last."""

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for number, (stage, following) in enumerate(pairwise(self.stages), 2):
            if not isinstance(stage, Stage):
                continue
            for first in first_stages(following):
                conflict = continue_conflict(stage, first)
                if conflict is not None:
                    raise ValueError(f"stage {number} ({following.influence}) {conflict}")
        return self

    def branch(self, number: int, name: str) -> Recipe:
        """Return the recipe that ends with a branch of stage `number` (from 1), which is a `Parallel`."""
        stage = self.stages[number - 1]
        assert isinstance(stage, Parallel)
        return Recipe(stages=(*self.stages[: number - 1], *stage.branches[name].stages))

    def prefix(self, n_stages: int) -> Recipe:
        """Return the recipe of the first `n_stages` stages."""
        return Recipe(stages=self.stages[:n_stages])

    def goes_on(self, at: int, source_hashes: Mapping[str, str]) -> bool:
        """Return whether stage `at` has a loss on a source that a stage before it had: it does not begin anew.

        Args:
            at: The stage, from 0; of a `Parallel`, any stage of its branches.
            source_hashes: As in `Stage.canonical`.
        """
        stage = self.stages[at]
        if isinstance(stage, Parallel):
            active = [name for name, branch in stage.branches.items() if branch.is_active]
            branches = [self.branch(at + 1, name) for name in active]
            return any(
                one.goes_on(number, source_hashes)
                for one in branches
                for number in range(at, len(one.stages))
            )
        before = [one for earlier in self.stages[:at] for one in earlier.trainings]
        drawn = {stream for one in before for stream in one.streams(source_hashes)}
        return any(one.streams(source_hashes) & drawn for one in stage.trainings)

    def label(self) -> str:
        """Return the recipe in one short line, such as `tone(lora r8, 2.0k) > taste(dpo full, 1.5k)`."""
        return " > ".join(stage.label for stage in self.stages) or "base"

    def order_label(self) -> str:
        """Return the influences alone, such as `tone > taste`."""
        return " > ".join(stage.influence for stage in self.stages) or "base"

    def prefix_digests(
        self, context: str = "", source_hashes: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """Return one hex SHA-256 per prefix, from no stage to all stages (length n_stages + 1).

        Args:
            context: Canonical text of all that determines the models beside stages and sources: fingerprint of the
                base, training settings, seed, version of the stage code.
            source_hashes: As in `Stage.canonical`.
        """
        digests = [_sha256(context)]
        for at, stage in enumerate(self.stages):
            text = stage.canonical(source_hashes or {})
            if self.goes_on(at, source_hashes or {}):
                # Such stages began anew once; what is stored of that time must not stand in for them.
                text += " goes on"
            digests.append(_sha256(digests[-1] + text))
        return tuple(digests)

    def stage_seeds(
        self, context: str = "", source_hashes: Mapping[str, str] | None = None
    ) -> tuple[int, ...]:
        """Return a 31-bit seed per stage, from the parent's digest and the stage without its dose.

        Two recipes that share a prefix share its seeds; two doses of one stage after one parent do too.
        """
        digests = self.prefix_digests(context, source_hashes)
        texts = [stage.canonical(source_hashes or {}, with_dose=False) for stage in self.stages]
        return tuple(
            int(_sha256(parent + text)[:8], 16) & 0x7FFFFFFF
            for parent, text in zip(digests, texts, strict=False)
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
