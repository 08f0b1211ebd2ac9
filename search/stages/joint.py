"""Several losses in one stage, each with rows and a mix of its own: weight * loss, summed, or arbitrated.

Each loss has TRL's trainer, as in a stage of its own; the first runs the loop. In every step the gradients of the
losses that have a weight are computed one after the other, weighted, and made one (`conflict.py`); a loss without
weight draws no rows and does nothing, so a joint stage with one loss of weight 1 is that loss's stage, bit for bit.
Gradients of several losses are held at once: as much memory as the trained weights for each loss beyond the first.

How far the losses contradict each other is the cosine between their gradients, on all trained parameters and without
weights, at the first, the middle and the last step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from search.stages.conflict import Gradient, combine, cosines, take_gradient
from search.stages.kl import KlTerm
from search.stages.trainer import Batch, Setting, Step, Trained, go_on, refer, release, untouched
from spaces.loss import Arbitration
from spaces.recipe import Stage

LOSSES = {name: f"search.stages.{name}" for name in ("sft", "dpo", "ipo", "orpo", "kto", "simpo")}
"""Loss on data to its module, which has FORMATS, `build(setting, stage or term)` and `train(setting, stage)`. In this
order losses are computed and added up, whatever order a stage names them in: the digest does not know that one."""


class Loss(Protocol):
    """One loss of the stage."""

    def accumulate(self, model: Any, batch: Batch) -> Tensor:
        """Add its gradients on one batch to those that are there; return it, a scalar."""
        ...


class Joint:
    """Makes one gradient of several losses."""

    def __init__(
        self,
        losses: Mapping[str, Loss],
        parameters: Sequence[torch.nn.Parameter],
        arbitration: Arbitration,
        seed: int,
        n_steps: int,
    ) -> None:
        """Take the losses in the order in which they are computed.

        Args:
            losses: By name.
            parameters: All that the stage trains.
            arbitration: How gradients become one.
            seed: Of the stage.
            n_steps: Optimizer steps of the stage.
        """
        self._losses = losses
        self._parameters = parameters
        self._arbitration = arbitration
        self._seed = seed
        self._measured = {1, (n_steps + 1) // 2, n_steps}
        self.conflict_by_step: dict[int, dict[str, float]] = {}

    def accumulate(self, model: Any, step: Step, number: int) -> Tensor:
        """Compute the gradient of a step (from 1) and return the weighted sum of its losses, a scalar."""
        weights = {name: step.weights[name] for name in self._losses if name in step.weights}
        if len(weights) == 1 and self._arbitration != "normalised":
            ((name, weight),) = weights.items()
            loss = self._losses[name].accumulate(model, step.rows[name])
            for parameter in self._parameters if weight != 1.0 else ():
                if parameter.grad is not None:
                    parameter.grad *= weight
            return loss * weight
        gradients: dict[str, Gradient] = {}
        total: Tensor | float = 0.0
        for name, weight in weights.items():
            # The KL term looks at the rows of SFT, else of the first other loss.
            rows = step.rows[name if name in step.rows else next(iter(weights))]
            total = total + weight * self._losses[name].accumulate(model, rows)
            gradients[name] = take_gradient(self._parameters)
        if number in self._measured and len(gradients) > 1:
            self.conflict_by_step[number] = cosines(gradients)
        seed = self._seed * 1_000_003 + number
        combined = combine(gradients, weights, self._arbitration, seed)
        for parameter, gradient in zip(self._parameters, combined, strict=True):
            parameter.grad = gradient
        assert isinstance(total, Tensor)
        return total


def train(setting: Setting, stage: Stage) -> Trained:
    """Train the model in place; losses are the weighted sums of the terms' own.

    Raises:
        StageError: The loss is not finite, or memory runs out with a single row.
    """
    steps: Sequence[Step] = setting.batches
    used = [name for name in LOSSES if any(name in step.rows for step in steps)]
    trainers: dict[str, Any] = {}
    with untouched(setting.ref.model):
        try:
            for name in used:
                batches = [step.rows[name] for step in steps if name in step.rows]
                # Each trainer puts its own head on the model; they do not stack.
                vars(setting.ref.model).pop("forward", None)
                trainers[name] = import_module(LOSSES[name]).build(
                    replace(setting, batches=batches), stage.losses[name]
                )
            if len(used) > 1:
                _share_head(setting.ref.model)
            for name, trainer in trainers.items():
                refer(setting, name, trainer)
            joint = _join(setting, stage, trainers)
            go_on(setting, trainers[used[0]], joint.conflict_by_step)
            trainers[used[0]].train()
        finally:
            for trainer in trainers.values():
                release(trainer)
    return Trained(trainers[used[0]].losses, dict(sorted(joint.conflict_by_step.items())))


def _join(setting: Setting, stage: Stage, trainers: Mapping[str, Any]) -> Joint:
    """Let the first trainer run the loop for all."""
    model = setting.ref.model
    lead = next(iter(trainers.values()))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: dict[str, Loss] = dict(trainers)
    if any("kl" in step.weights for step in setting.batches):
        losses["kl"] = KlTerm(model, parameters, lead.accelerator, setting.memory)
    n_steps = len(setting.batches)
    joint = Joint(losses, parameters, stage.arbitration, setting.seed, n_steps)
    # A trainer may have added to its rows, or copied them.
    own = {name: iter(trainer.batches) for name, trainer in trainers.items()}
    lead.batches = [
        Step({name: next(own[name]) for name in step.rows}, step.weights)
        for step in setting.batches
    ]
    lead.args.max_steps = lead.n_steps = n_steps
    lead.step_gradient = lambda model, step: joint.accumulate(model, step, len(lead.losses) + 1)
    return joint


def _share_head(model: Any) -> None:
    """Replace TRL's head, which gives each trainer what that one asks for, by one that gives all."""
    if model.device.type != "cpu" and not hasattr(model.get_output_embeddings(), "lora_A"):
        vars(model).pop("forward", None)
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
