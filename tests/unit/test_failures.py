"""Failures: the recipe's own and the machines'; what is tried again, when, and what is said of it."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from played import STUDY, new_study, play, played, study_file

from search.errors import Diverged, MemoryShortage, StageError
from search.failures import Retries, kind_of, settled, wait_seconds
from search.folders import TrialFolder, utc_now
from search.outcomes import Failure, FailureKind
from search.records import Proposal, Seconds, TrialRecord
from search.report.describe import failures, lost_rows
from search.report.view import load_view
from search.runner.deaths import failure_of
from search.storage import connect_patiently
from search.study import Study
from search.trial_log import TrialLog, read_log
from search.yaml_file import load_study

RETRIED = STUDY.replace("budget: {trials: 8}", "compute: {retries: 2}\nbudget: {trials: 3}")


def failure(kind: FailureKind = "worker") -> Failure:
    return Failure(kind=kind, reason="why", at=utc_now())


class AcceleratorError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StageError("no rows"), "recipe"),
        (Diverged("the loss is nan"), "diverged"),
        (MemoryShortage("one row"), "memory"),
        (OSError(errno.ENOSPC, "full"), "storage"),
        (OSError(errno.ESTALE, "stale file handle"), "storage"),
        (FileNotFoundError(errno.ENOENT, "task file"), "recipe"),
        (AcceleratorError("device-side assert"), "device"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device"),
    ],
)
def test_kind_of_a_failure_follows_from_the_error(error: Exception, kind: FailureKind) -> None:
    assert kind_of(error) == kind
    wrapped = RuntimeError("while training")
    wrapped.__cause__ = error
    assert kind_of(wrapped) == kind


def test_waits_double_from_five_seconds_to_five_minutes() -> None:
    assert [wait_seconds(n) for n in (1, 2, 3, 6, 7, 50)] == [5, 10, 20, 160, 300, 300]


def test_trial_is_tried_again_after_its_wait_and_at_most_so_often(tmp_path: Path) -> None:
    proposal = Proposal(4, {}, play(new_study(tmp_path), 1)[0].recipe, None)
    retries = Retries(2)

    def failed(kind: FailureKind = "worker", seconds: float = 1.5) -> TrialRecord:
        ended = {"state": "FAIL", "failure": failure(kind), "seconds": Seconds(rest=seconds)}
        return played(proposal).model_copy(update=ended)

    assert retries.take(proposal, failed(), now=100.0) == 5
    assert retries.due(104.9) is None
    assert retries.due(105.0) == proposal
    assert retries.due(106.0) is None
    assert retries.take(proposal, failed("storage", 40.0), now=110.0) == 10
    assert retries.due(120.0) == proposal
    assert retries.take(proposal, failed(), now=130.0) is None
    assert [each.kind for each in retries.failures(4)] == ["worker", "storage"]
    assert [each.seconds for each in retries.failures(4)] == [1.5, 40.0]
    for kind in ("recipe", "scores", "diverged", "memory", "hang"):
        assert Retries(2).take(proposal, failed(kind), now=0.0) is None


def test_study_waits_for_what_the_machines_failed_and_counts_it_once(tmp_path: Path) -> None:
    now = [0.0]
    path = study_file(tmp_path, text=RETRIED)
    study = Study.create(
        load_study(path), path, tmp_path / "results", "apportion run", clock=lambda: now[0]
    )
    play(study, 2)
    last = study.next()
    assert last is not None
    folder = study.folder.trial(last.number)
    folder.clear()
    now[0] = 7.0
    assert study.retry(last, study.fail(last, failure())) == 5
    waiting = folder.read_record()
    assert waiting is not None
    assert (waiting.state, len(waiting.lost_attempts)) == ("RUNNING", 1)
    assert study.next() is None
    assert study.stop_reason is None
    now[0] = 12.0
    assert study.next() == last
    folder.clear()
    # What happened before it was begun anew stays in its log.
    assert [line["event"] for line in read_log(folder.log)] == ["ended", "tried again"]
    record = played(last)
    folder.write_record(record)
    assert study.retry(last, record) is None
    ended = study.finish(record)
    assert (ended.state, [each.kind for each in ended.lost_attempts]) == ("COMPLETE", ["worker"])
    assert ended.seconds.rest == record.seconds.rest + 7.0
    told = lost_rows(load_view(study.folder.path))
    assert told == [("machine: process died: why", [last.number])]
    assert study.spent().trials == 3
    assert study.next() is None
    assert study.stop_reason == "all 3 trials are done"


def test_recipe_that_fails_by_itself_is_not_tried_again_and_its_kind_is_reported(
    tmp_path: Path,
) -> None:
    study = new_study(tmp_path)
    play(study, 1)
    proposal = study.next()
    assert proposal is not None
    study.folder.trial(proposal.number).clear()
    record = study.finish(played(proposal, form=None))
    assert record.failure is not None
    assert study.retry(proposal, record) is None
    study.close("ended")
    infinite = settled(played(proposal), "form: not finite", ())
    assert infinite.failure is not None
    assert (record.failure.kind, infinite.failure.kind) == ("scores", "diverged")
    told = [reason for reason, _ in failures(load_view(study.folder.path))]
    assert told[0].startswith("score missing: form: missing: empty")


def test_worker_that_died_is_told_apart_by_what_it_left(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    assert failure_of(folder, None, 60).kind == "worker"
    killed = RuntimeError("Task was killed due to the node running low on memory (OOM)")
    assert "out of memory" in failure_of(folder, killed, 60).reason
    full = SimpleNamespace(cause=OSError(errno.ENOSPC, "No space left on device"))
    assert failure_of(folder, full, 60).kind == "storage"  # type: ignore[arg-type]
    folder.hang.write_text("")  # of a process that was killed while it was watched
    assert failure_of(folder, None, 60).kind == "worker"
    folder.hang.write_text("Timeout (0:01:00)!")
    found = failure_of(folder, None, 60)
    assert found.kind == "hang"
    assert "nothing was done for 60 seconds" in found.reason


def test_place_of_a_hang_within_a_step_is_told_by_the_log(tmp_path: Path) -> None:
    recipe = play(new_study(tmp_path), 2)[1].recipe
    folder = TrialFolder(tmp_path / "trial")
    folder.clear()
    folder.write_record(played(Proposal(1, {}, recipe, None)).model_copy(update={"boundaries": ()}))
    folder.hang.write_text("Timeout (0:01:00)!")
    log = TrialLog(folder.log)
    for event in ("started", "stage", "started"):
        log.write(event)
    n_stages = len(recipe.stages)
    assert f"in stage 1 of {n_stages} (" in failure_of(folder, None, 60).reason
    log.write("stage")
    assert f"in the evaluation after stage 1 of {n_stages};" in failure_of(folder, None, 60).reason


WATCHED = """
import sys, time
from pathlib import Path
from evaluators.pulse import beat
from search.runner.watchdog import watched
with watched(Path(sys.argv[1]), float(sys.argv[2])):
    for _ in range(int(sys.argv[3])):
        time.sleep(0.05)
        beat()
    time.sleep(float(sys.argv[4]))
print("ended by itself")
"""


def test_process_without_progress_is_ended_and_says_where_it_stood(tmp_path: Path) -> None:
    traces = tmp_path / "hang.txt"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WATCHED, str(traces), *words],
            capture_output=True,
            text=True,
            timeout=100,
        )

    # 40 beats take 2 s and more, longer than the 1.5 s in which nothing may happen.
    busy = run("1.5", "40", "0")
    assert (busy.returncode, busy.stdout) == (0, "ended by itself\n")
    assert not traces.exists()
    began = time.monotonic()
    idle = run("1.5", "2", "90")
    assert idle.returncode == 1
    assert time.monotonic() - began < 80
    assert idle.stdout == ""
    assert 'File "<string>", line 10' in traces.read_text()


def test_storage_that_was_reached_once_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    waits: list[float] = []
    connect_patiently(engine, waits.append, longest=10)
    whole = engine.dialect.connect
    faults = [engine.dialect.loaded_dbapi.OperationalError("away")] * 3

    def away(*arguments: object, **parameters: object) -> object:
        if faults:
            raise faults.pop()
        return whole(*arguments, **parameters)

    monkeypatch.setattr(engine.dialect, "connect", away)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
    assert waits == [1, 2, 4]
    engine.dispose()
    faults = [engine.dialect.loaded_dbapi.OperationalError("away")] * 99
    with pytest.raises(sqlalchemy.exc.OperationalError), engine.connect():
        pass
    assert waits == [1, 2, 4, 1, 2, 4]
