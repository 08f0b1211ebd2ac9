"""Ask and tell: proposals from Optuna as recipes, finished trials back to Optuna.

Optuna's storage is the truth about which trials exist. A trial that a dead driver left RUNNING is adopted under its own
number: its params are kept, so a resumed study tries the same recipes as an undisturbed one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from evaluators.redaction import redacted
from search.front import front_mask
from search.records import Boundary, Proposal, TrialRecord
from search.sampling.history import SamplerView
from search.sampling.samplers import CONDITIONAL, STAGEWISE, make_sampler, make_stagewise
from search.sampling.stagewise.past import BOUNDARIES, NOT_TRAINED, REASON
from search.sampling.told import ToldGoals
from search.spec import BaselineSpec, ConstraintSpec, ObjectiveSpec, SamplerSpec
from spaces.recipe import Recipe
from spaces.space import Space

MAX_DUPLICATES = 64
"""After so many proposals in a row that were all tried before, the space counts as exhausted."""

PATIENCE = 8
"""After so many, proposals are drawn at random: a sampler that has settled on a recipe would repeat it for ever."""

_BASELINE, _RECIPE, _DIGEST = "baseline", "recipe", "digest"
_PREFIX_OF = "prefix_of"
"""Number of the trial at one of whose boundaries the model of this shorter recipe was scored."""
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_TOKENS, _SECONDS = "trained_tokens", "compute_seconds"


class Asker:
    """Turns an Optuna study into a source of recipes."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        sampler: SamplerSpec,
        objectives: Sequence[ObjectiveSpec],
        constraints: Sequence[ConstraintSpec],
        concurrent_trials: int,
        read_record: Callable[[int], TrialRecord | None],
        references: Sequence[float | None] | None = None,
        has_store: bool = True,
    ) -> None:
        """Take over a study of the storage.

        Args:
            study: The Optuna study.
            space: What it searches.
            sampler: Who proposes.
            objectives: Scores to improve, in the study's order.
            constraints: Scores to keep within bounds.
            concurrent_trials: Trials side by side.
            read_record: Gives the record of a finished trial by its number.
            references: Reference point of the hypervolume, one value per objective; None where there is none.
            has_store: Whether stages that were trained once cost nothing later.
        """
        self._study = study
        self._view = SamplerView(study.study_name, study._storage)
        # Of the trials side by side, all but one may still train when the next is asked for. Twice as many are hidden
        # from Optuna's samplers, so that they seldom have to wait for a slow one among them; ours plans from one
        # boundary to the next, and rather waits than misses one.
        n_at_least = concurrent_trials - 1
        self._n_hidden = n_at_least if sampler.name == STAGEWISE else 2 * n_at_least
        self._space = space
        self._sampler = sampler
        self._goals = ToldGoals(objectives, constraints, sampler.cost)
        self._read_record = read_record
        self._stagewise = (
            make_stagewise(sampler, space, references or [None] * len(objectives), has_store)
            if sampler.name == STAGEWISE
            else None
        )
        self._told_prefixes: set[int] = set()
        self._open: dict[int, optuna.Trial] = {}
        self._seen: dict[str, int] = {}
        for trial in study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        ):
            if _DIGEST in trial.user_attrs:
                self._seen.setdefault(trial.user_attrs[_DIGEST], trial.number)

    def enqueue_baselines(self, baselines: Sequence[BaselineSpec]) -> None:
        """Put baselines that have no finished trial before everything else.

        The untouched base comes first, listed or not.
        """
        waiting_or_done = {
            trial.user_attrs[_BASELINE]
            for trial in self._study.get_trials(deepcopy=False)
            if _BASELINE in trial.user_attrs
            and (trial.state != TrialState.FAIL or NOT_TRAINED in trial.user_attrs)
        }
        listed = [baseline for baseline in baselines if not baseline.order]
        base = listed[0] if listed else BaselineSpec(name="base", order=())
        for baseline in (base, *(other for other in baselines if other.order)):
            if baseline.name not in waiting_or_done:
                params = self._space.encode(baseline.order, baseline.values)
                self._study.enqueue_trial(params, user_attrs={_BASELINE: baseline.name})

    def unfinished(self) -> list[Proposal]:
        """Adopt the trials that a dead driver left RUNNING: same numbers, same params."""
        proposals = []
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if NOT_TRAINED in frozen.user_attrs:
                self._study.tell(frozen.number, state=TrialState.FAIL)
                continue
            self._prepare_view(frozen.number)
            proposal = self._propose(optuna.Trial(self._view, frozen._trial_id))
            if proposal is not None:
                proposals.append(proposal)
        return proposals

    def must_wait(self) -> bool:
        """Return whether a trial still trains that the next proposal has to learn from."""
        running = [trial.number for trial in self._trials(TrialState.RUNNING)]
        return bool(set(running) - self._hidden())

    def ask(self) -> Proposal | None:
        """Return a recipe that was not tried before, or None when the sampler finds no new one.

        A proposal that was tried before, or makes no legal recipe, is marked, told as failed, and costs nothing.
        """
        self._tell_prefixes()
        while (n_dropped := self._n_dropped()) < MAX_DUPLICATES:
            self._prepare_view(self._next_number())
            if n_dropped >= PATIENCE:
                random = SamplerSpec(name="random", seed=self._sampler.seed)
                self._view.sampler = make_sampler(random, self._next_number())
            proposal = self._propose(self._view.ask())
            if proposal is not None:
                return proposal
        return None

    def failure(self, record: TrialRecord) -> str | None:
        """Return why a finished trial counts as failed, whether in training or in measuring; None if it does not.

        A missing or non-finite objective or constraint never reaches the sampler.
        """
        if record.state == "FAIL":
            return record.reason or "failed without a reason"
        if record.state == "PRUNED" and (record.open_rung is not None or record.is_screened_out):
            # All that it needs was measured where it was stopped, and boundary there may be none.
            return None
        return self._goals.missing(record.final_scores)

    def tell(self, record: TrialRecord) -> None:
        """Tell Optuna a finished trial; a failed one as failed, one that was stopped early as pruned."""
        trial = self._open.pop(record.number)
        trial.set_user_attr(_TOKENS, record.trained_tokens)
        trial.set_user_attr(_SECONDS, round(record.seconds.total, 3))
        trial.set_user_attr(BOUNDARIES, self._goals.boundaries(record))
        if record.state in ("FAIL", "PRUNED"):
            trial.set_user_attr(REASON, redacted(record.reason or "")[:2000])
            if record.state == "FAIL":
                # A failed recipe may be tried again: the fault may have been mended.
                self._seen.pop(trial.user_attrs[_DIGEST], None)
            self._study.tell(trial, state=TrialState[record.state])
            return
        values, violations = self._goals.values(record.final_scores)
        for name, violation in violations.items():
            # A driver that died while it told this trial may have set some.
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        self._study.tell(trial, values)

    def finished(self) -> list[int]:
        """Return the numbers of trials that ended, duplicates left out."""
        return [trial.number for trial in self._trials(*_ENDED)]

    def learnt_from(self, number: int) -> list[int]:
        """Return the numbers of the ended trials that the proposal of trial `number` could learn from."""
        hidden = self._hidden(before=number)
        ended = (trial.number for trial in self._trials(*_ENDED) if trial.number < number)
        return [each for each in ended if each not in hidden]

    def failed(self) -> list[int]:
        """Return the numbers of trials that failed, duplicates left out."""
        return [trial.number for trial in self._trials(TrialState.FAIL)]

    def front(self) -> set[int]:
        """Return the numbers of the trials that no other one dominates; for a prefix, of the trial it belongs to."""
        # Optuna's `best_trials` copies every trial deeply: most of a second at thousands of trials.
        trials = [
            trial
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if all(violation <= 0 for violation in trial.constraints.values())
        ]
        if not trials:
            return set()
        maximised = optuna.study.StudyDirection.MAXIMIZE
        signs_K = np.array([-1.0 if each == maximised else 1.0 for each in self._study.directions])
        mask_N = front_mask(np.array([trial.values for trial in trials]) * signs_K)
        return {
            trial.user_attrs.get(_PREFIX_OF, trial.number)
            for trial, is_in in zip(trials, mask_N, strict=True)
            if is_in
        }

    def trained_tokens(self) -> int:
        """Return the tokens trained over all ended trials."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(trial.user_attrs.get(_TOKENS, 0) for trial in trials)

    def compute_seconds(self) -> float:
        """Return the seconds that all ended trials took, added up."""
        trials = self._study.get_trials(deepcopy=False)
        return float(sum(trial.user_attrs.get(_SECONDS, 0.0) for trial in trials))

    def _next_number(self) -> int:
        trials = self._study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        return min(waiting, default=len(trials))

    def _propose(self, trial: optuna.Trial) -> Proposal | None:
        """Return the recipe of an asked trial; None, and the trial told, if it is not to be trained."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            params = self._space.suggest(trial, conditional=self._sampler.name in CONDITIONAL)
        try:
            recipe = self._space.decode(params)
        except ValueError as error:
            self._drop(trial, f"no legal recipe: {error}")
            return None
        digest = _recipe_digest(recipe)
        first = self._seen.setdefault(digest, trial.number)
        if first != trial.number:
            self._drop(trial, f"the recipe of trial {first} again")
            return None
        trial.set_user_attr(_RECIPE, recipe.label())
        trial.set_user_attr(_DIGEST, digest)
        self._open[trial.number] = trial
        return Proposal(trial.number, params, recipe, trial.user_attrs.get(_BASELINE))

    def _n_dropped(self) -> int:
        """Return how many proposals in a row, the latest included, were not trained."""
        n_dropped = 0
        for trial in reversed(self._study.get_trials(deepcopy=False)):
            if NOT_TRAINED in trial.user_attrs:
                n_dropped += 1
            elif trial.state != TrialState.WAITING and _PREFIX_OF not in trial.user_attrs:
                break
        return n_dropped

    def _drop(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr(NOT_TRAINED, reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _tell_prefixes(self) -> None:
        """Tell Optuna the boundaries of finished trials as complete trials of the shorter recipes.

        A prefix of a recipe is a recipe, so its scores are an observation like any other; it is marked, costs nothing
        and does not count in the budget. Only now, and not when a trial ends: which one ends first is chance.
        """
        skipped = self._hidden() | self._told_prefixes
        for trial in self._trials(*_ENDED):
            if trial.number in skipped:
                continue
            self._told_prefixes.add(trial.number)
            record = self._read_record(trial.number)
            if record is None:
                continue
            n_stages = len(record.recipe.stages)
            for boundary in (b for b in record.boundaries if 0 < b.n_stages < n_stages):
                self._tell_prefix(trial, record.recipe.prefix(boundary.n_stages), boundary)

    def _tell_prefix(self, trial: FrozenTrial, recipe: Recipe, boundary: Boundary) -> None:
        digest = _recipe_digest(recipe)
        scores = {score.name: score for score in boundary.scores}
        if digest in self._seen or self._goals.missing(scores) is not None:
            return
        found = self._space.prefix(trial.params, boundary.n_stages)
        if found is None:
            return  # Such as one that is too short for the space: the sampler could make nothing of it.
        parameters = self._space.parameters(self._space.sequence(found))
        kept = {each.name for each in (*self._space.order_parameters(), *parameters)}
        params = {
            name: value
            for name, value in found.items()
            if name in kept or self._sampler.name not in CONDITIONAL
        }
        values, violations = self._goals.values(scores)
        self._study.add_trial(
            optuna.create_trial(
                params=params,
                distributions={name: trial.distributions[name] for name in params},
                values=values,
                constraints=violations,
                user_attrs={_PREFIX_OF: trial.number, _RECIPE: recipe.label(), _DIGEST: digest},
            )
        )
        self._seen[digest] = trial.number

    def _prepare_view(self, number: int) -> None:
        """Let the sampler see what it sees when it is asked for trial `number`, also if that was asked for before."""
        self._view.sampler = self._stagewise or make_sampler(self._sampler, number)
        later = {trial.number for trial in self._trials() if trial.number > number}
        self._view.hidden = frozenset(self._hidden(before=number) | later)

    def _hidden(self, before: int | None = None) -> set[int]:
        """Return the latest trials, whose outcome a proposal must not depend on."""
        tried = [
            trial.number
            for trial in self._trials()
            if trial.state != TrialState.WAITING and (before is None or trial.number < before)
        ]
        return set(tried[-self._n_hidden :]) if self._n_hidden else set()

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in some states (default: all) that were or will be trained."""
        return [
            trial
            for trial in self._study.get_trials(deepcopy=False, states=states or None)
            if NOT_TRAINED not in trial.user_attrs and _PREFIX_OF not in trial.user_attrs
        ]


def _recipe_digest(recipe: Recipe) -> str:
    return recipe.prefix_digests("")[-1]
