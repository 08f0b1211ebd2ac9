"""Influences that combine models, as study.yaml says them: `parallel` and `merge`, values fixed or to be searched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spaces.combine import CombinationSpec, slerp_conflict
from spaces.mix_spec import SimplexSpec
from spaces.parallel import DIGEST_PATTERN
from spaces.spec import FloatValue, Spec

PART_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
PartName = Annotated[str, Field(pattern=PART_NAME)]


class BranchSpec(Spec):
    """What one branch trains from the model as received."""

    stages: tuple[str, ...]
    """Influences, first to last; none: the branch is the model as received. Their values are this branch's own, named
    `<influence>.<branch>.<stage>.<value>`."""
    weight: FloatValue | None = None
    """Factor of the branch's change, also negative; left out where `weights` gives it."""


class MemberSpec(Spec):
    """A model that takes part in a merge."""

    digest: str | None = Field(default=None, pattern=DIGEST_PATTERN)
    """Digest of a stored stage, as `apportion store ls` prints it. Without: the model as received."""
    weight: FloatValue | None = None
    """Factor of the model's difference from the base, also negative; left out where `weights` gives it."""


class ParallelSpec(Spec):
    """Branches trained from one parent, then combined."""

    method: Literal["parallel"]
    """Says that this is one."""
    branches: dict[PartName, BranchSpec] = Field(min_length=1)
    """Branches by name."""
    weights: SimplexSpec | None = None
    """Weights of all branches as shares that sum to 1, to be searched."""
    combination: CombinationSpec = CombinationSpec()
    """How their models become one."""

    @property
    def sources(self) -> tuple[str, ...]:
        """None of its own; the influences in its branches have theirs."""
        return ()

    @model_validator(mode="after")
    def _check(self) -> ParallelSpec:
        weights = {name: branch.weight for name, branch in self.branches.items()}
        _check_weights("branches", weights, self.weights, self.combination)
        return self


class MergeSpec(Spec):
    """Models that are there already, combined; nothing is trained."""

    method: Literal["merge"]
    """Says that this is one."""
    models: dict[PartName, MemberSpec] = Field(min_length=1)
    """Models by name: the one as received, and stored ones."""
    weights: SimplexSpec | None = None
    """Weights of all models as shares that sum to 1, to be searched."""
    combination: CombinationSpec = CombinationSpec()
    """How they become one."""

    @property
    def sources(self) -> tuple[str, ...]:
        """It draws from none."""
        return ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Stored results that it needs."""
        return tuple(each.digest for each in self.models.values() if each.digest is not None)

    @model_validator(mode="after")
    def _check(self) -> MergeSpec:
        weights = {name: model.weight for name, model in self.models.items()}
        _check_weights("models", weights, self.weights, self.combination)
        digests = [model.digest for model in self.models.values()]
        if not self.digests:
            raise ValueError(
                "models name no digest; give one of `apportion store ls` to at least one"
            )
        if len(set(digests)) < len(digests):
            raise ValueError(
                "models name one twice; give each another digest, and none to one at most"
            )
        return self


def _check_weights(
    place: str,
    given: dict[str, FloatValue | None],
    weights: SimplexSpec | None,
    combination: CombinationSpec,
) -> None:
    if weights is not None:
        if set(weights.simplex) != set(given):
            raise ValueError(f"weights must name all {place} and no other: {', '.join(given)}")
        twice = [name for name, weight in given.items() if weight is not None]
        if twice:
            raise ValueError(f"{place}.{twice[0]}: weight is given by weights; remove one of both")
        sums_to_one = True
    else:
        for name, weight in given.items():
            if weight is None:
                raise ValueError(f"{place}.{name}: weight is missing; write a number or a range")
        fixed = [weight for weight in given.values() if isinstance(weight, float | int)]
        is_fixed = len(fixed) == len(given)
        if is_fixed and not any(fixed):
            raise ValueError(f"{place}: no weight differs from 0; give one to at least one of them")
        sums_to_one = is_fixed and abs(sum(fixed) - 1) < 1e-6 and min(fixed) >= 0
    conflict = slerp_conflict(combination.ways, len(given), sums_to_one)
    if conflict is not None:
        raise ValueError(f"combination: {conflict}")
