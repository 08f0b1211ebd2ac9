"""Where stages moved the model, in sentences: only what the numbers carry. No torch."""

from __future__ import annotations

from search.moved.records import (
    LAST_KINDS,
    Moved,
    PairMoved,
    StageMoved,
    by_kind,
    by_layer,
    densest_range,
)

MOST = 0.8
"""Share of a stage's change that counts as most of it."""
WORTH_TELLING = 0.01
"""Share of a change below which taking it back is nothing, however far beyond chance: models have many weights."""
BEYOND_SDS = 4.0
"""Standard deviations of what random directions give beyond which something is called more than chance."""


def sentences(moved: Moved) -> list[str]:
    """Return what each stage moved, and what each two have to do with each other."""
    told = [stage_sentence(stage, moved.n_layers) for stage in moved.stages]
    names = _names(moved)
    told += [
        pair_sentence(pair, names[pair.first - 1], names[pair.second - 1]) for pair in moved.pairs
    ]
    if moved.pairs:
        told.append(
            "Weights say where a stage acts, not what for: a later stage may undo what an earlier one taught without "
            "touching its weights; the scores after each stage say whether it did."
        )
    return told


def stage_sentence(stage: StageMoved, n_layers: int) -> str:
    """Return how far a stage moved the weights, and where most of that is."""
    whole = stage.whole
    name = f"Stage {stage.number} ({stage.influence})"
    if not whole.square:
        return f"{name} moved no weight."
    size = (
        "by an unknown share of their norm" if whole.size is None else f"by {percent(whole.size)}"
    )
    text = f"{name} moved the weights {size}"
    layers = by_layer(stage)
    found = densest_range(
        [layers[at].share if at in layers else 0.0 for at in range(n_layers)], MOST
    )
    if found is None:
        outside = sum(group.share for kind, group in by_kind(stage).items() if kind in LAST_KINDS)
        text += f"; {percent(outside)} of the change (squared) lies in embeddings, head and norms"
    elif 2 * len(found) <= n_layers:
        share = sum(layers[at].share for at in found)
        text += (
            f"; {percent(share)} of the change (squared) lies in {range_text(found)} of {n_layers}"
        )
    else:
        text += f"; the change is spread over the layers: no half of them holds {MOST:.0%} of it"
    kinds = sorted(by_kind(stage).items(), key=lambda pair: -pair[1].share)[:2]
    held = " and ".join(f"{percent(group.share)} in {kind}" for kind, group in kinds if group.share)
    return f"{text}; by kind, most is {held}."


def pair_sentence(pair: PairMoved, first: str, second: str) -> str:
    """Return whether a later stage overwrites an earlier one."""
    if pair.cosine is None or pair.cosine_sd is None or pair.taken_back is None:
        return f"{second} and {first}: one of them moved nothing."
    if not pair.shared:
        return f"{second} moves none of the weights that {first} moved: it overwrites nothing of it there."
    cosine = f"cosine {cosine_text(pair.cosine)}"
    if abs(pair.cosine) <= BEYOND_SDS * pair.cosine_sd:
        text = (
            f"{second} neither takes back nor repeats what {first} changed: {cosine}, no more than unrelated changes "
            "have"
        )
    elif abs(pair.taken_back) < WORTH_TELLING:
        text = (
            f"{second} neither takes back nor repeats as much as {percent(WORTH_TELLING)} of what {first} changed "
            f"({cosine})"
        )
    elif pair.cosine < 0:
        text = f"{second} takes back {percent(pair.taken_back)} of what {first} changed ({cosine})"
    else:
        text = (
            f"{second} goes on where {first} went: it adds {percent(-pair.taken_back)} to that change "
            f"({cosine})"
        )
    if pair.shared < 0.995:
        text += f"; {percent(pair.shared)} of {first}'s change is in weights that both move"
    if pair.right is None or pair.left is None:
        return f"{text}."
    sides = [
        f"{overlap:.2f} of the {side} directions (by chance {chance:.2f})"
        for side, overlap, chance in (
            ("input", pair.right, pair.right_chance),
            ("output", pair.left, pair.left_chance),
        )
    ]
    return f"{text}. Of their leading directions they share {' and '.join(sides)}."


def cosine_text(value: float) -> str:
    """Return a cosine with three decimals, without a sign where it rounds to 0."""
    text = f"{value:.3f}"
    return text if float(text) else "0.000"


def range_text(found: range) -> str:
    """Return a run of layers, such as `layers 20-29`."""
    if len(found) == 1:
        return f"layer {found.start}"
    return f"layers {found.start}-{found.stop - 1}"


def percent(share: float) -> str:
    """Return a share in percent with two figures, such as `0.52 %` or `71 %`."""
    value = 100 * share
    if value and abs(value) < 0.001:
        return f"{value:.0e} %"
    return f"{value:.2g} %" if abs(value) < 99.5 else f"{value:.0f} %"


def _names(moved: Moved) -> list[str]:
    """Return what to call the stages: the influence, with the stage's number where one comes twice."""
    all_names = [stage.influence for stage in moved.stages]
    return [
        name if all_names.count(name) == 1 else f"{name} (stage {at})"
        for at, name in enumerate(all_names, 1)
    ]
