"""Early stopping in a study: what a stopped trial leaves behind, and that the same trials stop whatever happens."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from played import MODELLED, STUDY, new_study, optuna_trials, trained
from sqlalchemy import event
from sqlalchemy.engine import Engine

from evaluators.scores import Score
from search import folders
from search.folders import utc_now
from search.records import Boundary, Proposal, TrialRecord
from search.study import Study

EAGER = STUDY.replace("trials: 8", "trials: 16").replace("seed: 3", MODELLED)
EAGER += "stopping: {alpha: 0.5, audit_share: 0.0}\n"
"""Stops as soon as one trial has shown what remains."""


def scores(proposal: Proposal, n_stages: int) -> tuple[Score, ...]:
    """The first stage gives by its dose, and what follows only costs: every second stage is in vain."""
    first = proposal.recipe.stages[0].dose_tokens / 2000 if n_stages else 0.0
    form, kl = first - 0.05 * max(0, n_stages - 1), 0.1 * n_stages
    return (
        Score(name="form", value=form, n=10, unit="share", direction="maximise"),
        Score(name="retention.kl", value=kl, n=10, unit="nats/token", direction="minimise"),
    )


def begun(proposal: Proposal) -> TrialRecord:
    return TrialRecord(
        number=proposal.number,
        state="RUNNING",
        params=proposal.params,
        recipe=proposal.recipe,
        baseline=proposal.baseline,
        seed=3,
        started_at=utc_now(),
    )


def train_stage(study: Study, record: TrialRecord, proposal: Proposal) -> TrialRecord:
    """Do what a worker does in one step, and write it down."""
    n_stages = len(record.boundaries) + 1 if proposal.recipe.stages else 0
    boundary = Boundary(
        n_stages=n_stages,
        digest=f"{proposal.recipe.prefix(n_stages).prefix_digests()[-1]}",
        scores=scores(proposal, n_stages),
        evaluate_seconds=1.0,
    )
    is_last = n_stages == len(proposal.recipe.stages)
    record = record.model_copy(
        update={
            "boundaries": (*record.boundaries, boundary),
            "stages": tuple(
                trained(proposal, 100).model_copy(update={"stage": stage})
                for stage in proposal.recipe.stages[:n_stages]
            ),
            "state": "COMPLETE" if is_last else "RUNNING",
        }
    )
    folder = study.folder.trial(proposal.number)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_record(record)
    return record


def run_trial(study: Study, proposal: Proposal) -> TrialRecord:
    """Do what runner and worker do with a trial."""
    record = begun(proposal)
    while record.state == "RUNNING":
        record = train_stage(study, record, proposal)
        if record.state == "RUNNING" and study.stop_early(proposal.number):
            record = study.folder.trial(proposal.number).read_record() or record
    return study.finish(record)


def run_out(study: Study) -> list[TrialRecord]:
    records = []
    while (proposal := study.next()) is not None:
        records.append(run_trial(study, proposal))
    return records


def outcomes(study: Study) -> list[tuple[object, ...]]:
    """What must be the same in two runs of one study."""
    return [
        (record.number, record.state, record.reason, record.recipe, record.stopping)
        for record in study.folder.records()
    ]


@pytest.fixture(scope="module", autouse=True)
def _quick_disk() -> Iterator[None]:
    """No test here cuts the power, so nothing has to reach the platter."""

    def relax(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("pragma synchronous = off")

    event.listen(Engine, "connect", relax)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders.os, "fsync", lambda handle: None)
        yield
    event.remove(Engine, "connect", relax)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that ran undisturbed; tests only read it, or close it."""
    study = new_study(tmp_path_factory.mktemp("whole"), text=EAGER)
    run_out(study)
    return study


def stopped(study: Study) -> list[TrialRecord]:
    return [record for record in study.folder.records() if record.state == "PRUNED"]


def test_stopped_trial_counts_in_the_budget_and_is_pruned_with_its_reason(whole: Study) -> None:
    pruned = stopped(whole)
    assert len(pruned) >= 3
    assert whole.spent().trials == 16 == len(whole.folder.records())
    assert whole.spent().failed_trials == 0
    told = {trial.number: trial for trial in optuna_trials(whole)}
    for record in pruned:
        assert told[record.number].state == optuna.trial.TrialState.PRUNED
        assert (record.reason or "").startswith("stopped after 1 of 2 stages: cannot reach")
        assert told[record.number].user_attrs["reason"] == record.reason
        assert record.finished_at is not None
        assert record.stopping[-1].outcome == "stop"
        assert record.saved_tokens == record.recipe.stages[1].dose_tokens
        assert len(record.boundaries) == 1
    assert {trial.state.name for trial in told.values()} == {"COMPLETE", "PRUNED"}
    assert sum(record.saved_tokens for record in whole.folder.records()) > 0


def test_boundary_of_a_stopped_trial_is_an_observation_of_the_shorter_recipe(whole: Study) -> None:
    # The prefixes of the last trials are told when the next one is asked for.
    early = next(r for r in stopped(whole) if r.recipe.stages[0].influence == "a")
    database = optuna.load_study(study_name="played", storage=f"sqlite:///{whole.folder.database}")
    prefixes = [
        trial for trial in database.trials if trial.user_attrs.get("prefix_of") == early.number
    ]
    assert [trial.state.name for trial in prefixes] == ["COMPLETE"]
    assert prefixes[0].values == [score.value for score in early.boundaries[0].scores]


def test_no_baseline_is_ever_stopped(whole: Study) -> None:
    baselines = [record for record in whole.folder.records() if record.baseline is not None]
    assert {record.state for record in baselines} == {"COMPLETE"}


def test_study_without_stopping_runs_every_recipe_to_its_end(tmp_path: Path) -> None:
    study = new_study(tmp_path, text=EAGER.replace("alpha: 0.5", "enabled: false"))
    assert {record.state for record in run_out(study)} == {"COMPLETE"}
    assert all(not record.stopping for record in study.folder.records())


def test_audited_trials_run_to_their_end_and_keep_what_the_rule_said(tmp_path: Path) -> None:
    study = new_study(tmp_path, text=EAGER.replace("audit_share: 0.0", "audit_share: 1.0"))
    run_out(study)
    records = study.folder.records()
    assert {record.state for record in records} == {"COMPLETE"}
    said = [decision for record in records for decision in record.stopping]
    assert "audit" in {decision.outcome for decision in said}
    assert all((d.reason is None) == (d.outcome == "go on") for d in said)


def reopened(study: Study) -> Study:
    study.close("killed")
    return Study.open(study.folder.path, "apportion resume")


def until_stop(study: Study) -> tuple[Proposal, TrialRecord]:
    """Run until a trial stands at a boundary at which it will be stopped."""
    while (proposal := study.next()) is not None:
        record = train_stage(study, begun(proposal), proposal)
        written = study.folder.trial(proposal.number).record.read_bytes()
        if record.state == "RUNNING" and study.stop_early(proposal.number):
            # As it was before the decision.
            study.folder.trial(proposal.number).record.write_bytes(written)
            return proposal, record
        while record.state == "RUNNING":
            record = train_stage(study, record, proposal)
        study.finish(record)
    raise AssertionError("no trial was stopped")


def kill_before_the_decision(study: Study, number: int) -> None:
    """The driver dies while the trial stands at its boundary."""


def kill_after_the_decision(study: Study, number: int) -> None:
    """The driver dies when the folder says PRUNED and the storage does not."""
    assert study.stop_early(number)


@pytest.mark.parametrize("kill", [kill_before_the_decision, kill_after_the_decision])
@pytest.mark.slow
def test_killed_around_a_stop_a_study_ends_as_if_it_had_not_been(
    tmp_path: Path, whole: Study, kill: Callable[[Study, int], None]
) -> None:
    study = new_study(tmp_path, text=EAGER)
    proposal, _ = until_stop(study)
    kill(study, proposal.number)
    again = reopened(study)
    run_out(again)
    assert outcomes(again) == outcomes(whole)
    assert [t.state.name for t in optuna_trials(again)] == [
        t.state.name for t in optuna_trials(whole)
    ]


def test_stopped_trial_stays_stopped_after_a_resume(whole: Study) -> None:
    before = outcomes(whole)
    again = reopened(whole)
    assert again.is_done()
    assert outcomes(again) == before


def test_decisions_do_not_depend_on_which_of_several_trials_ends_first(tmp_path: Path) -> None:
    found = []
    for name, is_reversed in (("one", False), ("two", True)):
        (tmp_path / name).mkdir()
        study = new_study(tmp_path / name, text=EAGER + "compute: {concurrent_trials: 3}\n")
        while True:
            side_by_side = []
            while len(side_by_side) < 3 and (proposal := study.next()) is not None:
                side_by_side.append(proposal)
            if not side_by_side:
                break
            for proposal in reversed(side_by_side) if is_reversed else side_by_side:
                run_trial(study, proposal)
        found.append(outcomes(study))
    assert found[0] == found[1]
    assert "PRUNED" in {outcome[1] for outcome in found[0]}


@pytest.mark.slow
def test_tpe_goes_on_where_most_trials_are_stopped(tmp_path: Path) -> None:
    # Optuna's TPE ranks pruned trials too, and those of several objectives have nothing to be ranked by.
    study = new_study(tmp_path, "tpe", EAGER.replace("trials: 16", "trials: 40"))
    run_out(study)
    assert study.spent().trials == 40
    assert len(stopped(study)) > 15
