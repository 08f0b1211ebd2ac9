"""The command `apportion`: one small file per command, registered here. Maps errors to exit codes.

A command imports what is slow (torch, Ray, Optuna) inside its function, so that all others start at once. It prints
facts on stdout, raises an ApportionError for what the user can mend, and returns nothing.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from evaluators.redaction import redacted
from search.cli import (
    check,
    compare,
    confirm,
    data,
    evaluators,
    explain,
    export,
    graph,
    init,
    logs,
    methods,
    moved,
    plan,
    recommend,
    run,
    schema,
    score,
    status,
    store,
    submit,
    train,
)
from search.errors import ApportionError
from search.messages import one_line

INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 + the signal's number, as shells say it."""

app = typer.Typer(
    name="apportion",
    help="Decide how much of each fine-tuning method, in which order and proportion.",
    epilog="""\b
Examples:
  apportion init my_study
  apportion check my_study/study.yaml
  apportion plan my_study/study.yaml
  apportion run my_study/study.yaml""",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# One line per command, in the order in which --help lists them.
app.command("init", epilog=init.EXAMPLES)(init.init)
app.command("check", epilog=check.EXAMPLES)(check.check)
app.add_typer(data.app)
app.command("plan", epilog=plan.EXAMPLES)(plan.plan)
app.command("methods", epilog=methods.EXAMPLES)(methods.methods)
app.add_typer(evaluators.app)
app.command("run", epilog=run.RUN_EXAMPLES)(run.run)
app.command("resume", epilog=run.RESUME_EXAMPLES)(run.resume)
app.command("submit", epilog=submit.EXAMPLES)(submit.submit)
app.command("status", epilog=status.STATUS_EXAMPLES)(status.status)
app.command("confirm", epilog=confirm.EXAMPLES)(confirm.confirm)
app.command("report", epilog=status.REPORT_EXAMPLES)(status.report)
app.command("show", epilog=status.SHOW_EXAMPLES)(status.show)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("logs", epilog=logs.EXAMPLES)(logs.logs)
app.command("explain", epilog=explain.EXAMPLES)(explain.explain)
app.command("moved", epilog=moved.EXAMPLES)(moved.moved)
app.command("routes", epilog=recommend.ROUTES_EXAMPLES)(recommend.routes)
app.command("recommend", epilog=recommend.RECOMMEND_EXAMPLES)(recommend.recommend)
app.command("graph", epilog=graph.EXAMPLES)(graph.graph)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("score", epilog=score.EXAMPLES)(score.score)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.add_typer(store.app)
app.command("schema", epilog=schema.EXAMPLES)(schema.schema)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"apportion {version('apportion')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Words after `apportion`; default: those of this process.

    Returns:
        0 done, 2 the input is wrong, 130 interrupted; commands may add codes of their own. An unexpected exception
        is not caught: Python prints its traceback and exits with 1.
    """
    sys.excepthook = _print_traceback
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _command().main(words, prog_name="apportion", standalone_mode=False)
        sys.stdout.flush()
    except ApportionError as error:
        return _refuse(str(error), error.exit_code)
    except (NotADirectoryError, IsADirectoryError, PermissionError, FileNotFoundError) as error:
        return _refuse(f"{error.filename}: {error.strerror}; name another place", 2)
    except TyperException as error:
        return _refuse(_usage_text(error), 2)
    except typer.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _quiet_pipe()
    except SystemExit as ending:  # typer's own answer to a broken pipe
        if isinstance(ending.__context__, BrokenPipeError):
            return _quiet_pipe()
        raise
    return code if isinstance(code, int) else 0


@functools.cache
def _command() -> Any:
    return get_command(app)  # takes longer than many a command


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what Python would of an error that nobody expected, with secrets masked."""
    print(
        redacted("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end=""
    )


def _refuse(text: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {one_line(redacted(text))}", file=sys.stderr)
    return code


def _usage_text(error: TyperException) -> str:
    """Return a usage error as one line that ends with a remedy."""
    text = one_line(error.format_message())
    possibilities = getattr(error, "possibilities", None)
    if possibilities:
        text = f"{one_line(error.message)}; did you mean {' or '.join(sorted(possibilities))}?"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "apportion"
    return f"{text[:1].lower()}{text[1:].rstrip('.')} (see `{command} --help`)"


def _quiet_pipe() -> int:
    # Python flushes stdout once more when it exits; the reader is gone, so that goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
