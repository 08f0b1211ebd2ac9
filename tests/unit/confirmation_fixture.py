"""A study with three trained trials and their replicates, all played: scores and items as given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from report_fixture import write_two_objectives

from evaluators.scores import Item, Score
from evaluators.stats import share_estimate
from search.folders import StudyFolder, TrialFolder, utc_now
from search.records import Boundary, TrialRecord
from search.scoring import SuiteResult
from spaces.recipe import Lora, Recipe, Stage

STAGE = Stage(
    influence="tone",
    method="sft",
    adapter=Lora(rank=4, alpha=8.0),
    mix={"chat": 1.0},
    dose_tokens=1000,
    learning_rate=1e-3,
)
N_ITEMS = 20


def recipe(number: int) -> Recipe:
    """Return trial 0's empty recipe, or one of its own for each other trial."""
    stage = STAGE.model_copy(update={"dose_tokens": 1000 * max(1, number)})
    return Recipe(stages=(stage,) if number else ())


def write_trial(
    folder: TrialFolder,
    number: int,
    n_passed: int | None,
    kl: float,
    seed: int = 0,
    state: str = "COMPLETE",
    reason: str | None = None,
) -> TrialRecord:
    """Write a trial or a replicate of which the first `n_passed` of 20 items pass; None is missing."""
    passed = [float(at < (n_passed or 0)) for at in range(N_ITEMS)]
    tone = Score(
        name="tone",
        value=None if n_passed is None else n_passed / N_ITEMS,
        stderr=None if n_passed is None else share_estimate(passed).stderr,
        n=0 if n_passed is None else N_ITEMS,
        unit="share",
        direction="maximise",
        status="missing" if n_passed is None else "measured",
        reason="the value is nan: the model gave numbers that are not finite"
        if n_passed is None
        else None,
    )
    drift = Score(
        name="retention.kl", value=kl, stderr=0.01, n=8, unit="nats/token", direction="minimise"
    )
    n_stages = len(recipe(number).stages)
    record = TrialRecord(
        number=number,
        state=state,
        reason=reason,
        params={},
        recipe=recipe(number),
        seed=seed,
        boundaries=(
            Boundary(n_stages=n_stages, digest="d", scores=(tone, drift), evaluate_seconds=1.0),
        )
        if state == "COMPLETE"
        else (),
        started_at=utc_now(),
        finished_at=utc_now(),
    )
    folder.path.mkdir(parents=True)
    folder.write_record(record)
    if n_passed is not None and state == "COMPLETE":
        own = [
            Item(evaluator="tone", index=at, prompt=f"prompt {at}", values={"passed": value})
            for at, value in enumerate(passed)
        ]
        folder.write_items(n_stages, False, own)
    return record


def write_selection(files: StudyFolder, number: int, seed: int, n_passed: int) -> None:
    """Write what the suite said of a replicate on 20 fresh items, of which the first `n_passed` pass."""
    passed = [float(at < n_passed) for at in range(N_ITEMS)]
    score = Score(
        name="tone",
        value=n_passed / N_ITEMS,
        stderr=share_estimate(passed).stderr,
        n=N_ITEMS,
        unit="share",
        direction="maximise",
    )
    items = tuple(
        Item(evaluator="tone", index=at, prompt=f"fresh {at}", values={"passed": value})
        for at, value in enumerate(passed)
    )
    result = SuiteResult(scores=(score,), items=items, is_stored=False)
    files.replicate(number, seed).selection.write_text(result.model_dump_json())


def write_confirmed_study(path: Path) -> StudyFolder:
    """Write a base, and trials 1 (clearly better), 2 and 3 (alike), each with replicates of three seeds."""
    files = write_two_objectives(path)
    write_trial(files.trial(0), 0, 4, 0.0)
    for number, searched, fresh in (
        (1, 20, (19, 18, 19)),
        (2, 14, (12, 11, 12)),
        (3, 13, (12, 12, 11)),
    ):
        write_trial(files.trial(number), number, searched, 0.1 * number)
        write_replicates(files, number, fresh)
    return files


def write_replicates(files: StudyFolder, number: int, fresh: Sequence[int | None]) -> None:
    """Write replicates with seeds 101, 102, ...; of each, how many items pass."""
    for at, n_passed in enumerate(fresh, 1):
        folder = files.replicate(number, 100 + at)
        write_trial(folder, number, n_passed, 0.1 * number + 0.001 * at, seed=100 + at)
