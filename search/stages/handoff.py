"""What a stage finds and what it leaves: which weights train, which adapters lie on the model, what is merged.

merge     the adapter is folded into the weights at once
stack     it stays on the model, active and frozen
detach    it is active until the next stage begins, off while that one trains, and from then on stacked
continue  it stays active, and the next stage, with equal adapter settings, trains it on
"""

from __future__ import annotations

import torch

from search.errors import StageError
from search.stages.adapters import (
    activate,
    adapter_parameters,
    add_adapter,
    dora_conflict,
    merge_adapter,
    merged_names,
)
from search.stages.model_ref import ModelRef, StackedAdapter
from search.stages.places import full_parameters
from spaces.recipe import Full, Lora, Stage


def begin(ref: ModelRef, stage: Stage) -> list[torch.nn.Parameter]:
    """Prepare the model for a stage and return the parameters that it trains; all others are frozen.

    Raises:
        StageError: The stage cannot follow the one before it, or its targets or layers are not in this model.
    """
    ref.n_stages += 1
    continued = _continued(ref, stage)
    model = ref.model
    if isinstance(stage.adapter, Full):
        trained = full_parameters(model, stage.adapter)
        _keep(ref, list(trained))
    else:
        if continued is None:
            _check_dora(ref, stage.adapter)
            continued = StackedAdapter(f"stage{ref.n_stages}", stage.adapter, stage.handoff)
            add_adapter(model, continued.name, stage.adapter)
            ref.adapters.append(continued)
        continued.handoff = stage.handoff
        trained = adapter_parameters(model, continued.name)
    # An adapter that this stage trains is on, whatever its own handoff will be.
    activate(
        model,
        [
            adapter.name
            for adapter in ref.adapters
            if adapter is continued or adapter.handoff != "detach"
        ],
    )
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return list(trained.values())


def end(ref: ModelRef, stage: Stage) -> None:
    """Apply a stage's handoff and leave the model ready for evaluation."""
    model = ref.model
    for adapter in ref.adapters[: -1 if isinstance(stage.adapter, Lora) else None]:
        adapter.handoff = "stack"
    if isinstance(stage.adapter, Lora) and stage.handoff == "merge":
        merged = ref.adapters.pop()
        _keep(ref, merged_names(model, merged.name))
        merge_adapter(model, merged.name)
    activate(model, [adapter.name for adapter in ref.adapters])
    for name, parameter in model.named_parameters():
        # As the base was loaded; generation is slower with a frozen head.
        parameter.requires_grad_(".lora_" not in name)


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


def _check_dora(ref: ModelRef, settings: Lora) -> None:
    conflict = dora_conflict(settings, [adapter.settings for adapter in ref.adapters])
    if conflict is not None:
        raise StageError(conflict)


def _keep(ref: ModelRef, names: list[str]) -> None:
    ref.base.keep(names)
    ref.is_base_changed = True
