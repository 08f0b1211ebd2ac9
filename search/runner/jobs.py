"""Hand a study in to a cluster as a job of Ray, and follow it."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from search.errors import StudyError
from search.messages import one_line
from search.runner.cluster import TOKEN_FILE, has_token, is_loopback

EXCLUDED = (
    "results",
    ".venv",
    ".git",
    ".demo",
    "__pycache__",
    "*.pyc",
    ".mypy_cache",
    ".pytest_cache",
)
"""What of the working directory stays here."""
POLL_SECONDS = 2.0
AWAY_SECONDS = 120.0
"""How long the address may give no answer before nobody follows the job any more."""
INTERRUPTED = 130


class JobClient(Protocol):
    """What is used of `ray.job_submission.JobSubmissionClient`."""

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        """Hand a job in; returns its id."""
        ...

    def get_job_logs(self, job_id: str) -> str:
        """Return all that a job has printed."""
        ...

    def get_job_info(self, job_id: str) -> Any:
        """Return `status`, `message` and `driver_exit_code` of a job."""
        ...


def connect_to_jobs(url: str, allow_unauthenticated: bool, home: Path) -> JobClient:
    """Return a client of the place where a cluster takes jobs.

    Args:
        url: Such as http://127.0.0.1:8265.
        allow_unauthenticated: Hand in also to a cluster that asks nobody for a token.
        home: The user's folder, where Ray may keep a token.

    Raises:
        StudyError: It is not there, or lets anybody in, or does not let us in.
    """
    place = urlsplit(url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise StudyError(
            f"--address {url}: is no place for jobs; write http://HOST:8265, the address of the cluster's dashboard"
        )
    if not _asks_for_token(url):
        if not (allow_unauthenticated or is_loopback(f"{place.hostname}:{place.port or 80}")):
            raise StudyError(
                f"{url} asks nobody for a token: whoever reaches it can run code on the cluster; start it with "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set, or give --allow-unauthenticated"
            )
        os.environ["RAY_AUTH_MODE"] = "disabled"
    elif has_token(os.environ, home):
        os.environ["RAY_AUTH_MODE"] = "token"
    else:
        raise StudyError(
            f"{url} asks for a token; set RAY_AUTH_TOKEN, or write ~/{TOKEN_FILE}, to what the cluster was started with"
        )
    # Ray prefers these to the address it is given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    # What the study needs may well be ignored by git: data, above all.
    os.environ.setdefault("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(url)  # type: ignore[no-any-return]
    except Exception as error:  # whatever the client raises: it has no class of its own
        raise StudyError(
            f"{url} takes no jobs ({_reason(error)}); correct the address or the token"
        ) from error


def _asks_for_token(url: str) -> bool:
    import requests

    try:
        answer = requests.get(f"{url.rstrip('/')}/api/jobs/", timeout=10)
    except requests.RequestException as error:
        raise StudyError(
            f"nothing answers at {url} ({type(error).__name__}); start the cluster with its dashboard (pip install "
            "'ray[default]'), or forward its port 8265 to here"
        ) from None
    return answer.status_code in (401, 403)


def entrypoint(python: str, study: PurePosixPath, results: str, more: Sequence[str] = ()) -> str:
    """Return the command that the cluster runs; handed in again, it goes on with the study."""
    words = [python, "-m", "search.cli.main", "run", str(study), "--or-resume"]
    return shlex.join([*words, "--address", "auto", "--results", results, *more])


def hand_in(client: JobClient, command: str, folder: Path, excluded: Sequence[str]) -> str:
    """Send a folder and a command to a cluster; returns the id of the job.

    Raises:
        StudyError: The cluster does not take it.
    """
    runtime_env = {"working_dir": str(folder), "excludes": [*EXCLUDED, *excluded]}
    try:
        return client.submit_job(entrypoint=command, runtime_env=runtime_env)
    except Exception as error:  # whatever the client raises: it has no class of its own
        raise StudyError(
            f"the cluster does not take {folder} ({_reason(error)}); leave large files out with --exclude, or put them "
            "on a shared folder"
        ) from error


def follow(
    client: JobClient,
    job: str,
    say: Callable[[str], object],
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Print what a job prints until it ends; returns its exit code, 130 for a job that was stopped.

    Raises:
        StudyError: There is no such job, or its cluster is away for long.
    """
    n_said, away = 0, 0.0
    while True:
        try:
            info = client.get_job_info(job)
            text = client.get_job_logs(job)
        except Exception as error:  # whatever the client raises: it has no class of its own
            if "does not exist" in str(error) or away >= AWAY_SECONDS:
                raise StudyError(f"job {job} cannot be followed ({_reason(error)})") from error
            away += POLL_SECONDS
            sleep(POLL_SECONDS)
            continue
        away = 0.0
        if len(text) > n_said:
            say(text[n_said:])
            n_said = len(text)
        status = str(getattr(info.status, "value", info.status))
        if status == "SUCCEEDED":
            return 0
        if status == "STOPPED":
            return INTERRUPTED
        if status == "FAILED":
            if info.driver_exit_code is None:
                say(f"{one_line(str(info.message or 'no reason given'))[:500]}\n")
            return exit_code(info.driver_exit_code)
        sleep(POLL_SECONDS)


def exit_code(code: int | None) -> int:
    """Return the exit code of a failed job: its own, 1 where it has none; a signal counts as in shells."""
    if code is None or code == 0:
        return 1
    return 128 - code if code < 0 else code


def shipped(study: Path, folder: Path | None, here: Path) -> tuple[Path, PurePosixPath]:
    """Return the folder to ship, and the study file's path in it.

    Args:
        study: The study file.
        folder: As the user says; None takes `here` if the study is in it, else the study's own folder.
        here: The current folder.

    Raises:
        StudyError: The study is not in the folder.
    """
    study = study.absolute()
    chosen = (folder or (here if study.is_relative_to(here) else study.parent)).absolute()
    if not study.is_relative_to(chosen):
        raise StudyError(f"{study} is not in {chosen}; give a --working-dir that holds the study")
    return chosen, PurePosixPath(study.relative_to(chosen))


def _reason(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)[:300]
