"""A study with a fidelity: a last model is scored on its first items, and on all where it may be on the front."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from tiny import STUDY, write_data, write_model

from search.folders import StudyFolder, TrialFolder
from search.lab import Lab
from search.plan import measured_speeds
from search.records import Proposal, TrialRecord
from search.report.stopping import stopping_sentence
from search.report.tables import trials_csv
from search.report.view import load_view
from search.store import StageStore
from search.study import Study
from search.trial import TrialRun
from search.yaml_file import load_study
from spaces.recipe import Full, Recipe, Stage

FIDELITY = "fidelity: {items: 0.5, alpha: 0.5}\nstopping: {enabled: false, audit_share: 0}\n"
STAGE = Stage(
    influence="form",
    method="sft",
    adapter=Full(),
    mix={"chat": 1.0},
    dose_tokens=300,
    learning_rate=1e-3,
)
RECIPE = Recipe(stages=(STAGE, STAGE.model_copy(update={"learning_rate": 2e-3})))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fidelity")
    write_model(path / "model")
    write_data(path)
    # As many rows as half of them need to be more than the fewest that are asked.
    for name, word in (("ask", "What does"), ("other_pairs", "What does"), ("prose", "Once")):
        file = path / f"{name}.jsonl"
        text = file.read_text()
        file.write_text("".join(text.replace(word, new) for new in (word, "And", "But", "Or")))
    return path


def lab(folder: Path, text: str = FIDELITY, store: StageStore | None = None) -> Lab:
    (folder / "study.yaml").write_text(STUDY + text)
    return Lab.load(load_study(folder / "study.yaml"), folder, store)


def begun(
    one: Lab, path: Path, recipe: Recipe = RECIPE, number: int = 1, baseline: str | None = None
) -> TrialRun:
    folder = TrialFolder(path / f"{number:04d}")
    return TrialRun(one, folder, Proposal(number, {}, recipe, baseline))


def ended(trial: TrialRun) -> tuple[TrialRecord, int]:
    n_steps = 1
    while not trial.step():
        n_steps += 1
    assert trial.record.state == "COMPLETE", trial.record.reason
    return trial.record, n_steps


def test_the_last_model_alone_is_screened_and_then_scored_as_if_it_had_not_been(
    folder: Path, tmp_path: Path
) -> None:
    one = lab(folder)
    record, n_steps = ended(begun(one, tmp_path / "screened"))
    assert n_steps == 3
    (screening,) = record.screenings
    assert (screening.n_stages, screening.digest) == (2, record.boundaries[-1].digest)
    assert screening.fidelity == 0.5
    assert {score.fidelity for at in record.boundaries for score in at.scores} == {1.0}
    plain, n_plain = ended(begun(one, tmp_path / "baseline", baseline="both"))
    assert (n_plain, plain.screenings) == (2, ())
    assert [at.scores for at in plain.boundaries] == [at.scores for at in record.boundaries]
    lines = (tmp_path / "screened/0001/boundaries/2/screening.jsonl").read_text().splitlines()
    places = [json.loads(line)["index"] for line in lines if '"short"' in line]
    assert len(places) == screening.scores[0].n
    total = record.seconds.evaluate
    parts = [*record.boundaries, *record.screenings]
    assert total == pytest.approx(sum(each.evaluate_seconds for each in parts), abs=0.01)


def test_scores_agree_with_a_study_without_fidelity_but_for_the_last_bits(
    folder: Path, tmp_path: Path
) -> None:
    record, _ = ended(begun(lab(folder), tmp_path / "with"))
    plain, _ = ended(begun(lab(folder, ""), tmp_path / "without"))
    for score, other in zip(record.boundaries[-1].scores, plain.boundaries[-1].scores, strict=True):
        assert score.value == pytest.approx(other.value, rel=1e-4, abs=1e-5)
    assert record.boundaries[-1].suite_version != plain.boundaries[-1].suite_version


def test_what_the_store_knows_of_all_items_is_not_screened(folder: Path, tmp_path: Path) -> None:
    one = lab(folder, store=StageStore(tmp_path / "store"))
    first, _ = ended(begun(one, tmp_path / "first"))
    again, n_steps = ended(begun(one, tmp_path / "again", number=2))
    assert (n_steps, again.screenings) == (2, ())
    assert again.boundaries[-1].scores == first.boundaries[-1].scores


def test_rungs_and_if_asked_boundaries_are_scored_on_the_first_items(
    folder: Path, tmp_path: Path
) -> None:
    text = "fidelity: {items: 0.5, evaluators: {taste: 1}, boundaries: true}\nstopping: {rungs: [0.5]}\n"
    record, _ = ended(begun(lab(folder, text), tmp_path))
    assert [at.n_stages for at in record.screenings] == [1, 2]
    assert [at.n_stages for at in record.boundaries] == [2]
    for scores in (record.rungs[0].scores, record.screenings[0].scores):
        shares = {score.name: score.fidelity for score in scores}
        assert (shares["short"], shares["taste.margin"], shares["retention.kl"]) == (0.5, 1.0, 0.5)


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """A study driven as the runner does it, with random recipes."""
    path = folder / "random.yaml"
    text = STUDY.replace("sampler: {seed: 5", "sampler: {name: random, seed: 6")
    text = text.replace("trials: 6", "trials: 8").replace("at_most: 4.0", "at_most: 40.0")
    # Taste alone gains where the base has none; what the other two do, the base dominates.
    text = text.replace("score: taste.margin", "score: taste.gain")
    text = text.replace("max_stages: 2", "max_stages: 1").replace("trials: 8", "trials: 6")
    path.write_text(text + FIDELITY)
    spec = load_study(path)
    study = Study.create(spec, path, tmp_path_factory.mktemp("results"), "apportion run")
    one = Lab.load(spec, folder, None)
    while (proposal := study.next()) is not None:
        trial = TrialRun(one, study.folder.trial(proposal.number), proposal)
        while not trial.step() and not study.stop_early(proposal.number):
            pass
        record = study.folder.trial(proposal.number).read_record()
        assert record is not None
        study.finish(record)
    study.close("done")
    return study.folder


def test_who_cannot_be_on_the_front_ends_there_and_the_front_is_of_all_items(
    run: StudyFolder,
) -> None:
    view = load_view(run.path)
    out = [trial for trial in view.trials if trial.is_screened_out]
    promoted = [t for t in view.trials if t.state == "COMPLETE" and t.last_screening]
    assert len(out) >= 1
    assert len(promoted) >= 1
    assert len(out) + len(promoted) == 5  # all but the base
    assert not {trial.number for trial in out} & set(view.front)
    for trial in out:
        assert len(trial.stages) == len(trial.recipe.stages)
        assert trial.saved_tokens == 0
        assert trial.reason is not None
        assert trial.reason.startswith("ended on 50 % of the items")
        assert [each.outcome for each in trial.stopping] == ["stop"]
    speeds = measured_speeds(view.trials, fidelity=0.5)
    assert (speeds.n_screened, speeds.given_up_share) == (5, len(out) / 5)
    recipe = out[0].recipe
    everything = measured_speeds(view.trials).recipe_seconds(recipe)
    saved = len(out) / 5 * 0.5 * speeds.evaluate_seconds
    assert everything - speeds.recipe_seconds(recipe) == pytest.approx(saved)


def test_the_report_keeps_scores_on_the_first_items_apart(run: StudyFolder) -> None:
    view = load_view(run.path)
    rows = list(csv.DictReader(io.StringIO(trials_csv(view), newline="")))
    for row, trial in zip(rows, view.trials, strict=True):
        has_all = trial.state == "COMPLETE"
        assert row["fidelity"] == ("1.0" if has_all else "0.5")
        if trial.is_screened_out and len(trial.recipe.stages) == 1:
            assert row["taste.margin"] == ""
        if trial.last_screening:
            scores = {score.name: score for score in trial.last_screening.scores}
            assert float(row["screening.taste.margin"]) == scores["taste.margin"].value
            assert int(row["screening.taste.margin_n"]) == scores["taste.margin"].n
        else:
            assert row["screening.taste.margin"] == ""
    n_out = sum(trial.is_screened_out for trial in view.trials)
    text = stopping_sentence(view)
    assert f"Of 5 recipes whose last model was scored on 50 % of the items first, {n_out}" in text
    assert "stopped early" not in text


def test_the_storage_calls_them_pruned_and_our_sampler_hears_their_error(run: StudyFolder) -> None:
    import optuna

    loaded = optuna.load_study(study_name="tiny", storage=f"sqlite:///{run.database}")
    view = load_view(run.path)
    for trial in view.trials:
        told = loaded.trials[trial.number]
        last = [each for each in told.user_attrs["boundaries"]][-1]
        assert told.state.name == ("PRUNED" if trial.is_screened_out else "COMPLETE")
        assert ("errors" in last) == trial.is_screened_out
        if trial.is_screened_out:
            assert all(error > 0 for error in last["errors"])
            assert told.values is None
