"""Which part of a source a row belongs to, and which kinds are held out. Hashes decide, so added rows move none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from search.data.spec import USES, WHOLE_USES, GeneralisationSpec, PartsSpec, Use
from search.data.words import asked_text
from search.messages import value_text
from search.rows import Row, RowError


@dataclass(frozen=True)
class Sorter:
    """Says who may see a row of one source."""

    row_format: str
    """Of the source."""
    parts: PartsSpec | None
    """How the source is cut; None gives every row to every use."""
    generalisation: GeneralisationSpec | None
    """Which kinds are held out; None holds out none."""

    def uses(self, row: Row) -> tuple[Use, ...]:
        """Return what a checked row is for: one part, or all uses but selection; of an unseen kind, the holdout alone.

        Raises:
            RowError: The row lacks the field that decides, or no part has its value.
        """
        part = None if self.parts is None else part_of(row, self.row_format, self.parts)
        if self.generalisation is not None:
            kind = kind_of(row, self.generalisation)
            if kind is not None and is_unseen(kind, self.generalisation):
                return ("holdout",)
        return WHOLE_USES if part is None else (part,)

    def shown(self, row: Row) -> Row:
        """Return a row as evaluators see it: its kind under `kind`, which goes into their items."""
        generalisation = self.generalisation
        kind = None if generalisation is None else kind_of(row, generalisation)
        return row if kind is None or row.get("kind") == kind else {**row, "kind": kind}


def part_of(row: Row, row_format: str, parts: PartsSpec) -> Use:
    """Return the part of a row.

    Raises:
        RowError: The row lacks the field that decides, or no part has its value.
    """
    if parts.field is not None:
        value = _value(row, parts.field, "parts.field")
        for use in USES:
            if value in parts.values(use):
                return use
        raise RowError(
            f"{parts.field}: {value_text(value)} is in no part; name it in parts, or remove the row"
        )
    group = None if parts.group is None else _value(row, parts.group, "parts.group")
    at = fraction(asked_text(row, row_format) if group is None else group, parts.seed)
    reached = 0.0
    for use in USES:
        reached += parts.share(use)
        if at < reached:
            return use
    return next(use for use in reversed(USES) if parts.share(use) > 0)  # rounding of the sum


def kind_of(row: Row, generalisation: GeneralisationSpec) -> str | None:
    """Return the kind of a row as text; None if it has none."""
    value = row.get(generalisation.by)
    return str(value) if isinstance(value, str | int | float) else None


def is_unseen(kind: str, generalisation: GeneralisationSpec) -> bool:
    """Tell whether a kind is held out from training and search."""
    if generalisation.unseen_share is None:
        return kind in generalisation.unseen
    return fraction(kind, generalisation.seed) < generalisation.unseen_share


def fraction(text: str, seed: int) -> float:
    """Return a number in [0, 1) that a text and a seed decide, uniform over texts."""
    digest = hashlib.sha256(f"{seed}/{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _value(row: Row, field: str, key: str) -> str:
    value = row.get(field)
    if not isinstance(value, str | int | float):
        found = "missing" if value is None else "no single value"
        raise RowError(f"{field} is {found}, and {key} names it; give every row one")
    return str(value)
