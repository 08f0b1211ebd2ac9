"""What a stage finds and what it leaves: which weights train, which adapters lie on the model, what is merged.

merge     the adapter is folded into the weights at once
stack     it stays on the model, active and frozen
detach    it is active until the next stage begins, off while that one trains, and from then on stacked
continue  it stays active, and the next stage, with equal adapter settings, trains it on

    parameters = begin(ref, stage, n_steps)
    optimizer = ...                           # of these parameters, at their rate_ratios(ref, stage)
    follow(ref, optimizer)
    ...                                       # train, read ranks(ref), keep what was trained
    end(ref, stage)
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from search.errors import StageError
from search.stages import adapters
from search.stages.adalora import Allocation, add_adalora, final_ranks, finish_adalora
from search.stages.adapters import (
    activate,
    adapter_parameters,
    add_adapter,
    merge_adapter,
    merged_names,
)
from search.stages.initial import (
    add_on_weights,
    begins_on_weights,
    finish_on_weights,
    start_name,
)
from search.stages.model_ref import ModelRef, StackedAdapter
from search.stages.places import full_parameters
from spaces.adapter import (
    AdaLora,
    Full,
    LowRank,
    handoff_conflict,
    quantised_conflict,
    stack_conflict,
)
from spaces.loss import NO_REFERENCE
from spaces.recipe import Stage


def begin(
    ref: ModelRef, stage: Stage, n_steps: int | None = None, is_restored: bool = False
) -> list[torch.nn.Parameter]:
    """Prepare the model for a stage and return the parameters that it trains; all others are frozen.

    Args:
        ref: The model, as the stage before left it.
        stage: The stage.
        n_steps: Its optimizer steps; AdaLoRA must know them.
        is_restored: Nothing will be trained; the parameters get their values from files.

    Raises:
        StageError: The stage cannot follow the one before it, or its targets or layers are not in this model.
    """
    ref.n_stages += 1
    continued = _continued(ref, stage)
    model = ref.model
    _check(ref, stage, continued)
    if isinstance(stage.adapter, Full):
        trained = full_parameters(model, stage.adapter)
        _keep(ref, list(trained))
    else:
        if continued is None:
            continued = StackedAdapter(f"stage{ref.n_stages}", stage.adapter, stage.handoff)
            _add(ref, continued, n_steps, is_restored)
            ref.adapters.append(continued)
        continued.handoff = stage.handoff
        trained = adapter_parameters(model, continued.name)
    # An adapter that this stage trains is on, whatever its own handoff will be.
    active = [
        adapter.name
        for adapter in ref.adapters
        if adapter is continued or adapter.handoff != "detach"
    ]
    if continued is not None and begins_on_weights(continued.settings):
        active.append(start_name(continued.name))
    activate(model, active)
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return list(trained.values())


def rate_ratios(ref: ModelRef, stage: Stage) -> dict[int, float]:
    """Return the ids of the parameters whose learning rate is a multiple of the stage's, and the multiple."""
    if isinstance(stage.adapter, Full):
        return {}
    return adapters.rate_ratios(ref.model, ref.adapters[-1].name, stage.adapter)


def follow(ref: ModelRef, optimizer: torch.optim.Optimizer) -> None:
    """Let what a stage's adapter does at each step happen at the steps of this optimizer; once, after `begin`."""
    if ref.adapters and ref.adapters[-1].allocation is not None:
        ref.adapters[-1].allocation.follow(optimizer)


def ranks(ref: ModelRef, stage: Stage) -> dict[str, int]:
    """Return the rank in each module that AdaLoRA has left, before `end`; empty where the settings say the ranks."""
    if not isinstance(stage.adapter, AdaLora):
        return {}
    return final_ranks(ref.model, ref.adapters[-1].name)


def frozen_start(ref: ModelRef) -> list[torch.nn.Parameter]:
    """Return the parameters that a stage's adapter needs beside those it trains, before `end`; mostly none."""
    if not ref.adapters:
        return []
    return list(adapter_parameters(ref.model, start_name(ref.adapters[-1].name)).values())


def end(ref: ModelRef, stage: Stage, look: Callable[[], None] | None = None) -> None:
    """Apply a stage's handoff and leave the model ready for evaluation.

    Args:
        ref: The model.
        stage: The stage.
        look: Called when a low-rank adapter lies on the model in its last, plain form, before it may be merged.
    """
    model = ref.model
    is_full = isinstance(stage.adapter, Full)
    for adapter in ref.adapters[: None if is_full else -1]:
        adapter.handoff = "stack"
    if not is_full:
        own = ref.adapters[-1]
        own.allocation = None
        if isinstance(stage.adapter, AdaLora):
            finish_adalora(model, own.name, stage.adapter)
        elif begins_on_weights(stage.adapter):
            finish_on_weights(model, own.name)
        if look is not None:
            look()
        if stage.handoff == "merge":
            ref.adapters.pop()
            _keep(ref, merged_names(model, own.name))
            merge_adapter(model, own.name)
    activate(model, [adapter.name for adapter in ref.adapters])
    for name, parameter in model.named_parameters():
        # As the base was loaded; generation is slower with a frozen head.
        parameter.requires_grad_(".lora_" not in name and parameter.is_floating_point())


def _add(ref: ModelRef, adapter: StackedAdapter, n_steps: int | None, is_restored: bool) -> None:
    model, settings = ref.model, adapter.settings
    if isinstance(settings, AdaLora):
        add_adalora(model, adapter.name, settings)
        if not is_restored:
            if n_steps is None:
                raise StageError("AdaLoRA needs the number of steps before it begins")
            adapter.allocation = Allocation(model, adapter.name, settings, n_steps)
    elif begins_on_weights(settings):
        add_on_weights(model, adapter.name, settings, is_restored)
    else:
        add_adapter(model, adapter.name, settings)


def _continued(ref: ModelRef, stage: Stage) -> StackedAdapter | None:
    """Return the adapter that the stage before left for this one to train on."""
    last = ref.adapters[-1] if ref.adapters else None
    if last is None or last.handoff != "continue":
        return None
    if stage.adapter != last.settings:
        raise StageError(
            f"the stage before {stage.influence!r} hands off with continue, which needs equal "
            f"adapters; before: {last.settings!r}, now: {stage.adapter!r}"
        )
    return last


def _check(ref: ModelRef, stage: Stage, continued: StackedAdapter | None) -> None:
    adapter = stage.adapter
    stacked: list[LowRank] = [one.settings for one in ref.adapters if one is not continued]
    conflict = handoff_conflict(adapter, stage.handoff)
    if continued is None:
        conflict = conflict or stack_conflict(adapter, stacked)
    if getattr(ref.model, "is_quantized", False):
        conflict = conflict or quantised_conflict(adapter, stage.handoff)
    if (
        begins_on_weights(adapter)
        and ref.precision == "bfloat16"
        and not set(stage.losses) <= set(NO_REFERENCE)
    ):
        conflict = conflict or (
            f"{stage.method} compares with the model as received, which init pissa and olora reach only in "
            "float32; set training.precision to float32, or use init default"
        )
    if conflict is not None:
        raise StageError(conflict)


def _keep(ref: ModelRef, names: list[str]) -> None:
    ref.base.keep(names)
    ref.is_base_changed = True
