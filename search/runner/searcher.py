"""The searcher that feeds Ray Tune from a Study: ask, tell, and end when the budget is met.

Ray's own experiment state is disposable, so saving and restoring a searcher does nothing; the study's storage is the
truth. `ray.tune.search.optuna.OptunaSearch` cannot be used: with several objectives it leaves failed trials RUNNING for
good, tells infinities as complete, and queues baselines twice when it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from search.attempts import Attempts
from search.records import Proposal, TrialRecord
from search.runner.deaths import failure_of
from search.study import Study

NUMBER, PROPOSAL, ATTEMPT = "number", "proposal", "attempt"
"""Keys of a Ray trial's config."""
N_BOUNDARIES = "n_boundaries"
"""Key of a Ray trial's result."""
IS_IN_STAGE = "is_in_stage"
"""Key of a Ray trial's result: whether the step ended inside a stage, at a rung."""
FAULT = "fault"
"""Key of a Ray trial's result: why the worker can run no trial at all."""


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Ray Tune's view of a Study."""

    def __init__(
        self,
        study: Study,
        on_start: Callable[[Proposal], None],
        on_finish: Callable[[TrialRecord], None],
        on_retry: Callable[[TrialRecord, float], None],
        deaths: dict[int, BaseException],
    ) -> None:
        """Feed Tune from a study.

        Args:
            study: The study.
            on_start: Is told a trial that starts.
            on_finish: Is told a trial that ended.
            on_retry: Is told a trial that is tried again, and in how many seconds.
            deaths: Errors of workers by the number of their trial, as the scheduler hears of them.
        """
        super().__init__(metric=None, mode=None)
        self._study = study
        self._on_start = on_start
        self._on_finish = on_finish
        self._on_retry = on_retry
        self._deaths = deaths
        self._proposals: dict[str, Proposal] = {}
        self._attempts = Attempts(study.folder.path)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the config of the next Ray trial, None to be asked again later, or FINISHED when none may start."""
        proposal = self._study.next()
        if proposal is None:
            return str(Searcher.FINISHED) if self._study.stop_reason else None
        self._proposals[trial_id] = proposal
        self._on_start(proposal)
        attempt = self._attempts.begin(proposal.number)
        return {NUMBER: proposal.number, PROPOSAL: proposal, ATTEMPT: attempt}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take a finished trial's record from its folder into the study."""
        proposal = self._proposals.pop(trial_id)
        # What is read from now on must stay as it is, also if the worker is only out of sight.
        self._attempts.end(proposal.number)
        if result is not None and result.get(FAULT):
            self._study.abandon(proposal, result[FAULT])
            return
        folder = self._study.folder.trial(proposal.number)
        record = folder.read_record()
        death = self._deaths.pop(proposal.number, None)
        if record is None or record.state == "RUNNING":
            hang_seconds = self._study.spec.stopping.hang_seconds
            record = self._study.fail(proposal, failure_of(folder, death, hang_seconds))
        seconds = self._study.retry(proposal, record)
        if seconds is not None:
            self._on_retry(record, seconds)
            return
        self._on_finish(self._study.finish(record))

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study's storage is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study's storage is the truth."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher into experiment state that is never read back."""
        return {}
