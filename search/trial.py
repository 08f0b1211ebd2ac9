"""Run a recipe: stages one after the other, the suite after each, everything recorded. No Ray, so a test can call it.

lab = Lab.load(spec, root, store)     # once per process
run = TrialRun(lab, folder, proposal)
while not run.step():                 # one stage up to its next rung or its end; for the empty recipe, the base;
                                      # or, of a model that was screened, what the first items left
    ...
run.record                            # a TrialRecord, also in trial.json
"""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from evaluators.facts import StageFacts
from evaluators.pulse import heard_by
from evaluators.redaction import redacted
from evaluators.scores import Score
from search.costs import stage_facts
from search.failures import kind_of
from search.folders import TrialFolder, utc_now, write_whole
from search.holding import LostHold
from search.lab import Exam, Lab
from search.outcomes import Failure
from search.prefixes import Pieces, Suspended
from search.recipe_file import recipe_text
from search.records import Boundary, Proposal, Rung, Screening, Seconds, StageRecord, TrialRecord
from search.stages.device import device_name
from search.trial_log import TrialLog


class TrialRun:
    """One recipe in training. Whatever fails inside a stage or an evaluation fails the trial, with its reason."""

    def __init__(
        self,
        lab: Lab,
        folder: TrialFolder,
        proposal: Proposal,
        idle_seconds: float = 0,
        at_end_alone: bool = False,
        selection: Exam | None = None,
    ) -> None:
        """Prepare the first step; nothing is trained yet.

        Args:
            lab: What trials in this process share.
            folder: Of the trial; emptied.
            proposal: The recipe and its number.
            idle_seconds: Time this process spent between trials; counted as rest.
            at_end_alone: Score the last model alone, and not those after the stages before.
            selection: The suite on rows of the selection, which is asked about the last model; None leaves that out.
        """
        self._lab = lab
        self.folder = folder
        # Loading happened before the first trial in this process began; it is charged to that trial.
        self._load_seconds, lab.load_seconds = lab.load_seconds, 0.0
        self._started = time.monotonic() - idle_seconds - self._load_seconds
        spec, recipe = lab.spec, proposal.recipe
        # The study's folder tells studies apart that share a store.
        trainer = hashlib.sha256(str(folder.path).encode()).hexdigest()
        self._prefixes, self._digests = lab.prefixes(recipe, trainer)
        self._rungs = spec.stopping.used_rungs
        self._stage: Pieces | None = None
        self._at_end_alone = at_end_alone
        self._selection = selection
        self.record = TrialRecord(
            number=proposal.number,
            state="RUNNING",
            params=proposal.params,
            recipe=recipe,
            baseline=proposal.baseline,
            seed=spec.sampler.seed,
            device=device_name(lab.base.device),
            started_at=utc_now(),
        )
        folder.clear()
        write_whole(
            folder.recipe, recipe_text(spec, recipe, proposal.number, lab.root, folder.path)
        )
        folder.write_record(self.record)
        self._log = TrialLog(folder.log)
        self._log.write(
            "started", recipe=recipe.label(), baseline=proposal.baseline, device=self.record.device
        )

    def step(self) -> bool:
        """Train on to the next rung or boundary and score the model; the empty recipe is only scored.

        Where the study has a fidelity, the last model is scored on its first items in one step and on all in the next:
        whoever drives the trial decides in between.

        Returns True when the trial ended. One that was stopped at the rung where it stands, as its record on disk says,
        ends now: it lets go of the stage.
        """
        try:
            if not self._was_stopped():
                with heard_by(self._log.hear):
                    self._step()
        except LostHold:
            self._let_go()
            raise
        except Exception as error:  # Whatever goes wrong with one recipe, the study goes on.
            with suppress(OSError):  # A full disk is no reason to lose the reason.
                self.folder.write_traceback(traceback.format_exc())
            reason = redacted(f"{type(error).__name__}: {error}")
            self._end("FAIL", reason, Failure(kind=kind_of(error), reason=reason, at=utc_now()))
        finally:
            self.folder.write_record(self.record)
        return self.record.state != "RUNNING"

    def _was_stopped(self) -> bool:
        found = self.folder.read_record() if self._stage is not None else None
        if found is None or found.state == "RUNNING":
            return False
        self.record = found
        self._let_go()
        return True

    def _step(self) -> None:
        n_stages = len(self.record.recipe.stages)
        n_done = len(self.record.stages)
        is_screened = self.record.last_screening is not None
        if n_stages and not is_screened:
            suspended = self._train()
            if suspended is not None:
                self._score_rung(suspended)
                return
            n_done += 1
        is_last = n_done == n_stages
        if not is_screened and self._is_to_be_screened(n_done, is_last):
            self._screen(n_done)
            return
        if is_last or not self._at_end_alone:
            self._evaluate(n_done, is_last)
        if is_last:
            self._end("COMPLETE", None)

    def _train(self) -> Suspended | None:
        """Train the next stage to its next rung; None at its end, with its record taken over."""
        if self._stage is None:
            self._stage = self._prefixes.pieces(len(self.record.stages) + 1, self._rungs)
        try:
            return next(self._stage)
        except StopIteration as end:
            self._stage = None
            self._update(stages=(*self.record.stages, end.value))
            self._log_stage(end.value)
            return None

    def _score_rung(self, suspended: Suspended) -> None:
        started = time.monotonic()
        open_stage = StageFacts(tokens=suspended.trained_tokens, seconds=suspended.train_seconds)
        facts = (*stage_facts(self.record.stages), open_stage)
        exam = self._lab.screen or self._lab.exam
        result = self._lab.measure_model(exam, suspended.ref, facts)
        rung = Rung(
            n_stages=len(self.record.stages),
            share=suspended.share,
            trained_tokens=suspended.trained_tokens,
            scores=result.scores,
            train_seconds=round(suspended.train_seconds, 3),
            evaluate_seconds=round(time.monotonic() - started, 3),
        )
        self._update(rungs=(*self.record.rungs, rung))
        self._log_scores("rung", rung.scores, n_stages=rung.n_stages, share=rung.share)

    def _is_to_be_screened(self, n_stages: int, is_last: bool) -> bool:
        """Return whether a model is scored on its first items alone for now."""
        fidelity = self._lab.spec.fidelity
        if fidelity is None or not n_stages or self.record.baseline is not None:
            return False
        if self._at_end_alone or not (is_last or fidelity.boundaries):
            return False
        return not self._lab.is_known(self._digests[n_stages])

    def _screen(self, n_stages: int) -> None:
        lab, digest = self._lab, self._digests[n_stages]
        assert lab.screen is not None
        started, loaded_before = time.monotonic(), self._prefixes.load_seconds
        facts = stage_facts(self.record.stages)
        result = lab.measure(lab.screen, self._prefixes, n_stages, digest, facts)
        self.folder.write_screening_items(n_stages, result.items)
        loading = self._prefixes.load_seconds - loaded_before
        evaluate_seconds = time.monotonic() - started - loading
        store_seconds = self._prefixes.settle()
        screening = Screening(
            n_stages=n_stages,
            digest=digest,
            scores=result.scores,
            suite_version=lab.screen.version,
            is_stored=result.is_stored,
            evaluate_seconds=round(evaluate_seconds, 3),
            store_seconds=None if store_seconds is None else round(store_seconds, 3),
        )
        self._update(screenings=(*self.record.screenings, screening))

    def _evaluate(self, n_stages: int, is_last: bool) -> None:
        started, loaded_before = time.monotonic(), self._prefixes.load_seconds
        digest, facts = self._digests[n_stages], stage_facts(self.record.stages)
        result = self._lab.measure(self._lab.exam, self._prefixes, n_stages, digest, facts)
        self.folder.write_items(n_stages, False, result.items)
        holdout = None
        if is_last and self._lab.spec.holdout:
            holdout = self._lab.measure(self._lab.holdout, self._prefixes, n_stages, digest, facts)
            self.folder.write_items(n_stages, True, holdout.items)
        if is_last and self._selection is not None:
            found = self._lab.measure(self._selection, self._prefixes, n_stages, digest, facts)
            self.folder.write_selection(found.model_dump_json() + "\n")
        loading = self._prefixes.load_seconds - loaded_before
        evaluate_seconds = time.monotonic() - started - loading
        # Who hears of this boundary shall find its model in the store.
        store_seconds = self._prefixes.settle()
        boundary = Boundary(
            n_stages=n_stages,
            digest=digest,
            scores=result.scores,
            holdout=holdout.scores if holdout else (),
            suite_version=self._lab.exam.version,
            is_stored=result.is_stored,
            evaluate_seconds=round(evaluate_seconds, 3),
            store_seconds=None if store_seconds is None else round(store_seconds, 3),
        )
        self._update(boundaries=(*self.record.boundaries, boundary))
        seconds = boundary.evaluate_seconds
        self._log_scores("scored", boundary.scores, n_stages=n_stages, seconds=seconds)

    def _end(self, state: str, reason: str | None, failure: Failure | None = None) -> None:
        self._let_go()
        self._update(state=state, reason=reason, failure=failure, finished_at=utc_now())
        self._log.end(self.record)

    def _log_stage(self, stage: StageRecord) -> None:
        halvings = stage.n_oom_halvings
        self._log.write(
            "stage",
            "warning" if halvings else "info",
            number=len(self.record.stages),
            influence=stage.stage.influence,
            digest=stage.digest[:12],
            tokens=stage.trained_tokens,
            n_steps=stage.n_steps,
            seconds=round(stage.train_seconds, 3),
            is_stored=stage.is_stored,
            **({"micro_batch_halvings": halvings} if halvings else {}),
        )

    def _log_scores(self, event: str, scores: Sequence[Score], **fields: Any) -> None:
        values = {score.name: score.value for score in scores if score.value is not None}
        self._log.write(event, scores=values, **fields)
        for score in scores:
            if score.value is None:
                self._log.write("missing", "warning", score=score.name, reason=score.reason)

    def _let_go(self) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None
        self._prefixes.close()

    def _update(self, **changes: object) -> None:
        record = self.record.model_copy(update=changes)
        # A stage that was taken from the store may since have been lost and trained here after all.
        stages = tuple(self._prefixes.trained.get(stage.digest, stage) for stage in record.stages)
        record = record.model_copy(update={"stages": stages})
        train = sum(stage.spent_train_seconds for stage in record.stages)
        train += record.open_rung.train_seconds if record.open_rung else 0.0
        evaluate = sum(boundary.evaluate_seconds for boundary in record.boundaries)
        evaluate += sum(rung.evaluate_seconds for rung in record.rungs)
        evaluate += sum(screening.evaluate_seconds for screening in record.screenings)
        load = self._load_seconds + self._prefixes.load_seconds
        total = time.monotonic() - self._started
        seconds = Seconds(
            load=round(load, 3),
            train=round(train, 3),
            evaluate=round(evaluate, 3),
            rest=round(max(0.0, total - train - evaluate - load), 3),
        )
        self.record = record.model_copy(update={"seconds": seconds})
