"""How models become one: the ways to combine weights, decided and as study.yaml says them.

linear       sum of weighted changes, task arithmetic    Ilharco et al. 2022, arXiv 2212.04089
ties         largest changes that agree in sign          Yadav et al. 2023, arXiv 2306.01708
dare_linear  random changes, enlarged                    Yu et al. 2023, arXiv 2311.03099
dare_ties    the same, those that agree in sign          both
slerp        along the arc between two models            Shoemake 1985, doi 10.1145/325334.325242
svd          linear, each matrix's change cut to a rank  Eckart and Young 1936
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, Literal, get_args

from pydantic import Field, model_validator

from spaces.spec import FloatValue, Grown, IntValue, Spec, TextChoice, TextValue

How = Literal["linear", "ties", "dare_linear", "dare_ties", "slerp", "svd"]
HOWS: tuple[str, ...] = get_args(How)
SPARSE = ("ties", "dare_linear", "dare_ties")
"""Ways that keep a share of the changes."""


class Combination(Grown):
    """How the weights of several models become those of one."""

    came_later: ClassVar[tuple[str, ...]] = ("density", "scale", "normalise", "rank")

    how: How = "linear"
    """The way; a change is a model minus the one that all are compared with."""
    density: float | None = Field(default=None, gt=0, le=1)
    """Share of the changes that ties and dare keep; default all."""
    scale: float = 1.0
    """Factor of the combined change (`lambda` in mergekit and the papers)."""
    normalise: bool | None = None
    """Divide by the sum of the weights that take part. Default: for ties only."""
    rank: int | None = Field(default=None, gt=0)
    """Of svd."""

    @model_validator(mode="after")
    def _check(self) -> Combination:
        if self.density is not None and self.how not in SPARSE:
            raise ValueError(f"density belongs to {', '.join(SPARSE)}, and how is {self.how}")
        if (self.rank is not None) != (self.how == "svd"):
            raise ValueError(f"rank belongs to svd, there and only there, and how is {self.how}")
        return self

    @property
    def text(self) -> str:
        """In a few words, such as `ties, density 0.3`."""
        data = self.model_dump(exclude={"how"}, exclude_none=True)
        told = (
            name
            if value is True
            else f"{name} {str(value).lower() if value is False else f'{value:.3g}'}"
            for name, value in data.items()
        )
        return ", ".join((self.how, *told))


class CombinationSpec(Spec):
    """How models become one, values fixed or to be searched."""

    how: TextValue = "linear"
    """`linear` (task arithmetic), `ties`, `dare_linear`, `dare_ties`, `slerp` or `svd`."""
    density: FloatValue | None = None
    """Share of the changes that ties and dare keep, above 0 and up to 1; default all. Other ways do without."""
    scale: FloatValue = 1.0
    """Factor of the combined change."""
    normalise: bool | None = None
    """Divide by the sum of the weights that take part. Default: for ties only."""
    rank: IntValue | None = None
    """Rank to which svd cuts the change of each matrix. Other ways do without."""

    @property
    def ways(self) -> tuple[str, ...]:
        """All ways that may be drawn."""
        return self.how.choice if isinstance(self.how, TextChoice) else (self.how,)

    @model_validator(mode="after")
    def _check(self) -> CombinationSpec:
        for way in self.ways:
            if way not in HOWS:
                raise ValueError(f"how {way!r} is not known: {', '.join(HOWS)}")
        if self.density is not None and not set(self.ways) & set(SPARSE):
            raise ValueError(f"density belongs to {', '.join(SPARSE)}; remove it")
        if self.rank is not None and "svd" not in self.ways:
            raise ValueError("rank belongs to svd; remove it")
        if self.rank is None and "svd" in self.ways:
            raise ValueError("rank is missing; svd needs it")
        return self


def check_weights(weights: Sequence[float], how: str) -> None:
    """Refuse weights that combine nothing.

    Raises:
        ValueError: All are 0, or slerp cannot go by them.
    """
    if not any(weights):
        raise ValueError("no weight differs from 0; give one to at least one model")
    if how == "slerp":
        if len(weights) != 2:
            raise ValueError(f"slerp takes two models, got {len(weights)}; use linear")
        if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
            shown = " and ".join(f"{weight:g}" for weight in weights)
            raise ValueError(f"weights of slerp are shares that sum to 1, got {shown}")


def slerp_conflict(ways: Collection[str], n_models: int, sums_to_one: bool) -> str | None:
    """Return why models may not be combined by slerp; None if they may, or no way is slerp."""
    if "slerp" not in ways:
        return None
    if n_models != 2:
        return f"slerp takes two models, and there are {n_models}; choose another way"
    if not sums_to_one:
        return (
            "slerp needs weights that sum to 1; give fixed ones that do, or weights: {simplex: ...}"
        )
    return None
