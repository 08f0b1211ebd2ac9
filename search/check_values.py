"""Checks of what influences and recipe files say: bounds of values, places in the model, handoffs. No torch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.base_files import resolve_base
from search.check_adapters import (
    Finding,
    adapter_findings,
    bound_findings,
    cannot_be_continued,
    may_be_dora,
    texts,
)
from search.errors import SpecError
from search.messages import KeyPath, suggest, value_text
from search.native import is_bfloat16_slow
from search.spec import BaseSpec, StudySpec
from spaces.adapter import ON_WEIGHTS, AdaLora, Full, Lora, quantised_conflict
from spaces.adapter_spec import AnyAdapterSpec, split_conflict
from spaces.influence import InfluenceSpec, ParallelSpec
from spaces.loss import NO_REFERENCE
from spaces.spec import Spec, ends

HANDOFFS = ("merge", "stack", "detach", "continue")


def influence_findings(spec: StudySpec, root: Path) -> Iterator[Finding]:
    """Yield what is wrong inside the influences.

    Args:
        spec: The study.
        root: Folder of the study file, to find out how many layers a local base has.
    """
    config = base_config(spec.base, root)
    for name, influence in spec.training_influences.items():
        place: KeyPath = ("influences", name)
        adapter = influence.adapter
        yield from bound_findings(influence, place)
        if ends(influence.dose_tokens)[1] == 0:
            text = "0 leaves the influence out of every recipe; raise it, or remove the influence"
            yield Finding((*place, "dose_tokens"), text)
        yield from bound_findings(adapter, (*place, "adapter"))
        yield from adapter_findings(adapter, (*place, "adapter"), config)
        for spot, text in texts(influence.handoff, (*place, "handoff")):
            yield from _handoff_findings(spec, name, text, spot)
            yield from _dora_findings(spec, name, text, spot)
        yield from _precision_findings(spec, name)
        if spec.base.bits is not None:
            yield from _quantised_findings(influence, place)
    if spec.training.precision == "bfloat16" and is_bfloat16_slow(spec.compute.device):
        yield Finding(
            ("training", "precision"),
            "bfloat16 is many times slower than float32 on this machine's processor; set it to float32, "
            "or run the study elsewhere",
            is_warning=True,
        )
    yield from _generation_findings(spec)
    if spec.base.bits is not None and spec.compute.device == "cpu":
        text = f"{spec.base.bits}-bit weights need CUDA, and compute.device is cpu; remove bits"
        yield Finding(("base", "bits"), text)
    conflict = split_conflict({name: one.adapter for name, one in spec.training_influences.items()})
    if conflict is not None:
        yield Finding(("influences",), conflict)


def _generation_findings(spec: StudySpec) -> Iterator[Finding]:
    if spec.generation.backend != "vllm":
        return
    place: KeyPath = ("generation", "backend")
    if spec.compute.device == "cpu":
        yield Finding(place, "vllm needs CUDA, and compute.device is cpu; write transformers")
    elif importlib.util.find_spec("vllm") is None:
        text = (
            "vllm is not installed here; `pip install vllm` on all machines, or write transformers"
        )
        yield Finding(place, text)


def base_config(base: BaseSpec, root: Path) -> dict[str, Any]:
    """Return the configuration of a local base; empty where only the model itself knows."""
    if base.gguf_file is not None:
        return {}
    try:
        folder = resolve_base(base, root).folder
        config = json.loads(_config_text(folder / "config.json")) if folder is not None else {}
    except (SpecError, OSError, ValueError, RecursionError):
        return {}  # base_findings says what is wrong with the base.
    return config if isinstance(config, dict) else {}


def _config_text(path: Path) -> str:
    """Return a configuration; cut, and so no JSON, where it is far longer than any."""
    with path.open("rb") as stream:
        return stream.read(8 * 1024**2).decode()


def _handoff_findings(spec: StudySpec, name: str, text: str, place: KeyPath) -> Iterator[Finding]:
    adapter = spec.training_influences[name].adapter
    if text not in HANDOFFS:
        yield Finding(place, f"{value_text(text)} is not a handoff; {suggest(text, HANDOFFS)}")
    elif adapter.kind == "full" and text != "merge":
        yield Finding(place, f"{text} needs an adapter, and full weights only merge; write merge")
    elif text == "continue" and (reason := cannot_be_continued(adapter)) is not None:
        yield Finding(place, f"continue is not possible: {reason}; write merge, stack or detach")
    elif text == "continue":
        for follower in _followers(spec, name):
            reason = _cannot_continue(adapter, spec.training_influences[follower])
            if reason is not None:
                yield Finding(
                    place,
                    f"continue passes the adapter to {follower}, which may come next, but {reason}; "
                    "make both adapters equal and fixed, or bar that order with order.before",
                )
                return


def _dora_findings(spec: StudySpec, name: str, text: str, place: KeyPath) -> Iterator[Finding]:
    """DoRA rescales what else lies on the weights, so it neither follows nor precedes a stacked adapter."""
    if text not in ("stack", "detach") or spec.training_influences[name].adapter.kind == "full":
        return
    for follower in _followers(spec, name):
        if spec.training_influences[follower].adapter.kind == "full":
            continue
        for influence in (name, follower):
            if may_be_dora(spec.training_influences[influence].adapter):
                yield Finding(
                    place,
                    f"{text} leaves the adapter on the model for {follower}, which may run later, and "
                    f"{influence} may be DoRA, which lies on bare weights only; write merge or dora: false",
                )
                return


def _precision_findings(spec: StudySpec, name: str) -> Iterator[Finding]:
    """Such an adapter with its counterpart adds up to the model as received only as well as the precision allows."""
    influence = spec.training_influences[name]
    adapter = influence.adapter
    losses = influence.terms if influence.method == "joint" else (influence.method,)
    comparing = [loss for loss in losses if loss not in NO_REFERENCE]
    if adapter.kind != "lora" or spec.training.precision != "bfloat16" or not comparing:
        return
    for spot, text in texts(adapter.init, ("influences", name, "adapter", "init")):
        if text in ON_WEIGHTS:
            yield Finding(
                spot,
                f"{comparing[0]} compares with the model as received, which {text} reaches only in float32; "
                "set training.precision to float32, or use init default",
            )


def _quantised_findings(influence: InfluenceSpec, place: KeyPath) -> Iterator[Finding]:
    """Yield the values of an influence that a base of 4 or 8 bits rules out, each by itself."""
    adapter, plain = influence.adapter, Lora(rank=1, alpha=1.0)
    tried: list[tuple[KeyPath, Full | Lora | AdaLora, str]] = []
    if adapter.kind == "full":
        tried.append(((*place, "adapter", "kind"), Full(), "merge"))
    elif adapter.kind == "adalora":
        ranks = AdaLora(init_rank=2, target_rank=1, alpha=1.0)
        tried.append(((*place, "adapter", "kind"), ranks, "stack"))
    else:
        for spot, text in texts(adapter.init, (*place, "adapter", "init")):
            if text in ON_WEIGHTS:
                tried.append((spot, plain.model_copy(update={"init": text}), "stack"))
        if may_be_dora(adapter):
            dora = plain.model_copy(update={"dora": True})
            tried.append(((*place, "adapter", "dora"), dora, "stack"))
        for spot, text in texts(influence.handoff, (*place, "handoff")):
            tried.append((spot, plain, text))
    for spot, decided, handoff in tried:
        conflict = quantised_conflict(decided, handoff)
        if conflict is not None:
            yield Finding(spot, conflict)


def _followers(spec: StudySpec, name: str) -> Iterator[str]:
    """Yield the influences that may run after another; any of them may be the next."""
    order = spec.order
    allowed = order.influences or tuple(spec.influences)
    parallel = [one for one in spec.influences.values() if isinstance(one, ParallelSpec)]
    branches = [branch.stages for one in parallel for branch in one.branches.values()]
    for stages in branches:
        if name in stages:
            yield from (
                other
                for other in stages[stages.index(name) + 1 :]
                if other in spec.training_influences
            )
    has_rounds = ends(order.rounds)[1] > 1
    if name not in allowed or (order.max_stages == 1 and not has_rounds):
        return
    for other in allowed:
        may_repeat = other != name or order.max_repeats > 1
        if not has_rounds and (not may_repeat or (other, name) in order.before):
            continue
        following = spec.influences.get(other)
        if isinstance(following, InfluenceSpec):
            yield other
        elif isinstance(following, ParallelSpec):
            firsts = {branch.stages[0] for branch in following.branches.values() if branch.stages}
            yield from sorted(firsts & set(spec.training_influences))


def _cannot_continue(adapter: AnyAdapterSpec, following: InfluenceSpec) -> str | None:
    if following.adapter.kind == "full":
        return "that trains full weights"
    if following.adapter.kind != adapter.kind:
        return f"kind is {adapter.kind} here and {following.adapter.kind} there"
    for field in type(adapter).model_fields:
        value, other = getattr(adapter, field), getattr(following.adapter, field, None)
        parts = [
            part
            for one in (value, other)
            for part in (one.values() if isinstance(one, dict) else [one])
        ]
        if any(isinstance(part, Spec) for part in parts):
            return f"{field} is to be searched"
        if value != other:
            return f"{field} is {value_text(value)} here and {value_text(other)} there"
    return None
