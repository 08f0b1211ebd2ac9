"""Where an adapter acts: the small languages of `layers` and `targets`. No torch."""

from __future__ import annotations

import re

TARGET_MODULES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""Short names for groups of linear modules, as Llama-like models call them."""

FULL_TARGETS = ("embeddings", "head", "norms", "biases")
"""Groups that only a full adapter can train. Where embeddings and head share one weight, either name means it."""

_PART = r"(?:\d+(?:-\d+)?|\d{1,3}%-\d{1,3}%)"
LAYERS_PATTERN = rf"^(?:all|{_PART}(?:,{_PART})*)$"
"""`all`, or parts joined by commas: layer numbers (`3`, `0-14`, both ends) and shares of the depth (`50%-100%`)."""


def layer_numbers(layers: str, n_layers: int) -> tuple[int, ...]:
    """Return the layer numbers, ascending, that a `layers` text selects in a model of `n_layers` layers.

    `0-14` counts both ends; `50%-100%` is the half-open share of the depth, rounded to whole layers; parts joined by
    commas are united.

    Raises:
        ValueError: The text is no selection, or a part of it selects nothing or too much of such a model.
    """
    if not re.fullmatch(LAYERS_PATTERN, layers):
        raise ValueError(
            f"layers {layers!r} is not a selection of layers; write all, or numbers such as 0-14 and shares "
            "such as 50%-100%, joined by commas"
        )
    if layers == "all":
        return tuple(range(n_layers))
    chosen: set[int] = set()
    for part in layers.split(","):
        chosen.update(_part_range(part, n_layers))
    return tuple(sorted(chosen))


def layer_range(layers: str, n_layers: int) -> range:
    """Return what `layer_numbers` does for a text of one part, as a range.

    Raises:
        ValueError: The text selects no layer of such a model.
    """
    return range(n_layers) if layers == "all" else _part_range(layers, n_layers)


def target_modules(targets: str) -> tuple[str, ...]:
    """Return the module names that a `targets` text means: groups and names joined by commas, each name once.

    `everything` and the groups of `FULL_TARGETS` stay what they are: only a model can tell what they mean.
    """
    names: list[str] = []
    for part in targets.split(","):
        names.extend(TARGET_MODULES.get(part.strip(), (part.strip(),)))
    return tuple(dict.fromkeys(names))


def above_text(share: float) -> str:
    """Return the `layers` text of the upper part of the model, from a share of the depth to the top."""
    return f"{round(100 * share)}%-100%"


def below_text(share: float) -> str:
    """Return the `layers` text of the lower part of the model, up to a share of the depth."""
    return f"0%-{round(100 * share)}%"


def _part_range(part: str, n_layers: int) -> range:
    low, _, high = part.partition("-")
    if low.endswith("%"):
        chosen = range(
            round(int(low[:-1]) * n_layers / 100), round(int(high[:-1]) * n_layers / 100)
        )
    else:
        chosen = range(int(low), int(high or low) + 1)
    if not chosen or chosen.stop > n_layers:
        raise ValueError(
            f"layers {part!r} select nothing or too much of a model with {n_layers} layers (0-{n_layers - 1})"
        )
    return chosen
