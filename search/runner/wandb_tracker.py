"""Weights & Biases as a tracker: each trial is a run, its boundaries are steps. Needs `pip install 'apportion[wandb]'`.

callbacks:
  - {name: wandb, options: {project: inner_voice, entity: my_team}}
  - {name: wandb, folder: runs, options: {mode: offline}}     # `wandb sync` sends them later

The key stays in WANDB_API_KEY, or where `wandb login` put it.
"""

from __future__ import annotations

import hashlib
import netrc
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search.records import TrialRecord


class Wandb:
    """Tells W&B. Nothing but params, scores, tokens and seconds is sent: no code, no machine, no console."""

    def __init__(
        self,
        study: str,
        results: Path,
        folder: str | None = None,
        project: str | None = None,
        entity: str | None = None,
        mode: str | None = None,
    ) -> None:
        """Look for the package and a key.

        Args:
            study: Its name.
            results: Its folder.
            folder: Where W&B keeps its files; default: `wandb` in the results.
            project: Default: the study's name.
            entity: Default: the key's own.
            mode: `online` or `offline`; default: the variable WANDB_MODE, else online.

        Raises:
            ImportError: W&B is not installed.
            ValueError: The mode is unknown, or online and there is no key.
        """
        self._mode = mode or os.environ.get("WANDB_MODE") or "online"
        if self._mode not in ("online", "offline"):
            raise ValueError(f"mode is {self._mode!r}; known: online, offline")
        if self._mode == "online" and not _has_key():
            raise ValueError("no key is known; set WANDB_API_KEY, or options.mode to offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ImportError("W&B is not installed; pip install 'apportion[wandb]'") from error
        self._wandb: Any = wandb
        self._place = Path(folder) if folder is not None else results
        self._place.mkdir(parents=True, exist_ok=True)
        self._names = {"project": project or study, "entity": entity}
        self._study = hashlib.sha256(str(results.absolute()).encode()).hexdigest()[:12]
        self._runs: dict[int, Any] = {}
        self._n_told: dict[int, int] = {}

    def scored(self, record: TrialRecord) -> None:
        """Log the scores at boundaries that were not told yet."""
        run = self._run(record)
        told = self._n_told.get(record.number, 0)
        for boundary in record.boundaries[told:]:
            scores = {score.name: score for score in boundary.scores if score.value is not None}
            values = {name: score.value for name, score in scores.items()}
            noise = {
                f"{name}.stderr": score.stderr
                for name, score in scores.items()
                if score.stderr is not None
            }
            run.log({**values, **noise}, step=boundary.n_stages)
        self._n_told[record.number] = max(told, len(record.boundaries))

    def ended(self, record: TrialRecord) -> None:
        """Log what is missing, what it took and how it ended."""
        self.scored(record)
        run = self._runs.pop(record.number)
        self._n_told.pop(record.number)
        run.summary["state"] = record.state
        run.summary["reason"] = record.reason
        run.summary["failure.kind"] = record.failure.kind if record.failure else None
        run.summary["trained_tokens"] = record.trained_tokens
        run.summary["seconds"] = record.seconds.total
        run.finish(exit_code=1 if record.state == "FAIL" else 0)

    def close(self) -> None:
        """Let go of runs of trials that are to be resumed."""
        for run in self._runs.values():
            run.finish(exit_code=1)
        self._runs.clear()

    def _run(self, record: TrialRecord) -> Any:
        if record.number not in self._runs:
            settings = self._wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_meta=True,
            )
            self._runs[record.number] = self._wandb.init(
                **self._names,
                name=f"trial-{record.number:04d}",
                id=f"{self._study}-{record.number:04d}",
                dir=str(self._place),
                mode=self._mode,
                config={"recipe": record.recipe.label(), **record.params},
                reinit="create_new",
                # A trial that an earlier launch told of goes on in its run.
                resume="allow" if self._mode == "online" else None,
                settings=settings,
            )
        return self._runs[record.number]


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc().authenticators(urlsplit(base).hostname or "") is not None
    return False
