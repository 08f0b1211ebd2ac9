"""Explanations for a terminal, from 80 columns on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluators.scores import Direction
from search.attribution.dose import DoseResponse
from search.attribution.explanation import Explanation
from search.attribution.order import OrderEffects, order_sentence
from search.attribution.verdicts import Verdict
from search.cli.output import duration
from search.report.attribution import COLUMNS, change_text, worth_text
from search.report.degree import dose_sentences
from search.report.numbers import count_text, interval_text, tokens_text
from spaces.recipe import Recipe

if TYPE_CHECKING:
    from search.sampling.importance import Importances

ARROWS: dict[Direction, str] = {"maximise": "↑", "minimise": "↓"}


def print_explanation(
    console: Console, explanation: Explanation, claims: Sequence[Verdict], recipe: Recipe
) -> None:
    """Print what is known of a trial's stages."""
    say(console, "trial", f"{explanation.trial}: {recipe.label()}")
    say(console, "known", _known_text(explanation))
    for each in explanation.missing[:8]:
        cost = f"{tokens_text(each.tokens)} tokens, about {duration(each.seconds)}"
        say(console, "missing", f"{each.label}, seed {each.seed}: {cost}")
    if len(explanation.missing) > 8:
        say(console, "", f"and {len(explanation.missing) - 8} more (--json lists all)")
    if explanation.illegal:
        say(console, "illegal", f"no legal recipes: {', '.join(explanation.illegal)}")
    for note in explanation.notes:
        say(console, "note", note)
    if explanation.n_seeds < 2:
        say(
            console,
            "noise",
            "intervals are from items alone: no recipe was trained with two seeds, so what differs from training to "
            "training is not in them. They hold for these very models; of their recipes nothing is claimed "
            "(--train, or apportion confirm)",
        )
    console.print()
    console.print(_steps_table(explanation))
    console.print()
    console.print(_worth_table(explanation))
    _print_pairs(console, explanation)
    console.print()
    for claim in claims:
        say(console, "so", claim.text)
    if not claims and explanation.n_seeds < 2:
        say(console, "so", "nothing is claimed from one seed of each recipe.")
    elif not claims:
        lacks = "; what is missing may tell more" if explanation.missing else ""
        say(
            console,
            "so",
            f"nothing beyond noise is shown, and nothing is shown to be useless{lacks}.",
        )


def _known_text(explanation: Explanation) -> str:
    text = f"{explanation.n_measured} of {explanation.n_subsets} recipes of its stages are scored"
    if explanation.missing:
        tokens = sum(each.tokens for each in explanation.missing)
        seconds = sum(each.seconds for each in explanation.missing)
        text += (
            f"; missing: {count_text(len(explanation.missing), 'training')}, {tokens_text(tokens)} tokens, "
            f"about {duration(seconds)} (--train)"
        )
    if any(worth.is_partial for worth in explanation.worths):
        text += "; Shapley values are partial (*): from permutations drawn at random, their error included"
    return text


def say(console: Console, name: str, text: str) -> None:
    """Print one fact, wrapped beside its name."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(min_width=8, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(name), Text(text))
    console.print(grid)


def _steps_table(explanation: Explanation) -> Table:
    table = Table("score", box=None, pad_edge=False)
    names = ["base", *explanation.units]
    for at, name in enumerate(names):
        table.add_column(Text(name if not at else f"> {name}"), justify="right", overflow="fold")
    by_place = {(step.score, step.unit): step for step in explanation.steps}
    for score, direction in explanation.scores.items():
        cells = []
        for name in names:
            step = by_place.get((score, name))
            cells.append(Text(interval_text(step.value, step.stderr) if step else "not scored"))
        table.add_row(Text(f"{score} {ARROWS[direction]}"), *cells)
    return table


def _worth_table(explanation: Explanation) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        caption=Text(
            "± is 95 %. At boundary: score after less before. Alone: on the base. Last to join: the whole less the "
            "recipe without it. Shapley: mean over all orders of joining. ! is beyond noise after correction."
        ),
        caption_justify="left",
    )
    table.add_column("score", no_wrap=True)
    table.add_column("stage", overflow="fold")
    for title in COLUMNS.values():
        table.add_column(title, justify="right", overflow="fold")
    for score, direction in explanation.scores.items():
        for at, unit in enumerate(explanation.units):
            cells = []
            for kind in COLUMNS:
                cells.append(Text(worth_text(explanation.worth(kind, score, unit))))
            table.add_row(
                Text(f"{score} {ARROWS[direction]}" if not at else ""), Text(unit), *cells
            )
    return table


def _print_pairs(console: Console, explanation: Explanation) -> None:
    joint = [worth for worth in explanation.worths if worth.kind == "interaction"]
    if not joint:
        return
    table = Table(
        box=None,
        pad_edge=False,
        caption=Text("Together: gain of both beyond the sum of each one's own."),
        caption_justify="left",
    )
    table.add_column("score", overflow="fold")
    table.add_column("stages", overflow="fold")
    table.add_column("together", justify="right")
    for worth in joint:
        table.add_row(
            Text(worth.score), Text(" and ".join(worth.units)), Text(change_text(worth.effect))
        )
    console.print()
    console.print(table)


def print_order(console: Console, effects: OrderEffects) -> None:
    """Print what other orders and repeats do."""
    console.print()
    say(
        console,
        "order",
        f"{len(effects.comparisons)} of {effects.n_designed} comparisons are measured, each against this trial; "
        "n.s.: not beyond noise after correction over all of them",
    )
    for comparison in effects.comparisons:
        say(console, "", order_sentence(comparison))


def print_doses(
    console: Console, responses: Sequence[DoseResponse], scores: dict[str, Direction]
) -> None:
    """Print how doses act."""
    table = Table(
        box=None,
        pad_edge=False,
        caption=Text(
            "Change of a score by one stage, at its lowest and highest dose, from all boundaries. Shape: best by AICc "
            "of none, line, parabola (in the logarithm of the dose) and saturating. ! is beyond noise after "
            "correction over all rows."
        ),
        caption_justify="left",
    )
    for title in ("influence", "score", "n", "dose", "shape", "at lowest", "at highest"):
        table.add_column(title, overflow="fold", no_wrap=title not in ("dose", "shape"))
    for response in responses:
        shape = response.reason if response.shape is None else response.shape
        ends = [response.curve[0], response.curve[-1]] if response.curve else []
        cells = [
            interval_text(mean, (high - low) / 2 / 1.96).replace(" ", "")
            for _, mean, low, high in ends
        ] or [
            "",
            "",
        ]
        table.add_row(
            Text(response.influence),
            Text(f"{response.score} {ARROWS[scores[response.score]]}"),
            str(response.n),
            f"{tokens_text(int(response.lowest))} to {tokens_text(int(response.highest))}",
            Text(f"{shape}{' !' if response.is_shown else ''}"),
            *cells,
        )
    console.print(table)
    console.print()
    for response in responses:
        for line in dose_sentences(response):
            say(console, "so", line)
    if not any(response.is_shown for response in responses):
        say(console, "so", "no dose is shown to play a part.")


def print_importances(console: Console, matter: Importances | None) -> None:
    """Print which parameters matter."""
    console.print()
    if matter is None:
        say(console, "matter", "too few completed trials to say which parameters matter.")
        return
    if matter.warning:
        say(console, "warning", matter.warning)
    columns = {**matter.by_objective, **({"front": matter.front} if matter.front else {})}
    table = Table(
        box=None,
        pad_edge=False,
        caption=Text(
            f"PED-ANOVA over {matter.n_trials} trials: share of what tells the best {matter.n_top} in an objective, "
            f"and the {matter.n_front} on the front, from the rest."
        ),
        caption_justify="left",
    )
    table.add_column("parameter", overflow="fold")
    for name in columns:
        table.add_column(Text(name), justify="right", overflow="fold")
    names = {name for column in columns.values() for name in column}
    for name in sorted(names, key=lambda n: (-sum(c.get(n, 0.0) for c in columns.values()), n)):
        table.add_row(Text(name), *(f"{100 * c.get(name, 0.0):.0f} %" for c in columns.values()))
    console.print(table)
