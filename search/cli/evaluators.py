"""`apportion evaluators`: which there are, and whether one of your own keeps what all of them promise."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from evaluators.custom import ENTRY_POINTS, entry_points
from evaluators.spec import OWN_SPECS
from search.cli.output import print_json
from search.errors import SpecError
from search.messages import one_line

LIST_EXAMPLES = """\b
Examples:
  apportion evaluators list
  apportion evaluators list --json"""
VERIFY_EXAMPLES = """\b
Examples:
  apportion evaluators verify my_package.mine:Mine
  apportion evaluators verify my_package.mine:Mine --spec '{"source": "rows", "limit": 4}'
  apportion evaluators verify my_package.mine:Mine --rows rows=data/questions.jsonl"""

app = typer.Typer(name="evaluators", help="List evaluators; verify one of your own.")


@app.command("list", epilog=LIST_EXAMPLES)
def list_evaluators(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List evaluators: those of this package, and those that installed packages name. Imports no code of theirs."""
    own = {name: (spec.__doc__ or "").strip().splitlines()[0] for name, spec in OWN_SPECS.items()}
    others = {name: path for name, path in sorted(entry_points().items()) if name not in own}
    if as_json:
        print_json({"own": own, "installed": others})
        return
    width = max(map(len, [*own, *others]))
    for name, words in {**own, **others}.items():
        typer.echo(f"{name:{width}}  {words}")
    typer.echo(f"any other: package.module:Class, or an entry point in the group {ENTRY_POINTS}")


@app.command("verify", epilog=VERIFY_EXAMPLES)
def verify(
    evaluator: Annotated[
        str, typer.Argument(help="Import path, or name of an entry point.", metavar="EVALUATOR")
    ],
    spec: Annotated[
        str | None,
        typer.Option("--spec", help="Its keys, as JSON. Default: a source called rows, if any."),
    ] = None,
    rows: Annotated[
        list[str] | None,
        typer.Option("--rows", help="SOURCE=FILE.jsonl with its rows. Default: six made-up ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check on a tiny random model that an evaluator keeps what all promise. This imports it, which runs its code."""
    given = {} if spec is None else _settings(spec)
    files = dict(_rows(each) for each in rows or [])
    # Both load torch.
    from evaluators.contract.checks import default_settings, verify

    try:
        settings = default_settings(evaluator) if spec is None else given
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = []
            for outcome in verify(evaluator, settings, files):
                outcomes.append(outcome)
                if not as_json:
                    state = "skip" if outcome.is_skipped else "FAIL" if outcome.fault else "ok"
                    typer.echo(
                        f"{state:4}  {outcome.claim}{f': {outcome.fault}' if outcome.fault else ''}"
                    )
    except ValueError as error:
        text = one_line(str(error))
        raise SpecError(text if text.startswith(evaluator) else f"{evaluator}: {text}") from None
    n_broken = sum(outcome.fault is not None and not outcome.is_skipped for outcome in outcomes)
    if as_json:
        print_json({"is_fine": not n_broken, "checks": [each._asdict() for each in outcomes]})
    if n_broken:
        raise typer.Exit(2)


def _settings(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"--spec is not JSON ({error}); write such as '{{\"limit\": 4}}'") from None
    if not isinstance(found, dict):
        raise SpecError("--spec is no JSON object; write such as '{\"limit\": 4}'")
    return found


def _rows(text: str) -> tuple[str, list[dict[str, Any]]]:
    source, _, file = text.partition("=")
    if not source or not file:
        raise SpecError(f"--rows {text!r} has no source and file; write SOURCE=FILE.jsonl")
    found = []
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{file}:{number}: is not JSON ({error}); mend the line") from None
        if not isinstance(row, dict):
            raise SpecError(f"{file}:{number}: is no JSON object; write one row a line")
        found.append(row)
    return source, found
