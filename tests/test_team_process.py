"""The thread team and its process: start, signals, idling, fork, exit. Each case has a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastnn.engine import executor

PROLOGUE = """
import multiprocessing, os, signal, sys, threading, time
from fastnn.engine import executor
def tasks():
    return set(os.listdir("/proc/self/task"))
def start(nthreads):
    assert executor.team_granted(nthreads) == nthreads
    assert executor.team_selftest(nthreads, 100)
def train_for_ever(rounds=5000):
    while True:
        executor.team_selftest(3, rounds)
"""


def run(script):
    """The script's standard output. Fails if it hangs, dies or exits with an error."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROLOGUE + script],
        cwd=Path(executor.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_workers_start_lazily_and_stay():
    run("""
before = len(tasks())
start(1)
assert len(tasks()) == before
start(3)
assert len(tasks()) == before + 2
start(5)
start(2)
assert len(tasks()) == before + 4
""")


def test_workers_leave_signals_to_the_main_thread():
    run("""
before = tasks()
start(4)
workers = tasks() - before
assert len(workers) == 3
for tid in workers:
    status = open(f"/proc/self/task/{tid}/status").read()
    blocked = int(status.split("SigBlk:")[1].split()[0], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        assert blocked >> (number - 1) & 1, number
    assert not blocked >> (signal.SIGSEGV - 1) & 1
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
""")


def test_interrupt_reaches_the_main_thread():
    output = run("""
start(4)
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    while True:
        executor.team_selftest(4, 1000)
except KeyboardInterrupt:
    print("interrupted")
""")
    assert output == "interrupted\n"


def test_idle_workers_use_no_cpu():
    run("""
start(4)
time.sleep(0.1)
used = time.process_time()
time.sleep(0.5)
used = time.process_time() - used
assert used < 0.02, used
start(4)
""")


def test_more_threads_than_cpus_still_advance():
    """A barrier takes far less than the scheduler's time slice: who waits gives the core to the others."""
    run("""
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
start(4)
ns = min(executor.team_barrier_ns(4, 500) for _ in range(10))
assert ns < 1e5, ns
""")


@pytest.mark.parametrize("nthreads", [2, 4])
def test_child_of_fork_has_its_own_team(nthreads):
    run(f"""
start({nthreads})
def child(queue):
    before = len(tasks())
    start({nthreads})
    queue.put((before, len(tasks()) - before))
context = multiprocessing.get_context("fork")
for _ in range(3):
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join(30)
    assert process.exitcode == 0, process.exitcode
    assert queue.get() == (1, {nthreads - 1})
start({nthreads})
""")


def test_fork_while_another_thread_has_the_team():
    run("""
start(3)
threading.Thread(target=train_for_ever, daemon=True).start()
for _ in range(100):
    pid = os.fork()
    if pid == 0:
        start(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
os._exit(0)
""")


@pytest.mark.parametrize("rounds", [5000, 2_000_000_000])
@pytest.mark.parametrize("leave", ["", "sys.exit(0)", "os._exit(0)"])
def test_exit_while_a_daemon_thread_trains(leave, rounds):
    """In many short runs, between which the thread enters Python, and inside a run of many minutes."""
    run(f"""
threading.Thread(target=train_for_ever, args=({rounds},), daemon=True).start()
time.sleep(0.1)
{leave}
""")
