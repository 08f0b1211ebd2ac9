"""One recipe as a Ray Tune trial, one stage as a Tune step. The actor is reused: the base model stays loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from search.folders import StudyFolder, write_failure
from search.runner.searcher import PROPOSAL
from search.spec import StudySpec

if TYPE_CHECKING:
    from search.trial import Lab, TrialRun


class RecipeTrainable(tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """Runs one recipe after another in one process."""

    def setup(self, config: dict[str, Any], spec: StudySpec, root: str, folder: str) -> None:
        """Load the lab once per process and prepare the first recipe."""
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from search.trial import Lab

        self._folder = StudyFolder(Path(folder))
        try:
            self._lab: Lab = Lab.load(spec, Path(root))
        except Exception as error:
            # Ray drops the reason of a failed set-up on its way to the searcher; the trial's folder keeps it.
            proposal = config[PROPOSAL]
            reason = f"{type(error).__name__}: {error}"
            write_failure(self._folder.trial(proposal.number), proposal, spec, reason)
            raise
        self._ended_at: float | None = None
        self._begin(config)

    def step(self) -> dict[str, Any]:
        """Train and score one stage."""
        is_done = self._run.step()
        if is_done:
            self._ended_at = time.monotonic()
        return {"done": is_done, "n_boundaries": len(self._run.record.boundaries)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare the next recipe in the same process."""
        self._begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: trial folders and the study's storage are what a resume reads."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing; see `save_checkpoint`."""

    def _begin(self, config: dict[str, Any]) -> None:
        from search.trial import TrialRun

        proposal = config[PROPOSAL]
        idle_seconds = time.monotonic() - self._ended_at if self._ended_at is not None else 0.0
        self._run: TrialRun = TrialRun(
            self._lab, self._folder.trial(proposal.number), proposal, idle_seconds
        )
