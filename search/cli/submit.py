"""`apportion submit`: hand a study in to a cluster as a job, and follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.output import print_json
from search.errors import SpecError

EXAMPLES = """\b
Examples:
  apportion submit study.yaml --address http://127.0.0.1:8265 --results /shared/results
  apportion submit study.yaml --results /shared/results --python /opt/apportion/bin/python
  apportion submit study.yaml --results /shared/results --detach
  apportion submit --attach raysubmit_4Vd8fHq2"""


def submit(
    study: Annotated[Path | None, typer.Argument(help="Study file.", metavar="[STUDY]")] = None,
    address: Annotated[
        str, typer.Option(help="Where the cluster takes jobs: its dashboard.", metavar="URL")
    ] = "http://127.0.0.1:8265",
    results: Annotated[
        str | None,
        typer.Option(help="Folder of all studies on the cluster; all its machines share it."),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder to ship. Default: this one if the study is in it, else the study's."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Further patterns of what stays here, as in .gitignore; may be repeated."
        ),
    ] = None,
    python: Annotated[str, typer.Option(help="Python on the cluster.")] = "python",
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's id, and do not follow it.")
    ] = False,
    attach: Annotated[
        str | None, typer.Option(help="Follow this job, which was handed in before.", metavar="JOB")
    ] = None,
    allow_unauthenticated: Annotated[
        bool,
        typer.Option(
            "--allow-unauthenticated",
            help="Hand in also to a cluster that asks nobody for a token.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --detach: print one JSON object.")
    ] = False,
) -> None:
    """Run a study on a Ray cluster from a machine that is no part of it. Handed in again, it goes on where it was.

    The folder is shipped but for results, .venv and .git. Interrupting this leaves the job alone. The exit code is the
    job's: see `apportion run`.
    """
    from search.runner import jobs

    if (study is None) == (attach is None):
        raise SpecError("give a STUDY, or --attach with the id of a job")
    if attach is None:
        assert study is not None
        command, folder = _command(study, working_dir, results, python)
    client = jobs.connect_to_jobs(address, allow_unauthenticated, Path.home())
    job = attach or jobs.hand_in(client, command, folder, exclude or ())
    if detach:
        if as_json:
            print_json({"job": job, "address": address})
        else:
            typer.echo(job)
        return
    again = f"apportion submit --attach {job} --address {address}"
    typer.echo(f"job {job}; it goes on without this command, follow it with: {again}", err=True)
    code = jobs.follow(client, job, lambda text: typer.echo(text, nl=False))
    if code == 127:
        typer.echo(f"no {python} there; name the cluster's own with --python", err=True)
    if code:
        raise typer.Exit(code)


def _command(
    study: Path, working_dir: Path | None, results: str | None, python: str
) -> tuple[str, Path]:
    """Return what the cluster is to run, and the folder to ship."""
    from search.check import checked_study
    from search.runner import jobs

    if results is None or not results.startswith("/"):
        raise SpecError(
            "--results: name a folder on the cluster that all its machines share, such as /shared/results; what a job "
            "writes into its own folder is lost with it"
        )
    checked_study(study)
    folder, inside = jobs.shipped(study, working_dir, Path.cwd())
    return jobs.entrypoint(python, inside, results), folder
