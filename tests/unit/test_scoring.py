"""Scores and base references in the store: measured once, shared, and never taken from a broken file."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from store_tools import digest_of

from evaluators.scores import Item, Score
from evaluators.spec import EvaluatorSpec
from evaluators.suite import Reference, Suite
from evaluators.tokens import Logp
from search.scoring import SuiteResult, base_reference, read_result, write_result
from search.store import StageStore

PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
ODD = -0.1 - 0.2  # Has no short decimal: what rounds on its way would be noticed.


class CountingBase:
    """Gives the same log-probabilities each time, and counts how often it is asked."""

    def __init__(self, nats: float = ODD, seconds: float = 0.0, is_broken: bool = False) -> None:
        self.nats, self.seconds, self.is_broken = nats, seconds, is_broken
        self.n_asked = 0

    def ready(self) -> Any:
        return nullcontext()

    def completion_logps(self, rows: Sequence[Any]) -> list[Any]:
        self.n_asked += 1
        time.sleep(self.seconds)
        if self.is_broken:
            raise RuntimeError("out of memory")
        return [(Logp(self.nats, 3), Logp(2 * self.nats, 2))] * len(rows)


def suite(n_pairs: int = 2) -> Suite:
    spec = TypeAdapter(EvaluatorSpec).validate_python(
        {"evaluator": "preference", "source": "pairs"}
    )
    return Suite({"taste": spec}, {"pairs": [PAIR] * n_pairs}, Path("."))


def asked(base: CountingBase, store: StageStore | None, origin: str = "base, cpu") -> Reference:
    return base_reference(suite(), "v1-float32", base, origin, store)  # type: ignore[arg-type]


def packs(root: Path) -> list[Path]:
    return sorted(root.glob("scores/*/*/reference-v1-float32.pack"))


def test_second_process_reads_the_very_numbers_and_measures_nothing(tmp_path: Path) -> None:
    first, second = CountingBase(), CountingBase(nats=-9.0)
    measured = asked(first, StageStore(tmp_path))
    read = asked(second, StageStore(tmp_path))
    assert read == measured
    assert read.parts["taste"][0] == (Logp(ODD, 3), Logp(2 * ODD, 2))
    assert (first.n_asked, second.n_asked) == (1, 0)


def test_other_arithmetic_measures_for_itself(tmp_path: Path) -> None:
    asked(CountingBase(), StageStore(tmp_path))
    other = CountingBase()
    asked(other, StageStore(tmp_path), "base, cuda")
    assert other.n_asked == 1


@pytest.mark.parametrize("broken", [b"", b"torn", None])
def test_broken_file_is_measured_again_and_mended(broken: bytes | None, tmp_path: Path) -> None:
    asked(CountingBase(), StageStore(tmp_path))
    (path,) = packs(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] if broken is None else broken)
    again, after = CountingBase(), CountingBase()
    asked(again, StageStore(tmp_path))
    asked(after, StageStore(tmp_path))
    assert (again.n_asked, after.n_asked) == (1, 0)


def test_whole_file_of_something_else_is_measured_again(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    asked(CountingBase(), store)
    (path,) = packs(tmp_path)
    store.put_scores(path.parent.name, "reference-v1-float32", {"taste": b"[[[-1.0, 1]]]"})
    base = CountingBase()
    assert asked(base, store).parts["taste"][0][0] == Logp(ODD, 3)
    assert base.n_asked == 1


def test_of_two_at_the_same_time_one_measures_and_the_other_waits(tmp_path: Path) -> None:
    bases = [CountingBase(seconds=0.4), CountingBase(seconds=0.4)]
    found: list[Reference] = []
    threads = [
        threading.Thread(target=lambda base=base: found.append(asked(base, StageStore(tmp_path))))
        for base in bases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [base.n_asked for base in bases].count(0) == 1
    assert found[0] == found[1]


def test_dead_process_that_measured_is_taken_over(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        base = CountingBase()
        base.completion_logps = lambda rows: os._exit(0)  # type: ignore[assignment, method-assign]
        asked(base, StageStore(tmp_path))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert packs(tmp_path) == []
    assert list(tmp_path.glob("leases/*/*/*")) != [], "nobody had the lease: the test shows nothing"
    base = CountingBase()
    asked(base, StageStore(tmp_path, lease_seconds=600))
    assert base.n_asked == 1


def test_base_that_could_not_be_measured_is_not_kept(tmp_path: Path) -> None:
    fault = asked(CountingBase(is_broken=True), StageStore(tmp_path))
    assert fault.faults == {"taste": "measuring the base failed: RuntimeError: out of memory"}
    base = CountingBase()
    assert asked(base, StageStore(tmp_path)).faults == {}
    assert base.n_asked == 1


def test_numbers_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    asked(CountingBase(nats=float("-inf")), StageStore(tmp_path))
    assert packs(tmp_path) == []


def test_without_a_store_each_process_measures() -> None:
    base = CountingBase()
    asked(base, None)
    assert base.n_asked == 1


def test_full_disk_costs_nobody_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageStore(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._shelf, "put_scores", full)
    assert asked(CountingBase(), store).parts["taste"][0][0] == Logp(ODD, 3)


def result(value: float | None) -> SuiteResult:
    score = Score(
        name="form",
        value=value,
        n=4,
        unit="share",
        direction="maximise",
        status="measured" if value is not None else "missing",
        reason=None if value is not None else "empty",
    )
    items = (Item(evaluator="form", index=0, values={"passed": ODD}),)
    return SuiteResult(scores=(score,), items=items, is_stored=False)


def test_kept_result_comes_back_as_it_was_and_says_that_it_is_stored(tmp_path: Path) -> None:
    store, digest = StageStore(tmp_path), digest_of("model")
    write_result(store, digest, "v1", result(ODD))
    assert read_result(store, digest, "v1") == result(ODD).model_copy(update={"is_stored": True})
    assert read_result(store, digest, "v2") is None


def test_result_with_a_missing_score_is_not_kept(tmp_path: Path) -> None:
    store, digest = StageStore(tmp_path), digest_of("model")
    write_result(store, digest, "v1", result(None))
    assert read_result(store, digest, "v1") is None


def test_result_of_another_shape_is_measured_again(tmp_path: Path) -> None:
    store, digest = StageStore(tmp_path), digest_of("model")
    store.put_scores(digest, "v1", {"result.json": b'{"scores": []}'})
    assert read_result(store, digest, "v1") is None
