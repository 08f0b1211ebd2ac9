"""Ask and tell: proposals from Optuna as recipes, finished trials back to Optuna.

Optuna's storage is the truth about which trials exist. A trial that a dead driver left RUNNING is adopted under its own
number: its params are kept, so a resumed study tries the same recipes as an undisturbed one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import optuna
from optuna.trial import TrialState

from search.records import Proposal, TrialRecord
from search.sampling.history import SamplerView
from search.sampling.samplers import CONDITIONAL, make_sampler
from search.spec import BaselineSpec, ConstraintSpec, ObjectiveSpec, SamplerSpec
from spaces.recipe import Recipe
from spaces.space import Space

MAX_DUPLICATES = 64
"""After so many proposals in a row that were all tried before, the space counts as exhausted."""

PATIENCE = 8
"""After so many, proposals are drawn at random: a sampler that has settled on a recipe would repeat it for ever."""

_BASELINE, _RECIPE, _DIGEST = "baseline", "recipe", "digest"
_DUPLICATE_OF, _REASON, _TOKENS = "duplicate_of", "reason", "trained_tokens"


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
    ) -> None:
        self._study = study
        self._view = SamplerView(study.study_name, study._storage)
        # Of the trials side by side, all but one may still train when the next is asked for. Twice as many are hidden
        # from the sampler, so that it seldom has to wait for a slow one among them.
        self._n_hidden = 2 * (concurrent_trials - 1)
        self._space = space
        self._sampler = sampler
        self._objectives = objectives
        self._constraints = constraints
        self._open: dict[int, optuna.Trial] = {}
        self._seen: dict[str, int] = {}
        for trial in self._trials(TrialState.COMPLETE, TrialState.RUNNING):
            if _DIGEST in trial.user_attrs:
                self._seen.setdefault(trial.user_attrs[_DIGEST], trial.number)

    def enqueue_baselines(self, baselines: Sequence[BaselineSpec]) -> None:
        """Put baselines that have no finished trial before everything else.

        The untouched base comes first, listed or not.
        """
        waiting_or_done = {
            trial.user_attrs[_BASELINE]
            for trial in self._study.get_trials(deepcopy=False)
            if _BASELINE in trial.user_attrs and trial.state != TrialState.FAIL
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
            self._prepare_view(frozen.number)
            trial = optuna.Trial(self._view, frozen._trial_id)
            proposals.append(self._propose(trial))
        return proposals

    def must_wait(self) -> bool:
        """Return whether a trial still trains that the next proposal has to learn from."""
        running = [trial.number for trial in self._trials(TrialState.RUNNING)]
        return bool(set(running) - self._hidden())

    def ask(self) -> Proposal | None:
        """Return a recipe that was not tried before, or None when the sampler finds no new one.

        A proposal that was tried before is marked as a duplicate, told as failed, and costs nothing.
        """
        for n_duplicates in range(MAX_DUPLICATES):
            self._prepare_view(self._next_number())
            if n_duplicates >= PATIENCE:
                random = SamplerSpec(name="random", seed=self._sampler.seed)
                self._view.sampler = make_sampler(random, self._next_number())
            proposal = self._propose(self._view.ask())
            digest = _recipe_digest(proposal.recipe)
            first = self._seen.setdefault(digest, proposal.number)
            if first == proposal.number:
                return proposal
            self._tell_duplicate(proposal.number, first)
        return None

    def tell(self, record: TrialRecord) -> str | None:
        """Tell Optuna a finished trial. Returns the reason if it failed, whether in training or in measuring.

        A missing or non-finite objective or constraint never reaches the sampler: the trial is told as failed.
        """
        trial = self._open.pop(record.number)
        trial.set_user_attr(_TOKENS, record.trained_tokens)
        reason = record.reason if record.state == "FAIL" else missing_reason(record, self._names())
        if reason is not None:
            trial.set_user_attr(_REASON, reason[:2000])
            # A failed recipe may be tried again: the fault may have been mended.
            self._seen.pop(trial.user_attrs[_DIGEST], None)
            self._study.tell(trial, state=TrialState.FAIL)
            return reason
        values = {name: float(score.value or 0.0) for name, score in record.final_scores.items()}
        for constraint in self._constraints:
            bound = f"{constraint.score} {'<=' if constraint.at_most is not None else '>='}"
            trial.set_constraint(bound, constraint.violation(values[constraint.score]))
        self._study.tell(trial, [values[objective.score] for objective in self._objectives])
        return None

    def finished(self) -> list[int]:
        """Return the numbers of trials that ended, duplicates left out."""
        return [trial.number for trial in self._trials(TrialState.COMPLETE, TrialState.FAIL)]

    def failed(self) -> list[int]:
        """Return the numbers of trials that failed, duplicates left out."""
        return [trial.number for trial in self._trials(TrialState.FAIL)]

    def trained_tokens(self) -> int:
        """Return the tokens trained over all ended trials."""
        trials = self._study.get_trials(deepcopy=False)
        return sum(trial.user_attrs.get(_TOKENS, 0) for trial in trials)

    def _names(self) -> list[str]:
        objectives = [objective.score for objective in self._objectives]
        return objectives + [constraint.score for constraint in self._constraints]

    def _next_number(self) -> int:
        trials = self._study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        return min(waiting, default=len(trials))

    def _propose(self, trial: optuna.Trial) -> Proposal:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            params = self._space.suggest(trial, conditional=self._sampler.name in CONDITIONAL)
        recipe = self._space.decode(params)
        attrs = trial.user_attrs
        if attrs.get(_DIGEST) is None:
            trial.set_user_attr(_RECIPE, recipe.label())
            trial.set_user_attr(_DIGEST, _recipe_digest(recipe))
        self._open[trial.number] = trial
        return Proposal(trial.number, params, recipe, attrs.get(_BASELINE))

    def _tell_duplicate(self, number: int, first: int) -> None:
        trial = self._open.pop(number)
        trial.set_user_attr(_DUPLICATE_OF, first)
        trial.set_user_attr(_REASON, f"the recipe of trial {first} again; not trained")
        self._study.tell(trial, state=TrialState.FAIL)

    def _prepare_view(self, number: int) -> None:
        self._view.sampler = make_sampler(self._sampler, number)
        self._view.hidden = frozenset(self._hidden())

    def _hidden(self) -> set[int]:
        tried = [trial.number for trial in self._trials() if trial.state != TrialState.WAITING]
        return set(tried[-self._n_hidden :]) if self._n_hidden else set()

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        """Return the trials in some states (default: all), those left out that repeat an earlier recipe."""
        trials = self._study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if _DUPLICATE_OF not in trial.user_attrs]


def missing_reason(record: TrialRecord, names: Sequence[str]) -> str | None:
    """Return why one of the named scores cannot be told, or None if all are finite numbers."""
    scores = record.final_scores
    for name in names:
        score = scores.get(name)
        if score is None:
            return f"{name}: not measured"
        if score.value is None:
            return f"{name}: missing: {score.reason}"
        if not math.isfinite(score.value):
            return f"{name}: not finite"
    return None


def _recipe_digest(recipe: Recipe) -> str:
    return recipe.prefix_digests("")[-1]
