"""`apportion report --watch`: the page served on this machine alone, made anew whenever the study changes.

One address with a secret in it, under 127.0.0.1; GET and HEAD of that address and nothing else. A page of another site
cannot read it: it does not know the secret, and a name that it makes point here (DNS rebinding) is not the host that is
asked for.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from search.errors import StudyError
from search.folders import StudyFolder
from search.report.html import report_html
from search.report.study_file import launches, read_study_file
from search.report.view import load_view

LOOK_SECONDS = 1.0
"""Between two looks at the folder."""
REST_FACTOR = 4.0
"""A page that takes a second to make is made at most every so many seconds: the study needs the processor more."""


@dataclass
class Page:
    """The page as last made, shared by the threads of the server."""

    content: bytes = b""
    tag: str = ""
    """Names the content; changes with it."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, text: str) -> None:
        """Replace the content."""
        content = text.encode()
        with self.lock:
            self.content, self.tag = content, f'"{sha256(content).hexdigest()[:32]}"'

    def get(self) -> tuple[bytes, str]:
        """Return content and tag that belong together."""
        with self.lock:
            return self.content, self.tag


def signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a report would: records of trials, confirmation, explanations, how launches ended.

    study.json itself is written every few seconds while a study runs, and says nothing new by that.
    """
    files = StudyFolder(folder)
    found = []
    places = (
        files.trials.glob("[0-9]*/trial.json"),
        (files.path / "explanations").glob("**/*.json"),
        (files.confirmation_json, files.study_yaml),
    )
    for paths in places:
        for path in paths:
            try:
                state = path.stat()
            except OSError:
                continue
            found.append((str(path), state.st_mtime_ns, state.st_size))
    return (*sorted(found), (f"{_endings(folder)}", 0, 0))


def has_ended(folder: Path) -> bool:
    """Tell whether the study's last launch has said how it ended."""
    endings = _endings(folder)
    return bool(endings) and bool(endings[-1])


def watch(
    folder: Path,
    port: int,
    say: Callable[[str], None],
    until_end: bool = False,
    look_seconds: float = LOOK_SECONDS,
) -> None:
    """Serve the report until interrupted, or until the study has ended.

    Args:
        folder: Results of a study.
        port: 0 takes a free one.
        say: Told the address.
        until_end: Whether to return when the study has ended; its last page is made first.
        look_seconds: Between two looks at the folder.

    Raises:
        StudyError: There is no study here, or the port is taken.
    """
    page = Page()
    seen = signature(folder)
    took = _make(folder, page)
    server = _server(page, port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    say(server.address)
    try:
        while not (until_end and has_ended(folder)):
            time.sleep(max(look_seconds, REST_FACTOR * took))
            now = signature(folder)
            if now != seen:
                seen, took = now, _make(folder, page)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server(ThreadingHTTPServer):
    """Serves one page under one address."""

    daemon_threads = True
    page: Page
    path: str
    hosts: frozenset[str]

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"


def _server(page: Page, port: int) -> Server:
    try:
        server = Server(("127.0.0.1", port), _Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise StudyError(f"--port: {port} cannot be used ({reason}); give another, or 0") from None
    number = server.server_address[1]
    server.page, server.path = page, f"/{secrets.token_urlsafe(24)}/"
    server.hosts = frozenset({f"127.0.0.1:{number}", f"localhost:{number}"})
    return server


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            return self._refuse(HTTPStatus.FORBIDDEN)
        if not secrets.compare_digest(self.path.encode(), self.server.path.encode()):
            return self._refuse(HTTPStatus.NOT_FOUND)
        content, tag = self.server.page.get()
        is_known = self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK)
        self.send_header("ETag", tag)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        if not is_known:
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body and not is_known:
            self.wfile.write(content)
        return None

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def version_string(self) -> str:
        return "apportion"

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the terminal is the user's."""


def _make(folder: Path, page: Page) -> float:
    """Make the page, and return the seconds that took. What is being written right now is read the next time."""
    began = time.monotonic()
    try:
        page.put(report_html(load_view(folder), is_watched=True))
    except StudyError:
        if not page.content:
            raise
    return time.monotonic() - began


def _endings(folder: Path) -> list[str]:
    try:
        return [
            launch.ended for launch in launches(read_study_file(StudyFolder(folder).study_json))
        ]
    except (StudyError, OSError):
        return []
