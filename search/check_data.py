"""Checks of who sees which rows: leaks between sources, parts without rows, kinds that are held out. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evaluators.spec import RetentionSpec
from search.check_adapters import Finding
from search.check_evaluators import source_key
from search.data.known_leaks import Rows, known_leaks
from search.data.leaks import Leak, LeakKind, Seen
from search.data.parts import is_unseen, kind_of
from search.data.spec import USES, GeneralisationSpec, Use
from search.messages import KeyPath, suggest, value_text
from search.sources import Source
from search.spec import StudySpec

SHOWN_ROWS = 3
"""Leaking rows that a message names."""
_SEEN_BY = {"train": "is trained on", "search": "is in the suite", "selection": "confirms"}
_LIKENESS: dict[LeakKind, str] = {
    "same": "asks what {} asks",
    "near": "asks nearly what {} asks",
    "contained": "shares a passage with {}",
}


def data_findings(spec: StudySpec, sources: Mapping[str, Source]) -> Iterator[Finding]:
    """Yield what is wrong with who sees which rows.

    Args:
        spec: The study.
        sources: Those that could be read; the others are left out.
    """
    yield from _empty_findings(spec, sources)
    if spec.generalisation is not None:
        yield from _kind_findings(spec, spec.generalisation, sources)
    yield from leak_findings(spec, sources)


def users(spec: StudySpec) -> dict[Seen, KeyPath]:
    """Return the rows that a study uses, each with the first place in the study that does."""
    found: dict[Seen, KeyPath] = {}
    for name, influence in spec.training_influences.items():
        for source in influence.sources:
            found.setdefault(Seen("train", source), ("influences", name))
    uses: tuple[tuple[Use, str], ...] = (("search", "suite"), ("holdout", "holdout"))
    for use, group in uses:
        evaluators = spec.full_suite if use == "search" else spec.holdout
        for name, evaluator in evaluators.items():
            for source, _ in evaluator.sources():
                key = source_key(evaluator, source)
                # Texts that are compared with, as by `style`, are not held out: suite and holdout may share them.
                seen = Seen(use if key == "source" else "search", source)
                found.setdefault(seen, (group, name, key))
            if isinstance(evaluator, RetentionSpec) and evaluator.source is None:
                found.setdefault(Seen(use, name), (group, name))
    for seen, place in list(found.items()):
        source_spec = spec.sources.get(seen.source)
        parts = None if source_spec is None else source_spec.parts
        if seen.use == "search" and parts is not None and parts.selection is not None:
            found.setdefault(Seen("selection", seen.source), place)
    return found


@dataclass(frozen=True)
class SharedRows:
    """Rows that two uses share, or nearly share."""

    other: Seen
    """What is trained on, or searched on."""
    measured: Seen
    """What scores come from."""
    leaks: tuple[Leak, ...]
    """By measured row; empty where both are one whole source."""
    n_rows: int | None
    """Measured rows; None where they were not read."""
    is_allowed: bool
    """Whether `allow_leaks` names the two sources."""

    @property
    def is_whole(self) -> bool:
        """Whether one source without parts serves both uses."""
        return not self.leaks


def leak_findings(spec: StudySpec, sources: Mapping[str, Source]) -> Iterator[Finding]:
    """Yield a finding for each two uses that share rows: an error, or a warning where the study allows it.

    What counts as a leak is defined in `search.data.leaks`.
    """
    places = users(spec)
    rows = _all_rows(spec, sources, places)
    met: set[frozenset[str]] = set()
    for shared in _shared_rows(spec, rows, places):
        other, measured = shared.other, shared.measured
        met.add(frozenset((other.source, measured.source)))
        remedy = f"measure on other rows, or allow it: allow_leaks: [[{other.source}, {measured.source}]]"
        if shared.is_allowed:
            remedy = "allowed by allow_leaks"
        if shared.is_whole:
            how = (
                f"is trained on by {places[other][1]}"
                if other.use == "train"
                else "is in the suite"
            )
            text = f"{measured.source!r} {how} too (sources.{measured.source}.parts can cut it)"
        else:
            text = _leak_text(sources, shared)
        yield Finding(places[measured], f"{text}; {remedy}", shared.is_allowed)
    known = {seen.source for seen in places}
    for index, names in enumerate(spec.allow_leaks):
        unknown = [name for name in names if name not in known]
        for name in unknown:
            text = f"{value_text(name)} is no source in use; {suggest(name, known)}"
            yield Finding(("allow_leaks", index), text)
        is_read = all(seen in rows for seen in places if seen.source in names)
        if not unknown and is_read and frozenset(names) not in met:
            text = f"{' and '.join(map(repr, names))} do not leak; remove it"
            yield Finding(("allow_leaks", index), text, is_warning=True)


def shared_rows(spec: StudySpec, sources: Mapping[str, Source]) -> list[SharedRows]:
    """Return the rows that any two uses share.

    Args:
        spec: The study.
        sources: Those that could be read; of the others, only whole sources are told.
    """
    places = users(spec)
    return list(_shared_rows(spec, _all_rows(spec, sources, places), places))


def row_place(sources: Mapping[str, Source], seen: Seen, row: int) -> str:
    """Return where a row is, such as `data/chat.jsonl:3`; of the text that an evaluator brings, `passage 3`."""
    source = sources.get(seen.source)
    return f"passage {row + 1}" if source is None else source.place(seen.use, row)


def likeness(leak: Leak, other_place: str) -> str:
    """Return what a measured row has in common with a row, given that one's place."""
    return _LIKENESS[leak.kind].format(other_place)


def _shared_rows(
    spec: StudySpec, rows: Mapping[Seen, Rows], places: Mapping[Seen, KeyPath]
) -> Iterator[SharedRows]:
    allowed = {frozenset(pair) for pair in spec.allow_leaks}
    whole = set()
    for measured in places:
        for use in USES[: USES.index(measured.use)]:
            other = Seen(use, measured.source)
            source = spec.sources.get(measured.source)
            if other in places and source is not None and source.parts is None:
                whole.add((other, measured))
                n_rows = len(rows[measured].rows) if measured in rows else None
                is_allowed = frozenset((measured.source,)) in allowed
                yield SharedRows(other, measured, (), n_rows, is_allowed)
    by_use = {use: [seen for seen in rows if seen.use == use] for use in USES}
    later = [*by_use["selection"], *by_use["holdout"]]
    comparisons = ((by_use["train"], [*by_use["search"], *later]), (by_use["search"], later))
    for found in known_leaks(rows, comparisons):
        for (other, measured), leaks in found.items():
            if (other, measured) not in whole:
                is_allowed = frozenset((other.source, measured.source)) in allowed
                n_rows = len(rows[measured].rows)
                yield SharedRows(other, measured, tuple(leaks), n_rows, is_allowed)


def _leak_text(sources: Mapping[str, Source], shared: SharedRows) -> str:
    other, measured, leaks = shared.other, shared.measured, shared.leaks
    rows = [
        f"{row_place(sources, measured, leak.measured_row)} "
        + likeness(leak, row_place(sources, other, leak.other_row))
        for leak in leaks[:SHOWN_ROWS]
    ]
    more = len(leaks) - SHOWN_ROWS
    listed = ", ".join(rows) + (f", and {more} more" if more > 0 else "")
    is_same = other.source == measured.source
    which = f"the {measured.use} part of {measured.source!r}" if is_same else repr(measured.source)
    where = f"its {other.use} part" if is_same else repr(other.source)
    return (
        f"{len(leaks)} of {shared.n_rows} rows of {which} leak from {where}, which "
        f"{_SEEN_BY[other.use]}: {listed}"
    )


def _all_rows(
    spec: StudySpec, sources: Mapping[str, Source], places: Mapping[Seen, KeyPath]
) -> dict[Seen, Rows]:
    return {seen: rows for seen in places if (rows := _rows(spec, sources, seen)) is not None}


def _rows(spec: StudySpec, sources: Mapping[str, Source], seen: Seen) -> Rows | None:
    """Return the rows of one use; None if they were not read."""
    if seen.source in spec.sources:
        source = sources.get(seen.source)
        return None if source is None else Rows(source.format, source.seen_by(seen.use))
    evaluators = spec.holdout if seen.use == "holdout" else spec.full_suite
    evaluator = evaluators.get(seen.source)
    if not isinstance(evaluator, RetentionSpec):
        return None  # A source that does not exist, which is reported elsewhere.
    from evaluators.behaviours.retention import prose_passages

    return Rows("text", [{"text": text} for text in prose_passages()[: evaluator.limit]])


def _empty_findings(spec: StudySpec, sources: Mapping[str, Source]) -> Iterator[Finding]:
    """Yield sources that hold no row for one of their uses."""
    for seen, place in users(spec).items():
        source = sources.get(seen.source)
        if source is None or source.seen_by(seen.use):
            continue
        why = (
            "the rest is of unseen kinds" if spec.generalisation else "the parts are what they are"
        )
        parts = spec.sources[seen.source].parts
        if parts is not None:
            is_listed = parts.of(seen.use) is not None
            why = "try a larger share or another seed" if is_listed else f"give it {seen.use}"
        text = f"no row of {seen.source!r} is for {seen.use}; {why} (sources.{seen.source})"
        yield Finding(place, text)


def _kind_findings(
    spec: StudySpec, generalisation: GeneralisationSpec, sources: Mapping[str, Source]
) -> Iterator[Finding]:
    """Yield kinds that no row has, and what keeps the report from telling seen from unseen kinds."""
    place: KeyPath = ("generalisation",)
    if len(sources) < len(spec.sources):
        return  # The kinds of a source that was not read are not known.
    kinds = {
        kind
        for source in sources.values()
        for use in USES
        for row in source.seen_by(use)
        if (kind := kind_of(row, generalisation)) is not None
    }
    for index, kind in enumerate(generalisation.unseen):
        if kind not in kinds:
            text = f"no row has {generalisation.by} {value_text(kind)}; {suggest(kind, kinds)}"
            yield Finding((*place, "unseen", index), text)
    unseen = {kind for kind in kinds if is_unseen(kind, generalisation)}
    if generalisation.unseen_share is not None and unseen in (set(), kinds):
        how_many = "all" if unseen else "none"
        text = f"holds out {how_many} of {len(kinds)} kinds; take another seed, or list unseen"
        yield Finding((*place, "unseen_share"), text)
    elif not _has_both(spec, generalisation, sources):
        text = (
            "no evaluator of the holdout reads rows of seen and of unseen kinds, so the report cannot compare them; "
            f"name a source there whose rows have {generalisation.by!r}"
        )
        yield Finding(place, text, is_warning=True)
    for seen, where in users(spec).items():
        if seen.use != "train":
            continue
        rows = sources[seen.source].rows
        n_without = sum(kind_of(row, generalisation) is None for row in rows)
        if n_without:
            text = (
                f"{n_without} of {len(rows)} rows of {seen.source!r} have no {generalisation.by!r} and are trained on "
                "as rows of seen kinds; add it, or make sure of that"
            )
            yield Finding(where, text, is_warning=True)


def _has_both(
    spec: StudySpec, generalisation: GeneralisationSpec, sources: Mapping[str, Source]
) -> bool:
    for seen in users(spec):
        if seen.use == "holdout" and seen.source in sources:
            rows = sources[seen.source].seen_by("holdout")
            kinds = [kind for row in rows if (kind := kind_of(row, generalisation)) is not None]
            if len({is_unseen(kind, generalisation) for kind in kinds}) == 2:
                return True
    return False
