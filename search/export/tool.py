"""What other trainers can express of a stage, and the refusals that follow. No torch.

A recipe goes to another tool as a chain of its runs: each trains on what the one before wrote. What a tool cannot do
exactly is refused, with place, reason and remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from search.errors import SpecError
from search.export.job import Job
from spaces.adapter import AdaLora, Full, Lora
from spaces.recipe import Merge, Parallel, Stage


@dataclass(frozen=True)
class Tool:
    """A trainer."""

    name: str
    """As its makers write it."""
    methods: frozenset[str]
    """Methods with the very losses of ours."""
    why_not: dict[str, str] = field(default_factory=dict)
    """Method to why it is not among them."""
    lora: frozenset[str] = frozenset({"dora", "rslora"})
    """Fields of LoRA that it takes beside rank, alpha, dropout and modules."""
    can_freeze: bool = False
    """Whether it trains chosen weights and leaves others frozen."""
    can_continue: bool = False
    """Whether a run may train an adapter on that an earlier run made."""


def refuse(job: Job, number: int, place: str, reason: str) -> NoReturn:
    """Refuse a stage.

    Args:
        job: What is exported.
        number: Of the stage, from 1; 0 for what concerns all.
        place: The field, with its value.
        reason: Why, and what would work instead.
    """
    where = "training" if number == 0 else f"stages[{number - 1}]"
    raise SpecError(f"{job.name}: {where}.{place}: {reason}")


def checked_chain(job: Job, tool: Tool) -> list[Stage]:
    """Return the stages of a recipe that a tool can repeat one after the other.

    Raises:
        SpecError: It cannot express one of them.
    """
    stages = job.record.recipe.stages
    if not stages:
        raise SpecError(f"{job.name}: it is the untouched base and trains nothing; use --to merged")
    if job.spec.base.bits is not None:
        raise SpecError(
            f"{job.name}: base.bits: {job.spec.base.bits}: quantised training depends on each tool's own kernels; "
            "use --to peft or --to recipe"
        )
    _check_schedule(job)
    chain = []
    for number, stage in enumerate(stages, 1):
        if isinstance(stage, Parallel | Merge):
            refuse(
                job,
                number,
                f"method: {stage.method}",
                f"{tool.name} trains one model after another and combines none; use --to merged, or --to mergekit "
                "where it is the last stage",
            )
        _check_stage(job, tool, number, stage)
        chain.append(stage)
    for number, (stage, following) in enumerate(pairwise(chain), 1):
        _check_handoff(job, tool, number, stage, following)
    return chain


def check_precision(job: Job, tool: Tool) -> None:
    """Refuse studies whose weights a tool would keep in another precision than the trial did.

    Raises:
        SpecError: It would.
    """
    computed, kept = job.spec.training.precision, job.spec.base.dtype
    place = f"precision: {computed}"
    if computed != kept:
        refuse(
            job,
            0,
            place,
            f"{tool.name} keeps weights in the precision it computes in, and here they are kept in {kept}; use --to "
            "trl, or make base.dtype and training.precision equal",
        )
    stages = job.record.recipe.stages
    is_full = any(isinstance(one.adapter, Full) for one in stages if isinstance(one, Stage))
    if computed == "bfloat16" and is_full:
        refuse(
            job,
            0,
            place,
            f"{tool.name} may train full weights in float32 then, and apportion trained bfloat16; use --to trl",
        )


def _check_stage(job: Job, tool: Tool, number: int, stage: Stage) -> None:
    if stage.method == "joint":
        refuse(
            job,
            number,
            "method: joint",
            f"{tool.name} has no weighted sum of losses with data of its own for each; use --to recipe",
        )
    if stage.method not in tool.methods:
        why = tool.why_not.get(stage.method, f"{tool.name} has no such loss")
        refuse(job, number, f"method: {stage.method}", f"{why}; use --to recipe")
    adapter = stage.adapter
    if isinstance(adapter, AdaLora):
        refuse(
            job,
            number,
            "adapter.kind: adalora",
            f"{tool.name} does not allocate ranks while it trains; use --to recipe, or LoRA",
        )
    if isinstance(adapter, Full):
        if not tool.can_freeze and (adapter.targets != "everything" or adapter.layers != "all"):
            refuse(
                job,
                number,
                f"adapter.targets: {adapter.targets}, layers: {adapter.layers}",
                f"{tool.name} trains all weights or adapters; use --to recipe, or targets everything on all layers",
            )
        return
    for name, plain in _lora_defaults():
        value = getattr(adapter, name)
        if value != plain and name not in tool.lora:
            refuse(
                job,
                number,
                f"adapter.{name}: {value}",
                f"{tool.name}'s configuration has no such setting; use --to recipe, or leave it at {plain}",
            )
    if adapter.alpha != int(adapter.alpha):
        refuse(
            job,
            number,
            f"adapter.alpha: {adapter.alpha:g}",
            f"{tool.name} takes whole numbers alone; use --to recipe, or a whole alpha",
        )
    if adapter.dora and job.spec.training.weight_decay:
        refuse(
            job,
            0,
            f"weight_decay: {job.spec.training.weight_decay:g}",
            f"{tool.name} decays DoRA's magnitudes, which apportion spares; use --to recipe, or weight_decay 0",
        )


def _check_handoff(job: Job, tool: Tool, number: int, stage: Stage, following: Stage) -> None:
    """Refuse a handoff to a next stage; that of the last stage only says what is written in the end."""
    if stage.handoff in ("stack", "detach"):
        while_next = "frozen and active" if stage.handoff == "stack" else "aside"
        refuse(
            job,
            number,
            f"handoff: {stage.handoff}",
            f"{tool.name} cannot train an adapter while another one lies {while_next}; use --to recipe, or hand off "
            "with merge",
        )
    if stage.handoff != "continue":
        return
    if not tool.can_continue:
        refuse(
            job,
            number,
            "handoff: continue",
            f"{tool.name}'s command line cannot train an earlier run's adapter on; use --to recipe, or hand off with "
            "merge",
        )
    if following.method in ("dpo", "ipo", "kto"):
        refuse(
            job,
            number,
            "handoff: continue",
            f"{tool.name} would compare with the base below the adapter, and apportion compares with the model as "
            f"the {following.method} stage receives it; use --to recipe, or hand off with merge",
        )


def _check_schedule(job: Job) -> None:
    training = job.spec.training
    if training.schedule != "constant" and training.warmup_steps:
        refuse(
            job,
            0,
            f"schedule: {training.schedule} after {training.warmup_steps} warmup_steps",
            "schedules of transformers warm up from a rate of 0 and end a step apart from apportion's; use --to "
            "recipe, or warmup_steps 0, or schedule constant",
        )


def _lora_defaults() -> Iterator[tuple[str, object]]:
    """Yield the fields of LoRA that tools may lack, with the value that asks nothing of them."""
    plain = Lora(rank=1, alpha=1.0)
    for name in ("dora", "rslora", "init", "lr_ratio", "ranks", "alphas"):
        yield name, getattr(plain, name)
