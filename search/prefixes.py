"""A recipe's models, prefix by prefix: taken from the stage store where they are, trained where they are not.

Weights are loaded only when something needs them: the next stage that is not stored, or an evaluation that is not. What
was trained is stored while the model is evaluated; whatever would change the weights waits for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from evaluators.pulse import beat
from search.naming import Naming
from search.records import StageRecord, summed
from search.sources import Source
from search.spec import TrainingSpec
from search.stages.base_model import ResidentBase
from search.stages.checkpoint import Checkpoints
from search.stages.combine import changed_weights
from search.stages.combining import Weights, combine_branches, combine_models
from search.stages.going_on import Before, Earlier
from search.stages.model_ref import ModelRef
from search.stages.persist import Keep, StageWeights, needs_parent, restore_stage
from search.stages.run import StageSession, run_stage
from search.store import Entry, Lease, StageStore, StoreError
from search.stored_models import stored_model
from search.storing import StoredCheckpoints, Storing
from spaces.recipe import Merge, Parallel, Recipe, Stage

POLL_SECONDS = 0.5
"""How often to look whether another process has finished a stage that this one waits for."""


@dataclass(frozen=True)
class Suspended:
    """A stage that stands still at a rung."""

    share: float
    """Of the dose that is done."""
    trained_tokens: int
    """Of the stage so far, without padding."""
    train_seconds: float
    """Wall seconds in the optimizer loop of the stage so far."""
    ref: ModelRef
    """The model as it is, to be evaluated and not to be changed."""


Pieces = Generator[Suspended, None, StageRecord]
"""A stage in training, lease and all: yields at each rung and returns its record. Closed before, it lets go of all."""


class Prefixes:
    """The models of one recipe in one process. One of them at a time is in memory."""

    def __init__(
        self,
        base: ResidentBase,
        recipe: Recipe,
        naming: Naming,
        sources: Mapping[str, Source],
        training: TrainingSpec,
        store: StageStore | None,
        trainer: str = "",
        donors: StageStore | None = None,
        checkpoint_seconds: float | None = None,
    ) -> None:
        """Take what determines the models; nothing is loaded or trained yet.

        Args:
            base: The resident base; this object is its only user.
            recipe: The recipe.
            naming: Of its prefixes, and of those of branches.
            sources: By name.
            training: How stages train.
            store: Where stage results are shared; None trains everything here.
            donors: Where merges look for models; default: `store`.
            trainer: Names the trial. What an earlier attempt of the same trial has trained counts as trained by it.
            checkpoint_seconds: How often a stage that trains for longer is kept; None: never.
        """
        self._base = base
        self._recipe = recipe
        self._naming = naming
        self._digests = naming.digests(recipe)
        self._seeds = naming.seeds(recipe)
        self._sources = sources
        self._training = training
        self._store = store
        self._trainer = trainer
        self._donors = donors or store
        self._checkpoint_seconds = checkpoint_seconds
        self._hashes = {name: source.content_hash for name, source in sources.items()}
        self._ref: ModelRef | None = None
        self._at = 0
        self._storing: Storing | None = None
        self.trained: dict[str, StageRecord] = {}
        """Records of the stages trained here, by digest: those asked for, and those that were lost and made again."""
        self.load_seconds = 0.0
        """Wall seconds of restoring the base and of loading stored stages."""

    def stage(self, number: int) -> StageRecord:
        """Return the record of a stage (from 1), trained now unless its result is stored; see `pieces`."""
        return _to_its_end(self.pieces(number, ()))

    def pieces(self, number: int, shares: Sequence[float]) -> Pieces:
        """Train a stage (from 1) unless its result is stored, and stand still at shares of its dose.

        If another process trains it at this moment, wait for that one, or take over when it dies. A lease lives on
        while the stage stands still. What is stored has no rungs.

        Raises:
            StageError: It cannot be trained.
        """
        self.settle()
        digest = self._digests[number]
        while self._store is not None:
            try:
                entry = self._store.find(digest)
                lease = None if entry else self._store.lease(digest, self._digests[1:number])
            except StoreError:
                break  # No store to be had just now: this trial goes on without it.
            if entry is not None:
                record = self._stored_record(number, entry)
                if record is None:
                    break
                with suppress(StoreError):
                    self._store.touch(digest)
                return record
            if lease is not None:
                return (yield from self._trained(number, lease, shares))
            beat()  # Whoever trains it is watched as well.
            time.sleep(POLL_SECONDS)
        return (yield from self._trained(number, None, shares))

    def model(self, number: int) -> ModelRef:
        """Return the model after `number` stages, to be evaluated and not to be changed; earlier ones are gone.

        Raises:
            StageError: A stage on the way is neither stored nor can be trained.
        """
        if self._ref is None or self._at != number:
            self.settle()
        if self._ref is None or self._at > number:
            self._timed(self._load_base)
        for following in range(self._nearest(number), number + 1):
            if following > self._at:
                self._advance(following)
        assert self._ref is not None
        return self._ref

    def settle(self) -> float | None:
        """Wait until the stage that was trained last is stored, or cannot be.

        Returns:
            Wall seconds that storing took; None if no stage was under way.
        """
        storing, self._storing = self._storing, None
        return None if storing is None else storing.wait()

    def close(self) -> None:
        """Forget the model; the base can be used for another recipe."""
        with suppress(
            Exception
        ):  # Who wants to know calls `settle`; whoever closes has a result or a reason.
            self.settle()
        self._ref = None

    def _load_base(self) -> None:
        self._ref = self._base.fresh()
        self._at = 0

    def _nearest(self, number: int) -> int:
        """Return the first stage that has to be restored or trained on the way to a prefix."""
        for candidate in range(number, self._at, -1):
            entry = self._find(self._digests[candidate])
            if entry is not None and not entry.needs:
                # It holds all weights itself, so what came before need not be restored.
                self._timed(self._load_base)
                assert self._ref is not None
                self._at = self._ref.n_stages = candidate - 1
                return candidate
        return self._at + 1

    def _advance(self, number: int) -> None:
        """Bring the model from one prefix to the next."""
        assert self._ref is not None
        if self._store is None or self._find(self._digests[number]) is None:
            self._train_missing(number)
            return
        try:
            files = self._store.fetch(self._digests[number])
        except StoreError:
            self._train_missing(number)
            return
        ref, stage = self._ref, self._recipe.stages[number - 1]
        self._timed(lambda: restore_stage(ref, stage, files))
        self._at = number

    def _trained(self, number: int, lease: Lease | None, shares: Sequence[float]) -> Pieces:
        if not shares:
            return self._train(number, lease)
        return (yield from self._train_in_pieces(number, lease, shares))

    def _train_missing(self, number: int) -> None:
        """Train a stage whose result was evicted or damaged."""
        # What is in memory may stand in for the parent of weights that would all have been replaced.
        self._ref = None
        lease = None
        if self._store is not None:
            with suppress(StoreError):
                lease = self._store.lease(self._digests[number], self._digests[1:number])
        self._train(number, lease)
        self.settle()

    def _train(self, number: int, lease: Lease | None) -> StageRecord:
        return _to_its_end(self._train_in_pieces(number, lease, ()))

    def _train_in_pieces(self, number: int, lease: Lease | None, shares: Sequence[float]) -> Pieces:
        """Train a stage; with a lease, keep its result in the store."""
        stage = self._recipe.stages[number - 1]
        kept: list[StageWeights] = []
        keep = None if lease is None else kept.append
        with ExitStack() as held:
            if lease is not None:
                held.enter_context(lease.renewing())
            if isinstance(stage, Stage):
                ref, record = yield from self._outcome(number, stage, shares, keep, lease)
            elif isinstance(stage, Parallel):
                ref, record = self._parallel(number, stage, keep)
            else:
                ref, record = self._merge(number, stage, keep)
            if self._store is not None and lease is not None:
                meta = self._meta(number, record, needs_parent(ref, stage))
                self._storing = Storing(self._store, lease, held, kept[0], meta)
        self._ref, self._at = ref, number
        self.trained[record.digest] = record
        return record

    def _outcome(
        self,
        number: int,
        stage: Stage,
        shares: Sequence[float],
        keep: Keep | None,
        lease: Lease | None,
    ) -> Generator[Suspended, None, tuple[ModelRef, StageRecord]]:
        # A stage that fails leaves the model unusable.
        ref, earlier = self._taken(number - 1), self._earlier(number)
        arguments = (ref, stage, self._sources, self._training, self._seeds[number - 1])
        checkpoints = None
        if self._store is not None and lease is not None and self._checkpoint_seconds is not None:
            keeping = StoredCheckpoints(self._store, lease)
            checkpoints = Checkpoints(keeping, self._checkpoint_seconds)
        if not shares:
            outcome = run_stage(*arguments, keep=keep, earlier=earlier, checkpoints=checkpoints)
            return ref, self._record(number, vars(outcome))
        with StageSession(*arguments, earlier, checkpoints) as session:
            for rung in session.rungs(shares):
                session.advance(rung.n_steps)
                yield Suspended(rung.share, rung.trained_tokens, session.train_seconds, ref)
            return ref, self._record(number, vars(session.finish(keep)))

    def _earlier(self, number: int) -> list[Earlier]:
        """Return what the recipe trains before a stage; a merge of stored models trains nothing."""
        found: list[Earlier] = []
        for at, stage in enumerate(self._recipe.stages[: number - 1], 1):
            if isinstance(stage, Stage):
                found.append(Before(stage, self._seeds[at - 1]))
            elif isinstance(stage, Parallel):
                branches = []
                for name, branch in stage.branches.items():
                    if branch.is_active:
                        seeds = self._naming.seeds(self._recipe.branch(at, name))[at - 1 :]
                        pairs = zip(branch.stages, seeds, strict=True)
                        branches.append(tuple(Before(*pair) for pair in pairs))
                found.append(tuple(branches))
        return found

    def _parallel(
        self, number: int, stage: Parallel, keep: Keep | None
    ) -> tuple[ModelRef, StageRecord]:
        """Train the branches, each as the recipe that it ends, and combine what they changed."""
        records: dict[str, tuple[StageRecord, ...]] = {}
        branches: list[Weights] = []
        started_from: ModelRef | None = self._taken(number - 1)
        for name, branch in stage.branches.items():
            branches.append({})  # What a branch lacks is as it was before.
            if not branch.is_active or not branch.stages:
                continue
            with closing(self._of(self._recipe.branch(number, name))) as own:
                own._ref, own._at, started_from = started_from, number - 1, None
                numbers = range(number, number + len(branch.stages))
                records[name] = tuple(own.stage(each) for each in numbers)
                branches[-1] = changed_weights(own.model(numbers[-1]))
                own.settle()
            self.trained |= own.trained
            self.load_seconds += own.load_seconds
        ref = self._taken(number - 1)
        started = time.monotonic()
        n_changed = combine_branches(ref, stage, branches, self._seeds[number - 1], keep)
        fields = summed(records, n_changed, time.monotonic() - started)
        return ref, self._record(number, fields)

    def _merge(self, number: int, stage: Merge, keep: Keep | None) -> tuple[ModelRef, StageRecord]:
        """Combine the model as received with stored ones."""
        models: list[Weights] = []
        for name, member in stage.models.items():
            if not member.weight:
                models.append({})
            elif member.digest is None:
                models.append(changed_weights(self._taken(number - 1)))
            else:
                models.append(
                    changed_weights(stored_model(self._base, self._donors, name, member.digest))
                )
        ref = self._base.fresh()
        ref.n_stages = number - 1
        started = time.monotonic()
        n_changed = combine_models(ref, stage, models, self._seeds[number - 1], keep)
        return ref, self._record(number, summed({}, n_changed, time.monotonic() - started))

    def _taken(self, number: int) -> ModelRef:
        """Return the model after `number` stages, and forget it: what is done to it may fail."""
        ref = self.model(number)
        self._ref = None
        return ref

    def _of(self, recipe: Recipe) -> Prefixes:
        """Return the models of another recipe, with all else as here."""
        return Prefixes(
            self._base,
            recipe,
            self._naming,
            self._sources,
            self._training,
            self._store,
            self._trainer,
            self._donors,
            self._checkpoint_seconds,
        )

    def _meta(self, number: int, record: StageRecord, has_needs: bool) -> dict[str, Any]:
        return {
            "record": record.model_dump(mode="json"),
            "trainer": self._trainer,
            "source_hashes": {name: self._hashes[name] for name in record.stage.sources},
            "seconds": record.train_seconds + record.setup_seconds,
            "base": self._base.fingerprint,
            "parent": self._digests[number - 1] if number > 1 else None,
            "needs": list(self._digests[1:number]) if has_needs else [],
        }

    def _find(self, digest: str) -> Entry | None:
        if self._store is None:
            return None
        with suppress(StoreError):
            return self._store.find(digest)
        return None

    def _stored_record(self, number: int, entry: Entry) -> StageRecord | None:
        """Return a stored stage's record in this recipe's own names; None if it cannot be read."""
        stage = self._recipe.stages[number - 1]
        try:
            record = StageRecord.model_validate(entry.meta["record"])
            hashes = entry.meta["source_hashes"]
            own = {self._hashes[name]: name for name in stage.sources}
            names = {old: own[hashes[old]] for old in record.tokens_by_source}
            renamed = record.renamed(stage, names)
        except (KeyError, TypeError, ValueError):
            return None
        is_stored = entry.meta.get("trainer") != self._trainer
        return renamed.model_copy(update={"is_stored": is_stored})

    def _record(self, number: int, outcome: dict[str, Any]) -> StageRecord:
        return StageRecord(
            stage=self._recipe.stages[number - 1],
            digest=self._digests[number],
            seed=self._seeds[number - 1],
            **outcome,
        )

    def _timed(self, action: Callable[[], None]) -> None:
        started = time.monotonic()
        action()
        self.load_seconds += time.monotonic() - started


def _to_its_end(pieces: Pieces) -> StageRecord:
    """Return what a stage without rungs returns."""
    try:
        next(pieces)
    except StopIteration as end:
        record: StageRecord = end.value
        return record
    raise AssertionError("a stage stood still where nobody asked it to")
