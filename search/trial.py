"""Run a recipe: stages one after the other, the suite after each, everything recorded. No Ray, so a test can call it.

lab = Lab.load(spec, root, store)     # once per process
run = TrialRun(lab, folder, proposal)
while not run.step():                 # one stage, or the base's evaluation for the empty recipe
    ...
run.record                            # a TrialRecord, also in trial.json
"""

from __future__ import annotations

import hashlib
import time
import traceback

from search.folders import TrialFolder, utc_now
from search.lab import Lab
from search.recipe_file import recipe_text
from search.records import Boundary, Proposal, Seconds, TrialRecord
from search.stages.device import device_name


class TrialRun:
    """One recipe in training. Whatever fails inside a stage or an evaluation fails the trial, with its reason."""

    def __init__(
        self, lab: Lab, folder: TrialFolder, proposal: Proposal, idle_seconds: float = 0
    ) -> None:
        """Prepare the first step; nothing is trained yet.

        Args:
            lab: What trials in this process share.
            folder: Of the trial; emptied.
            proposal: The recipe and its number.
            idle_seconds: Time this process spent between trials; counted as rest.
        """
        self._lab = lab
        self._folder = folder
        # Loading happened before the first trial in this process began; it is charged to that trial.
        self._load_seconds, lab.load_seconds = lab.load_seconds, 0.0
        self._started = time.monotonic() - idle_seconds - self._load_seconds
        spec, recipe = lab.spec, proposal.recipe
        # The study's folder tells studies apart that share a store.
        trainer = hashlib.sha256(str(folder.path).encode()).hexdigest()
        self._prefixes, self._digests = lab.prefixes(recipe, trainer)
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
        folder.recipe.write_text(recipe_text(spec, recipe, proposal.number, lab.root, folder.path))
        folder.write_record(self.record)

    def step(self) -> bool:
        """Train the next stage and score the model; the empty recipe is only scored.

        Returns True when the trial ended.
        """
        try:
            self._step()
        except Exception as error:  # Whatever goes wrong with one recipe, the study goes on.
            self._folder.traceback.write_text(traceback.format_exc())
            self._end("FAIL", f"{type(error).__name__}: {error}")
        finally:
            self._folder.write_record(self.record)
        return self.record.state != "RUNNING"

    def _step(self) -> None:
        n_stages = len(self.record.recipe.stages)
        n_done = len(self.record.stages)
        if n_stages:
            n_done += 1
            self._update(stages=(*self.record.stages, self._prefixes.stage(n_done)))
        self._evaluate(n_done, is_last=n_done == n_stages)
        if n_done == n_stages:
            self._end("COMPLETE", None)

    def _evaluate(self, n_stages: int, is_last: bool) -> None:
        started, loaded_before = time.monotonic(), self._prefixes.load_seconds
        digest = self._digests[n_stages]
        result = self._lab.measure(self._lab.exam, self._prefixes, n_stages, digest)
        self._folder.write_items(n_stages, False, result.items)
        holdout = None
        if is_last and self._lab.spec.holdout:
            holdout = self._lab.measure(self._lab.holdout, self._prefixes, n_stages, digest)
            self._folder.write_items(n_stages, True, holdout.items)
        loading = self._prefixes.load_seconds - loaded_before
        boundary = Boundary(
            n_stages=n_stages,
            digest=digest,
            scores=result.scores,
            holdout=holdout.scores if holdout else (),
            suite_version=self._lab.exam.version,
            is_stored=result.is_stored,
            evaluate_seconds=round(time.monotonic() - started - loading, 3),
        )
        self._update(boundaries=(*self.record.boundaries, boundary))

    def _end(self, state: str, reason: str | None) -> None:
        self._prefixes.close()
        self._update(state=state, reason=reason, finished_at=utc_now())

    def _update(self, **changes: object) -> None:
        record = self.record.model_copy(update=changes)
        # A stage that was taken from the store may since have been lost and trained here after all.
        stages = tuple(self._prefixes.trained.get(stage.digest, stage) for stage in record.stages)
        record = record.model_copy(update={"stages": stages})
        train = sum(stage.train_seconds for stage in record.stages if not stage.is_stored)
        evaluate = sum(boundary.evaluate_seconds for boundary in record.boundaries)
        load = self._load_seconds + self._prefixes.load_seconds
        total = time.monotonic() - self._started
        seconds = Seconds(
            load=round(load, 3),
            train=round(train, 3),
            evaluate=round(evaluate, 3),
            rest=round(max(0.0, total - train - evaluate - load), 3),
        )
        self.record = record.model_copy(update={"seconds": seconds})
