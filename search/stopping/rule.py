"""The rule that stops a trial at a boundary or rung: even at its bound it would be dominated, or break a constraint.

rule = StoppingRule(spec)
decision = rule.decide(record, past)     # of the record's last boundary or rung; None while too little is known

A rung is a boundary with the rest of its stage, and the later stages, still to come. What is compared is what a recipe
will end on; the model at a rung itself is no rival of others, since no recipe of the study ends there.

A recipe that repeats one that was scored and goes on from there is judged where its new stages begin, not before: until
then it costs little with a stage store, and a sampler that proposes a scored recipe and one stage more would otherwise
lose it to that very recipe. From there on its own prefix is a rival like any other: what cannot come to more than the
prefix has is stopped before the first new stage is trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from search.records import StopDecision, TrialRecord
from search.spec import StudySpec
from search.stopping.calibration import margin, n_needed, residuals
from search.stopping.past import Gains, Goals, PastTrial, alike, examples
from search.stopping.predictor import Fit, LinearGain
from search.stopping.screening import optimistic_gains
from spaces.recipe import AnyStage


@dataclass(frozen=True)
class Rival:
    """A scored model that may dominate what a trial can become."""

    gains: Gains
    """Of its boundary, shape (K,)."""
    label: str
    """Such as `trial 17` or `trial 17 after 1 of 3 stages`."""
    is_final: bool
    """Whether it is the last model of a finished trial."""


class StoppingRule:
    """Decides at boundaries and rungs, and of screened models. The same record and past give the same decision."""

    def __init__(self, spec: StudySpec, fit: Fit = LinearGain) -> None:
        """Take what a study aims at.

        Args:
            spec: The study.
            fit: Learns what the scores will be from what past trials did.
        """
        self._alpha = spec.stopping.alpha
        self._stops = spec.stopping.enabled
        self._fidelity = spec.fidelity
        self._audit_share = spec.stopping.audit_share
        self._seed = spec.sampler.seed
        self._fit = fit
        self.goals = Goals.of(spec)

    def decide(self, record: TrialRecord, past: Sequence[PastTrial]) -> StopDecision | None:
        """Return what becomes of a trial at the last boundary or rung of its record.

        None where nothing is decided: the recipe is done, it is a baseline, a score is missing, a past trial scored the
        recipe's next boundary already, or fewer than `n_needed(alpha)` past trials went on from a like boundary (rung).

        Args:
            record: The trial.
            past: Trials to learn from. Not all that are known: a decision shall not depend on which of several trials
                side by side ends first.

        Of a last model that was screened: whether it is given up, or scored on all items. It needs no past trials that
        are alike, only rivals; with too few items for a standard error it goes on.
        """
        n_scored = max((boundary.n_stages for boundary in record.boundaries), default=0)
        if record.last_screening is not None and n_scored < len(record.recipe.stages):
            return self._screened(record, past)
        if not self._stops:
            return None
        trial = PastTrial.of(record, self.goals)
        n_done, share = max(_points(record), default=(0, 0.0))
        n_stages = len(record.recipe.stages)
        is_inside = (0, 0.0) < (n_done, share) < (n_stages, 0.0)
        if record.baseline is not None or not is_inside or trial.at(n_done, share) is None:
            return None
        if _is_scored(record.recipe.stages[: n_done + 1], past):
            return None
        known = examples(past)
        kind = alike(known, trial.influences[n_done:], n_needed(self._alpha), share)
        if not kind:
            return None
        found = margin(residuals(kind, known, self._fit), self._alpha)
        gains_MK = trial.so_far(n_done, share)
        bound_K = self._fit(known).predict(record.recipe, n_done, gains_MK, share) + found.added
        reason = self.reason(trial, n_done, bound_K, past, share)
        return StopDecision(
            n_stages=n_done,
            share=share,
            outcome="go on" if reason is None else "audit" if self.is_audited(record) else "stop",
            bounds=self.goals.values(bound_K),
            n_past=found.n_past,
            reason=reason,
        )

    def decisions(self, record: TrialRecord, past: Sequence[PastTrial]) -> tuple[StopDecision, ...]:
        """Return what was decided at each boundary and rung of a trial, in order."""
        found = []
        n_stages = len(record.recipe.stages)
        for point in sorted(set(_points(record))):
            boundaries = tuple(each for each in record.boundaries if (each.n_stages, 0.0) <= point)
            rungs = tuple(each for each in record.rungs if (each.n_stages, each.share) <= point)
            screenings = tuple(each for each in record.screenings if (each.n_stages, 0.0) <= point)
            if screenings and screenings[-1].n_stages == n_stages:
                boundaries = tuple(each for each in boundaries if each.n_stages < n_stages)
            update = {"boundaries": boundaries, "rungs": rungs, "screenings": screenings}
            seen = record.model_copy(update=update)
            found.append(self.decide(seen, past))
        return tuple(decision for decision in found if decision is not None)

    def _screened(self, record: TrialRecord, past: Sequence[PastTrial]) -> StopDecision | None:
        """Return whether a last model that was scored on its first items alone is given up."""
        screening = record.last_screening
        if screening is None or self._fidelity is None:
            return None
        alpha = self._fidelity.alpha
        bound_K = optimistic_gains(screening.scores, self.goals, alpha)
        if bound_K is None:
            return None
        trial, n_stages = PastTrial.of(record, self.goals), screening.n_stages
        reason = self._reason(
            trial,
            bound_K,
            past,
            f"ended on {100 * screening.fidelity:.3g} % of the items: cannot",
            f"by intervals with error rate {100 * alpha:.4g} %",
        )
        return StopDecision(
            n_stages=n_stages,
            outcome="go on" if reason is None else "audit" if self.is_audited(record) else "stop",
            bounds=self.goals.values(bound_K),
            n_past=0,
            fidelity=screening.fidelity,
            reason=reason,
        )

    def is_audited(self, record: TrialRecord) -> bool:
        """Return whether a trial runs to its end whatever the rule says, by a hash of seed and number."""
        text = f"audit {self._seed} {record.number}"
        draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
        return draw < self._audit_share

    def _rivals(self, trials: Sequence[PastTrial]) -> list[Rival]:
        """Return the feasible models among those that were scored; last models of finished trials first."""
        found = []
        for trial in trials:
            n_last = len(trial.recipe.stages)
            for n_stages, gains_K in trial.gains.items():
                if (gains_K[self.goals.n_objectives :] < 0).any():
                    continue
                is_final = n_stages == n_last
                label = f"trial {trial.number}"
                label += "" if is_final else f" after {n_stages} of {n_last} stages"
                found.append(Rival(gains_K, label, is_final))
        return sorted(found, key=lambda rival: not rival.is_final)

    def reason(
        self,
        trial: PastTrial,
        n_done: int,
        bound_K: Gains,
        past: Sequence[PastTrial],
        share: float = 0.0,
    ) -> str | None:
        """Return why a trial cannot come to anything if its last gains are at most `bound_K`, or None if it can.

        Feasible models that were scored may dominate it: last ones of finished trials, those at boundaries, and its own
        so far, since each of them is a recipe that was tried.
        """
        n_stages = len(trial.recipe.stages)
        place = (
            f"at {100 * share:.4g} % of stage {n_done + 1} of" if share else f"after {n_done} of"
        )
        start = f"stopped {place} {n_stages}{'' if share else ' stages'}: cannot"
        sure = f"by a bound with error rate {100 * self._alpha:.4g} %"
        return self._reason(trial, bound_K, past, start, sure)

    def _reason(
        self, trial: PastTrial, bound_K: Gains, past: Sequence[PastTrial], start: str, sure: str
    ) -> str | None:
        n_objectives = self.goals.n_objectives
        best = self.goals.values(bound_K)
        for constraint, gain in zip(self.goals.constraints, bound_K[n_objectives:], strict=True):
            if gain < 0:
                is_above = constraint.at_most is not None
                bound = constraint.at_most if is_above else constraint.at_least
                kept, reached = ("<=", ">=") if is_above else (">=", "<=")
                name = constraint.score
                return f"{start} keep {name} {kept} {bound:g} ({name} {reached} {best[name]:.3g} {sure})"
        for rival in self._rivals([*past, trial]):
            theirs_K, ours_K = rival.gains[:n_objectives], bound_K[:n_objectives]
            if (theirs_K >= ours_K).all() and (theirs_K > ours_K).any():
                ours = ", ".join(
                    f"{name} {'<=' if sign > 0 else '>='} {sign * gain:.3g}"
                    for name, sign, gain in self.goals.objective_columns(bound_K)
                )
                theirs = ", ".join(
                    f"{sign * gain:.3g}"
                    for _, sign, gain in self.goals.objective_columns(rival.gains)
                )
                return f"{start} reach the front ({ours} {sure}; {rival.label} has {theirs})"
        return None


def _is_scored(stages: tuple[AnyStage, ...], past: Sequence[PastTrial]) -> bool:
    """Return whether a past trial has scores for the model after just these stages."""
    n_stages = len(stages)
    return any(n_stages in each.gains and each.recipe.stages[:n_stages] == stages for each in past)


def _points(record: TrialRecord) -> list[tuple[int, float]]:
    """Return where a trial was scored: stages done, and the share of the next one at a rung."""
    boundaries = [(boundary.n_stages, 0.0) for boundary in record.boundaries]
    boundaries += [(screening.n_stages, 0.0) for screening in record.screenings]
    return [*boundaries, *((rung.n_stages, rung.share) for rung in record.rungs)]
