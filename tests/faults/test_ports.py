"""What a study opens on a machine is reached from that machine alone, and asks for a token."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from killing import TWO_WORKERS, read_log, started, write_study
from ports import answers, listening


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_port_of_a_running_study_is_local_and_refuses_who_has_no_token(
    tmp_path: Path,
) -> None:
    study, log = write_study(tmp_path / "study", 1, TWO_WORKERS), tmp_path / "log"
    with started(("run", str(study)), tmp_path, log) as program:
        moment = time.monotonic() + 200
        while not read_log(log) and program.is_alive() and time.monotonic() < moment:
            time.sleep(0.2)
        assert read_log(log), (tmp_path / "output.txt").read_text()[-3000:]
        ports = listening(program.family())
        found = {port: answers(port) for port in ports}
    for port, said in found.items():
        print(port, said)
    assert {port for port in ports if not port.is_loopback} == set()
    # Control service, node and object manager, driver, and two workers at least.
    assert sum(said == {"refused"} for said in found.values()) >= 6, found
    assert {port for port, said in found.items() if "served" in said} == set()
    assert {port for port, said in found.items() if not said} == set(), "not understood"
