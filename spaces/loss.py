"""Losses: which settings each takes, and a Term, the part that one loss has in a stage. Decided values.

sft     negative log-likelihood
dpo     Rafailov et al. 2023, arXiv 2305.18290
ipo     Azar et al. 2023, arXiv 2310.12036, log-probabilities averaged over tokens as in TRL; beta is their tau
kto     Ethayarajh et al. 2024, arXiv 2402.01306
orpo    Hong et al. 2024, arXiv 2403.07691; beta is their lambda; no reference
simpo   Meng et al. 2024, arXiv 2405.14734; no reference
kl      Kullback-Leibler divergence to the model as received; only beside another loss
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from spaces.spec import Grown

LossName = Literal["sft", "dpo", "ipo", "orpo", "kto", "simpo", "kl"]
Arbitration = Literal["sum", "pcgrad", "normalised"]
ARBITRATIONS = ("sum", "pcgrad", "normalised")

LOSS_SETTINGS: dict[str, dict[str, float]] = {
    "sft": {},
    "dpo": {"beta": 0.1},
    "ipo": {"beta": 0.1},
    "orpo": {"beta": 0.1},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "simpo": {"beta": 2.0, "gamma": 1.0},
    "kl": {},
}
"""Loss to its settings and their defaults: TRL's where the papers leave them open, for SimPO the paper's."""
NO_REFERENCE = ("sft", "orpo", "simpo")
"""Losses that compare the model with nothing it was before."""
SETTINGS = ("beta", "gamma", "desirable_weight", "undesirable_weight")
"""All settings of losses."""


class Mixed(Protocol):
    """What draws rows from sources, as a Stage and a Term do."""

    @property
    def mix(self) -> dict[str, float]:
        """Shares at the start."""
        ...

    @property
    def end_mix(self) -> dict[str, float] | None:
        """Shares at the end."""
        ...

    @property
    def temperature(self) -> float | None:
        """Of the sizes of the sources."""
        ...


class Term(Grown):
    """One loss of a joint stage: its weight, its own sources and its settings."""

    came_later: ClassVar[tuple[str, ...]] = (
        *("end_weight", "end_mix", "temperature"),
        *SETTINGS,
    )

    weight: float = Field(ge=0)
    """Factor of the loss, at the start if it changes. A loss without weight draws no rows and costs nothing."""
    end_weight: float | None = Field(default=None, ge=0)
    """Factor at the end of the dose; in between it moves linearly with the tokens consumed."""
    mix: dict[str, float] = Field(default={})
    """Source to share of this loss's tokens, at the start if it changes; empty for `kl`."""
    end_mix: dict[str, float] | None = None
    """Shares at the end of the dose; in between they move linearly with the tokens consumed."""
    temperature: float | None = Field(default=None, gt=0)
    """Shares are multiplied by (tokens of the source) ** (1 / temperature) and made to sum to 1 again."""
    beta: float | None = Field(default=None, gt=0)
    """As `Stage.beta`."""
    gamma: float | None = Field(default=None, ge=0)
    """As `Stage.gamma`."""
    desirable_weight: float | None = Field(default=None, ge=0)
    """As `Stage.desirable_weight`."""
    undesirable_weight: float | None = Field(default=None, ge=0)
    """As `Stage.undesirable_weight`."""

    @property
    def is_active(self) -> bool:
        """Whether the loss has a weight at any time."""
        return self.weight > 0 or bool(self.end_weight)

    def weight_at(self, progress: float) -> float:
        """Return the weight when this share of the dose is consumed, 0 to 1."""
        if self.end_weight is None:
            return self.weight
        return self.weight + (self.end_weight - self.weight) * progress

    @model_validator(mode="after")
    def _check(self) -> Term:
        if self.mix:
            check_mix(self)
        return self


def check_mix(mixed: Mixed) -> None:
    """Refuse shares that make no mix.

    Raises:
        ValueError: A share is not positive, or shares do not sum to 1.
    """
    for name, mix in (("mix", mixed.mix), ("end_mix", mixed.end_mix)):
        if mix is None:
            continue
        if not mix or any(share <= 0 for share in mix.values()):
            raise ValueError(f"{name} shares must be positive, got {mix}")
        if abs(sum(mix.values()) - 1.0) > 1e-6:
            raise ValueError(f"{name} shares sum to {sum(mix.values()):.6g}; make them sum to 1")


def canonical_mix(mixed: Mixed, source_hashes: Mapping[str, str]) -> list[list[str | float]]:
    """Return a mix without names: a sorted list of [content hash, share], or [content hash, start, end].

    Args:
        mixed: With shares.
        source_hashes: Source name to content hash; a source that is not in there keeps its name.
    """
    if mixed.end_mix is None:
        return sorted(
            [source_hashes.get(name, name), round(share, 6)] for name, share in mixed.mix.items()
        )
    return sorted(
        [
            source_hashes.get(name, name),
            round(mixed.mix.get(name, 0.0), 6),
            round(mixed.end_mix.get(name, 0.0), 6),
        ]
        for name in mix_sources(mixed)
    )


def mix_sources(mixed: Mixed) -> tuple[str, ...]:
    """Return the sources of a mix, each once."""
    return tuple(dict.fromkeys((*mixed.mix, *(mixed.end_mix or ()))))


def mix_text(mixed: Mixed) -> str:
    """Return the shares of a mix in one line, such as `chat 80% to 20%, plain 20% to 80%, temperature 2`."""
    parts = []
    for name in mix_sources(mixed):
        share = f"{name} {mixed.mix.get(name, 0.0):.0%}"
        parts.append(
            share if mixed.end_mix is None else f"{share} to {mixed.end_mix.get(name, 0.0):.0%}"
        )
    if mixed.temperature is not None:
        parts.append(f"temperature {mixed.temperature:g}")
    return ", ".join(parts)


def weights_text(terms: Mapping[LossName, Term]) -> str:
    """Return the weighted sum of losses in one line, such as `0.7 sft + (1 to 0) dpo`."""
    parts = []
    for name, term in terms.items():
        weight = f"{term.weight:.3g}"
        if term.end_weight is not None:
            weight = f"({weight} to {term.end_weight:.3g})"
        parts.append(f"{weight} {name}")
    return " + ".join(parts)


def check_settings(loss: str, given: Mapping[str, float | None]) -> None:
    """Refuse settings that a loss does not take, and demand those it takes.

    Raises:
        ValueError: A setting is missing or too many.
    """
    for name in SETTINGS:
        if (name in LOSS_SETTINGS.get(loss, {})) != (given[name] is not None):
            raise ValueError(
                f"{name} belongs to {setting_owners(name)}: give it there and only there"
            )


def setting_owners(name: str) -> str:
    """Return the losses that take a setting, such as `dpo, ipo, orpo, kto, simpo`."""
    return ", ".join(loss for loss, settings in LOSS_SETTINGS.items() if name in settings)


def check_terms(terms: Mapping[LossName, Term]) -> None:
    """Refuse terms that make no joint stage.

    Raises:
        ValueError: No loss on data has a weight at the start or at the end, a term has no sources, or wrong settings.
    """
    for name, term in terms.items():
        check_settings(name, {setting: getattr(term, setting) for setting in SETTINGS})
        if (name == "kl") != (not term.mix):
            wrong = "draws no rows of its own; remove its mix" if name == "kl" else "needs a mix"
            raise ValueError(f"terms.{name} {wrong}")
        if name == "kl" and (term.end_mix is not None or term.temperature is not None):
            raise ValueError("terms.kl draws no rows of its own; remove its mix")
    losses = [term for name, term in terms.items() if name != "kl"]
    for when, weights in (
        ("start", [term.weight_at(0.0) for term in losses]),
        ("end", [term.weight_at(1.0) for term in losses]),
    ):
        if not any(weights):
            raise ValueError(
                f"no loss on data has a weight at the {when} of the stage; "
                "give a term other than kl one above 0"
            )
