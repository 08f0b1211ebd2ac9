"""Space: all recipes a study may try. Suggests params, decodes them into recipes, and checks baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from pydantic import ValidationError

from spaces.decode import (
    BASE_LABEL,
    DOSE_FACTOR,
    SEPARATOR,
    FieldValue,
    decode_stage,
    dose_fields,
    influence_values,
)
from spaces.dose import repeat_doses, round_doses
from spaces.influence import AnyInfluence, InfluenceSpec, ParallelSpec
from spaces.order import OrderRules, OrderSpec
from spaces.params import (
    Choice,
    Float,
    Parameter,
    Params,
    ParamValue,
    RandomSuggester,
    Suggester,
    as_parameter,
)
from spaces.recipe import Recipe
from spaces.spec import ends

MAX_SEQUENCES = 256
"""Up to here the order is one readable choice; a longer list would bloat every stored trial."""


class Run(NamedTuple):
    """One run of an influence in a recipe."""

    prefix: str
    """Of the names of its parameters."""
    influence: str
    doses: dict[str, int]
    """Tokens of this run by the field they come from; several where there are branches, none for a merge."""

    @property
    def is_left_out(self) -> bool:
        """Whether there is no such stage."""
        return self.doses == {"dose_tokens": 0}


class Space:
    """All recipes made of the given influences in the given orders."""

    def __init__(self, influences: Mapping[str, AnyInfluence], order: OrderSpec) -> None:
        """Build the space.

        Raises:
            ValueError: An influence has a reserved name, the order rules contradict each other or what the influences
                say of their doses, or they leave too many sequences for the encoding asked for.
        """
        self.rules = OrderRules(order, tuple(influences))
        self.influences = {name: influences[name] for name in self.rules.influences}
        self._known = dict(influences)
        _check_branches(self._known)
        self.per_position = order.per_position
        self.rounds = as_parameter("n_rounds", order.rounds)
        for name, influence in self.influences.items():
            if isinstance(influence, InfluenceSpec):
                _check_doses(name, influence, order)
        n_sequences = self.rules.n_sequences()
        if order.encoding == "sequence" and n_sequences > MAX_SEQUENCES:
            raise ValueError(
                f"order.encoding is sequence, but {n_sequences} orders are legal and it takes at most "
                f"{MAX_SEQUENCES}; use keys or auto"
            )
        self.encoding = (
            "keys" if order.encoding == "keys" or n_sequences > MAX_SEQUENCES else "sequence"
        )

    def order_parameters(self) -> list[Parameter]:
        """Return the parameters that decide the order. The empty order, the base, is always among them."""
        if self.encoding == "sequence":
            labels = [SEPARATOR.join(sequence) for sequence in self.rules.sequences()]
            return [Choice("order", (BASE_LABEL, *labels))]
        lengths = range(self.rules.min_stages, self.rules.max_stages + 1)
        keys = (
            Float(_key_name(name, copy), 0.0, 1.0)
            for name in self.rules.influences
            for copy in range(1, self.rules.max_repeats + 1)
        )
        return [Choice("n_stages", (0, *lengths)), *keys]

    def parameters(self, sequence: Sequence[str] | None = None) -> list[Parameter]:
        """Return the values that may vary: of one sequence, or of all sequences together. Order left out."""
        found: dict[str, Parameter] = {}
        for prefix, name in self.positions(sequence):
            n_runs = self.rules.max_repeats if sequence is None else sequence.count(name)
            for field, value in self.values(prefix, name).items():
                if isinstance(value, Parameter) and (field != DOSE_FACTOR or n_runs > 1):
                    found[value.name] = value
        if isinstance(self.rounds, Parameter) and (sequence is None or sequence):
            found[self.rounds.name] = self.rounds
        return list(found.values())

    def suggest(self, trial: Suggester, conditional: bool) -> Params:
        """Ask a sampler for the params of one recipe.

        Args:
            trial: An Optuna trial, or anything with its `suggest_` methods.
            conditional: True asks only for values of influences that the order holds (what TPE learns from best);
                False asks for all, so that every trial has the same parameters (NSGA and GP need that).
        """
        params = {parameter.name: parameter.suggest(trial) for parameter in self.order_parameters()}
        sequence = self.sequence(params) if conditional else None
        for parameter in self.parameters(sequence):
            params[parameter.name] = parameter.suggest(trial)
        return params

    def sequence(self, params: Mapping[str, ParamValue]) -> tuple[str, ...]:
        """Return the influences, first to last, that the order parameters mean."""
        if self.encoding == "sequence":
            label = str(params["order"])
            return () if label == BASE_LABEL else tuple(label.split(SEPARATOR))
        sequence: tuple[str, ...] = ()
        n_stages = int(params["n_stages"])
        while len(sequence) < n_stages:
            # Of what may legally come next, the highest key comes next: every set of keys means a legal order.
            sequence += (
                max(
                    self.rules.legal_next(sequence, n_stages),
                    key=lambda name: float(params[_key_name(name, sequence.count(name) + 1)]),
                ),
            )
        return sequence

    def decode(self, params: Mapping[str, ParamValue]) -> Recipe:
        """Return the recipe that params mean.

        Raises:
            ValueError: The values make no legal recipe, such as an adapter that the next stage cannot continue.
        """
        stages = [
            decode_stage(name, self.values(prefix, name), params, doses)
            for prefix, name, doses in self.stages(params)
        ]
        try:
            return Recipe(stages=tuple(stages))
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error

    def stages(self, params: Mapping[str, ParamValue]) -> list[Run]:
        """Return the runs of influences that params mean, first to last, without those that have no dose."""
        return [run for run in self._runs(params) if not run.is_left_out]

    def _runs(self, params: Mapping[str, ParamValue]) -> list[Run]:
        positions = list(self.positions(self.sequence(params)))
        values = {prefix: self.values(prefix, name) for prefix, name in positions}
        n_rounds = int(_decided(self.rounds, params)) if positions else 1
        left: dict[str, list[dict[str, int]]] = {}
        for prefix, own in values.items():
            n_runs = n_rounds * sum(other == prefix for other, _ in positions)
            factor = own[DOSE_FACTOR] if DOSE_FACTOR in own and n_runs > n_rounds else 1.0
            doses = {
                field: round_doses(total, n_rounds)
                if n_rounds > 1
                else repeat_doses(total, _decided(factor, params), n_runs)
                for field in dose_fields(own)
                for total in (int(_decided(own[field], params)),)
            }
            left[prefix] = [
                {field: each[n] for field, each in doses.items()} for n in range(n_runs)
            ]
        return [Run(prefix, name, left[prefix].pop(0)) for prefix, name in positions * n_rounds]

    def prefix(self, params: Mapping[str, ParamValue], n_stages: int) -> Params | None:
        """Return params that mean the first stages of a recipe; None if the space has no such recipe.

        Args:
            params: Of the whole recipe; values that the shorter one does not use are kept.
            n_stages: At least 1, at most those of the recipe.
        """
        sequence, runs = self.sequence(params), self._runs(params)
        n_runs = [at for at, run in enumerate(runs, 1) if not run.is_left_out][n_stages - 1]
        order = sequence[:n_runs]
        found = {**params, **self._encode_order(order)}
        if isinstance(self.rounds, Parameter):
            # Rounds that were not run take their part of the dose with them.
            found[self.rounds.name] = -(-n_runs // len(sequence))
            for prefix, name, doses in runs[: len(order)]:
                for field in doses:
                    value = self.values(prefix, name)[field]
                    if isinstance(value, Parameter):
                        done = [one.doses[field] for one in runs[:n_runs] if one.prefix == prefix]
                        found[value.name] = sum(done)
        try:
            self.rules.check(order)
            if self.decode(found) != self.decode(params).prefix(n_stages):
                return None
        except ValueError:
            return None
        is_within = all(each.match(found[each.name]) is not None for each in self.parameters(order))
        return found if is_within else None

    def sample(self, seed: int) -> Params:
        """Return random params, repeatable from the seed; the base itself is not drawn."""
        suggester = RandomSuggester(seed)
        while not self.stages(params := self.suggest(suggester, conditional=True)):
            pass
        return params

    def fill(self, params: Mapping[str, ParamValue], seed: int) -> Params:
        """Return params with the values that they leave open drawn at random, repeatable from the seed.

        Args:
            params: As `encode` returns them: the order is decided.
            seed: Of the draws.
        """
        suggester = RandomSuggester(seed)
        drawn = {
            parameter.name: parameter.suggest(suggester)
            for parameter in self.parameters(self.sequence(params))
        }
        return drawn | dict(params)

    def encode(self, order: Sequence[str], values: Mapping[str, ParamValue]) -> Params:
        """Return the params that fix an order and some values, as for a baseline; the rest stays open.

        Values come back as a sampler would give them: 16 of a choice among 16.0 and 32.0 is 16.0.

        Raises:
            ValueError: The order is not legal, a name is unknown, or a value is outside its range.
        """
        self.rules.check(order)
        open_values = {parameter.name: parameter for parameter in self.parameters(order)}
        params = self._encode_order(tuple(order))
        for name, value in values.items():
            if name not in open_values:
                near = get_close_matches(name, open_values, n=1)
                hint = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else f"open here: {', '.join(open_values) or 'none'}"
                )
                raise ValueError(
                    f"values.{name} is not a value that varies in {' > '.join(order) or 'base'}; {hint}"
                )
            matched = open_values[name].match(value)
            if matched is None:
                raise ValueError(
                    f"values.{name} is {value!r}; allowed: {open_values[name].describe()}"
                )
            params[name] = matched
        return params

    def values(self, prefix: str, influence: str) -> dict[str, FieldValue]:
        """Return every value of an influence by field, fixed or to be searched; see `influence_values`."""
        return influence_values(prefix, self.influences[influence], self._known)

    def positions(self, sequence: Sequence[str] | None) -> Iterator[tuple[str, str]]:
        """Yield (prefix of parameter names, influence) for each position of a sequence; None: of all that may be."""
        if sequence is None:
            positions = range(1, self.rules.max_stages + 1)
            pairs = [(position, name) for position in positions for name in self.influences]
        else:
            pairs = list(enumerate(sequence, 1))
        for position, name in pairs:
            yield (f"{name}@{position}" if self.per_position else name), name

    def _encode_order(self, order: tuple[str, ...]) -> Params:
        if self.encoding == "sequence":
            return {"order": SEPARATOR.join(order) or BASE_LABEL}
        params: Params = {
            parameter.name: 0.0
            for parameter in self.order_parameters()
            if isinstance(parameter, Float)
        }
        for position, name in enumerate(order):
            copy = order[:position].count(name) + 1
            params[_key_name(name, copy)] = 1.0 - position / (len(order) + 1)
        return {"n_stages": len(order), **params}


def _decided(value: FieldValue, params: Mapping[str, ParamValue]) -> float:
    """Return a number that is fixed or among the params."""
    found = params[value.name] if isinstance(value, Parameter) else value
    assert isinstance(found, int | float)
    return found


def _check_doses(name: str, influence: InfluenceSpec, order: OrderSpec) -> None:
    """Refuse doses of an influence's runs that contradict the order.

    Raises:
        ValueError: They do.
    """
    least, most = ends(influence.dose_tokens)
    if most <= 0:
        raise ValueError(
            f"influences.{name}.dose_tokens is never above 0, so it never runs; leave the influence out"
        )
    if influence.repeat is not None:
        if order.per_position and order.max_repeats > 1:
            raise ValueError(
                f"order.per_position gives each run of {name} a dose of its own, and repeat.dose_factor another; "
                "remove one of both"
            )
        least = repeat_doses(
            int(least), min(1.0, ends(influence.repeat.dose_factor)[0]), order.max_repeats
        )[-1]
    if least == 0 and order.min_stages > 1:
        raise ValueError(
            f"order.min_stages is {order.min_stages}, and the dose of {name} may become 0, which leaves the stage out; "
            "set min_stages to 1, or raise the dose"
        )


def _key_name(influence: str, copy: int) -> str:
    return f"order.{influence}" if copy == 1 else f"order.{influence}.{copy}"


def _check_branches(influences: Mapping[str, AnyInfluence]) -> None:
    """Raise ValueError if a branch names what is no influence, or one that combines models itself."""
    for name, spec in influences.items():
        for branch, part in spec.branches.items() if isinstance(spec, ParallelSpec) else ():
            for stage in part.stages:
                if not isinstance(influences.get(stage), InfluenceSpec):
                    known = [
                        key for key, one in influences.items() if isinstance(one, InfluenceSpec)
                    ]
                    raise ValueError(
                        f"influence {name}: branch {branch} names {stage!r}; branches hold influences that train: "
                        f"{', '.join(known)}"
                    )
