"""Checks of what influences and recipe files say: bounds of values, places in the model, handoffs. No torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from search.base_files import resolve_base
from search.errors import SpecError
from search.messages import KeyPath, suggest, value_text
from search.spec import BaseSpec, StudySpec
from spaces.influence import FullSpec, InfluenceSpec, LoraSpec
from spaces.recipe import TARGET_MODULES, Full, Lora, layer_range
from spaces.spec import LAYERS_PATTERN, BoolChoice, FloatRange, IntRange, Spec, TextChoice, Value

TRAINING_FORMATS = {
    "sft": ("messages", "prompt-completion", "text"),
    "dpo": ("preference",),
}
"""Method to the formats of sources that it trains on."""
HANDOFFS = ("merge", "stack", "detach", "continue")
_MODULES = (*TARGET_MODULES["all"], "embed_tokens", "lm_head", "norm")
_MODEL_ENDS = ("lm_head", "embed_tokens")


class Finding(NamedTuple):
    """A problem before it has a line."""

    place: KeyPath
    text: str
    is_warning: bool = False


class _Bound(NamedTuple):
    is_legal: Callable[[float], bool]
    remedy: str


_POSITIVE = _Bound(lambda number: number > 0, "write a number above 0")
_BOUNDS = {
    "rank": _Bound(lambda number: number >= 1, "write a whole number of at least 1"),
    "alpha": _POSITIVE,
    "dropout": _Bound(lambda number: 0 <= number < 1, "write a number from 0 to below 1"),
    "dose_tokens": _Bound(lambda number: number >= 1, "write a whole number of at least 1"),
    "learning_rate": _POSITIVE,
    "beta": _POSITIVE,
}


def influence_findings(spec: StudySpec, root: Path) -> Iterator[Finding]:
    """Yield what is wrong inside the influences.

    Args:
        spec: The study.
        root: Folder of the study file, to find out how many layers a local base has.
    """
    config = base_config(spec.base, root)
    for name, influence in spec.influences.items():
        place: KeyPath = ("influences", name)
        adapter = influence.adapter
        for holder, where in ((influence, place), (adapter, (*place, "adapter"))):
            for field in type(holder).model_fields:
                if field in _BOUNDS:
                    value = getattr(holder, field)
                    yield from _number_findings(value, (*where, field), _BOUNDS[field])
        yield from adapter_findings(adapter, (*place, "adapter"), config)
        for spot, text in _texts(influence.handoff, (*place, "handoff")):
            yield from _handoff_findings(spec, name, text, spot)
            yield from _dora_findings(spec, name, text, spot)


def adapter_findings(
    adapter: FullSpec | LoraSpec | Full | Lora, place: KeyPath, config: dict[str, Any]
) -> Iterator[Finding]:
    """Yield what is wrong with the layers and targets of an adapter, to be searched or decided.

    Args:
        adapter: The adapter.
        place: Of the adapter in its file.
        config: From `base_config`.
    """
    for spot, text in _texts(adapter.layers, (*place, "layers")):
        yield from _layer_findings(text, spot, config.get("num_hidden_layers"))
    for spot, text in _texts(adapter.targets, (*place, "targets")):
        is_tied = config.get("tie_word_embeddings")
        yield from _target_findings(text, spot, adapter.kind == "lora", is_tied)


def base_config(base: BaseSpec, root: Path) -> dict[str, Any]:
    """Return the configuration of a local base; empty where only the model itself knows."""
    if base.gguf_file is not None:
        return {}
    try:
        folder = resolve_base(base, root).folder
        config = json.loads((folder / "config.json").read_text()) if folder is not None else {}
    except (SpecError, OSError, ValueError):
        return {}  # base_findings says what is wrong with the base.
    return config if isinstance(config, dict) else {}


def _number_findings(value: object, place: KeyPath, bound: _Bound) -> Iterator[Finding]:
    for spot, number in _numbers(value, place):
        if not bound.is_legal(number):
            yield Finding(spot, f"{number} is not possible; {bound.remedy}")


def _numbers(value: object, place: KeyPath) -> Iterator[tuple[KeyPath, float]]:
    if isinstance(value, IntRange | FloatRange):
        yield (*place, "low"), value.low
        yield (*place, "high"), value.high
    elif isinstance(value, Spec):
        for index, number in enumerate(getattr(value, "choice", ())):
            yield (*place, "choice", index), number
    elif isinstance(value, int | float):
        yield place, value


def _texts(value: Value, place: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, TextChoice):
        for index, text in enumerate(value.choice):
            yield (*place, "choice", index), text
    else:
        yield place, str(value)


def _layer_findings(text: str, place: KeyPath, n_layers: object) -> Iterator[Finding]:
    if not re.fullmatch(LAYERS_PATTERN, text):
        remedy = "write all, layer numbers such as 0-14, or shares such as 50%-100%"
        yield Finding(place, f"{value_text(text)} is not a layer range; {remedy}")
        return
    if text == "all":
        return
    low, high = (int(end.rstrip("%")) for end in text.split("-"))
    is_share = text.endswith("%")
    if low > high or (is_share and (low == high or high > 100)):
        remedy = "from below 100% up to 100%" if is_share else "the smaller number first"
        yield Finding(place, f"{value_text(text)} selects no layers; write {remedy}")
    elif isinstance(n_layers, int) and n_layers > 0:
        try:
            layer_range(text, n_layers)
        except ValueError:
            yield Finding(
                place, f"{value_text(text)} does not fit the base; its layers are 0-{n_layers - 1}"
            )


def _target_findings(
    text: str, place: KeyPath, is_lora: bool, is_tied: object
) -> Iterator[Finding]:
    groups = (*TARGET_MODULES, *(() if is_lora else ("everything",)))
    if text in groups:
        return
    if text == "everything":
        yield Finding(place, "everything is for full adapters; write all, attention, mlp or names")
        return
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            yield Finding(
                place, f"{value_text(name)} is not a module name; write names joined by commas"
            )
        elif name in groups:
            yield Finding(
                place, f"{name} is a group and stands alone; write it alone or list names"
            )
        elif is_lora and name in _MODEL_ENDS:
            what = "shares its weight" if is_tied else "must not share its weight"
            yield Finding(
                place,
                f"{name} {what} with another module, or LoRA on it cannot be merged; "
                "leave it out, or use kind: full",
                is_warning=is_tied is not True,
            )
        elif name not in _MODULES:
            is_slip = difflib.get_close_matches(name, (*groups, *_MODULES), n=1, cutoff=0.75)
            text = (
                f"{name} is no module of Llama-like models; {suggest(name, (*groups, *_MODULES))}"
            )
            yield Finding(place, text, is_warning=not is_slip)


def _handoff_findings(spec: StudySpec, name: str, text: str, place: KeyPath) -> Iterator[Finding]:
    adapter = spec.influences[name].adapter
    if text not in HANDOFFS:
        yield Finding(place, f"{value_text(text)} is not a handoff; {suggest(text, HANDOFFS)}")
    elif adapter.kind == "full" and text != "merge":
        yield Finding(place, f"{text} needs an adapter, and full weights only merge; write merge")
    elif text == "continue":
        for follower in _followers(spec, name):
            reason = _cannot_continue(adapter, spec.influences[follower])
            if reason is not None:
                yield Finding(
                    place,
                    f"continue passes the adapter to {follower}, which may come next, but {reason}; "
                    "make both adapters equal and fixed, or bar that order with order.before",
                )
                return


def _dora_findings(spec: StudySpec, name: str, text: str, place: KeyPath) -> Iterator[Finding]:
    """DoRA rescales what else lies on the weights, so it neither follows nor precedes a stacked adapter."""
    if text not in ("stack", "detach") or spec.influences[name].adapter.kind == "full":
        return
    for follower in _followers(spec, name):
        if spec.influences[follower].adapter.kind == "full":
            continue
        for influence in (name, follower):
            if _may_be_dora(spec.influences[influence]):
                yield Finding(
                    place,
                    f"{text} leaves the adapter on the model for {follower}, which may run later, and "
                    f"{influence} may be DoRA, which lies on bare weights only; write merge or dora: false",
                )
                return


def _may_be_dora(influence: InfluenceSpec) -> bool:
    dora = getattr(influence.adapter, "dora", False)
    return True in dora.choice if isinstance(dora, BoolChoice) else bool(dora)


def _followers(spec: StudySpec, name: str) -> Iterator[str]:
    """Yield the influences that may run after another; any of them may be the next."""
    order = spec.order
    allowed = order.influences or tuple(spec.influences)
    if name not in allowed or order.max_stages == 1:
        return
    for other in allowed:
        may_repeat = other != name or order.max_repeats > 1
        if other in spec.influences and may_repeat and (other, name) not in order.before:
            yield other


def _cannot_continue(adapter: FullSpec | LoraSpec, following: InfluenceSpec) -> str | None:
    if following.adapter.kind == "full":
        return "that trains full weights"
    for field in type(adapter).model_fields:
        value, other = getattr(adapter, field), getattr(following.adapter, field)
        if isinstance(value, Spec) or isinstance(other, Spec):
            return f"{field} is to be searched"
        if value != other:
            return f"{field} is {value_text(value)} here and {value_text(other)} there"
    return None
