"""One process at a time holds a study: who is refused, who takes over and when, and that a stale one writes no more."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from played import new_study, optuna_trials, play, played
from store_tools import Clock

from search import study as study_module
from search.cli.main import main
from search.errors import StudyError
from search.folders import StudyFolder
from search.holding import Fence, Hold, LostHold, holder, take_hold
from search.store import process
from search.study import Study

ELSEWHERE = "another-host:boot:space:7:7"
TAKER = """
import sys, time
from pathlib import Path
from search.holding import take_hold
hold = take_hold(Path(sys.argv[1]), "run")
print("held", flush=True)
time.sleep(60)
"""


def other_process(folder: Path) -> subprocess.Popen[str]:
    """Start a process of this machine that holds a study."""
    started = subprocess.Popen(
        [sys.executable, "-c", TAKER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "held\n"
    return started


class World:
    """A clock of which a wait takes as long as it says, and what may happen meanwhile."""

    def __init__(self) -> None:
        self.clock, self.said = Clock(), list[str]()

    def sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def take(self, folder: Path, lease_seconds: float = 60) -> Hold:
        return take_hold(folder, "run", self.said.append, lease_seconds, self.clock, self.sleep)


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """A hold of a process on another machine, as it looks from here."""
    with monkeypatch.context() as patched:
        patched.setattr(process, "identity", lambda: ELSEWHERE)
        return take_hold(tmp_path, "run")


def test_second_holder_is_refused_at_once_and_told_who_has_it(tmp_path: Path) -> None:
    other = other_process(tmp_path)
    world = World()
    try:
        with pytest.raises(StudyError) as refused:
            world.take(tmp_path)
        assert f"another process runs this study (host {os.uname().nodename}" in str(refused.value)
        assert f"process {other.pid}, since 20" in str(refused.value)
        assert world.clock.now == Clock().now
        found = holder(tmp_path)
        assert found is not None
        assert found.is_alive
    finally:
        other.kill()
        other.wait()


def test_sleeping_process_of_this_machine_keeps_its_study(tmp_path: Path) -> None:
    other = other_process(tmp_path)
    try:
        os.kill(other.pid, signal.SIGSTOP)
        with pytest.raises(StudyError, match="another process runs this study"):
            World().take(tmp_path)
    finally:
        other.kill()
        other.wait()


def test_killed_holder_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    other = other_process(tmp_path)
    other.kill()
    other.wait()
    assert holder(tmp_path) is None
    world = World()
    world.take(tmp_path).release()
    assert world.said == []


def test_released_study_is_free_and_tasks_do_not_exclude_each_other(tmp_path: Path) -> None:
    running = take_hold(tmp_path, "run")
    confirming = take_hold(tmp_path, "confirm")
    with pytest.raises(StudyError, match="another process confirms this study"):
        take_hold(tmp_path, "confirm")
    running.release()
    take_hold(tmp_path, "run").release()
    confirming.check()
    confirming.release()


def test_silent_holder_elsewhere_is_followed_after_its_lease(tmp_path: Path, foreign: Hold) -> None:
    found = holder(tmp_path)
    assert found is not None
    assert found.is_alive is None
    world = World()
    began = world.clock.now
    hold = world.take(tmp_path)
    assert world.clock.now - began == pytest.approx(60, abs=1)
    assert "waiting up to 60 s" in world.said[0]
    hold.check()
    with pytest.raises(LostHold, match="was taken over"):
        foreign.check()
    foreign.release()  # of what it has no more
    hold.check()
    hold.release()


def test_holder_elsewhere_that_renews_is_left_alone(tmp_path: Path, foreign: Hold) -> None:
    world = World()

    def renewing_sleep(seconds: float) -> None:
        world.clock.now += seconds
        if world.clock.now > Clock().now + 20:
            foreign._lease.renew()

    world.sleep = renewing_sleep  # type: ignore[method-assign]
    with pytest.raises(StudyError, match="another process runs this study"):
        world.take(tmp_path)
    foreign.check()
    foreign.release()


def test_overtaken_driver_and_its_worker_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    with monkeypatch.context() as patched:
        patched.setattr(process, "identity", lambda: ELSEWHERE)
        stale = new_study(tmp_path)
    play(stale, 2)
    open_proposal = stale.next()
    assert open_proposal is not None
    place = stale.folder.path
    taking = functools.partial(take_hold, lease_seconds=60, steady=world.clock, sleep=world.sleep)
    monkeypatch.setattr(study_module, "take_hold", taking)
    heir = Study.open(place, "apportion resume")
    adopted = heir.next()
    assert adopted is not None
    assert adopted.number == open_proposal.number
    folder = heir.folder.trial(adopted.number)
    folder.clear()
    folder.write_record(played(adopted, form=0.9))
    before = folder.record.read_bytes(), heir.folder.study_json.read_bytes()
    worker = StudyFolder(place, Fence(place, "run", stale.hold_token).check).trial(adopted.number)
    for write in (
        lambda: worker.write_record(played(adopted, form=0.1)),
        worker.clear,
        lambda: worker.write_items(0, False, ()),
        lambda: worker.write_traceback("late"),
        stale.touch,
        lambda: stale.finish(played(open_proposal, form=0.1)),
        stale.check_held,
    ):
        with pytest.raises(LostHold):
            write()
    stale.close("ended")
    assert (folder.record.read_bytes(), heir.folder.study_json.read_bytes()) == before
    heir.finish(played(adopted, form=0.9))
    assert [trial.values for trial in optuna_trials(heir)][2] == [0.9, 0.1]
    heir.close("ended")


def test_resume_of_a_study_that_runs_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = new_study(tmp_path)
    assert main(["resume", str(study.folder.path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"process {os.getpid()}" in told
    assert "wait for it or stop it first" in told
    study.close("ended")
