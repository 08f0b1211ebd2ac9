"""PartsSpec and GeneralisationSpec: what study.yaml says about who may see which rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spaces.spec import Spec

Use = Literal["train", "search", "selection", "holdout"]
"""What a row is for: training, the suite (whose scores steer the search), the suite once more in `apportion confirm`
(whose items nothing was chosen by), or the holdout."""
USES: tuple[Use, ...] = ("train", "search", "selection", "holdout")
WHOLE_USES: tuple[Use, ...] = ("train", "search", "holdout")
"""Uses of a source without parts."""


class PartsSpec(Spec):
    """One source for several uses: influences draw from `train`, the suite sees `search`, the holdout `holdout`. With
    `selection`, `apportion confirm` asks the suite's questions anew with rows by which nothing was chosen.

    By shares, as in `{train: 0.6, search: 0.15, selection: 0.15, holdout: 0.1}`: a hash of what a row asks decides, so
    equal questions stay together (in all sources with equal parts) and added rows move none. Parts are therefore only
    about as large as their shares. Or by a field, as in `{field: split, train: [train], search: [dev],
    holdout: [test]}`.
    """

    train: float | tuple[str, ...] | None = None
    """Share of the rows, or values of `field`. Default: none."""
    search: float | tuple[str, ...] | None = None
    """As `train`."""
    selection: float | tuple[str, ...] | None = None
    """As `train`."""
    holdout: float | tuple[str, ...] | None = None
    """As `train`."""
    field: str | None = None
    """Field of the rows whose values say the part."""
    group: str | None = None
    """Field whose equal values stay together, such as a document or a person. Default: what a row asks."""
    seed: int = Field(default=0, ge=0)
    """Another seed draws other parts."""

    @model_validator(mode="after")
    def _check(self) -> PartsSpec:
        given = {use: part for use in USES if (part := self.of(use)) is not None}
        if self.field is None:
            _check_shares(given)
        elif self.group is not None:
            raise ValueError("field and group are both given; field decides alone, remove group")
        else:
            _check_values(given)
        return self

    def of(self, use: Use) -> float | tuple[str, ...] | None:
        """Return what the study says of one part."""
        parts = {
            "train": self.train,
            "search": self.search,
            "selection": self.selection,
            "holdout": self.holdout,
        }
        return parts[use]

    def share(self, use: Use) -> float:
        """Return the share of a part; 0 for one that is not given."""
        part = self.of(use)
        return part if isinstance(part, int | float) else 0.0

    def values(self, use: Use) -> tuple[str, ...]:
        """Return the values of `field` that mean a part."""
        part = self.of(use)
        return part if isinstance(part, tuple) else ()


def _check_shares(given: dict[Use, float | tuple[str, ...]]) -> None:
    for use, share in given.items():
        if isinstance(share, tuple):
            raise ValueError(f"{use} is a list and no field is given; add field, or write a share")
        if not 0 <= share <= 1:
            raise ValueError(f"{use} {share:g} is no share; write a number from 0 to 1")
    total = sum(share for share in given.values() if not isinstance(share, tuple))
    if abs(total - 1) > 1e-6:
        raise ValueError(
            f"shares sum to {total:g}; let train, search, selection and holdout sum to 1"
        )


def _check_values(given: dict[Use, float | tuple[str, ...]]) -> None:
    seen: dict[str, Use] = {}
    for use, values in given.items():
        if not isinstance(values, tuple):
            raise ValueError(f"{use} is a share and field is given; list values, or remove field")
        for value in values:
            if value in seen:
                raise ValueError(f"value {value!r} is in {seen[value]} and in {use}; keep one")
            seen[value] = use
    if not seen:
        raise ValueError("no value of field is in a part; list some, such as train: [train]")


class GeneralisationSpec(Spec):
    """Kinds of rows that neither training nor the suite sees, to tell a learnt behaviour from imitated rows.

    Rows of these kinds are in the holdout alone. The report holds the holdout's scores on them against those on the
    other kinds. Exactly one of `unseen` and `unseen_share`.
    """

    by: str = "kind"
    """Field of the rows that says their kind. Rows without it are trained on like those of seen kinds."""
    unseen: tuple[str, ...] = ()
    """The kinds held out."""
    unseen_share: float | None = Field(default=None, gt=0, lt=1)
    """Hold out about this share of all kinds; a hash decides for each, so that added kinds move none."""
    seed: int = Field(default=0, ge=0)
    """With `unseen_share`: another seed holds out other kinds."""

    @model_validator(mode="after")
    def _check(self) -> GeneralisationSpec:
        if bool(self.unseen) == (self.unseen_share is not None):
            raise ValueError("give exactly one of unseen, a list of kinds, and unseen_share")
        return self
