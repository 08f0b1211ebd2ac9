"""Analysis: what follows from a study's records, computed once for all sections and only where one asks for it.

Everything is computed anew from the records, also what `apportion explain` printed: later trials may have added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from evaluators.scores import Direction
from search.attribution.dose import DoseResponse, DoseRows, dose_responses, dose_rows
from search.attribution.explanation import Explanation, explain
from search.attribution.known import Known
from search.attribution.lattice import Lattice
from search.attribution.recommend import Recommendation, recommend
from search.attribution.routes import Routes, find_routes
from search.attribution.targets import Target
from search.explanations import ExplanationFolder
from search.moved.records import Moved
from search.records import TrialRecord
from search.report.moved import moved_trials
from search.report.orders import OrderRow, order_rows
from search.report.samples import Sample, load_samples
from search.report.view import StudyView
from search.report.warnings import Hack, hacks
from spaces.space import Space

if TYPE_CHECKING:
    from search.sampling.importance import Importances

MARGIN = 0.05
"""What counts as equal, as in `apportion explain`: in a share itself, else that share of the range seen."""
MAX_EXPLAINED = 30
"""Trials whose stages are looked at."""
MAX_UNITS = 6
"""Stages of a recipe, above which subsets are too many for a page that is made in seconds."""
MIN_TRIALS = 10
"""Complete trials with stages, below which parameters are not weighed."""
N_ROUTES = 4
"""Routes side by side."""


@dataclass(frozen=True)
class Analysis:
    """A study's records, and what follows from them."""

    view: StudyView
    """The study as its folder shows it."""

    @cached_property
    def by_number(self) -> dict[int, TrialRecord]:
        """Trials by number."""
        return {trial.number: trial for trial in self.view.trials}

    @cached_property
    def completed(self) -> list[TrialRecord]:
        """Trials that ended with their last stage."""
        return [trial for trial in self.view.trials if trial.state == "COMPLETE"]

    @cached_property
    def asked(self) -> list[int]:
        """Trials that a person had explained."""
        return ExplanationFolder(self.view.files).explained()

    @cached_property
    def outside(self) -> list[TrialRecord]:
        """Recipes that were trained for explanations and are no trials."""
        return ExplanationFolder(self.view.files).records()

    @cached_property
    def known(self) -> Known:
        """Every recipe that was scored, also with fresh seeds: they tell how far trainings of one recipe lie apart."""
        replicates = self.view.files.replicate_records()
        return Known.of([*self.view.trials, *self.outside, *replicates])

    @cached_property
    def objectives(self) -> dict[str, Direction]:
        """Objective to direction, of those that were measured."""
        names = self.known.directions
        return {each.name: each.direction for each in self.view.objectives if each.name in names}

    @cached_property
    def scores(self) -> dict[str, Direction]:
        """Objectives, then scores under constraints that are none; of those that were measured."""
        names = self.known.directions
        constrained = [each.score for each in self.view.spec.constraints if each.score in names]
        return self.objectives | {
            name: names[name] for name in constrained if name not in self.objectives
        }

    @cached_property
    def margins(self) -> dict[str, float]:
        """Score to what counts as equal, in its unit."""
        return {name: self.known.margin(name, MARGIN) for name in self.scores}

    @cached_property
    def moved(self) -> list[Moved]:
        """Where trials moved the model, as far as that was measured."""
        return moved_trials(self.view.files, self.by_number)

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """What `apportion recommend` says without wishes; None while there is nothing to choose from."""
        return self._recommend(self.completed)

    @cached_property
    def is_base_preferred(self) -> bool:
        """Whether the untouched base is recommended, and `recommended` is the best of what was trained."""
        found = self.recommendation
        return found is not None and self._is_untouched(found) and self.recommended is not None

    @cached_property
    def recommended(self) -> TrialRecord | None:
        """The recommended trial; where that is the base, the one that the same rule takes of those with stages.

        None where none keeps all constraints, or none with stages is on the front.
        """
        found = self.recommendation
        if found is not None and self._is_untouched(found):
            front = [trial for trial in self.completed if trial.number in self.view.front]
            found = self._recommend([trial for trial in front if trial.recipe.stages])
        return self.by_number[found.trial.trial] if found is not None and found.trial else None

    def _recommend(self, trials: list[TrialRecord]) -> Recommendation | None:
        targets = [Target.of(constraint) for constraint in self.view.spec.constraints]
        asked = {*(each.name for each in self.view.objectives), *(t.score for t in targets)}
        if not trials or not asked <= self.known.directions.keys():
            return None
        return recommend(self.known, trials, self.objectives, targets)

    def _is_untouched(self, found: Recommendation) -> bool:
        return found.trial is not None and not self.by_number[found.trial.trial].recipe.stages

    @cached_property
    def routes(self) -> Routes | None:
        """Trials that score like the recommended one and are made differently; None without one that has stages."""
        first = self.recommended
        if first is None:
            return None
        candidates = [trial for trial in self.completed if trial.number in self.view.feasible]
        margins = {name: self.margins[name] for name in self.objectives}
        return find_routes(self.known, candidates, first, margins, N_ROUTES)

    @cached_property
    def dose_rows(self) -> DoseRows:
        """What the curves of dose and response are fitted to."""
        return dose_rows(self.known, list(self.scores))

    @cached_property
    def doses(self) -> list[DoseResponse]:
        """How doses act, a curve for each influence and score."""
        return dose_responses(self.known, self.scores, self.dose_rows)

    @cached_property
    def order_rows(self) -> tuple[OrderRow, ...]:
        """Recipes of the same stages in another order, or with one once more, the recommended trial's first."""
        first = [self.recommended] if self.recommended is not None else []
        preferred = [trial.recipe for trial in (*first, *self.view.front_trials)]
        return order_rows(self.known, self.scores, self.completed, preferred)

    @cached_property
    def importances(self) -> Importances | None:
        """Which parameters matter; None with too few trials."""
        n_trained = sum(bool(trial.recipe.stages) for trial in self.completed)
        if n_trained < MIN_TRIALS or len(self.objectives) < len(self.view.objectives):
            return None
        # Optuna computes it, is loaded for nothing else here, and takes seconds to load.
        from search.sampling.importance import importances

        space = Space(self.view.spec.influences, self.view.spec.order)
        return importances(space, self.completed, self.objectives, self.view.front)

    @cached_property
    def samples(self) -> dict[int, list[Sample]]:
        """Sample generations by trial."""
        return load_samples(self.view)

    @cached_property
    def hacks(self) -> list[Hack]:
        """Trials of the front whose replies collapsed while they gained."""
        return hacks(self.view)

    @cached_property
    def explanations(self) -> tuple[Explanation, ...]:
        """What the stages of trials gave: the recommended one's, those asked for before, then the front's."""
        numbers = [trial.number for trial in self.view.front_trials]
        if self.recommended is not None:
            numbers.insert(0, self.recommended.number)
        wanted = dict.fromkeys([*numbers[:1], *self.asked, *numbers])
        trials = [self.by_number[number] for number in wanted if number in self.by_number]
        fit = [trial for trial in trials if 0 < Lattice(trial.recipe).n <= MAX_UNITS]
        return tuple(
            explain(self.known, trial.number, trial.recipe, self.scores, self.margins)
            for trial in fit[:MAX_EXPLAINED]
        )

    def explanation(self, number: int) -> Explanation | None:
        """Return what the stages of a trial gave; None where that was not looked at."""
        return next((each for each in self.explanations if each.trial == number), None)
