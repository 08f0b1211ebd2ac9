"""Study: one search with its folder, its storage and its remaining budget. No Ray: `search.runner` drives it.

study = Study.create(spec, study_yaml, results=Path("results"), command="apportion run study.yaml")
while (proposal := study.next()) is not None:
    ...train and score it...
    study.finish(record)
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from search.errors import StudyError
from search.failures import Retries, open_again, settled
from search.folders import Launch, StudyFile, StudyFolder, to_json, utc_now, write_failure
from search.holding import Hold, LostHold, take_hold
from search.outcomes import Failure, Spent
from search.provenance import provenance
from search.records import Proposal, TrialRecord
from search.sampling.asking import Asker
from search.sampling.told import missing_reason
from search.spec import BudgetSpec, StudySpec
from search.stopping.past import PastTrial
from search.stopping.rule import StoppingRule
from search.storage import database_url, open_study
from search.store import StageStore, StoreError
from search.yaml_file import load_study
from spaces.space import Space


class Study:
    """One search that can be run, stopped and resumed. Owns the remaining budget; one process at a time may hold it."""

    def __init__(
        self,
        spec: StudySpec,
        folder: StudyFolder,
        asker: Asker,
        hold: Hold,
        clock: Callable[[], float],
    ) -> None:
        """Use `create` or `open` instead."""
        self.spec = spec
        self.folder = folder
        self._asker = asker
        self._hold = hold
        self._clock = clock
        self._started = clock()
        self._pending: list[Proposal] = []
        self._running: dict[int, float] = {}
        self._retries = Retries(spec.compute.retries)
        self._fault: str | None = None
        self._store: StageStore | None = None
        has_rule = spec.stopping.enabled or spec.fidelity is not None
        self._rule = StoppingRule(spec) if has_rule else None
        self._past: dict[int, PastTrial] = {}
        self.stop_reason: str | None = None

    @classmethod
    def create(
        cls,
        spec: StudySpec,
        study_yaml: Path,
        results: Path,
        command: str,
        clock: Callable[[], float] = time.monotonic,
        warnings: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> Study:
        """Start a new study in `results/<name>` and enqueue its baselines.

        Args:
            spec: The study.
            study_yaml, results: Where it was read from, kept as it is; and the folder of all studies.
            command: As typed, for the record.
            clock: Seconds that only grow.
            warnings: What is known to be doubtful about the study; kept, and told in the report.
            say: Is told if a holder on another machine has to be waited for.

        Raises:
            StudyError: The folder or the storage has this study already, or another process holds it.
        """
        folder = StudyFolder(results / spec.name)
        resolved = to_json(spec.model_dump(mode="json"))
        file = StudyFile(
            root=str(study_yaml.absolute().parent),
            created_at=utc_now(),
            study_hash=hashlib.sha256(resolved.encode()).hexdigest()[:16],
            budget=spec.budget,
            provenance=provenance(),
            warnings=tuple(warnings),
        )
        folder.make()
        folder, hold = _held(folder, say)
        try:
            folder.check_new()
            folder.write_study(study_yaml.read_text())
            # study.json comes last: without it there is no study, and what a killed attempt left is made anew.
            asker = _asker(spec, folder, Path(file.root), hold, create=True)
            folder.write_file(file)
            study = cls(spec, folder, asker, hold, clock)
            study._begin_launch(command, spec.budget)
        except BaseException:
            hold.release()
            raise
        return study

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        budget: BudgetSpec | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda _: None,
        root: Path | None = None,
    ) -> Study:
        """Open a study to go on with it, with what its storage and its folders say reconciled.

        Args:
            path: Folder such as results/<study>.
            command, clock, say: As of `create`.
            budget: A new total budget; default: as before.
            root: Where relative paths of the study start from now on; default: as before.

        Raises:
            StudyError: No study is there, or another process holds it.
        """
        folder = StudyFolder(path)
        file = folder.read_file()
        spec = load_study(folder.study_yaml)
        folder, hold = _held(folder, say)
        try:
            if root is not None:
                folder.write_file(file := file.model_copy(update={"root": str(root)}))
            asker = _asker(spec, folder, Path(file.root), hold, create=False)
            study = cls(spec, folder, asker, hold, clock)
            study._reconcile(file)
            study._begin_launch(command, budget or file.budget)
        except BaseException:
            hold.release()
            raise
        return study

    @property
    def hold_token(self) -> str:
        """Names the hold of this process on the study, for its workers: see `search.holding.Fence`."""
        return self._hold.token

    def check_held(self) -> None:
        """Do nothing while the study is this process's.

        Raises:
            LostHold: Another process has taken it over.
        """
        self._hold.check()

    @property
    def root(self) -> Path:
        """Folder from which relative paths of the spec start."""
        return Path(self._file.root)

    @property
    def budget(self) -> BudgetSpec:
        """The budget in force."""
        return self._file.budget

    @property
    def is_broken(self) -> bool:
        """Whether this launch ended since no trial could work: nothing loads, or the untouched base has no scores."""
        return self._fault is not None

    def is_done(self) -> bool:
        """Return whether nothing is left to do: no trial to adopt, and the budget is used up; sets `stop_reason`."""
        self.stop_reason = None if self._pending else self._exhausted()
        return self.stop_reason is not None

    def spent(self) -> Spent:
        """Return what was used so far, over all launches."""
        earlier = sum(launch.wall_seconds for launch in self._file.launches[:-1])
        return Spent(
            trials=len(self._asker.finished()),
            failed_trials=len(self._asker.failed()),
            train_tokens=self._asker.trained_tokens(),
            compute_seconds=self._asker.compute_seconds(),
            wall_seconds=earlier + self._clock() - self._started,
        )

    def next(self) -> Proposal | None:
        """Return the next recipe to try.

        None means that no further trial may start, and `stop_reason` says why; or, if that is None, that the sampler
        waits for a trial in training, or a trial waits to be tried again.
        """
        if self._pending and self._fault is None:
            # Adopted trials were admitted by an earlier launch; none may stay RUNNING for good.
            proposal = self._pending.pop(0)
        elif (again := self._retries.due(self._clock())) is not None:
            proposal = again
        else:
            self.stop_reason = self._exhausted()
            if self.stop_reason is not None:
                if self._retries.waiting and self._fault is None:
                    self.stop_reason = None  # The last ones wait to be tried again.
                return None
            if self._asker.must_wait():
                return None
            asked = self._asker.ask()
            if asked is None:
                self.stop_reason = "the sampler proposes only recipes that were tried already"
                return None
            proposal = asked
        self._running[proposal.number] = self._clock()
        return proposal

    def stop_early(self, number: int) -> bool:
        """Return whether a trial ends at the boundary or rung it has reached, or screened; its record then says so.

        The record comes first and the storage when the trial is finished, as with every trial: a driver killed between
        the two finds a stopped trial, one killed before finds a trial to be run again, and decides the same again.
        """
        folder = self.folder.trial(number)
        record = folder.read_record()
        if self._rule is None or record is None or record.state != "RUNNING":
            return False
        decision = self._rule.decide(record, self._past_of(number))
        if decision is None or decision.outcome != "stop":
            return False
        ended = {"state": "PRUNED", "reason": decision.reason, "finished_at": utc_now()}
        folder.write_record(record.model_copy(update=ended))
        return True

    def finish(self, record: TrialRecord) -> TrialRecord:
        """Take a finished trial into the storage; returns the record, failed if a score it needs is missing."""
        record = self._take(record)
        self.touch()
        self._tidy_store()
        return record

    def abandon(self, proposal: Proposal, fault: str) -> None:
        """Start no more trials in this launch, since no worker can run one; the next launch takes this one up again."""
        self._running.pop(proposal.number, None)
        self.stop_reason = self._fault = f"no trial can run here: {fault}"

    def fail(self, proposal: Proposal, failure: Failure) -> TrialRecord:
        """Return the record of a trial that failed outside its stages, with what its folder has."""
        began = self._running.get(proposal.number, self._clock())
        failed = failure.model_copy(update={"seconds": round(self._clock() - began, 3)})
        return write_failure(self.folder.trial(proposal.number), proposal, self.spec, failed)

    def retry(self, proposal: Proposal, record: TrialRecord) -> float | None:
        """Let a trial that the machines failed be tried again, later on.

        Returns:
            Seconds until then; None if it is to be finished instead.
        """
        if record.state != "FAIL" or record.failure is None:
            return None
        seconds = self._retries.take(proposal, record, self._clock())
        if seconds is not None:
            lost = self._retries.failures(proposal.number)
            open_again(self.folder.trial(record.number), record, lost, seconds)
        return seconds

    def close(self, ended: str) -> None:
        """Record how the launch ended and let other processes have the study; one that was lost stays as it is."""
        try:
            with suppress(LostHold):
                self.touch(ended)
        finally:
            self._hold.release()

    def _exhausted(self) -> str | None:
        """Return which part of the budget is used up, counting trials that run."""
        spent, budget = self.spent(), self._file.budget
        if self._fault is not None:
            return self._fault
        if budget.failed_trials is not None and spent.failed_trials > budget.failed_trials:
            return f"{spent.failed_trials} trials failed, {budget.failed_trials} are allowed"
        if budget.trials is not None and spent.trials + len(self._running) >= budget.trials:
            return f"all {budget.trials} trials are done"
        if budget.train_tokens is not None and spent.train_tokens >= budget.train_tokens:
            return f"{spent.train_tokens:,} of {budget.train_tokens:,} training tokens are spent"
        if budget.compute_seconds is not None and spent.compute_seconds >= budget.compute_seconds:
            return f"{spent.compute_seconds:.0f} of {budget.compute_seconds:.0f} seconds of compute are spent"
        if budget.wall_seconds is not None and spent.wall_seconds >= budget.wall_seconds:
            return f"{spent.wall_seconds:.0f} of {budget.wall_seconds:.0f} seconds are spent"
        return None

    def _take(self, record: TrialRecord) -> TrialRecord:
        self._running.pop(record.number, None)
        reason = self._asker.failure(record) or self._lack(record)
        settled_record = settled(record, reason, self._retries.failures(record.number))
        if settled_record != record:
            # The folder first: a trial that the storage calls finished is never looked at again.
            record = settled_record
            self.folder.trial(record.number).write_record(record)
        if self._rule is not None:
            decisions = self._rule.decisions(record, self._past_of(record.number))
            if decisions != record.stopping:
                record = record.model_copy(update={"stopping": decisions})
                self.folder.trial(record.number).write_record(record)
        self._asker.tell(record)
        if reason is not None and not record.recipe.stages:
            self._fault = f"the untouched base could not be scored: {reason}"
            self.stop_reason = self._fault
        return record

    def _lack(self, record: TrialRecord) -> str | None:
        """Return which score that the study requires a complete trial has not got, and why; None if it has all."""
        if record.state != "COMPLETE" or not record.boundaries:
            return None
        holdout = {score.name: score for score in record.boundaries[-1].holdout}
        return missing_reason({**record.final_scores, **holdout}, self.spec.required)

    def _past_of(self, number: int) -> list[PastTrial]:
        """Return the trials that the proposal of a trial learnt from, as the stopping rule sees them."""
        assert self._rule is not None
        numbers = self._asker.learnt_from(number)
        for each in numbers:
            record = None if each in self._past else self.folder.record_or_none(each)
            if record is not None:
                self._past[each] = PastTrial.of(record, self._rule.goals)
        return [self._past[each] for each in numbers if each in self._past]

    def _tidy_store(self) -> None:
        """Keep what the front needs, and remove what the store has no room for."""
        root = self.folder.store_root(self.spec, self.root)
        if root is None:
            return
        # Housekeeping that fails must not end a study; the next trial tries again.
        with suppress(StoreError, StudyError):
            self._store = self._store or StageStore(root)
            records = [self.folder.trial(number).read_record() for number in self._asker.front()]
            digests = {stage.digest for record in records if record for stage in record.stages}
            place = hashlib.sha256(str(self.folder.path).encode()).hexdigest()[:16]
            self._store.pin(f"{self.spec.name[:40]}-{place}", digests)
            self._store.gc(int(self.spec.store.max_gigabytes * 1e9))

    def _reconcile(self, file: StudyFile) -> None:
        """Tell trials that finished in their folder but not in the storage; keep the others to be run again."""
        self._file = file
        for proposal in self._asker.unfinished():
            record = self.folder.trial(proposal.number).read_record()
            if record is not None and record.state != "RUNNING":
                self._take(record)
            else:
                self._pending.append(proposal)
        self._fault = self.stop_reason = None

    def _begin_launch(self, command: str, budget: BudgetSpec) -> None:
        file = self.folder.read_file()
        launch = Launch(command=command, started_at=utc_now())
        self._file = file.model_copy(
            update={"budget": budget, "launches": (*file.launches, launch)}
        )
        self.folder.write_file(self._file)
        self._asker.enqueue_baselines(self.spec.baselines)

    def touch(self, ended: str | None = None) -> None:
        """Record how long this launch has lasted, and how it ended if it did."""
        if not self._file.launches:
            return
        launch = self._file.launches[-1].model_copy(
            update={"wall_seconds": round(self._clock() - self._started, 3), "ended": ended}
        )
        self._file = self._file.model_copy(update={"launches": (*self._file.launches[:-1], launch)})
        self.folder.write_file(self._file)


def _held(folder: StudyFolder, say: Callable[[str], None]) -> tuple[StudyFolder, Hold]:
    """Return the hold on a study, and its folder behind the fence."""
    hold = take_hold(folder.path, "run", say)
    return StudyFolder(folder.path, hold.check), hold


def _asker(spec: StudySpec, folder: StudyFolder, root: Path, hold: Hold, create: bool) -> Asker:
    names = [objective.score for objective in spec.objectives]
    optuna_study = open_study(
        database_url(spec.storage, folder.database, root),
        spec.name,
        dict(zip(names, spec.directions(), strict=True)),
        create,
        hold.check,
    )
    return Asker(
        optuna_study,
        Space(spec.influences, spec.order),
        spec.sampler,
        spec.objectives,
        spec.constraints,
        spec.compute.concurrent_trials,
        folder.record_or_none,
        spec.references(),
        spec.store.enabled,
    )
