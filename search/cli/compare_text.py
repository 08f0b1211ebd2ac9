"""Two trials side by side, for a terminal, from 80 columns on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.cli.explain_text import ARROWS, say
from search.cli.output import duration, visible
from search.compare.compared import Compared, Cost
from search.compare.outputs import OutputDifference
from search.compare.recipes import StageDifference, Value
from search.compare.scores import ScoreDifference
from search.report.numbers import interval_text, number_text, tokens_text

MOST_CHARACTERS = 400
"""Of a reply; the items files hold all of it."""
SCORES = (
    "± and brackets: 95 % intervals, the difference paired over items where both were asked the same. "
    "! better or x worse beyond noise, corrected over objectives (*), over the other scores, and over the holdout, "
    "which the sampler never saw; = no difference is shown."
)
_SIGNS = {"better": "!", "worse": "x", "no difference seen": "=", "unknown": "?"}


def print_compared(console: Console, compared: Compared, sentences: Sequence[str]) -> None:
    """Print recipes, scores, cost, replies that differ most, and what follows."""
    say(console, "A", f"{compared.a}: {compared.a_recipe}")
    say(console, "B", f"{compared.b}: {compared.b_recipe}")
    console.print()
    for stage in compared.stages:
        _print_stage(console, stage)
    console.print()
    console.print(score_table(compared.scores))
    console.print(Text(SCORES))
    console.print()
    console.print(_cost_table(compared.a_cost, compared.b_cost))
    for output in compared.outputs:
        console.print()
        _print_output(console, output)
    console.print()
    for line in sentences:
        say(console, "so", line)
    for line in compared.notes:
        say(console, "mind", line)


def _print_stage(console: Console, stage: StageDifference) -> None:
    if stage.a is None or stage.b is None:
        only, label = ("B", stage.b_label) if stage.a is None else ("A", stage.a_label)
        say(console, f"only {only}", f"stage {stage.a or stage.b}  {label}")
        return
    places = f"stage {stage.a}" if stage.a == stage.b else f"stage {stage.a} of A, {stage.b} of B"
    if not stage.values:
        say(console, "equal", f"{places}  {stage.a_label}")
        return
    changes = ", ".join(
        f"{name} {_value_text(a)} -> {_value_text(b)}" for name, (a, b) in stage.values.items()
    )
    say(console, "differs", f"{places}  {stage.influence}: {changes}")


def _value_text(value: Value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number_text(value)
    return f"{value:,}" if isinstance(value, int) else value


def score_table(scores: Sequence[ScoreDifference], a: str = "A", b: str = "B") -> Table:
    """Return a table of two models' scores, under their names, and of their differences."""
    table = Table(box=None, pad_edge=False)
    table.add_column("score", overflow="fold")
    for title in (a, b, f"{b} - {a}"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for score in scores:
        star = "*" if score.is_objective else ""
        held = " (holdout)" if score.is_holdout else ""
        table.add_row(
            Text(f"{score.name}{star} {ARROWS[score.direction]}{held}"),
            score_text(score.a, score.a_stderr),
            score_text(score.b, score.b_stderr),
            _difference_text(score),
            _SIGNS[score.verdict],
        )
    return table


def score_text(value: float | None, stderr: float | None) -> str:
    """Return a score with its interval, or that it is missing."""
    return "missing" if value is None else interval_text(value, stderr).replace(" ", "")


def _difference_text(score: ScoreDifference) -> str:
    effect = score.difference
    if effect is None:
        return "."
    if effect.low is None or effect.high is None:
        return f"{effect.value:+.3g}"
    return f"{effect.value:+.3g} [{effect.low:+.2g},{effect.high:+.2g}]"


def _cost_table(a: Cost, b: Cost) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("cost")
    for title in ("A", "B"):
        table.add_column(title, justify="right")
    rows = {
        "stages": [str(cost.n_stages) for cost in (a, b)],
        "tokens trained": [tokens_text(cost.trained_tokens) for cost in (a, b)],
        "training": [duration(cost.train_seconds) for cost in (a, b)],
        "most parameters moved": [tokens_text(cost.most_trainable) for cost in (a, b)],
        "the trial itself": [duration(cost.trial_seconds) for cost in (a, b)],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _print_output(console: Console, output: OutputDifference) -> None:
    held = ", holdout" if output.is_holdout else ""
    passed = [values.get("passed") for values in (output.a_values, output.b_values)]
    told = ""
    if None not in passed and passed[0] != passed[1]:
        told = f"; passed: A {passed[0]:g}, B {passed[1]:g}"
    say(
        console,
        "asked",
        f"{_shortened(output.prompt)}  ({output.evaluator} {output.index}{held}; "
        f"{round(100 * output.alike)} % of the words alike{told})",
    )
    for name, text in (("base", output.base), ("A", output.a), ("B", output.b)):
        if text is not None:
            say(console, name, _shortened(text) or "(empty)")


def _shortened(text: str) -> str:
    shown = visible(text)
    if len(shown) <= MOST_CHARACTERS:
        return shown
    return f"{shown[:MOST_CHARACTERS]} [... {len(shown) - MOST_CHARACTERS:,} more characters]"
