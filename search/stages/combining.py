"""Parallel and merge stages: several models become the one that goes on.

Both work on weights with all adapters folded in, so a branch may train either, and afterwards no adapter is left.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from search.errors import StageError
from search.stages.combine import Combination, changed_weights, combined, load_weights
from search.stages.model_ref import ModelRef
from search.stages.persist import Keep, combined_weights
from search.stages.places import canonical_name
from spaces.recipe import Merge, Parallel

Weights = dict[str, Tensor]
"""Canonical name to value, on the CPU, of what differs from the base."""


def combine_branches(
    ref: ModelRef, stage: Parallel, branches: Sequence[Weights], seed: int, keep: Keep | None
) -> int:
    """Make the model that which a parallel stage ends with; return how many of its parameters differ from the base.

    Args:
        ref: The model as the branches received it; changed in place.
        stage: The stage.
        branches: What `changed_weights` says of each branch's model, in the stage's order; nothing of one that is as
            received.
        seed: Of random masks.
        keep: Is given the result, to be written for `persist.restore_stage`.

    Raises:
        StageError: A branch does not fit, or weights are not finite afterwards.
    """
    received = changed_weights(ref)
    parts = [branch or received for branch in branches]
    settings = _settings(stage, [branch.weight for branch in stage.branches.values()], seed)
    return _become(ref, ChainMap(received, _base_weights(ref)), parts, settings, keep)


def combine_models(
    ref: ModelRef, stage: Merge, models: Sequence[Weights], seed: int, keep: Keep | None
) -> int:
    """Make the base the model that a merge ends with; return how many of its parameters differ from the base.

    Args:
        ref: The base; changed in place.
        stage: The stage.
        models: What `changed_weights` says of each model, in the stage's order.
        seed: Of random masks.
        keep: As in `combine_branches`.

    Raises:
        StageError: A model does not fit, or weights are not finite afterwards.
    """
    settings = _settings(stage, [member.weight for member in stage.models.values()], seed)
    return _become(ref, _base_weights(ref), models, settings, keep)


def _become(
    ref: ModelRef,
    parent: Mapping[str, Tensor],
    parts: Sequence[Weights],
    settings: Combination,
    keep: Keep | None,
) -> int:
    with torch.no_grad():
        load_weights(ref, combined(parent, parts, settings))
        parameters = dict(ref.model.named_parameters())
        names = [name for name in parameters if ref.base.is_changed(name)]
        if not all(bool(torch.isfinite(parameters[name]).all()) for name in names):
            raise StageError("combined weights are not finite; lower weights or scale")
    if keep is not None:
        keep(combined_weights(ref, names))
    ref.n_stages += 1
    return sum(parameters[name].numel() for name in names)


def _settings(stage: Parallel | Merge, weights: Sequence[float], seed: int) -> Combination:
    given = stage.combination
    return Combination(
        how=given.how,
        weights=tuple(weights),
        density=1.0 if given.density is None else given.density,
        scale=given.scale,
        normalise=given.normalise,
        rank=given.rank,
        seed=seed,
    )


def _base_weights(ref: ModelRef) -> dict[str, Tensor]:
    """Return the weights under the adapters, by canonical name; not to be changed."""
    return {
        canonical_name(name): parameter.detach()
        for name, parameter in ref.model.named_parameters()
        if ".lora_" not in name
    }
