"""A limit on a block: it ends loops and waits, leaves no timer behind, and may stand inside another one."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from evaluators.time_limit import time_limit


def test_loop_and_wait_are_ended_with_the_seconds_in_the_reason() -> None:
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 seconds"), time_limit(0.05):
        time.sleep(60)
    with pytest.raises(TimeoutError), time_limit(0.05):
        sum(1 for _ in iter(int, 1))  # never ends


def test_block_that_is_done_in_time_is_left_alone_and_no_timer_stays() -> None:
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with time_limit(5.0), time_limit(None):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 5.0
    after = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert after == before


def test_outer_limit_goes_on_after_an_inner_one() -> None:
    def nested() -> None:
        with pytest.raises(TimeoutError, match=r"longer than 0\.05 seconds"), time_limit(0.05):
            time.sleep(60)
        time.sleep(60)

    with pytest.raises(TimeoutError, match=r"longer than 0\.2 seconds"), time_limit(0.2):
        nested()


def test_thread_that_gets_no_signals_has_no_limit() -> None:
    done = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
