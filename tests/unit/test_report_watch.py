"""`apportion report --watch` serves one page to this machine, and makes it anew when the study changes."""

from __future__ import annotations

import html
import http.client
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import write_scored, write_two_objectives

from search.cli.main import main
from search.errors import StudyError
from search.folders import StudyFolder
from search.report import watch as watching


class Watched:
    """A study that is being watched."""

    def __init__(self, files: StudyFolder) -> None:
        self.files = files
        self.address = ""
        self.is_up = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.is_up.wait(60)

    def _run(self) -> None:
        watching.watch(self.files.path, 0, self._say, until_end=True, look_seconds=0.05)

    def _say(self, address: str) -> None:
        self.address = address
        self.is_up.set()

    def ask(
        self, path: str | None = None, method: str = "GET", **headers: str
    ) -> tuple[int, str | None, str]:
        parts = urlsplit(self.address)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, parts.path if path is None else path, headers=sent)
        answer = connection.getresponse()
        found = answer.status, answer.getheader("ETag"), answer.read().decode()
        connection.close()
        return found

    def end(self) -> None:
        launch = {
            "command": "run",
            "started_at": "2026-11-24T00:00:00+00:00",
            "ended": "budget met",
        }
        self.files.study_json.write_text(json.dumps({"launches": [launch]}))
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    files = write_two_objectives(tmp_path_factory.mktemp("watched"))
    write_scored(files, 0, (0.2, 0.01), (0.1, 0.01))
    found = Watched(files)
    yield found
    found.end()


def test_the_page_is_on_this_machine_alone_under_an_address_that_nobody_guesses(
    watched: Watched,
) -> None:
    parts = urlsplit(watched.address)
    assert parts.hostname == "127.0.0.1"
    assert len(parts.path.strip("/")) >= 32
    status, tag, text = watched.ask()
    assert status == 200
    assert tag is not None
    assert "connect-src 'self'" in html.unescape(text)
    assert watched.ask(If_None_Match=tag)[::2] == (304, "")
    assert watched.ask(method="HEAD") == (200, tag, "")


@pytest.mark.parametrize("path", ["/", "/..", "/etc/passwd", "/trials/", "//x/"])
def test_no_other_address_has_anything(watched: Watched, path: str) -> None:
    assert watched.ask(path) == (404, None, "")


def test_another_host_name_and_other_methods_are_refused(watched: Watched) -> None:
    assert watched.ask(Host="rebound.example")[0] == 403
    assert watched.ask(method="POST")[0] == 501
    assert watched.ask(method="DELETE")[0] == 501


def test_the_page_changes_with_the_study_and_the_watch_ends_with_it(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    write_scored(files, 0, (0.2, 0.01), (0.1, 0.01))
    watched = Watched(files)
    _, before, _ = watched.ask()
    write_scored(files, 1, (0.9, 0.01), (0.1, 0.01))
    for _ in range(600):
        _, tag, text = watched.ask()
        if tag != before:
            break
        threading.Event().wait(0.05)
    assert "2 trials: 2 complete" in text
    watched.end()


def test_what_a_run_writes_every_few_seconds_is_no_change(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)

    def write(wall_seconds: float, ended: str | None) -> None:
        launch = {"command": "run", "wall_seconds": wall_seconds, "ended": ended}
        files.study_json.write_text(json.dumps({"launches": [launch]}))

    write(1.0, None)
    first = watching.signature(files.path)
    write(11.0, None)
    assert watching.signature(files.path) == first
    assert not watching.has_ended(files.path)
    write(11.0, "budget met")
    assert watching.signature(files.path) != first
    assert watching.has_ended(files.path)


def test_a_page_that_is_not_served_asks_nobody(tmp_path: Path) -> None:
    files = write_two_objectives(tmp_path)
    text = watching.report_html(watching.load_view(files.path))
    assert "connect-src" not in text.split("</head>")[0]
    assert 'id="watched"' not in text


def test_a_port_that_is_taken_is_an_error_with_a_remedy(watched: Watched) -> None:
    port = urlsplit(watched.address).port
    assert port is not None
    with pytest.raises(StudyError, match=f"--port: {port} cannot be used .*; give another, or 0"):
        watching.watch(watched.files.path, port, print)


def test_options_of_the_watch_need_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from report_fixture import write_study

    folder = tmp_path / "study"
    write_study(folder, 1)
    files = StudyFolder(folder)
    kept = json.loads(files.study_json.read_text())
    files.study_json.write_text(json.dumps({**kept, "budget": {"trials": 3}, "launches": []}))
    assert main(["report", str(folder), "--once"]) == 2
    assert "--watch; add it" in capsys.readouterr().err
