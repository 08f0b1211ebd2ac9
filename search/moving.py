"""Measure where the stages of a trial moved the model, from the stage store; train what it lacks, if asked to."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluators.behaviours.retention import prose_passages
from evaluators.tokens import prompt_ids
from search.errors import StudyError
from search.explanations import ExplanationFolder
from search.folders import StudyFile, StudyFolder
from search.holding import take_hold
from search.lab import recipe_prefixes
from search.moved.records import (
    Activations,
    Cell,
    Moved,
    PairCell,
    StageMoved,
    pair_of,
    weighted_mean,
)
from search.records import TrialRecord
from search.rows import Row
from search.sources import read_source
from search.spec import StudySpec
from search.stages.activations import hidden_states, relative_change
from search.stages.base_model import ResidentBase
from search.stages.changes import Shared, Walk, WeightRow
from search.stages.device import pick_device
from search.store import StageStore, StoreError

N_PROMPTS, PROMPT_TOKENS = 16, 64
"""Probe prompts, and the most tokens of each."""


@dataclass(frozen=True)
class Probes:
    """Prompts whose hidden states are looked at."""

    ids: tuple[tuple[int, ...], ...]
    told: str
    """Where they are from."""


def measure_moved(
    folder: StudyFolder,
    file: StudyFile,
    spec: StudySpec,
    record: TrialRecord,
    may_train: bool,
    say: Callable[[str], None],
) -> Moved:
    """Return where the finished stages of a trial moved the model.

    Args:
        folder: The study's.
        file: Its study.json.
        spec: The study.
        record: The trial, with one finished stage or more.
        may_train: Train stages that the store lacks.
        say: Is told a line per stage that is trained.

    Raises:
        StudyError: Stages are not stored, and nothing may be trained; or another process explains this study.
        ApportionError: The base, a source or a stored stage cannot be read.
    """
    root = Path(file.root)
    store = opened_store(folder, spec, root)
    digests = [stage.digest for stage in record.stages]
    lacking = [at for at, digest in enumerate(digests) if not _is_stored(store, digest)]
    if lacking and not may_train:
        raise StudyError(_lack_text(record, lacking, folder.path, spec.store.enabled))
    with _working_folder(folder, say) as work:
        base = ResidentBase.load(
            spec.base,
            root,
            pick_device(spec.compute.device),
            spec.training.precision,
            spec.compute.threads_per_trial,
        )
        if lacking:
            store = store or StageStore(work / "store")
            digests = _trained(base, record, spec, root, store, say)
        assert store is not None
        started = time.monotonic()
        probes = find_probes(base, spec, root)
        return _measured(base, store, digests, record, probes, work, started)


def opened_store(folder: StudyFolder, spec: StudySpec, root: Path) -> StageStore | None:
    """Return the study's stage store; None if it has none, or none that can be read."""
    place = folder.store_root(spec, root)
    try:
        return None if place is None else StageStore(place, may_create=False)
    except StoreError:
        return None


def find_probes(base: ResidentBase, spec: StudySpec, root: Path) -> Probes:
    """Return the first prompts of the suite's evaluators in turn; without any, the default passages of retention."""
    names = [
        name
        for evaluator in spec.full_suite.values()
        for name, _ in evaluator.sources()
        if spec.sources[name].format in ("prompt", "preference")
    ]
    names = list(dict.fromkeys(names))
    sources = [read_source(name, spec.sources[name], root, spec.generalisation) for name in names]
    asked = [row["prompt"] for row in _in_turn([source.seen_by("search") for source in sources])]
    told = f"sources {', '.join(names)}"
    if not asked:
        asked, told = list(prose_passages()), "retention's own passages"
    ids = [tuple(prompt_ids(base.tokenizer, each)[-PROMPT_TOKENS:]) for each in asked[:N_PROMPTS]]
    return Probes(tuple(each for each in ids if each), told)


def cells_of(rows: Sequence[WeightRow], stage: int) -> tuple[Cell, ...]:
    """Return the weights by layer and kind, with what one stage (from 0) moved."""
    groups: dict[tuple[int | None, str], list[WeightRow]] = {}
    for row in rows:
        groups.setdefault((row.layer, row.kind), []).append(row)
    cells = []
    for (layer, kind), found in groups.items():
        bases = [row.square for row in found]
        extents = [extent for row in found if (extent := row.stages[stage]) is not None]
        cells.append(
            Cell(
                layer=layer,
                kind=kind,
                n_weights=sum(row.n_weights for row in found),
                base_square=None if None in bases else math.fsum(b for b in bases if b is not None),
                square=math.fsum(extent.square for extent in extents),
                effective_rank=weighted_mean((e.effective_rank, e.square) for e in extents),
                stable_rank=weighted_mean((e.stable_rank, e.square) for e in extents),
            )
        )
    return tuple(cells)


def pair_cells_of(rows: Sequence[WeightRow], pair: tuple[int, int]) -> list[PairCell]:
    """Return the weights by layer and kind that two stages (from 0) both moved."""
    groups: dict[tuple[int | None, str], list[WeightRow]] = {}
    for row in rows:
        if pair in row.pairs:
            groups.setdefault((row.layer, row.kind), []).append(row)
    return [_pair_cell(layer, kind, found, pair) for (layer, kind), found in groups.items()]


def _pair_cell(
    layer: int | None, kind: str, rows: Sequence[WeightRow], pair: tuple[int, int]
) -> PairCell:
    shared = [row.pairs[pair] for row in rows]
    squares = [[extent.square for row in rows if (extent := row.stages[at])] for at in pair]
    chance = [
        first * second / row.n_weights for row, first, second in zip(rows, *squares, strict=True)
    ]
    matrices = [each for each in shared if each.left is not None]
    return PairCell(
        layer=layer,
        kind=kind,
        product=math.fsum(each.product for each in shared),
        first_square=math.fsum(squares[0]),
        second_square=math.fsum(squares[1]),
        chance_square=math.fsum(chance),
        n_matrices=len(matrices),
        **_sides(matrices),
    )


def _sides(matrices: Sequence[Shared]) -> dict[str, float | None]:
    n = len(matrices)
    found: dict[str, float | None] = {}
    for side in ("left", "right"):
        values = [getattr(each, side) for each in matrices]
        chances = [getattr(each, f"{side}_chance") for each in matrices]
        found[side] = math.fsum(values) / n if n else None
        found[f"{side}_chance"] = math.fsum(each.mean for each in chances) / n if n else None
        found[f"{side}_sd"] = (
            math.sqrt(math.fsum(each.sd**2 for each in chances)) / n if n else None
        )
    return found


def _measured(
    base: ResidentBase,
    store: StageStore,
    digests: Sequence[str],
    record: TrialRecord,
    probes: Probes,
    work: Path,
    started: float,
) -> Moved:
    ref = base.fresh()
    walk = Walk(ref, work)
    states = [hidden_states(ref.model, probes.ids, ref.device)] if probes.ids else []
    activations: list[Activations | None] = []
    for stage, digest in zip(record.stages, digests, strict=True):
        try:
            entry = store.find(digest)
            if entry is None or entry.meta.get("base") != base.fingerprint:
                raise StudyError(
                    f"trial {record.number}: stage {len(activations) + 1} ({digest[:12]}) in the stage store comes "
                    "from another base than the study's; restore the base's files"
                )
            walk.go(stage.stage, store.fetch(digest))
        except StoreError as error:
            raise StudyError(f"trial {record.number}: {error}") from error
        if not states:
            activations.append(None)
            continue
        now = hidden_states(ref.model, probes.ids, ref.device)
        activations.append(
            Activations(
                from_before=tuple(relative_change(states[-1], now)),
                from_base=tuple(relative_change(states[0], now)),
            )
        )
        states = [states[0], now]
    rows = list(walk.rows())
    stages = tuple(
        StageMoved(
            number=at + 1,
            influence=done.stage.influence,
            label=done.stage.label,
            digest=digests[at],
            cells=cells_of(rows, at),
            activations=activations[at],
        )
        for at, done in enumerate(record.stages)
    )
    n = len(stages)
    return Moved(
        trial=record.number,
        recipe=record.recipe.label(),
        n_layers=base.n_layers,
        dtype=str(base.model.dtype).removeprefix("torch."),
        stages=stages,
        pairs=tuple(
            pair_of(stages[first], stages[second], pair_cells_of(rows, (first, second)))
            for first in range(n)
            for second in range(first + 1, n)
        ),
        n_prompts=len(probes.ids),
        n_tokens=sum(map(len, probes.ids)),
        prompts_from=probes.told,
        seconds=time.monotonic() - started,
    )


def _trained(
    base: ResidentBase,
    record: TrialRecord,
    spec: StudySpec,
    root: Path,
    store: StageStore,
    say: Callable[[str], None],
) -> list[str]:
    """Train what the store lacks, and return the digests of the stages as they are named here and now."""
    names = {name for stage in record.recipe.stages for name in stage.sources}
    sources = {
        name: read_source(name, spec.sources[name], root, spec.generalisation)
        for name in spec.sources
        if name in names
    }
    prefixes, digests = recipe_prefixes(
        base,
        record.recipe,
        sources,
        spec,
        record.seed,
        spec.compute.threads_per_trial,
        store,
        trainer=f"moved {record.number}",
    )
    n_stages = len(record.stages)
    try:
        for number in range(1, n_stages + 1):
            done = prefixes.stage(number)
            what = "was stored" if done.is_stored else f"{done.trained_tokens:,} tokens trained"
            say(f"{number} of {n_stages}  {done.stage.influence}: {what}")
        prefixes.settle()
    finally:
        prefixes.close()
    return list(digests[1 : n_stages + 1])


def _lack_text(record: TrialRecord, lacking: Sequence[int], place: Path, has_store: bool) -> str:
    names = ", ".join(f"{at + 1} ({record.stages[at].stage.influence})" for at in lacking)
    tokens = sum(record.stages[at].stage.dose_tokens for at in lacking)
    why = "" if has_store else "; the study keeps none (store.enabled is false)"
    return (
        f"{place}: trial {record.number}: the stage store lacks stage {names}{why}; "
        f"add --train to train again what is missing, at least {tokens:,} tokens"
    )


def _is_stored(store: StageStore | None, digest: str) -> bool:
    try:
        return store is not None and store.find(digest) is not None
    except StoreError:
        return False


def _in_turn(lists: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield the first of each list, then the second of each, and so on."""
    for at in range(max(map(len, lists), default=0)):
        for one in lists:
            if at < len(one):
                yield one[at]


@contextmanager
def _working_folder(folder: StudyFolder, say: Callable[[str], None]) -> Iterator[Path]:
    """Make a folder for files as large as the model; one process at a time, and what a killed one left goes first."""
    explanations = ExplanationFolder(folder)
    explanations.path.mkdir(parents=True, exist_ok=True)
    hold = take_hold(folder.path, "explain", say)
    work = explanations.path / ".moved"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        hold.release()
