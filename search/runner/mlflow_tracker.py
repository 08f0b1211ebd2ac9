"""MLflow as a tracker: each trial is a run, its boundaries are steps. Needs `pip install 'apportion[mlflow]'`.

callbacks:
  - {name: mlflow, options: {uri: "http://mlflow.example:5000", experiment: inner_voice}}

Credentials stay in MLflow's own variables, such as MLFLOW_TRACKING_TOKEN.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from search.outcomes import FailureKind
from search.records import TrialRecord

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
"""Of a run, by the state of its trial."""
TRIAL_TAG, STUDY_TAG = "apportion.trial", "apportion.study"
MAX_VALUE = 5000
"""Characters of a tag or param."""


class Mlflow:
    """Tells an MLflow server. A trial that was told of before, by an earlier launch perhaps, goes on in its run."""

    def __init__(
        self, study: str, results: Path, uri: str | None = None, experiment: str | None = None
    ) -> None:
        """Look for the server.

        Args:
            study: Its name.
            results: Its folder.
            uri: Of the server; default: the variable MLFLOW_TRACKING_URI.
            experiment: Default: the study's name.

        Raises:
            ImportError: MLflow is not installed.
            ValueError: There is no uri.
        """
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise ValueError("no server is known; give options.uri or set MLFLOW_TRACKING_URI")
        # MLflow would otherwise try for minutes, and the study would wait.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            from mlflow import MlflowClient
        except ModuleNotFoundError as error:
            raise ImportError("MLflow is not installed; pip install 'apportion[mlflow]'") from error
        self._client = MlflowClient(tracking_uri=uri)
        self._study = str(results.absolute())
        name = experiment or study
        found = self._client.get_experiment_by_name(name)
        self._experiment = (
            self._client.create_experiment(name) if found is None else found.experiment_id
        )
        self._runs: dict[int, str] = {}
        self._n_told: dict[int, int] = {}

    def scored(self, record: TrialRecord) -> None:
        """Log the scores at boundaries that were not told yet."""
        run = self._run(record)
        told = self._n_told.get(record.number, 0)
        for boundary in record.boundaries[told:]:
            for score in boundary.scores:
                if score.value is None:
                    self._tag(run, f"missing.{score.name}", score.reason)
                    continue
                self._client.log_metric(run, score.name, score.value, step=boundary.n_stages)
                if score.stderr is not None:
                    name = f"{score.name}.stderr"
                    self._client.log_metric(run, name, score.stderr, step=boundary.n_stages)
        self._n_told[record.number] = max(told, len(record.boundaries))

    def ended(self, record: TrialRecord) -> None:
        """Log what is missing, what it took and how it ended."""
        self.scored(record)
        run = self._runs.pop(record.number)
        self._n_told.pop(record.number)
        kind: FailureKind | None = record.failure.kind if record.failure else None
        tags = {"state": record.state, "reason": record.reason, "failure.kind": kind}
        for name, value in tags.items():
            self._tag(run, name, value)
        self._client.log_metric(run, "trained_tokens", record.trained_tokens)
        self._client.log_metric(run, "seconds", record.seconds.total)
        self._client.set_terminated(run, STATUS[record.state])

    def close(self) -> None:
        """Do nothing: runs of trials that are to be resumed stay open."""

    def _run(self, record: TrialRecord) -> str:
        if record.number not in self._runs:
            self._runs[record.number] = self._known(record) or self._made(record)
        return self._runs[record.number]

    def _known(self, record: TrialRecord) -> str | None:
        quoted = self._study.replace("'", "")
        wanted = f"tags.`{TRIAL_TAG}` = '{record.number}' and tags.`{STUDY_TAG}` = '{quoted}'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _made(self, record: TrialRecord) -> str:
        tags = {TRIAL_TAG: str(record.number), STUDY_TAG: self._study.replace("'", "")}
        made = self._client.create_run(
            self._experiment, tags=tags, run_name=f"trial-{record.number:04d}"
        )
        run = str(made.info.run_id)
        params: dict[str, Any] = {"recipe": record.recipe.label(), **record.params}
        for name, value in params.items():
            self._client.log_param(run, name, str(value)[:MAX_VALUE])
        return run

    def _tag(self, run: str, name: str, value: str | None) -> None:
        if value is not None:
            self._client.set_tag(run, name, value[:MAX_VALUE])
