"""A PostgreSQL server of a test's own, from Debian's package; it can be stopped and started again."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return None if named is None else Path(named).resolve().parent


class Postgres:
    """One server, on one address."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        programs = _programs()
        assert programs is not None
        self._programs, self._folder, self.host = programs, folder, host
        with socket.socket() as free:
            free.bind((host, 0))
            self.port = free.getsockname()[1]
        self.password = secrets.token_urlsafe(16) + "@/x"
        self._process: subprocess.Popen[bytes] | None = None
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        (folder / "password").write_text(self.password)
        self._run(
            "initdb",
            "-D",
            "data",
            "-U",
            "searcher",
            "-A",
            "scram-sha-256",
            "--pwfile=password",
            "-N",
        )
        with (folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *words],
            cwd=self._folder,
            user=self._user,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    @property
    def url(self) -> str:
        """With the password as an environment variable."""
        return f"postgresql+psycopg://searcher:${{DB_PASSWORD}}@{self.host}:{self.port}/postgres"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user="searcher",
            password=self.password,
            dbname="postgres",
        )

    def start(self) -> None:
        words = ["-D", "data", "-h", self.host, "-p", str(self.port), "-k", str(self._folder)]
        words += ["-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *words],
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
            )
        moment = time.monotonic() + 60
        while time.monotonic() < moment:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise AssertionError((self._folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        """Cut all connections and end, as a restart does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None


@contextmanager
def postgres(host: str = "127.0.0.1") -> Iterator[Postgres]:
    """Run a server; skips the test where PostgreSQL is not installed."""
    if _programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="apportion-postgres-"))
    folder.chmod(0o755)
    server = Postgres(folder, host)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
