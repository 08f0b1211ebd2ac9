"""Parallel and Merge: stages that combine models, fully decided.

`Parallel` trains branches from the model as received and combines what they changed. `Merge` combines models that are
there already: the one as received and others from the stage store; it trains nothing and has no dose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.combine import Combination, check_weights
from spaces.spec import Spec
from spaces.stage import Handoff, Stage

DIGEST_PATTERN = r"^[0-9a-f]{64}$"


class Branch(Spec):
    """Stages that one branch trains from the model as received, and the weight of what they change."""

    stages: tuple[Stage, ...] = Field(default=(), strict=False)
    """First to last; none: the branch is the model as received."""
    weight: float
    """Factor of the branch's change, also negative. A branch without weight is not trained."""

    @property
    def is_active(self) -> bool:
        """Whether the branch has any part in the result."""
        return self.weight != 0

    @model_validator(mode="after")
    def _check(self) -> Branch:
        for number, (stage, following) in enumerate(pairwise(self.stages), 2):
            conflict = continue_conflict(stage, following)
            if conflict is not None:
                raise ValueError(f"stage {number} ({following.influence}) {conflict}")
        return self


class Member(Spec):
    """A model that takes part in a merge."""

    digest: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    """Name of a stage's result in the stage store. None: the model as received."""
    weight: float
    """Factor of the model's difference from the base, also negative."""


class _Combining(Spec):
    """What both have in common: nothing stays beside the weights, and nothing is drawn by the stage itself."""

    influence: str
    """Name of the influence in study.yaml; for people, not part of the digest."""
    combination: Combination = Combination()
    """How models become one."""

    @property
    def handoff(self) -> Handoff:
        """Always `merge`: the result is one set of weights."""
        return "merge"


class Parallel(_Combining):
    """Branches from one parent, combined with weights."""

    method: Literal["parallel"] = "parallel"
    """Says that this is one."""
    branches: dict[str, Branch] = Field(min_length=1)
    """Branches by name."""

    @model_validator(mode="after")
    def _check(self) -> Parallel:
        weights = [branch.weight for branch in self.branches.values()]
        check_weights(weights, self.combination.how)
        return self

    @property
    def trainings(self) -> tuple[Stage, ...]:
        """All stages that are trained, branch by branch."""
        return tuple(stage for branch in self._active for stage in branch.stages)

    @property
    def dose_tokens(self) -> int:
        """Training tokens of all branches."""
        return sum(stage.dose_tokens for stage in self.trainings)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all sources that branches may draw from, each once."""
        return tuple(dict.fromkeys(name for stage in self.trainings for name in stage.sources))

    @property
    def method_text(self) -> str:
        """How branches are combined, such as `parallel, ties, density 0.3`."""
        return f"parallel, {self.combination.text}"

    @property
    def mix_text(self) -> str:
        """The mixes by branch, such as `warm: chat 100%; plain: web 100%`."""
        return "; ".join(
            f"{name}: {', '.join(stage.mix_text for stage in branch.stages)}"
            for name, branch in self.branches.items()
            if branch.is_active and branch.stages
        )

    @property
    def label(self) -> str:
        """The stage in one line, such as `apart(0.5 [tone(...)] + 0.5 [taste(...)], ties)`."""
        parts = (
            f"{branch.weight:.3g} [{' > '.join(stage.label for stage in branch.stages) or 'as received'}]"
            for branch in self._active
        )
        return f"{self.influence}({' + '.join(parts)}, {self.combination.text})"

    def canonical(self, source_hashes: Mapping[str, str], with_dose: bool = True) -> str:
        """Return the stage as JSON with sorted keys; see `Stage.canonical`. Names of branches do not matter."""
        branches = [
            [branch.weight, [stage.canonical(source_hashes, with_dose) for stage in branch.stages]]
            for branch in self._active
        ]
        return _canonical(self, branches)

    @property
    def _active(self) -> list[Branch]:
        return [branch for branch in self.branches.values() if branch.is_active]


class Merge(_Combining):
    """Models that are there already, combined with weights; their changes are counted from the base."""

    method: Literal["merge"] = "merge"
    """Says that this is one."""
    models: dict[str, Member] = Field(min_length=1)
    """Models by name."""

    @model_validator(mode="after")
    def _check(self) -> Merge:
        members = self.models.values()
        check_weights([member.weight for member in members], self.combination.how)
        if all(member.digest is None for member in members):
            raise ValueError(
                "models name no digest; give one of `apportion store ls` to at least one"
            )
        if len({member.digest for member in members}) < len(members):
            raise ValueError(
                "models name one twice; give each another digest, and none to one at most"
            )
        return self

    @property
    def trainings(self) -> tuple[Stage, ...]:
        """Nothing is trained."""
        return ()

    @property
    def dose_tokens(self) -> int:
        """A merge has no dose."""
        return 0

    @property
    def sources(self) -> tuple[str, ...]:
        """It draws from none."""
        return ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Stored results that it needs."""
        return tuple(
            member.digest
            for member in self.models.values()
            if member.digest is not None and member.weight
        )

    @property
    def method_text(self) -> str:
        """How models are combined, such as `merge, linear`."""
        return f"merge, {self.combination.text}"

    @property
    def mix_text(self) -> str:
        """It has none."""
        return ""

    @property
    def label(self) -> str:
        """The stage in one line, such as `blend(0.5 received + 0.5 donor, linear)`."""
        parts = (
            f"{member.weight:.3g} {name}" for name, member in self.models.items() if member.weight
        )
        return f"{self.influence}({' + '.join(parts)}, {self.combination.text})"

    def canonical(self, source_hashes: Mapping[str, str], with_dose: bool = True) -> str:
        """Return the stage as JSON with sorted keys; see `Stage.canonical`. Names of models do not matter."""
        members = [[each.weight, each.digest] for each in self.models.values() if each.weight]
        return _canonical(self, members)


AnyStage = Annotated[Stage | Parallel | Merge, Field(discriminator="method")]


def first_stages(stage: Stage | Parallel | Merge) -> Iterable[Stage]:
    """Return the stages that train on the model as `stage` receives it."""
    if isinstance(stage, Stage):
        return (stage,)
    if isinstance(stage, Merge):
        return ()
    return [
        branch.stages[0] for branch in stage.branches.values() if branch.is_active and branch.stages
    ]


def continue_conflict(stage: Stage, following: Stage) -> str | None:
    """Return why a stage cannot train on what the one before hands off, as what it must do; None if it can."""
    if stage.handoff != "continue" or following.adapter == stage.adapter:
        return None
    return (
        f"must train on the adapter of the stage before it ({stage.influence}), whose handoff is continue, but its own "
        "settings differ; make them equal"
    )


def _canonical(stage: Parallel | Merge, parts: Sequence[Sequence[object]]) -> str:
    combination = stage.combination.model_dump()
    return json.dumps(
        {"method": stage.method, "parts": parts, "combination": combination}, sort_keys=True
    )
