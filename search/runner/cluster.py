"""Which Ray a study runs on: one of its own that nobody else can reach, or a cluster that it joins.

Whoever reaches a Ray that asks for no token can run code on all its machines. A Ray of our own listens on the loopback
interface alone and has a token that only this process and its children know. A cluster that anybody may use is not
joined, unless it cannot be reached from outside this machine or the user says so.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.compute_spec import ComputeSpec, checked_address
from search.errors import StudyError
from search.messages import one_line

TOKEN_FILE = ".ray/auth_token"
"""In the home folder: where Ray looks for a token that is in no variable."""
CONNECT_SECONDS = 10.0
"""How long to wait for an answer of a cluster's control service."""

START_TRIES = 4
"""Of a Ray of our own."""

ANSWER_SECONDS = 180.0
"""How long a control service may take to say whether it asks for a token."""
CURRENT_CLUSTER = "ray/ray_current_cluster"
"""Below the folder for temporary files: where `ray start` leaves the address of the cluster."""

_OPEN, _CLOSED = "open", "closed"
_ASK = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None)
except AuthenticationError:
    print("{_CLOSED}")
else:
    print("{_OPEN}")
"""


@dataclass(frozen=True)
class Joining:
    """Which cluster to join, and how careful to be about it."""

    address: str | None = None
    """HOST:PORT or `auto`; None is what the study says, and a Ray of our own if it says nothing."""
    allow_unauthenticated: bool = False
    """Join also a cluster that asks nobody for a token."""


def prepare(compute: ComputeSpec, joining: Joining, home: Path) -> str | None:
    """Set what Ray and torch read from the environment, before either is imported; workers inherit it.

    Args:
        compute: The study's.
        joining: Which cluster.
        home: The user's folder, where Ray may keep a token.

    Returns:
        HOST:PORT of the cluster to join; None for a Ray of our own.

    Raises:
        StudyError: The cluster is not there, does not let us in, or lets anybody in.
    """
    # Spinning threads of two processes on a busy machine slow each other down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = str(compute.threads_per_trial)
    # Ray runs workers at nice 15, behind everything else on the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The study says in one line what became of a trial; Ray would say it in a dozen, whatever its log level.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # An interrupt must reach the driver as KeyboardInterrupt: Tune's own handler would report running trials as done.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if compute.autoscaling:
        # Tune asks for the room of one trial after the other; a cluster then grows by one node after the other.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(compute.concurrent_trials)
    if "PYTHONPATH" in os.environ:
        # Workers start in another folder, and must find the user's evaluators where this process does.
        parts = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in parts if part)
    if compute.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    wanted = joining.address or compute.address
    if wanted is None:
        os.environ.update(_own_authentication(os.environ))
        return None
    address = found_address(wanted, os.environ)
    _check_listens(address)
    os.environ.update(_admission(address, joining.allow_unauthenticated, os.environ, home))
    return address


def _own_authentication(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make a Ray of our own local, and ask for a token."""
    # Ray replaces 127.0.0.1 by an address that others reach, but where it takes clusters for impossible.
    found = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if "RAY_AUTH_MODE" not in environment:
        found |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return found


def _admission(
    address: str, allow_unauthenticated: bool, environment: Mapping[str, str], home: Path
) -> dict[str, str]:
    """Return the variables with which a cluster lets us in.

    Raises:
        StudyError: It does not, or it lets anybody in who is on another machine.
    """
    without = {name: value for name, value in environment.items() if "RAY_AUTH" not in name}
    if not _asks(address, without | {"RAY_AUTH_MODE": "disabled"}):
        if is_loopback(address) or allow_unauthenticated:
            # Who asks for tokens itself gets no answers from a cluster that has none.
            return {"RAY_AUTH_MODE": "disabled"}
        raise StudyError(
            f"the cluster at {address} asks nobody for a token: whoever reaches it can run code on its machines; "
            "start it with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set, or give --allow-unauthenticated"
        )
    mode = {"RAY_AUTH_MODE": "token"}
    if not has_token(environment, home) or _asks(address, {**environment, **mode}):
        raise StudyError(
            f"the cluster at {address} asks for a token, and not for one that is here; set RAY_AUTH_TOKEN, or write "
            f"~/{TOKEN_FILE}, to what it was started with"
        )
    return mode


def has_token(environment: Mapping[str, str], home: Path) -> bool:
    """Return whether Ray finds a token."""
    is_named = any(environment.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return is_named or (home / TOKEN_FILE).is_file()


@contextlib.contextmanager
def connected(address: str | None, scratch: Path) -> Iterator[None]:
    """Be connected to a Ray.

    Args:
        address: What `prepare` returned.
        scratch: An empty folder.

    Raises:
        StudyError: The cluster cannot be joined from this machine.
    """
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    # Workers look for modules where the driver started; a folder named `spaces` there would be taken for ours.
    with contextlib.chdir(scratch):
        if address is None:
            own = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            started_patiently(lambda: ray.init(**own, **quiet))
        else:
            _join(address, {"env_vars": _for_workers(os.environ)}, quiet)
    try:
        yield
    finally:
        ray.shutdown()


def started_patiently(start: Callable[[], object]) -> None:
    """Start a Ray of our own, again where the machine was too busy.

    Ray gives a node 30 seconds to come up and has no setting for it. What a try has started ends with this process.

    Args:
        start: Starts it.

    Raises:
        StudyError: No try was quick enough.
    """
    for _ in range(START_TRIES):
        try:
            start()
            return
        except Exception as error:  # Ray has no type for it.
            if "timed out during startup" not in str(error):
                raise
    raise StudyError(
        f"Ray did not start within half a minute, {START_TRIES} times: this machine is too busy, or short of memory; "
        "free some of it, and resume the study"
    )


def _join(address: str, runtime_env: dict[str, Any], quiet: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address, runtime_env=runtime_env, **quiet)
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        raise StudyError(
            f"the cluster at {address} cannot be joined ({one_line(str(error))[:300]}); run this on one of its "
            "machines, or use `apportion submit`"
        ) from error


def found_address(address: str, environment: Mapping[str, str]) -> str:
    """Return HOST:PORT of a cluster; `auto` is what RAY_ADDRESS says, or what `ray start` left on this machine.

    Ray's own `auto` goes on to look for any process of any Ray, such as that of another study.

    Raises:
        StudyError: Neither says anything.
    """
    if address != "auto":
        return address
    named = environment.get("RAY_ADDRESS", "")
    file = Path(environment.get("RAY_TMPDIR") or "/tmp") / CURRENT_CLUSTER
    if not named:
        try:
            named = file.read_text().strip()
        except OSError:
            raise StudyError(
                f"no cluster is known on this machine (RAY_ADDRESS is not set, {file} not there); start one with "
                "`ray start`, or give HOST:PORT"
            ) from None
    try:
        return checked_address(named)
    except ValueError as error:
        raise StudyError(f"RAY_ADDRESS or {file}: {error}") from None


def _check_listens(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise StudyError(
            f"no cluster answers at {address} ({error.strerror or error}); start one with `ray start --head`, or "
            "correct the address"
        ) from error


def _for_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what workers on other machines must have as this process has it; never a secret."""
    names = (
        "OMP_WAIT_POLICY",
        "OMP_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
        "CUDA_VISIBLE_DEVICES",
        "HF_HUB_OFFLINE",
    )
    # An empty list of devices is a choice for the CPU; any other one is about the devices of this machine.
    found = {
        name: environment[name]
        for name in names
        if name in environment and (name != "CUDA_VISIBLE_DEVICES" or not environment[name])
    }
    if environment.get("PYTHONPATH"):
        found["PYTHONPATH"] = environment["PYTHONPATH"] + os.pathsep + "${PYTHONPATH}"
    return found


def is_loopback(address: str) -> bool:
    """Return whether HOST:PORT is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _asks(address: str, environment: Mapping[str, str]) -> bool:
    """Return whether a control service wants a token other than the one in an environment.

    Asked from a process of its own, since Ray reads its settings once.

    Raises:
        StudyError: It does not answer.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK, address],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise StudyError(
            f"the cluster at {address} does not say within {ANSWER_SECONDS:.0f} s whether it asks for a token; try "
            "again, or correct the address"
        ) from None
    if done.stdout.strip() in (_OPEN, _CLOSED):
        return done.stdout.strip() == _CLOSED
    raise StudyError(f"what answers at {address} is no control service of Ray; correct the address")
