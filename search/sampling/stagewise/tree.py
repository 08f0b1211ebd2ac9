"""The tree of recipes as the sampler sees it: nodes are models, an edge is a step, params are paths from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from search.sampling.stagewise.runs import RunDoses
from search.sampling.stagewise.values import features, limits, n_features, near, value_at
from spaces.decode import DOSE_FACTOR, dose_fields
from spaces.dose import round_doses
from spaces.params import Parameter, Params, ParamValue
from spaces.space import Space

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """A stage with its values chosen."""

    influence: str
    values: tuple[ParamValue, ...]
    """Values of the influence's parameters, in their order, doses being those of this run. Where a dose is fixed and
    runs have different parts of it, this run's part is among the last values."""


Node = tuple[Step, ...]
"""A recipe, as the steps from the base to it."""


@dataclass(frozen=True)
class _Influence:
    fields: tuple[tuple[str | None, Parameter], ...]
    """Name after the prefix, and the parameter. No name: the parameter has no prefix, and influences share it."""
    columns: tuple[slice, ...]
    """Where each parameter's features lie."""
    n_params: int
    """Fields that are params of a trial: all, or all but the last, which are parts of fixed doses."""
    doses: tuple[RunDoses, ...]
    """One, or those of all branches, or none."""
    places: tuple[int | None, ...]
    """Of each dose among the fields; None where all runs have the fixed one."""

    @property
    def factor(self) -> Parameter | float | None:
        """Of each run's dose to that of the run before."""
        return self.doses[0].factor if self.doses else None


class Tree:
    """Recipes of a space as nodes; gives random and middle steps and their features."""

    def __init__(self, space: Space) -> None:
        """Read the influences of a space."""
        self._space = space
        self.influences = tuple(space.influences)
        self.min_stages, self.max_stages = space.rules.min_stages, space.rules.max_stages
        self.has_rounds = space.rounds != 1
        """Whether an order may run through more than once; then steps of a round are planned, and repeated."""
        self._known = {name: self._read(name) for name in self.influences}
        self._runs_differ = any(
            doses.differ for known in self._known.values() for doses in known.doses
        )

    def n_features(self, influence: str) -> int:
        """Return the number of features of an influence's values."""
        columns = self._known[influence].columns
        return columns[-1].stop if columns else 0

    def node(self, params: Mapping[str, ParamValue]) -> Node:
        """Return the node that params mean; runs without a dose are no steps.

        Raises:
            KeyError: A value is missing.
        """
        return tuple(
            self._dosed(
                Step(name, tuple(params[key] for key in self._keys(prefix, name))),
                tuple(doses.values()),
            )
            for prefix, name, doses in self._space.stages(params)
        )

    def params(self, node: Node) -> Params:
        """Return the params that mean a node.

        Raises:
            ValueError: Its order is not legal.
        """
        n_rounds = self._n_rounds(node)
        order = tuple(step.influence for step in node[: len(node) // n_rounds])
        params = self._space.encode(order, {})
        for at, (prefix, name) in enumerate(self._space.positions(order)):
            for key, value in zip(self._keys(prefix, name), node[at].values, strict=False):
                params.setdefault(key, value)
            known = self._known[name]
            runs = self._doses(node[at :: len(order)] if n_rounds > 1 else node, name)
            if n_rounds > 1:
                for each, doses, total in zip(
                    known.places, known.doses, map(sum, zip(*runs, strict=True)), strict=True
                ):
                    if each is not None and doses.searched is not None:
                        params[f"{prefix}.{known.fields[each][0]}"] = total
            if isinstance(known.factor, Parameter) and len(runs) > 1:
                firsts = [dose for (dose,) in runs]
                params[f"{prefix}.{DOSE_FACTOR}"] = known.doses[0].found_factor(firsts)
        if isinstance(self._space.rounds, Parameter) and node:
            params[self._space.rounds.name] = n_rounds
        return params

    def is_legal(self, node: Node) -> bool:
        """Return whether a node is a recipe that the space allows."""
        try:
            params = self.params(node)
            self._space.decode(params)
        except ValueError:
            return False
        if not self._runs_differ:
            return True
        # Doses of runs may fit no params: a second run of twice the first where the factor is at most 1.
        parameters = self._space.parameters(self._space.sequence(params))
        is_within = all(each.match(params[each.name]) is not None for each in parameters)
        return is_within and self.node(params) == node

    def following(self, node: Node, n_stages: int) -> list[str]:
        """Return the influences that may come next in a recipe of `n_stages` stages (in rounds: in one round)."""
        return self._space.rules.legal_next([step.influence for step in node], n_stages)

    def fitted(self, node: Node, step: Step, rng: np.random.Generator | None = None) -> Step:
        """Return a step with the values that a node has decided already: shared by positions, or by influences.

        Args:
            node: What comes before it.
            step: With values of its own.
            rng: Draws how a second run's dose differs from the first, if the step's own dose does not say it.
        """
        known = self._known[step.influence]
        same = None
        if not self._space.per_position:
            same = next((each for each in node if each.influence == step.influence), None)
        if same is not None and known.factor is not None:
            runs = [dose for (dose,) in self._doses(node, step.influence)]
            wanted = self.dose_tokens(step)
            return self._dosed(same, (known.doses[0].following(runs, wanted, rng),))
        if same is not None:
            return same
        decided = {
            parameter.name: value
            for each in node
            for (field, parameter), value in zip(
                self._known[each.influence].fields, each.values, strict=True
            )
            if field is None
        }
        values = tuple(
            decided.get(parameter.name, value) if field is None else value
            for (field, parameter), value in zip(known.fields, step.values, strict=True)
        )
        fit = Step(step.influence, values)
        pairs = zip(known.doses, self._each_dose(fit), strict=True)
        return self._dosed(fit, tuple(doses.first(dose) for doses, dose in pairs))

    def head(self, node: Node) -> Node:
        """Return the steps of a node's first round: up to the first influence that runs again."""
        names = [step.influence for step in node]
        return node[: next((at for at, name in enumerate(names) if name in names[:at]), len(node))]

    def in_rounds(self, node: Node, rng: np.random.Generator | None = None) -> Node:
        """Return the recipe that runs through the order of a node several times.

        Each run has the dose of its step, so that a recipe that was trained goes on; or, where the total would be too
        large, and in half of all draws, a part of it.

        Args:
            node: One round.
            rng: Draws the number of rounds; None: the fewest.
        """
        n_rounds = self._some_rounds(rng)
        if n_rounds == 1:
            return node
        may_keep = rng is None or rng.random() < 0.5
        if may_keep and all(self._fits(step, n_rounds) for step in node):
            return node * n_rounds
        found = [
            (step, [round_doses(total, n_rounds) for total in self._totals(step)]) for step in node
        ]
        runs = (
            (self._dosed(step, tuple(part[n] for part in parts)), bool(parts))
            for n in range(n_rounds)
            for step, parts in found
        )
        return tuple(step for step, has_dose in runs if not has_dose or self.dose_tokens(step))

    def random_step(self, influence: str, rng: np.random.Generator) -> Step:
        """Return a step with values drawn uniformly, in the logarithm for log ranges."""
        fields = self._known[influence].fields
        return self._present(influence, [value_at(each, rng.random()) for _, each in fields])

    def middle_step(self, influence: str) -> Step:
        """Return the step in the middle of all ranges."""
        fields = self._known[influence].fields
        return self._present(influence, [value_at(parameter, 0.5) for _, parameter in fields])

    def near_step(self, step: Step, rng: np.random.Generator) -> Step:
        """Return a step with one value or more moved a little."""
        fields = self._known[step.influence].fields
        if not fields:
            return step
        moved = rng.random(len(fields)) < 1.0 / len(fields)
        moved[rng.integers(len(fields))] = True
        values = [
            near(parameter, value, rng) if is_moved else value
            for (_, parameter), value, is_moved in zip(fields, step.values, moved, strict=True)
        ]
        return self._present(step.influence, values)

    def features(self, step: Step) -> Array:
        """Return the values as numbers, shape (n_features,): ranges as 0 to 1, words as one column each."""
        known = self._known[step.influence]
        found = np.zeros(self.n_features(step.influence))
        scales = {
            at: doses.scale
            for at, doses in zip(known.places, known.doses, strict=True)
            if doses.differ
        }
        for at, (column, value) in enumerate(zip(known.columns, step.values, strict=True)):
            found[column] = features(scales.get(at, known.fields[at][1]), value)
        return found

    def dose_tokens(self, step: Step) -> int:
        """Return the tokens that a step trains."""
        return sum(self._each_dose(step))

    def _each_dose(self, step: Step) -> tuple[int, ...]:
        known = self._known[step.influence]
        return tuple(
            doses.fixed if at is None else int(step.values[at])
            for at, doses in zip(known.places, known.doses, strict=True)
        )

    def _present(self, influence: str, values: Sequence[ParamValue]) -> Step:
        """Return a step that has a dose if it can: what leaves a stage out is a shorter node."""
        step = Step(influence, tuple(values))
        known = self._known[influence]
        if not known.doses or self.dose_tokens(step):
            return step
        return self._dosed(step, tuple(doses.least for doses in known.doses))

    def _dosed(self, step: Step, doses: Sequence[int]) -> Step:
        """Return a step with other doses; its values may come without those that are no params."""
        values = list(step.values)
        for at, dose_tokens in zip(self._known[step.influence].places, doses, strict=True):
            if at is not None:
                values[at : at + 1] = [dose_tokens]
        return replace(step, values=tuple(values))

    def _doses(self, node: Node, influence: str) -> list[tuple[int, ...]]:
        """Return the doses of each run of an influence in a node."""
        return [self._each_dose(step) for step in node if step.influence == influence]

    def _totals(self, step: Step) -> list[int]:
        """Return what is to be split over rounds: the doses of a step, and fixed ones as they are."""
        pairs = zip(self._known[step.influence].doses, self._each_dose(step), strict=True)
        return [doses.total(dose) for doses, dose in pairs]

    def _fits(self, step: Step, n_rounds: int) -> bool:
        pairs = zip(self._known[step.influence].doses, self._each_dose(step), strict=True)
        return all(doses.is_total(dose * n_rounds) for doses, dose in pairs)

    def _some_rounds(self, rng: np.random.Generator | None) -> int:
        rounds = self._space.rounds
        if not isinstance(rounds, Parameter):
            return int(rounds)
        if rng is not None:
            return int(value_at(rounds, rng.random()))
        return int(limits(rounds)[0])

    def _n_rounds(self, node: Node) -> int:
        """Return how often the order of a node runs through.

        Raises:
            ValueError: Not a whole number of times, or not one that the space allows.
        """
        if not node or not self.has_rounds:
            return 1
        names, rounds = [step.influence for step in node], self._space.rounds
        n_rounds = names.count(names[0])
        is_legal = (
            rounds.match(n_rounds) is not None
            if isinstance(rounds, Parameter)
            else rounds == n_rounds
        )
        if not is_legal or names != names[: len(names) // n_rounds] * n_rounds:
            raise ValueError(f"{' > '.join(names)} is no order that runs through in rounds")
        return n_rounds

    def _keys(self, prefix: str, influence: str) -> list[str]:
        """Return the names of an influence's params at a position."""
        known = self._known[influence]
        return [
            parameter.name if field is None else f"{prefix}.{field}"
            for field, parameter in known.fields[: known.n_params]
        ]

    def _read(self, name: str) -> _Influence:
        values = self._space.values(name, name)
        fields = [
            (_without(f"{name}.", value.name), value)
            for field, value in values.items()
            if isinstance(value, Parameter) and field != DOSE_FACTOR
        ]
        n_params = len(fields)
        doses = [RunDoses.of(values[field], values, self._space) for field in dose_fields(values)]
        fields += [
            ("dose_tokens", each.whole) for each in doses if each.searched is None and each.differ
        ]
        columns, start = [], 0
        for _, parameter in fields:
            columns.append(slice(start, start + n_features(parameter)))
            start = columns[-1].stop
        added = iter(range(n_params, len(fields)))
        parameters = [parameter for _, parameter in fields]
        places = [
            parameters.index(each.searched)
            if each.searched is not None
            else (next(added) if each.differ else None)
            for each in doses
        ]
        return _Influence(tuple(fields), tuple(columns), n_params, tuple(doses), tuple(places))


def _without(prefix: str, name: str) -> str | None:
    return name.removeprefix(prefix) if name.startswith(prefix) else None
