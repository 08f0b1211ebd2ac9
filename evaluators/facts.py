"""StageFacts: what the caller of a suite knows of how a model was made. Plain data, no torch."""

from __future__ import annotations

from pydantic import Field

from evaluators.scores import Record


class StageFacts(Record):
    """What one stage of training took. None is what nobody knows."""

    tokens: int | None = Field(default=None, ge=0)
    """Training tokens, padding excluded."""
    seconds: float | None = Field(default=None, ge=0)
    """Wall seconds of training and its set-up, where it was trained."""
    trainable_parameters: int | None = Field(default=None, ge=0)
    """Parameters that it moved."""
    stored_parameters: int | None = Field(default=None, ge=0)
    """Parameters that must be kept so that its result can be made again from its parent without training."""
    peak_memory: int | None = Field(default=None, ge=0)
    """Most bytes of device memory in use at once."""


Facts = tuple[StageFacts, ...]
"""The stages from the base to a model, in order; empty for the base."""
