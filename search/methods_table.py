"""What methods and adapters there are, as rows: what each moves, reads, costs and may hand off. No torch.

Names, formats, settings and handoffs are read from the tables that training uses; only the words are written here. A
test fails when a method, a loss or a kind of adapter has none.

What a token of the dose costs is a ratio to a token of SFT on all weights. It is measured where `results/` has figures,
and else counted in passes through the model: forward 1, backward 1 for activations and 1 for the weights, if these
train (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, has the count of operations behind it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from pydantic import TypeAdapter

from search.check_methods import METHOD_FORMATS
from spaces.adapter import (
    Adapter,
    Full,
    LowRank,
    handoff_conflict,
    quantised_conflict,
    stack_conflict,
)
from spaces.adapter_spec import AdapterSpec, adapter_data, adapter_values
from spaces.combine import CombinationSpec
from spaces.influence import InfluenceSpec, MergeSpec, ParallelSpec
from spaces.loss import LOSS_SETTINGS, SETTINGS, LossName
from spaces.recipe import Handoff, Method
from spaces.spec import Spec

Origin = Literal["unit", "measured", "counted"]
COMBINING: dict[str, type[Spec]] = {"parallel": ParallelSpec, "merge": MergeSpec}
"""Methods that combine models instead of optimising a loss, and what study.yaml says of them."""
JOINT_ONLY = ("terms", "weights", "arbitration")
"""Settings of influences that belong to `joint` alone."""


class MethodWords(NamedTuple):
    """What no table says about a loss or method."""

    does: str
    """What it optimises, in a few words."""
    n_reference_passes: int
    """Forward passes per token without gradients, beside the training pass."""
    paper: str
    """Where it comes from; empty where there is no one paper."""


METHOD_WORDS: dict[str, MethodWords] = {
    "sft": MethodWords("likelihood of the answers", 0, ""),
    "dpo": MethodWords(
        "chosen over rejected, against the model as received",
        1,
        "Rafailov et al. 2023, arXiv 2305.18290",
    ),
    "ipo": MethodWords("as dpo, towards a fixed margin", 1, "Azar et al. 2023, arXiv 2310.12036"),
    "orpo": MethodWords(
        "likelihood of the chosen plus odds over the rejected; no reference",
        0,
        "Hong et al. 2024, arXiv 2403.07691",
    ),
    # Beside the reference of the answers: reference and policy on answers of the prompt before.
    "kto": MethodWords(
        "good and bad answers, paired or not, against the model as received",
        3,
        "Ethayarajh et al. 2024, arXiv 2402.01306",
    ),
    "simpo": MethodWords(
        "chosen over rejected per token, by a margin; no reference",
        0,
        "Meng et al. 2024, arXiv 2405.14734",
    ),
    "kl": MethodWords(
        "divergence from the model as received, on the rows of another term; only in joint", 1, ""
    ),
    "joint": MethodWords("weighted sum of losses, each on its own sources", 0, ""),
    "parallel": MethodWords(
        "branches of other influences from one parent, their changes combined with weights",
        0,
        "Ilharco et al. 2022, arXiv 2212.04089; ties: 2306.01708; dare: 2311.03099",
    ),
    "merge": MethodWords(
        "models of the stage store and the one as received, combined with weights; trains nothing",
        0,
        "as parallel",
    ),
}
ADAPTER_MOVES: dict[str, str] = {
    "full": "the weights themselves: all parameters, or those of groups, modules and layers",
    "lora": "low-rank updates beside frozen linear modules: rank x (inputs + outputs) parameters for each module",
    "adalora": "as lora, with ranks allocated while training: init_rank x (inputs + outputs + 1) for each module",
}
"""Kind of adapter to what it moves."""


class Measured(NamedTuple):
    """A ratio that was measured."""

    method: str
    adapter: str
    ratio: float
    """Seconds per token of the dose, reference included, divided by those of SFT on all weights of the same model."""
    source: str
    """File in the repository."""
    model: str
    """What was trained on what."""


_NOTES = ("results/notes_trainer.md", "SmolLM2-135M on a CPU")
_REPLAY = ("results/replay/table.parquet", "0.76M parameters on a CPU")
MEASURED = (
    # Loop seconds of 24 rows with 974 tokens and of 24 pairs with 2,044, which tests/benchmarks/bench_stages.py reads.
    Measured("sft", "lora", 0.90, *_NOTES),
    Measured("dpo", "full", 1.01, *_NOTES),
    Measured("dpo", "lora", 1.06, *_NOTES),
    Measured("sft", "lora", 1.13, *_REPLAY),
    Measured("dpo", "lora", 1.51, *_REPLAY),
)
"""The one on the largest model comes first."""


@dataclass(frozen=True)
class Cost:
    """What a token of the dose costs, as a ratio to SFT on all weights."""

    adapter: str
    """Kind of adapter."""
    ratio: float
    """1 is SFT on all weights."""
    origin: Origin
    """Whether it was measured or counted."""
    source: str
    """Where the measurement is, or how many passes were counted."""


@dataclass(frozen=True)
class MethodRow:
    """One method, or a loss that is only a term of `joint`."""

    name: str
    """As study.yaml writes it."""
    is_method: bool
    """False for what is only a term of `joint`."""
    does: str
    """What it optimises."""
    formats: tuple[str, ...]
    """Formats of sources that it reads; empty where parts or terms read, and for `kl`."""
    settings: dict[str, str]
    """Its own settings and their defaults."""
    costs: tuple[Cost, ...]
    """By kind of adapter; empty for `joint`, `parallel` and `merge`, whose tokens cost what those of their parts do."""
    paper: str
    """Where it comes from."""


@dataclass(frozen=True)
class AdapterRow:
    """One kind of adapter, or a variant of it that a setting switches on."""

    name: str
    """Kind, and the setting of a variant, such as `lora dora`."""
    kind: str
    """Kind."""
    moves: str
    """What it moves."""
    handoffs: tuple[str, ...]
    """Handoffs that are legal after it."""
    refused: dict[str, str]
    """Handoffs that are not, and why."""
    stacked_under: tuple[str, ...]
    """Kinds and variants that may train while it is stacked; empty where it cannot be stacked."""
    settings: dict[str, str]
    """Settings and defaults; empty for variants."""
    papers: tuple[str, ...]
    """Where it comes from."""


def method_rows() -> list[MethodRow]:
    """Return all methods, and the losses that are only terms of `joint`."""
    methods = (*get_args(Method), *COMBINING)
    terms = [name for name in get_args(LossName) if name not in methods]
    return [_method_row(name, name in methods) for name in (*methods, *terms)]


def shared_settings() -> dict[str, str]:
    """Return the settings that every method has, with their defaults; empty text where there is none."""
    left_out = {*SETTINGS, *JOINT_ONLY, "method", "adapter"}
    fields = InfluenceSpec.model_fields
    return {name: _default_text(field) for name, field in fields.items() if name not in left_out}


def adapter_rows(is_quantised: bool = False) -> list[AdapterRow]:
    """Return all kinds of adapters, each followed by its variants.

    Args:
        is_quantised: Whether the base has 4 or 8 bits; then handoffs and kinds are fewer.
    """
    known = _variants()
    return [_adapter_row(name, known, is_quantised) for name in known]


def adapter_kinds() -> dict[str, Any]:
    """Return kind to its spec in study.yaml."""
    return {
        spec.model_fields["kind"].annotation.__args__[0]: spec
        for spec in get_args(get_args(AdapterSpec)[0])
    }


def token_cost(method: str, adapter: str) -> Cost:
    """Return what a token of the dose costs with a loss and a kind of adapter."""
    if (method, adapter) == ("sft", "full"):
        return Cost(adapter, 1.0, "unit", "what all others are compared with")
    for measured in MEASURED:
        if (measured.method, measured.adapter) == (method, adapter):
            source = f"{measured.source}: {measured.model}"
            return Cost(adapter, measured.ratio, "measured", source)
    return counted_cost(method, adapter)


def counted_cost(method: str, adapter: str) -> Cost:
    """Return what a token costs in passes: three are a forward and a backward pass with gradients of all weights."""
    words = METHOD_WORDS.get(method)
    n_forward = 1 + (words.n_reference_passes if words else 0)
    n_backward = 2 if adapter == "full" else 1
    told = f"{n_forward} forward and {n_backward} backward of 3 passes"
    return Cost(adapter, round((n_forward + n_backward) / 3, 2), "counted", told)


def default_adapter(kind: str, **changes: object) -> Full | LowRank:
    """Return an adapter of a kind with its defaults, as a stage has it."""
    values = adapter_values("adapter", adapter_kinds()[kind](kind=kind))
    decided: Any = {**values, **changes}
    adapter: Full | LowRank = TypeAdapter(Adapter).validate_python(adapter_data(decided))
    return adapter


def _method_row(name: str, is_method: bool) -> MethodRow:
    words = METHOD_WORDS.get(name, MethodWords("", 0, ""))
    settings = {key: f"{value:g}" for key, value in LOSS_SETTINGS.get(name, {}).items()}
    has_no_loss = name == "joint" or name in COMBINING
    if name == "joint":
        fields = InfluenceSpec.model_fields
        settings = {key: _default_text(fields[key]) for key in JOINT_ONLY}
    elif name in COMBINING:
        fields = COMBINING[name].model_fields
        settings = {key: "" for key in fields if key not in ("method", "combination")}
        combination = CombinationSpec.model_fields
        settings |= {key: _default_text(field) for key, field in combination.items()}
    costs = () if has_no_loss else tuple(token_cost(name, kind) for kind in adapter_kinds())
    formats = METHOD_FORMATS.get(name, ())
    return MethodRow(name, is_method, words.does, formats, settings, costs, words.paper)


def _adapter_row(
    name: str, known: dict[str, tuple[Full | LowRank, str]], is_quantised: bool
) -> AdapterRow:
    adapter, paper = known[name]
    kind = adapter.kind
    reasons = {
        handoff: handoff_conflict(adapter, handoff)
        or (quantised_conflict(adapter, handoff) if is_quantised else None)
        for handoff in get_args(Handoff)
    }
    handoffs = tuple(handoff for handoff, reason in reasons.items() if reason is None)
    under: tuple[str, ...] = ()
    if not isinstance(adapter, Full) and {"stack", "detach"} & set(handoffs):
        under = tuple(
            other
            for other, (follower, _) in known.items()
            if stack_conflict(follower, [adapter]) is None
        )
    is_variant = name != kind
    return AdapterRow(
        name=name,
        kind=kind,
        moves="" if is_variant else ADAPTER_MOVES.get(kind, ""),
        handoffs=handoffs,
        refused={handoff: reason for handoff, reason in reasons.items() if reason is not None},
        stacked_under=under,
        settings={} if is_variant else _settings(kind),
        papers=(paper,) if is_variant and paper else () if is_variant else _papers(type(adapter)),
    )


def _settings(kind: str) -> dict[str, str]:
    fields = adapter_kinds()[kind].model_fields
    return {name: _default_text(field) for name, field in fields.items() if name != "kind"}


def _variants() -> dict[str, tuple[Full | LowRank, str]]:
    """Return name to adapter and paper: each kind, and each setting of it that is a switch or one of several words."""
    found: dict[str, tuple[Full | LowRank, str]] = {}
    for kind in adapter_kinds():
        plain = default_adapter(kind)
        found[kind] = (plain, "")
        for field, info in type(plain).model_fields.items():
            if field == "kind":
                continue
            told = " ".join((info.description or "").split())
            if info.annotation is bool:
                found[f"{kind} {field}"] = (default_adapter(kind, **{field: True}), _paper(told))
            for word in get_args(info.annotation) if _is_words(info.annotation) else ():
                if word != info.default:
                    of_word = told.partition(f"`{word}` (")[2].partition(")")[0]
                    adapter = default_adapter(kind, **{field: word})
                    found[f"{kind} {word}"] = (adapter, of_word if "arXiv" in of_word else "")
    return found


def _is_words(annotation: Any) -> bool:
    words = get_args(annotation)
    return len(words) > 1 and all(isinstance(word, str) for word in words)


def _papers(adapter: type[Full] | type[LowRank]) -> tuple[str, ...]:
    """Return the papers of a kind: its own, and those of settings that are numbers."""
    fields = adapter.model_fields.values()
    told = [adapter.__doc__ or ""] + [
        info.description or "" for info in fields if info.annotation in (int, float)
    ]
    return tuple(paper for text in told if (paper := _paper(text)))


def _paper(text: str) -> str:
    found = re.search(r"([^(),]+(?: \d{4})?, arXiv [\d.]+\d)", " ".join(text.split()))
    return found.group(1).strip() if found else ""


def _default_text(field: Any) -> str:
    """Return a field's default as study.yaml writes it; empty where there is none."""
    if field.is_required() or field.default in (None, {}, ""):
        return ""
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)
