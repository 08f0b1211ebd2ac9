"""One recipe as a Ray Tune trial, one stage (with rungs, a piece of one) as a Tune step.

The actor is reused: the base model stays loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from evaluators.redaction import redacted
from search.attempts import Attempts
from search.folders import StudyFolder
from search.holding import Fence
from search.origin import check_origin
from search.runner.searcher import ATTEMPT, FAULT, IS_IN_STAGE, N_BOUNDARIES, PROPOSAL
from search.runner.watchdog import watched
from search.spec import StudySpec
from search.store import StageStore

if TYPE_CHECKING:
    from search.lab import Lab
    from search.records import Proposal
    from search.trial import TrialRun


class DeviceLost(RuntimeError):  # noqa: N818 - named as what it is
    """The accelerator serves this process no more."""


class RecipeTrainable(tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """Runs one recipe after another in one process."""

    def setup(
        self, config: dict[str, Any], spec: StudySpec, root: str, folder: str, token: str
    ) -> None:
        """Take note of the first recipe; nothing is loaded or written before its first step.

        Tune starts actors for trials that it then gives to another one that comes free: a trial's folder belongs to
        the actor that steps it.
        """
        self._spec = spec
        self._root = Path(root)
        # The driver may have lost the study without noticing; this process may live longer than its driver.
        self._held = Fence(Path(folder), "run", token).check
        self._folder = StudyFolder(Path(folder), self._held)
        self._lab: Lab | None = None
        self._run: TrialRun | None = None
        self._fault: str | None = None
        self._ended_at: float | None = None
        self._proposal: Proposal = config[PROPOSAL]
        self._attempt: str = config[ATTEMPT]

    def step(self) -> dict[str, Any]:
        """Train and score one stage, or a piece of one."""
        if self._run is None:
            self._begin()
        if self._run is None:
            return {"done": True, N_BOUNDARIES: 0, IS_IN_STAGE: False, FAULT: self._fault}
        with watched(self._run.folder.hang, self._spec.stopping.hang_seconds):
            is_done = self._run.step()
        # Any boundary may turn out to be the trial's last: the scheduler decides after this.
        self._ended_at = time.monotonic()
        record = self._run.record
        if record.failure is not None and record.failure.kind == "device":
            # What an accelerator has refused once, it refuses the process for good: the next trial needs another one.
            raise DeviceLost(record.failure.reason)
        is_in_stage = record.open_rung is not None
        return {
            "done": is_done,
            N_BOUNDARIES: len(record.boundaries),
            IS_IN_STAGE: is_in_stage,
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take note of the next recipe for the same process."""
        self._run = None
        self._proposal = new_config[PROPOSAL]
        self._attempt = new_config[ATTEMPT]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: trial folders and the study's storage are what a resume reads."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing; see `save_checkpoint`."""

    def _begin(self) -> None:
        proposal = self._proposal
        idle_seconds = time.monotonic() - self._ended_at if self._ended_at is not None else 0.0
        self._fault = None
        try:
            check_origin()
            from search.lab import Lab
            from search.trial import TrialRun

            self._lab = self._lab or Lab.load(self._spec, self._root, self._open_store())
            folder = StudyFolder(self._folder.path, self._fence()).trial(proposal.number)
            self._run = TrialRun(self._lab, folder, proposal, idle_seconds)
        except Exception as error:
            # Whatever it is, no trial can run here, and the searcher must hear why: Ray keeps the error of a failed
            # set-up to itself.
            self._fault = redacted(f"{type(error).__name__}: {error}")

    def _fence(self) -> Callable[[], None]:
        attempt = Attempts(self._folder.path).fence(self._proposal.number, self._attempt)

        def check() -> None:
            self._held()
            attempt()

        return check

    def _open_store(self) -> StageStore | None:
        root = self._folder.store_root(self._spec, self._root)
        return None if root is None else StageStore(root)
