"""The thread team inside one process: barriers, growth, two callers at once."""

import threading
import time

import pytest

from fastnn.engine import executor


@pytest.mark.parametrize("nthreads", [1, 2, 3, 4, 5, 6, 7, 8, 2, 4])
def test_every_thread_sees_every_round(nthreads):
    assert executor.team_granted(nthreads) == nthreads
    assert executor.team_selftest(nthreads, 2000)


@pytest.mark.parametrize("nthreads", [2, 4])
def test_many_short_runs(nthreads):
    assert all(executor.team_selftest(nthreads, 1) for _ in range(2000))


def test_two_callers_at_once_both_finish_right():
    """While one thread has the team the other runs alone; when it is free again, anyone gets it."""
    stop = threading.Event()
    granted, wrong = set(), []

    def train():
        while not stop.is_set():
            granted.add(executor.team_granted(3))
            if not executor.team_selftest(3, 50):
                wrong.append("a round was not seen whole")

    callers = [threading.Thread(target=train) for _ in range(2)]
    for caller in callers:
        caller.start()
    stop.wait(0.5)
    stop.set()
    for caller in callers:
        caller.join(timeout=30)
        assert not caller.is_alive()
    assert wrong == []
    assert 3 in granted
    assert granted <= {1, 3}
    assert executor.team_granted(3) == 3


def test_busy_team_is_reported_not_mistimed():
    stop = threading.Event()

    def hold():
        while not stop.is_set():
            executor.team_selftest(2, 20000)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        with pytest.raises(RuntimeError, match="asked for 2 threads, got 1"):
            for _ in range(10000):
                time.sleep(0.0005)  # until the holder is in the middle of a run
                executor.team_barrier_ns(2, 1)
    finally:
        stop.set()
        holder.join(timeout=30)
    assert executor.team_barrier_ns(2, 1000) > 0


@pytest.mark.parametrize(("nthreads", "rounds"), [(0, 1), (-1, 1), (1025, 1), (2, 0)])
def test_arguments_are_checked(nthreads, rounds):
    for function in (executor.team_selftest, executor.team_barrier_ns):
        with pytest.raises(ValueError, match="expected"):
            function(nthreads, rounds)
