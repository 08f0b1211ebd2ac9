"""Checks of adapters, to be searched or decided: bounds of values, places in the model, combinations. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from search.messages import KeyPath, suggest, value_text
from spaces.adapter import INITS, ON_WEIGHTS, AdaLora, Full, Lora
from spaces.adapter_spec import AdaLoraSpec, AnyAdapterSpec, layers_texts
from spaces.place import FULL_TARGETS, LAYERS_PATTERN, TARGET_MODULES, layer_numbers
from spaces.spec import BoolChoice, FloatRange, IntRange, Spec, TextChoice, Value

_MODULES = (*TARGET_MODULES["all"], "embed_tokens", "lm_head", "norm")
_MODEL_ENDS = ("lm_head", "embed_tokens")
AnyAdapter = AnyAdapterSpec | Full | Lora | AdaLora


class Finding(NamedTuple):
    """A problem before it has a line."""

    place: KeyPath
    text: str
    is_warning: bool = False


class _Bound(NamedTuple):
    is_legal: Callable[[float], bool]
    remedy: str


_POSITIVE = _Bound(lambda number: number > 0, "write a number above 0")
_COUNT = _Bound(lambda number: number >= 1, "write a whole number of at least 1")
_SHARE = _Bound(lambda number: 0 <= number < 1, "write a number from 0 to below 1")
_BOUNDS = {
    "rank": _COUNT,
    "ranks": _COUNT,
    "init_rank": _COUNT,
    "target_rank": _COUNT,
    "allocate_every_steps": _COUNT,
    "alpha": _POSITIVE,
    "alphas": _POSITIVE,
    "lr_ratio": _POSITIVE,
    "dropout": _SHARE,
    "warmup_share": _SHARE,
    "final_share": _SHARE,
    "orthogonality": _Bound(lambda number: number >= 0, "write 0 or a number above"),
    "dose_tokens": _Bound(lambda number: number >= 0, "write a whole number of at least 0"),
    "learning_rate": _POSITIVE,
}


def bound_findings(holder: Spec, place: KeyPath) -> Iterator[Finding]:
    """Yield which numbers of a spec are out of their bounds, fixed ones and those to be searched."""
    for field in type(holder).model_fields:
        if field not in _BOUNDS:
            continue
        value = getattr(holder, field)
        entries = value.items() if isinstance(value, dict) else ((None, value),)
        for name, entry in entries:
            where = (*place, field) if name is None else (*place, field, name)
            for spot, number in numbers(entry, where):
                if not _BOUNDS[field].is_legal(number):
                    yield Finding(spot, f"{number} is not possible; {_BOUNDS[field].remedy}")


def adapter_findings(
    adapter: AnyAdapter, place: KeyPath, config: dict[str, Any]
) -> Iterator[Finding]:
    """Yield what is wrong with an adapter, to be searched or decided, apart from the bounds of its numbers.

    Args:
        adapter: The adapter.
        place: Of the adapter in its file.
        config: From `base_config`.
    """
    for below, text in layers_texts(adapter.layers):
        spot = (*place, "layers", *below)
        yield from _layer_findings(text, spot, config.get("num_hidden_layers"))
    for spot, text in texts(adapter.targets, (*place, "targets")):
        is_tied = config.get("tie_word_embeddings")
        yield from _target_findings(text, spot, adapter.kind != "full", is_tied)
    if adapter.kind == "lora":
        for field in ("ranks", "alphas"):
            for name in getattr(adapter, field):
                yield from _name_findings(name, (*place, field, name), (*TARGET_MODULES, *_MODULES))
        for spot, text in texts(adapter.init, (*place, "init")):
            if text not in INITS:
                yield Finding(spot, f"{value_text(text)} is no init; {suggest(text, INITS)}")
            elif text in ON_WEIGHTS and may_be_dora(adapter):
                yield Finding(spot, f"{text} and dora exclude each other; drop one of them")
    elif isinstance(adapter, AdaLoraSpec):
        yield from _adalora_findings(adapter, place)


def may_be_dora(adapter: AnyAdapter) -> bool:
    """Tell whether an adapter is, or can become, DoRA."""
    dora = getattr(adapter, "dora", False)
    return True in dora.choice if isinstance(dora, BoolChoice) else bool(dora)


def cannot_be_continued(adapter: AnyAdapterSpec) -> str | None:
    """Return why no next stage can train on with an adapter; None if some may."""
    if adapter.kind == "adalora":
        return "AdaLoRA has spent its budget of ranks at the end of its stage"
    if adapter.kind == "lora":
        for _, text in texts(adapter.init, ()):
            if text in ON_WEIGHTS:
                return f"with init {text} what is left is a difference, not the adapter"
    return None


def texts(value: Value, place: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield the texts that a value can become, with their places."""
    if isinstance(value, TextChoice):
        for index, text in enumerate(value.choice):
            yield (*place, "choice", index), text
    else:
        yield place, str(value)


def numbers(value: object, place: KeyPath) -> Iterator[tuple[KeyPath, float]]:
    """Yield the numbers of a value, with their places: itself, the ends of a range, or the choices."""
    if isinstance(value, IntRange | FloatRange):
        yield (*place, "low"), value.low
        yield (*place, "high"), value.high
    elif isinstance(value, Spec):
        for index, number in enumerate(getattr(value, "choice", ())):
            yield (*place, "choice", index), number
    elif isinstance(value, int | float):
        yield place, value


def _adalora_findings(adapter: AdaLoraSpec, place: KeyPath) -> Iterator[Finding]:
    """Any two values that can be drawn together must go together."""
    lowest = min(number for _, number in numbers(adapter.init_rank, ()))
    highest = max(number for _, number in numbers(adapter.target_rank, ()))
    if highest >= lowest:
        yield Finding(
            (*place, "target_rank"),
            f"{highest} is not below init_rank, which may be {lowest}, so nothing would be pruned; "
            "lower it, or use kind: lora",
        )
    warmup, final = (
        max(number for _, number in numbers(value, ()))
        for value in (adapter.warmup_share, adapter.final_share)
    )
    if warmup + final >= 1:
        yield Finding(
            (*place, "final_share"),
            f"{final:g} and a warmup_share of {warmup:g} leave no step for pruning; "
            "make their sum smaller than 1",
        )


def _layer_findings(text: str, place: KeyPath, n_layers: object) -> Iterator[Finding]:
    if not re.fullmatch(LAYERS_PATTERN, text):
        remedy = (
            "write all, or layer numbers such as 0-14 and shares such as 50%-100% joined by commas"
        )
        yield Finding(place, f"{value_text(text)} is not a layer range; {remedy}")
        return
    if text == "all":
        return
    for part in text.split(","):
        ends = [int(end.rstrip("%")) for end in part.split("-")]
        low, high = ends[0], ends[-1]
        is_share = part.endswith("%")
        if low > high or (is_share and (low == high or high > 100)):
            remedy = "from below 100% up to 100%" if is_share else "the smaller number first"
            yield Finding(place, f"{value_text(part)} selects no layers; write {remedy}")
            return
    if isinstance(n_layers, int) and n_layers > 0:
        try:
            layer_numbers(text, n_layers)
        except ValueError:
            yield Finding(
                place, f"{value_text(text)} does not fit the base; its layers are 0-{n_layers - 1}"
            )


def _target_findings(
    text: str, place: KeyPath, is_lora: bool, is_tied: object
) -> Iterator[Finding]:
    groups = (*TARGET_MODULES, *(() if is_lora else FULL_TARGETS))
    if text == "everything":
        if is_lora:
            yield Finding(
                place, "everything is for full adapters; write all, attention, mlp or names"
            )
        return
    for name in (part.strip() for part in text.split(",")):
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            yield Finding(
                place, f"{value_text(name)} is not a module name; write names joined by commas"
            )
        elif name == "everything":
            yield Finding(place, "everything stands alone; write it alone or list names")
        elif is_lora and name in FULL_TARGETS:
            yield Finding(place, f"{name} is for full adapters; leave it out, or use kind: full")
        elif is_lora and name in _MODEL_ENDS:
            what = "shares its weight" if is_tied else "must not share its weight"
            yield Finding(
                place,
                f"{name} {what} with another module, or LoRA on it cannot be merged; "
                "leave it out, or use kind: full",
                is_warning=is_tied is not True,
            )
        else:
            yield from _name_findings(name, place, (*groups, *_MODULES))


def _name_findings(name: str, place: KeyPath, known: tuple[str, ...]) -> Iterator[Finding]:
    """Other models call their modules otherwise, so a name that resembles none of ours is a warning."""
    name = name.rsplit(".", 1)[-1]  # A module may be named by the end of its path.
    if name not in known:
        is_slip = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        text = f"{name} is no module of Llama-like models; {suggest(name, known)}"
        yield Finding(place, text, is_warning=not is_slip)
