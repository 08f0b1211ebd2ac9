"""Studies whose training is played: for tests of budget, proposals and resuming."""

from __future__ import annotations

from pathlib import Path

import optuna

from evaluators.scores import Score
from search.folders import utc_now
from search.records import Boundary, Proposal, StageRecord, TrialRecord
from search.storage import database_url
from search.study import Study
from search.yaml_file import load_study

STUDY = """
name: played
base: {path: model}
sources:
  chat: {path: chat.jsonl, format: messages}
  ask: {path: ask.jsonl, format: prompt}
influences:
  a: {method: sft, adapter: {kind: lora, rank: 8}, mix: {chat: 1.0}, dose_tokens: {low: 100, high: 900},
      learning_rate: {low: 1e-4, high: 1e-2, log: true}}
  b: {method: sft, adapter: {kind: full}, mix: {chat: 1.0}, dose_tokens: 500, learning_rate: 1e-4}
suite:
  form: {evaluator: pattern, source: ask, rules: [{rule: starts_with, text: A}], max_new_tokens: 4}
objectives: [{score: form}, {score: retention.kl, reference: 1.0}]
constraints: [{score: retention.kl, at_most: 0.5}]
baselines: [{name: b_alone, order: [b]}]
sampler: {name: SAMPLER, seed: 3}
budget: {trials: 8}
"""


# Past their random start within a few trials: else only random proposals would be tested.
MODELLED = "seed: 3, startup_trials: 3, population: 3"


def study_file(folder: Path, sampler: str = "tpe", text: str = STUDY) -> Path:
    path = folder / "study.yaml"
    path.write_text(text.replace("SAMPLER", sampler))
    return path


def new_study(folder: Path, sampler: str = "tpe", text: str = STUDY) -> Study:
    path = study_file(folder, sampler, text)
    return Study.create(load_study(path), path, folder / "results", "apportion run study.yaml")


def played(
    proposal: Proposal, form: float | None = 0.5, kl: float = 0.1, state: str = "COMPLETE"
) -> TrialRecord:
    scores = (
        Score(name="form", value=form, n=10, unit="share", direction="maximise")
        if form is not None
        else Score(
            name="form",
            value=None,
            n=0,
            unit="share",
            direction="maximise",
            status="missing",
            reason="empty",
        ),
        Score(name="retention.kl", value=kl, n=10, unit="nats/token", direction="minimise"),
    )
    return TrialRecord(
        number=proposal.number,
        state=state,  # type: ignore[arg-type]
        params=proposal.params,
        recipe=proposal.recipe,
        baseline=proposal.baseline,
        seed=3,
        boundaries=(Boundary(n_stages=0, digest="d", scores=scores, evaluate_seconds=1.0),),
        started_at=utc_now(),
    )


def play(study: Study, n_trials: int) -> list[Proposal]:
    proposals = []
    for _ in range(n_trials):
        proposal = study.next()
        assert proposal is not None
        form = 0.1 * len(proposal.recipe.stages) + 0.0001 * sum(
            s.dose_tokens for s in proposal.recipe.stages
        )
        folder = study.folder.trial(proposal.number)
        folder.clear()
        record = played(proposal, form, kl=0.2 * len(proposal.recipe.stages))
        folder.write_record(record)
        study.finish(record)
        proposals.append(proposal)
    return proposals


def optuna_trials(study: Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the storage, without those that cost nothing: repeats and prefixes."""
    url = database_url(study.spec.storage, study.folder.database, study.root)
    loaded = optuna.load_study(study_name="played", storage=url)
    return [
        trial for trial in loaded.trials if not {"not_trained", "prefix_of"} & set(trial.user_attrs)
    ]


def trained(proposal: Proposal, n_tokens: int) -> StageRecord:
    return StageRecord(
        stage=proposal.recipe.stages[0],
        digest="d",
        seed=1,
        trained_tokens=n_tokens,
        n_steps=1,
        n_rows=1,
        tokens_by_source={"chat": n_tokens},
        passes_by_source={"chat": 1.0},
        loss_by_step=(1.0,),
        n_trainable=1,
        micro_batch_rows=1,
        train_seconds=1.0,
        setup_seconds=0.1,
    )
