"""InfluenceSpec: a named combination of method, adapter, mix and dose, with values fixed or to be searched.

`AnyInfluence` also has those that combine models, `parallel` and `merge`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from spaces.adapter_spec import AdapterSpec as AdapterSpec
from spaces.adapter_spec import FullSpec as FullSpec
from spaces.adapter_spec import LoraSpec as LoraSpec
from spaces.dose import RepeatSpec as RepeatSpec
from spaces.loss import ARBITRATIONS, LOSS_SETTINGS, SETTINGS, LossName, setting_owners
from spaces.mix_spec import AnyMix, MixValue, refuse_bad_shares, sources_of
from spaces.mix_spec import CurriculumSpec as CurriculumSpec
from spaces.mix_spec import ShareRange as ShareRange
from spaces.mix_spec import SimplexSpec as SimplexSpec
from spaces.mix_spec import TemperatureSpec as TemperatureSpec
from spaces.parallel_spec import BranchSpec as BranchSpec
from spaces.parallel_spec import MemberSpec as MemberSpec
from spaces.parallel_spec import MergeSpec as MergeSpec
from spaces.parallel_spec import ParallelSpec as ParallelSpec
from spaces.spec import FloatChoice, FloatRange, FloatValue, IntValue, Spec, TextChoice, TextValue
from spaces.stage import Method


class RampSpec(Spec):
    """A weight that moves linearly with the tokens consumed: `{start: 1.0, end: {low: 0, high: 1}}`."""

    start: FloatValue
    """Weight at the start of the stage."""
    end: FloatValue
    """Weight at the end of the dose."""


def _weight_kind(value: Any) -> str:
    if isinstance(value, dict):
        if "start" in value or "end" in value:
            return "ramp"
        return "choice" if "choice" in value else "range"
    if isinstance(value, RampSpec):
        return "ramp"
    if isinstance(value, FloatChoice):
        return "choice"
    return "range" if isinstance(value, FloatRange) else "fixed"


WeightValue = Annotated[
    Annotated[float, Tag("fixed")]
    | Annotated[FloatRange, Tag("range")]
    | Annotated[FloatChoice, Tag("choice")]
    | Annotated[RampSpec, Tag("ramp")],
    Discriminator(_weight_kind),
]


class TermSpec(Spec):
    """One loss of a joint influence."""

    weight: WeightValue | None = None
    """Factor of the loss, fixed, to be searched, or from a start to an end; left out where `weights` gives it."""
    mix: MixValue = Field(default={})
    """Source to share of this loss's tokens; none for `kl`, which looks at the rows of the other losses."""
    beta: FloatValue | None = None
    """As for the method of that name."""
    gamma: FloatValue | None = None
    """As for the method of that name."""
    desirable_weight: FloatValue | None = None
    """As for the method of that name."""
    undesirable_weight: FloatValue | None = None
    """As for the method of that name."""


class InfluenceSpec(Spec):
    """A named combination of method, adapter, mix and dose."""

    method: Method
    """What is optimised: `sft`, a preference loss (`dpo`, `ipo`, `orpo`, `kto`, `simpo`), or several, `joint`."""
    adapter: AdapterSpec
    """Which weights move."""
    mix: MixValue = Field(default={})
    """Source to share of the dose, fixed (`{chat: 0.7, plain: 0.3}`), a simplex, from `start` to `end`, or by size
    (`{temperature: 2, sources: [chat, plain]}`). Every method but `joint` needs it."""
    dose_tokens: IntValue
    """Training tokens without padding. 0 leaves the influence out; with `order.rounds`, the total of all rounds."""
    repeat: RepeatSpec | None = None
    """How a further run of the influence differs from its first; needs `order.max_repeats` above 1."""
    learning_rate: FloatValue
    """Peak learning rate of AdamW."""
    beta: FloatValue | None = None
    """Strength of the pull to the reference (dpo, ipo, kto; default 0.1), weight of the odds ratio (orpo; 0.1), scale
    of the reward (simpo; 2)."""
    gamma: FloatValue | None = None
    """Margin of rewards that `simpo` asks for; default 1."""
    desirable_weight: FloatValue | None = None
    """Weight of desirable answers for `kto`; default 1."""
    undesirable_weight: FloatValue | None = None
    """Weight of undesirable answers for `kto`; default 1."""
    max_passes: float | None = Field(default=None, gt=0)
    """Most often that a source's tokens may be consumed in one stage; a stage that would need more is refused."""
    terms: dict[LossName, TermSpec] = Field(default={})
    """Losses of `joint` by name: `sft`, preference losses, and `kl` to the model as received."""
    weights: SimplexSpec | None = None
    """Weights of all terms of `joint` as shares that sum to 1, to be searched."""
    arbitration: TextValue = "sum"
    """How `joint` makes one gradient of several: `sum`, `pcgrad` or `normalised`."""
    handoff: TextValue = "merge"
    """`merge`, `stack`, `detach` or `continue`."""

    @property
    def mixes(self) -> dict[tuple[str, ...], tuple[str, AnyMix]]:
        """Every mix by its place in the influence, with the loss that draws from it."""
        if self.method != "joint":
            return {("mix",): (self.method, self.mix)}
        return {
            ("terms", name, "mix"): (name, term.mix)
            for name, term in self.terms.items()
            if name != "kl"
        }

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all sources, each once."""
        return tuple(
            dict.fromkeys(name for _, mix in self.mixes.values() for name in sources_of(mix))
        )

    @model_validator(mode="after")
    def _check(self) -> InfluenceSpec:
        _check_settings(self, self.method, f"the method is {self.method}", "")
        if self.method == "joint":
            if self.mix != {}:
                raise ValueError("mix: joint has none of its own; give each of its terms one")
            _check_terms(self.terms)
            _check_weights(self)
        else:
            for name, default in (("terms", {}), ("weights", None), ("arbitration", "sum")):
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name} belongs to joint, and the method is {self.method}; remove {name}"
                    )
            if self.mix == {}:
                raise ValueError("mix is missing or empty; name at least one source")
            refuse_bad_shares(self.mix)
        words = self.arbitration.choice if isinstance(self.arbitration, TextChoice) else None
        for word in words or (self.arbitration,):
            if word not in ARBITRATIONS:
                raise ValueError(f"arbitration {word!r} is not known: {', '.join(ARBITRATIONS)}")
        return self


AnyInfluence = Annotated[InfluenceSpec | ParallelSpec | MergeSpec, Field(discriminator="method")]


def _check_settings(holder: InfluenceSpec | TermSpec, loss: str, why: str, place: str) -> None:
    for name in SETTINGS:
        if getattr(holder, name) is not None and name not in LOSS_SETTINGS.get(loss, {}):
            raise ValueError(
                f"{place}{name} belongs to {setting_owners(name)}, and {why}; remove {name}"
            )


def _check_terms(terms: dict[LossName, TermSpec]) -> None:
    if not set(terms) - {"kl"}:
        raise ValueError("terms: joint needs at least one loss on data, such as sft or dpo")
    for name, term in terms.items():
        _check_settings(term, name, f"the term is {name}", f"terms.{name}: ")
        if name == "kl":
            if term.mix != {}:
                raise ValueError("terms.kl: draws no rows of its own; remove its mix")
        elif term.mix == {}:
            raise ValueError(f"terms.{name}: mix is missing or empty; name at least one source")
        else:
            refuse_bad_shares(term.mix)


def _check_weights(influence: InfluenceSpec) -> None:
    terms, weights = influence.terms, influence.weights
    if weights is not None:
        if set(weights.simplex) != set(terms):
            raise ValueError(f"weights must name all terms and no other: {', '.join(terms)}")
        given = [name for name, term in terms.items() if term.weight is not None]
        if given:
            raise ValueError(f"terms.{given[0]}: weight is given by weights; remove one of both")
        return
    for name, term in terms.items():
        if term.weight is None:
            raise ValueError(f"terms.{name}: weight is missing; write a number, a range or a ramp")
    if all(term.weight == 0 for name, term in terms.items() if name != "kl"):
        raise ValueError("terms: no loss on data has a weight; give one a weight above 0")
