"""`apportion data check|stats|preview`: who shares rows with whom, how much there is, and what the model sees of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from search.check_data import SharedRows, data_findings, likeness, row_place, shared_rows, users
from search.cli.output import print_json, visible
from search.data.parts import is_unseen, kind_of
from search.data.spec import USES, Use
from search.errors import ApportionError, StudyError
from search.messages import suggest, value_text
from search.rows import Row
from search.sources import Source, read_source
from search.spec import StudySpec
from search.stages.row_stats import (
    Draw,
    SourceStats,
    draws,
    part_of_source,
    seen_sources,
    source_stats,
)
from search.yaml_file import load_study

if TYPE_CHECKING:
    from search.stages.row_view import Shown

EXAMPLES = """\b
Examples:
  apportion data check study.yaml
  apportion data stats study.yaml
  apportion data preview study.yaml chat"""
_CHECK_EXAMPLES = """\b
Examples:
  apportion data check study.yaml                # exit code 2 if rows are shared that may not be
  apportion data check study.yaml --rows 50
  apportion data check study.yaml --json"""
_STATS_EXAMPLES = """\b
Examples:
  apportion data stats study.yaml
  apportion data stats study.yaml --influence tone --dose 2000
  apportion data stats study.yaml --no-tokens    # at once: loads no tokenizer
  apportion data stats study.yaml --json"""
_PREVIEW_EXAMPLES = """\b
Examples:
  apportion data preview study.yaml chat
  apportion data preview study.yaml chat --row 12 --n 3
  apportion data preview study.yaml asks --use holdout --json"""
OPEN, CLOSE = "\u27e6", "\u27e7"
"""Around trained tokens."""
WIDE = 96
"""Columns from which the table of `data stats` shows formats, too."""
EXCERPT = 70
"""Characters of a row that `data check` shows."""
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Titles and rows."""
StudyFile = Annotated[Path, typer.Argument(help="Study file.", metavar="STUDY")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    name="data",
    help="Look into the rows of a study: what they share, how many there are, what the model sees.",
    epilog=EXAMPLES,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("check", epilog=_CHECK_EXAMPLES)
def check(
    study: StudyFile,
    n_rows: Annotated[
        int, typer.Option("--rows", help="Shared rows to list of each two sources.", min=0)
    ] = 5,
    as_json: Json = False,
) -> None:
    """List rows that are trained on and measured, or in suite and holdout. Also reads sources on the hub."""
    spec, sources = _read(study)
    shared = shared_rows(spec, sources)
    findings = list(data_findings(spec, sources))
    is_fine = all(finding.is_warning for finding in findings)
    if as_json:
        pairs = [_shared_json(sources, each) for each in shared]
        texts = [{"text": each.text, "is_warning": each.is_warning} for each in findings]
        print_json({"is_fine": is_fine, "shared": pairs, "findings": texts})
    else:
        for name, source in sources.items():
            typer.echo(f"source      {name}: {source.format}, {_sizes(spec, source)}")
        if spec.generalisation is not None:
            typer.echo(f"unseen      {visible(', '.join(_unseen_kinds(spec, sources)) or 'none')}")
        for each in shared:
            for line in _shared_lines(sources, each, n_rows):
                typer.echo(line)
        for finding in findings:
            typer.echo(
                f"{'warning' if finding.is_warning else 'error':<11} {visible(finding.text)}"
            )
        typer.echo("no errors" if is_fine else "", nl=is_fine)
    if not is_fine:
        raise typer.Exit(2)


@app.command("stats", epilog=_STATS_EXAMPLES)
def stats(
    study: StudyFile,
    influence: Annotated[
        str | None, typer.Option("--influence", help="What a stage of this one draws.")
    ] = None,
    dose: Annotated[
        int | None, typer.Option("--dose", help="Training tokens of that stage.", min=1)
    ] = None,
    with_tokens: Annotated[
        bool, typer.Option("--tokens/--no-tokens", help="Count tokens; loads the tokenizer.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Count rows, tokens, repeated, cut and dropped rows of each source, and what stages draw of them."""
    spec, sources = _read(study)
    if influence is not None and influence not in spec.training_influences:
        hint = suggest(influence, spec.training_influences)
        raise StudyError(f"--influence {value_text(influence)} is no influence; {hint}")
    if dose is not None and influence is None:
        raise StudyError("--dose needs an influence; write --influence NAME --dose TOKENS")
    reading, reason = None, "not asked for"
    if with_tokens:
        from search.stages.row_view import Reading

        try:
            reading = Reading.load(spec.base, study.absolute().parent, spec.training)
        except ApportionError as error:
            reason = str(error)
    rows = [source_stats(source, use, reading) for source, use in seen_sources(spec, sources)]
    names = list(spec.training_influences) if influence is None else [influence]
    drawn: list[Draw] = []
    undrawn: dict[str, str] = {}
    for name in names:
        if reading is None:
            break
        try:
            drawn += draws(spec, sources, reading, name, dose)
        except ApportionError as error:
            undrawn[name] = str(error)
    if as_json:
        found = {"sources": [asdict(row) for row in rows], "draws": [asdict(d) for d in drawn]}
        print_json({**found, "no_draws": undrawn, "no_tokens": None if reading else reason})
        return
    _print_stats(rows, drawn)
    for name, why in undrawn.items():
        typer.echo(f"{name} draws nothing: {visible(why)}")
    if reading is None:
        typer.echo(f"tokens were not counted: {visible(reason)}")


@app.command("preview", epilog=_PREVIEW_EXAMPLES)
def preview(
    study: StudyFile,
    name: Annotated[str, typer.Argument(help="Source.", metavar="SOURCE")],
    row: Annotated[int, typer.Option("--row", help="First row to show, from 1.", min=1)] = 1,
    n: Annotated[int, typer.Option("--n", help="Rows to show.", min=1, max=100)] = 1,
    use: Annotated[
        str | None, typer.Option("--use", help="Whose rows: train, search or holdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show rows as the model sees them: chat template applied, trained tokens marked, control characters escaped."""
    from search.stages.row_view import Reading, show_row

    spec = load_study(study)
    root = study.absolute().parent
    if name not in spec.sources:
        raise StudyError(f"{value_text(name)} is no source; {suggest(name, spec.sources)}")
    if use not in (None, *USES):
        raise StudyError(f"--use {value_text(use)} is no use; {suggest(str(use), USES)}")
    source = read_source(name, spec.sources[name], root, spec.generalisation)
    used = [seen.use for seen in users(spec) if seen.source == name]
    chosen: Use = next((each for each in USES if each == use), (used or ["train"])[0])
    seen_rows = source.seen_by(chosen)
    if row > len(seen_rows):
        raise StudyError(
            f"--row {row} is not there; {name!r} has {len(seen_rows)} rows for {chosen}"
        )
    reading = Reading.load(spec.base, root, spec.training)
    part = part_of_source(source, chosen)
    shown = [
        (source.place(chosen, at), show_row(part, at, reading))
        for at in range(row - 1, min(row - 1 + n, len(seen_rows)))
    ]
    if as_json:
        texts = [{"place": at, "texts": [asdict(text) for text in found]} for at, found in shown]
        print_json({"source": name, "use": chosen, "rows": texts})
        return
    _print_preview(shown, "train" in used and chosen == "train")


def _read(study: Path) -> tuple[StudySpec, dict[str, Source]]:
    spec = load_study(study)
    root = study.absolute().parent
    return spec, {
        name: read_source(name, source, root, spec.generalisation)
        for name, source in spec.sources.items()
    }


def _print_stats(rows: list[SourceStats], drawn: list[Draw]) -> None:
    counts = ("tokens", "median", "longest", "cut", "dropped")
    draw_cells: list[tuple[str, ...]] = [
        (
            draw.influence,
            f"{draw.dose_tokens:,}",
            draw.source,
            f"{draw.n_rows:,}",
            f"{draw.n_tokens:,}",
            f"{draw.passes:.2f}",
        )
        for draw in drawn
    ]
    tables: list[Table] = [
        (
            ("source", "use", "format", "rows", "repeated", *counts),
            [_stats_cells(row) for row in rows],
        ),
        (("influence", "dose", "source", "rows", "tokens", "passes"), draw_cells),
    ]
    _print_tables([table for table in tables if table[1]])
    skipped = {row.source: row.n_skipped for row in rows if row.n_skipped}
    for name, n_skipped in skipped.items():
        typer.echo(f"{name}: {n_skipped} pairs of equal answers are left out")


def _print_tables(tables: list[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False, markup=False, emoji=False)
    for at, (titles, rows) in enumerate(tables):
        is_wide = console.width >= WIDE
        kept = [column for column, title in enumerate(titles) if is_wide or title != "format"]
        table = RichTable(box=None, pad_edge=False)
        for column in kept:
            is_name = titles[column] in ("source", "use", "format", "influence")
            justify: Literal["left", "right"] = "left" if is_name else "right"
            table.add_column(titles[column], overflow="fold", justify=justify)
        for row in rows:
            table.add_row(*(row[column] for column in kept))
        if at:
            console.print()
        console.print(table)


def _stats_cells(row: SourceStats) -> tuple[str, ...]:
    repeated = f"{row.n_repeated_rows + row.n_repeated_questions:,}"
    cells = (row.source, row.use, row.format, f"{row.n_rows:,}", repeated)
    tokens = row.tokens
    if tokens is None:
        return (*cells, *[""] * 5)
    counts = (tokens.total, round(tokens.median), tokens.longest)
    lost = (f"{tokens.n_cut:,}", f"{tokens.n_dropped:,}") if row.use == "train" else ("", "")
    return (*cells, *(f"{count:,}" for count in counts), *lost)


def _print_preview(shown: list[tuple[str, list[Shown]]], is_trained: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    note = f"trained tokens stand between {OPEN} and {CLOSE}" if is_trained else "not trained on"
    for place, texts in shown:
        if not texts:
            console.print(Text(visible(f"{place}: dropped, max_length leaves nothing to learn")))
        for text in texts:
            cut = f", {text.n_cut:,} more cut off" if text.n_cut else ""
            trained = f", {text.n_trained:,} of them trained" if is_trained else ""
            title = f"{place}, {text.title}: {text.n_tokens:,} tokens{trained}{cut}"
            console.print(Text(visible(title), style="bold"))
            line = Text()
            for piece in text.pieces:
                own = visible(piece.text)
                is_marked = piece.is_trained and is_trained
                line.append(
                    f"{OPEN}{own}{CLOSE}" if is_marked else own, "green" if is_marked else ""
                )
            console.print(line)
            console.print()
    console.print(note)


def _sizes(spec: StudySpec, source: Source) -> str:
    if spec.sources[source.name].parts is None and spec.generalisation is None:
        return f"{len(source.rows):,} rows"
    sizes = {use: len(source.seen_by(use)) for use in USES}
    shown = [use for use in USES if sizes[use] or use != "selection"]  # which few studies have
    return ", ".join(f"{sizes[use]:,} rows for {use}" for use in shown)


def _unseen_kinds(spec: StudySpec, sources: Mapping[str, Source]) -> list[str]:
    held = spec.generalisation
    if held is None:
        return []
    rows = (row for source in sources.values() for row in source.seen_by("holdout"))
    kinds = {kind for row in rows if (kind := kind_of(row, held)) is not None}
    return sorted(kind for kind in kinds if is_unseen(kind, held))


def _shared_lines(sources: Mapping[str, Source], shared: SharedRows, n_rows: int) -> Iterator[str]:
    other, measured = shared.other, shared.measured
    how_many = "all" if shared.is_whole else f"{len(shared.leaks)} of {shared.n_rows}"
    allowed = ", allowed" if shared.is_allowed else ""
    yield (
        f"shared      {how_many} rows of {measured.source} ({measured.use}) with {other.source} "
        f"({other.use}){allowed}"
    )
    for leak in shared.leaks[:n_rows]:
        other_place = row_place(sources, other, leak.other_row)
        own = row_place(sources, measured, leak.measured_row)
        yield visible(f"  {own} {likeness(leak, other_place)}")
        for seen, row in ((measured, leak.measured_row), (other, leak.other_row)):
            if seen.source in sources:
                yield f"    {_excerpt(sources[seen.source].seen_by(seen.use)[row])}"


def _excerpt(row: Row) -> str:
    """Return the beginning of what a row says, on one line."""
    value = row.get("prompt", row.get("messages", row.get("text")))
    if isinstance(value, list):
        value = " | ".join(part["content"] for part in value if part["role"] != "system")
    text = " ".join(visible(str(value)).split())
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 3]}..."


def _shared_json(sources: Mapping[str, Source], shared: SharedRows) -> dict[str, Any]:
    return {
        "other": shared.other._asdict(),
        "measured": shared.measured._asdict(),
        "is_allowed": shared.is_allowed,
        "is_whole": shared.is_whole,
        "n_rows": shared.n_rows,
        "leaks": [
            {
                "kind": leak.kind,
                "measured": row_place(sources, shared.measured, leak.measured_row),
                "other": row_place(sources, shared.other, leak.other_row),
            }
            for leak in shared.leaks
        ],
    }
