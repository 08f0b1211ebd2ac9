"""AdaLoRA (Zhang et al. 2023, arXiv 2303.10512): PEFT's layers and rank allocator inside a plain model.

While its stage trains, an update is B diag(E) A, and the allocator sets to 0 what matters least of E. At the end of
the stage what is left becomes a plain LoRA whose modules have ranks of their own; handoffs and merges know only that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import AdaLoraConfig
from peft.tuners.adalora import AdaLoraLayer, RankAllocator, SVDLinear
from torch import Tensor

from search.errors import StageError
from search.stages.adapters import (
    Factors,
    adapter_parameters,
    add_factors,
    check_untied,
    lora_layers,
    plain_linear,
    remove_adapters,
)
from search.stages.places import canonical_name, lora_modules
from spaces.adapter import AdaLora

_MIN_STEPS = 2
"""Steps before the last phase: importance is unknown after fewer."""


class Allocation:
    """The phases of one AdaLoRA stage; ranks shrink at the steps of its optimizer."""

    def __init__(self, model: Any, name: str, settings: AdaLora, n_steps: int) -> None:
        """Plan the phases.

        Args:
            model: The model, with the adapter on it.
            name: Of the adapter.
            settings: Of the adapter.
            n_steps: Optimizer steps of the stage.

        Raises:
            StageError: The stage has too few steps.
        """
        final_steps = int(settings.final_share * n_steps)
        self._settled = n_steps - final_steps
        if self._settled < _MIN_STEPS:
            raise StageError(
                f"AdaLoRA needs {_MIN_STEPS} steps before its last phase, and the dose gives {n_steps} steps with "
                f"final_share {settings.final_share:g}; raise the dose or lower final_share"
            )
        self._model = model
        self._config = _config(settings, n_steps, final_steps)
        self._allocator = RankAllocator(model, self._config, name)
        self._parameters = adapter_parameters(model, name)
        self._orthogonality = settings.orthogonality
        self._step = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    @property
    def rank_pattern(self) -> dict[str, tuple[bool, ...]] | None:
        """Which ranks are left in each module; None before any were taken."""
        pattern = self._config.rank_pattern
        return {name: tuple(kept) for name, kept in pattern.items()} if pattern else None

    def importances(self) -> dict[str, Tensor]:
        """Return the moving averages by which ranks are taken, by name."""
        averages = {"mean": self._allocator.exp_avg_ipt, "spread": self._allocator.exp_avg_unc}
        return {f"{kind}/{name}": t for kind, each in averages.items() for name, t in each.items()}

    def resume(
        self,
        step: int,
        rank_pattern: Mapping[str, Sequence[bool]] | None,
        importances: Mapping[str, Tensor],
    ) -> None:
        """Go on from where `step`, `rank_pattern` and `importances` were read."""
        self._step = step
        if rank_pattern is not None:
            self._config.rank_pattern = {name: list(kept) for name, kept in rank_pattern.items()}
        averages = {"mean": self._allocator.exp_avg_ipt, "spread": self._allocator.exp_avg_unc}
        for full_name, values in importances.items():
            kind, _, name = full_name.partition("/")
            parameter = self._parameters[name]
            averages[kind][name] = values.to(parameter.device, copy=True)
            self._allocator.ipt[name] = torch.zeros_like(parameter)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Take part in each step of an optimizer from now on.

        The orthogonality term joins after the gradients of the data are clipped, as weight decay does.
        """
        optimizer.register_step_pre_hook(lambda *_: self.add_orthogonality())
        optimizer.register_step_post_hook(lambda *_: self.after_step())

    def add_orthogonality(self) -> None:
        """Add the gradient of the orthogonality term to what the parameters have."""
        found = {n: p for n, p in self._parameters.items() if p.grad is not None}
        if self._orthogonality == 0 or not found:
            return
        with torch.enable_grad():
            loss = self._orthogonality * orthogonality(found)
        gradients = torch.autograd.grad(loss, list(found.values()), allow_unused=True)
        for parameter, gradient in zip(found.values(), gradients, strict=True):
            if gradient is not None and parameter.grad is not None:
                parameter.grad += gradient

    def after_step(self) -> None:
        """Let the ranks shrink as the phase says; call after each optimizer step, before gradients are cleared."""
        self._step += 1
        if self._step <= self._settled:
            _, kept = self._allocator.update_and_allocate(
                self._model, self._step, force_mask=self._step == self._settled
            )
            if kept is not None:
                self._config.rank_pattern = kept
        else:
            # The optimizer moves what was pruned as well.
            self._allocator.mask_using_rank_pattern(self._model, self._config.rank_pattern)


def add_adalora(model: Any, name: str, settings: AdaLora) -> None:
    """Inject a new adapter, which changes nothing yet: its E is zero. Its weights are float32.

    Raises:
        StageError: Targets or layers are not in this model, or a target is not a plain linear module.
    """
    modules = lora_modules(model, settings)
    check_untied(model, modules)
    config = _config(settings, n_steps=1, final_steps=0)
    for path, module in modules.items():
        weight_holder = plain_linear(path, module, "AdaLoRA", "use kind: lora")
        layer = SVDLinear(
            module, name, config=config, r=settings.init_rank, lora_alpha=settings.alpha
        )
        layer.to(weight_holder.weight.device)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    for parameter in adapter_parameters(model, name).values():
        parameter.data = parameter.data.float()


def final_ranks(model: Any, name: str) -> dict[str, int]:
    """Return the rank that is left in each module, by canonical name, 0 included, before the handoff."""
    return {
        path: int((layer.lora_E[name] != 0).sum()) for path, layer in _layers(model, name).items()
    }


def finish_adalora(model: Any, name: str, settings: AdaLora) -> None:
    """Replace the adapter by a plain LoRA with the same effect, without what was pruned.

    Raises:
        StageError: More is left than the settings allow: nobody called `Allocation.after_step`.
    """
    ranks = final_ranks(model, name)
    budget = settings.target_rank * len(ranks)
    if sum(ranks.values()) > budget:
        raise StageError(
            f"AdaLoRA ended with ranks that sum to {sum(ranks.values())} instead of {budget}: they were never "
            "allocated; this is a defect of apportion"
        )
    factors = {
        path: _left(layer, name) for path, layer in _layers(model, name).items() if ranks[path]
    }
    remove_adapters(model, [name])
    add_factors(model, name, factors)


def orthogonality(parameters: dict[str, torch.nn.Parameter]) -> Tensor:
    """Return the mean over all A and B of ||A A' - 1|| (B' B for B), Frobenius, a scalar.

    Source: Zhang et al. 2023 (arXiv 2303.10512), eq. 4; PEFT takes the norm without the square and the mean, and so
    does this.
    """
    norms = []
    for path, parameter in parameters.items():
        if ".lora_A." in path or ".lora_B." in path:
            gram = parameter @ parameter.T if ".lora_A." in path else parameter.T @ parameter
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    return torch.stack(norms).mean()


def _layers(model: Any, name: str) -> dict[str, Any]:
    return {
        canonical_name(path): layer
        for path, layer in lora_layers(model)
        if isinstance(layer, AdaLoraLayer) and name in layer.lora_E
    }


def _left(layer: Any, name: str) -> Factors:
    e = layer.lora_E[name].detach()
    kept = (e != 0).view(-1)
    # PEFT divides by the rank plus 1e-5.
    scale = float(layer.scaling[name]) / (float(layer.ranknum[name]) + 1e-5)
    return Factors(
        a=layer.lora_A[name].detach()[kept],
        b=layer.lora_B[name].detach()[:, kept] * e[kept].view(1, -1),
        scale=scale,
    )


def _config(settings: AdaLora, n_steps: int, final_steps: int) -> AdaLoraConfig:
    return AdaLoraConfig(
        init_r=settings.init_rank,
        target_r=settings.target_rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        tinit=int(settings.warmup_share * n_steps),
        tfinal=final_steps,
        deltaT=settings.allocate_every_steps,
        total_step=n_steps,
    )
