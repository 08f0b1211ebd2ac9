"""Early stopping at rungs: a bound there rests on like rungs, and a trial stopped inside a stage says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from played import STUDY, new_study, optuna_trials, trained
from pydantic import ValidationError

from evaluators.scores import Score
from search.folders import utc_now
from search.plan import measured_speeds
from search.records import Boundary, Proposal, Rung, TrialRecord
from search.running_spec import StoppingSpec
from search.spec import ConstraintSpec, StudySpec
from search.stopping.past import Goals, PastTrial, alike, examples
from search.stopping.predictor import MeanGain
from search.stopping.rule import StoppingRule
from search.study import Study
from spaces.recipe import Full, Recipe, Stage

GOALS = Goals(("form", "kl"), (1.0, -1.0), (ConstraintSpec(score="kl", at_most=0.5),))
Pair = tuple[float, float]


def scores(form: float, kl: float) -> tuple[Score, ...]:
    return (
        Score(name="form", value=form, n=9, unit="share", direction="maximise"),
        Score(name="retention.kl", value=kl, n=9, unit="nats/token", direction="minimise"),
        Score(name="kl", value=kl, n=9, unit="nats/token", direction="minimise"),
    )


def boundary(n_stages: int, pair: Pair, digest: str) -> Boundary:
    return Boundary(n_stages=n_stages, digest=digest, scores=scores(*pair), evaluate_seconds=1.0)


def rung(n_stages: int, share: float, pair: Pair, tokens: int = 40) -> Rung:
    return Rung(
        n_stages=n_stages,
        share=share,
        trained_tokens=tokens,
        scores=scores(*pair),
        train_seconds=1.0,
        evaluate_seconds=1.0,
    )


def trial(
    number: int, order: str, boundaries: Sequence[Pair], rungs: dict[tuple[int, float], Pair]
) -> TrialRecord:
    """A trial of one-letter influences, with `form` and `kl` at boundaries and at rungs. Each has its own doses."""
    stages = tuple(
        Stage(
            influence=name,
            method="sft",
            adapter=Full(),
            mix={"chat": 1.0},
            dose_tokens=100 + number,
            learning_rate=1e-3,
        )
        for name in order
    )
    return TrialRecord(
        number=number,
        state="COMPLETE" if len(boundaries) == len(order) else "RUNNING",
        params={},
        recipe=Recipe(stages=stages),
        seed=0,
        boundaries=tuple(
            boundary(n, pair, f"{number} {n}") for n, pair in enumerate(boundaries, 1)
        ),
        rungs=tuple(rung(*place, pair) for place, pair in rungs.items()),
        started_at="",
    )


def past(*records: TrialRecord) -> list[PastTrial]:
    return [PastTrial.of(record, GOALS) for record in records]


def rule(alpha: float = 0.5) -> StoppingRule:
    influence = {
        "method": "sft",
        "adapter": {"kind": "full"},
        "mix": {"chat": 1.0},
        "dose_tokens": 100,
        "learning_rate": 1e-3,
    }
    data = {
        "name": "stopping",
        "base": {"path": "model"},
        "sources": {"ask": {"path": "a.jsonl", "format": "prompt"}},
        "influences": {"a": influence},
        "suite": {
            "form": {
                "evaluator": "pattern",
                "source": "ask",
                "rules": [{"rule": "starts_with", "text": "A"}],
            },
            "kl": {"evaluator": "likelihood", "source": "ask"},
        },
        "objectives": [{"score": "form"}, {"score": "kl", "reference": 1.0}],
        "constraints": [{"score": "kl", "at_most": 0.5}],
        "budget": {"trials": 9},
        "stopping": {"alpha": alpha, "audit_share": 0.0, "rungs": [0.25, 0.5]},
    }
    return StoppingRule(StudySpec.model_validate_json(json.dumps(data)), MeanGain)


@pytest.mark.parametrize("rungs", [(0.5, 0.25), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0)])
def test_rungs_that_are_no_increasing_shares_are_refused(rungs: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"give such as \[0.25, 0.5\]"):
        StoppingSpec(rungs=rungs)


def test_examples_from_a_rung_are_of_the_same_share_and_what_remains() -> None:
    known = examples(
        past(
            trial(
                1, "ab", [(0.1, 0.1), (0.2, 0.1)], {(0, 0.5): (0.05, 0.1), (1, 0.5): (0.15, 0.1)}
            ),
            trial(2, "ab", [(0.1, 0.1), (0.3, 0.1)], {(1, 0.25): (0.12, 0.1)}),
        )
    )

    def found(remaining: tuple[str, ...], share: float) -> list[tuple[int, int, int]]:
        return [(e.trial.number, e.start, e.end) for e in alike(known, remaining, 1, share)]

    assert found(("b",), 0.0) == [(1, 1, 2), (2, 1, 2)]
    assert found(("b",), 0.5) == [(1, 1, 2)]
    assert found(("b",), 0.25) == [(2, 1, 2)]
    assert found(("a", "b"), 0.5) == [(1, 0, 2)]
    assert found(("a", "b"), 0.25) == []
    # From the rung in `b` on, the rest of the stage gave .2 - .15.
    (example,) = alike(known, ("b",), 1, 0.5)
    assert (example.after - example.before)[0] == pytest.approx(0.05)


def test_trial_is_stopped_inside_a_stage_with_the_place_in_the_reason() -> None:
    # From the middle of the second stage on, nothing changed in two past trials: the bound is where the trial is now.
    known = past(
        trial(1, "ab", [(0.1, 0.1), (0.4, 0.1)], {(1, 0.5): (0.4, 0.1)}),
        trial(2, "ab", [(0.1, 0.1), (0.2, 0.1)], {(1, 0.5): (0.2, 0.1)}),
    )
    decision = rule().decide(trial(3, "ab", [(0.6, 0.2)], {(1, 0.5): (0.3, 0.2)}), known)
    assert decision is not None
    assert (decision.n_stages, decision.share, decision.n_past) == (1, 0.5, 2)
    assert decision.outcome == "stop"
    assert decision.reason == (
        "stopped at 50 % of stage 2 of 2: cannot reach the front "
        "(form <= 0.3, kl >= 0.2 by a bound with error rate 50 %; trial 1 has 0.4, 0.1)"
    )


def test_trial_can_be_stopped_inside_its_first_stage() -> None:
    known = past(*(trial(n, "a", [(0.4, 0.1)], {(0, 0.25): (0.4, 0.1)}) for n in (1, 2)))
    decision = rule().decide(trial(3, "a", [], {(0, 0.25): (0.3, 0.2)}), known)
    assert decision is not None
    assert (decision.reason or "").startswith("stopped at 25 % of stage 1 of 1: cannot reach")


def test_nothing_is_decided_at_a_rung_that_no_past_trial_had() -> None:
    known = past(*(trial(n, "a", [(0.4, 0.1)], {(0, 0.5): (0.4, 0.1)}) for n in range(9)))
    assert rule().decide(trial(10, "a", [], {(0, 0.25): (0.1, 0.4)}), known) is None
    assert rule().decide(trial(10, "a", [], {(0, 0.5): (0.1, 0.4)}), known) is not None


def test_nothing_is_decided_at_a_rung_of_a_stage_whose_model_was_scored_already() -> None:
    # The rest of every stage changed nothing, and half of a stage is where the trial is: dominated by (.4, .1).
    half = {(0, 0.5): (0.4, 0.1), (1, 0.5): (0.4, 0.1)}
    known = past(*(trial(n, "ab", [(0.4, 0.1)] * 2, half) for n in (1, 2)))
    shorter = trial(7, "a", [(0.3, 0.2)], {})
    here = trial(8, "ab", [], {(0, 0.5): (0.3, 0.2)})
    longer = Recipe(stages=(*shorter.recipe.stages, here.recipe.stages[1]))
    longer_here = here.model_copy(update={"recipe": longer})
    in_next = longer_here.model_copy(
        update={"boundaries": shorter.boundaries, "rungs": (rung(1, 0.5, (0.3, 0.2)),)}
    )
    everything = [*known, *past(shorter)]
    assert rule().decide(longer_here, everything) is None
    # A recipe of its own is judged there, and so is this one once its new stage has begun.
    for each in (here, in_next):
        decision = rule().decide(each, everything)
        assert decision is not None
        assert (decision.share, decision.outcome) == (0.5, "stop")


def test_model_at_a_rung_dominates_nobody() -> None:
    # It is no recipe of the study: what it has, nothing that could be taken has.
    known = past(*(trial(n, "ab", [(0.1, 0.1)] * 2, {(1, 0.5): (0.9, 0.0)}) for n in (1, 2)))
    decision = rule().decide(trial(3, "ab", [(0.5, 0.05)], {}), known)
    assert decision is not None
    assert decision.outcome == "go on"


def test_decisions_of_a_whole_trial_are_those_taken_on_the_way() -> None:
    past_rungs = {(0, 0.5): (0.4, 0.1), (1, 0.25): (0.4, 0.1), (1, 0.5): (0.4, 0.1)}
    known = past(*(trial(n, "ab", [(0.4, 0.1)] * 2, past_rungs) for n in (1, 2)))
    good, bad = (0.5, 0.05), (0.3, 0.2)
    points = [(0, 0.5), (1, 0.0), (1, 0.25), (1, 0.5), (2, 0.0)]
    values = dict(zip(points, [good, good, bad, good, bad], strict=True))

    def until(place: tuple[int, float]) -> TrialRecord:
        seen = [point for point in points if point <= place]
        return trial(
            3,
            "ab",
            [values[point] for point in seen if not point[1]],
            {point: values[point] for point in seen if point[1]},
        )

    ways = [rule().decide(until(place), known) for place in points]
    assert [way.outcome for way in ways if way] == ["go on", "go on", "stop", "go on"]
    whole = rule().decisions(until(points[-1]), known)
    assert list(whole) == [way for way in ways if way]
    assert [(each.n_stages, each.share) for each in whole] == points[:-1]


EAGER = STUDY.replace("trials: 8", "trials: 14")
EAGER += "stopping: {alpha: 0.5, audit_share: 0.0, rungs: [0.5]}\n"


def play(study: Study, proposal: Proposal) -> TrialRecord:
    """Do what runner and worker do with a trial whose second half of every stage is in vain."""
    n_stages = len(proposal.recipe.stages)
    record = TrialRecord(
        number=proposal.number,
        state="RUNNING",
        params=proposal.params,
        recipe=proposal.recipe,
        baseline=proposal.baseline,
        seed=3,
        started_at=utc_now(),
    )
    folder = study.folder.trial(proposal.number)
    folder.path.mkdir(parents=True, exist_ok=True)
    first = proposal.recipe.stages[0].dose_tokens / 2000 if n_stages else 0.0
    points = [point for n in range(n_stages) for point in ((n, 0.5), (n + 1, 0.0))] or [(0, 0.0)]
    for n_done, share in points:
        pair = (first - 0.05 * (n_done + share), 0.05 * (n_done + share))
        changes: dict[str, object]
        if share:
            changes = {"rungs": (*record.rungs, rung(n_done, share, pair))}
        else:
            digest = proposal.recipe.prefix(n_done).prefix_digests()[-1]
            stages = tuple(
                trained(proposal, 100).model_copy(update={"stage": stage})
                for stage in proposal.recipe.stages[:n_done]
            )
            boundaries = (*record.boundaries, boundary(n_done, pair, digest))
            changes = {"boundaries": boundaries, "stages": stages}
        is_last = (n_done, share) == points[-1]
        record = record.model_copy(update={**changes, **({"state": "COMPLETE"} if is_last else {})})
        folder.write_record(record)
        if not is_last and study.stop_early(proposal.number):
            record = folder.read_record() or record
            break
    return study.finish(record)


def test_study_counts_a_trial_stopped_inside_its_first_stage_as_stopped_and_not_as_failed(
    tmp_path: Path,
) -> None:
    study = new_study(tmp_path, "random", EAGER)
    while (proposal := study.next()) is not None:
        play(study, proposal)
    records = study.folder.records()
    stopped = [record for record in records if record.open_rung is not None]
    assert stopped
    assert {record.state for record in stopped} == {"PRUNED"}
    in_first = [record for record in stopped if not record.boundaries]
    assert in_first
    told = {trial.number: trial.state for trial in optuna_trials(study)}
    assert {told[record.number] for record in stopped} == {optuna.trial.TrialState.PRUNED}
    assert study.spent().failed_trials == 0
    assert study.spent().trials == 14 == len(records)
    for record in stopped:
        n_done = len(record.boundaries)
        left = sum(stage.dose_tokens for stage in record.recipe.stages[n_done:])
        # 40 tokens were trained of the stage in which it ended, 100 in each stage before.
        assert record.saved_tokens == left - 40
        assert record.trained_tokens == 100 * n_done + 40
        assert record.stopping[-1].share == 0.5
        assert (record.reason or "").startswith(f"stopped at 50 % of stage {n_done + 1} of ")
    assert study.spent().train_tokens == sum(record.trained_tokens for record in records)


def test_stopped_trials_are_the_same_after_a_resume(tmp_path: Path) -> None:
    def outcomes(study: Study) -> list[tuple[object, ...]]:
        return [(r.number, r.state, r.reason, r.recipe, r.stopping) for r in study.folder.records()]

    found = []
    for name, n_before in (("whole", 99), ("cut", 7)):
        (tmp_path / name).mkdir()
        study = new_study(tmp_path / name, "random", EAGER)
        while n_before and (proposal := study.next()) is not None:
            play(study, proposal)
            n_before -= 1
        if not n_before:
            study.next()  # A trial that the driver's death leaves open.
            study.close("killed")
            study = Study.open(study.folder.path, "apportion resume")
            while (proposal := study.next()) is not None:
                play(study, proposal)
        found.append(outcomes(study))
    assert found[0] == found[1]


def test_plan_counts_the_scoring_at_rungs() -> None:
    done = trial(1, "ab", [(0.1, 0.1), (0.2, 0.1)], {})
    plain, with_rungs = (measured_speeds([done], n_rungs) for n_rungs in (0, 2))
    assert plain.evaluate_seconds == 1.0
    added = with_rungs.recipe_seconds(done.recipe) - plain.recipe_seconds(done.recipe)
    # Two stages, two rungs in each, one second of the suite at each.
    assert added == pytest.approx(4.0)
