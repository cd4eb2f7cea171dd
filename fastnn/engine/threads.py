"""How many threads the engine uses: what the user asked for, else what the system allows this process."""

from __future__ import annotations

import operator
import os

from fastnn import config

MAX_THREADS = 1024  # as in team.pxi and config.py

_num_threads: int | None = None


def cpus_allowed(root: str | os.PathLike[str] = "/") -> int:
    """CPUs this process may use: its affinity mask or its cgroup's quota, whichever is less; at least 1.

    A quota that is not a whole number of CPUs is rounded up. `root` is where `proc` and `sys` lie.
    """
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup_cpus(root)
    return cpus if quota is None else max(1, min(cpus, quota))


def cgroup_cpus(root: str | os.PathLike[str] = "/") -> int | None:
    """The least CPU quota of this process's cgroups (v1, v2) and their ancestors, rounded up, or None.

    Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst (`cpu.max`) and scheduler/sched-bwc.rst
    (`cpu.cfs_quota_us`, `cpu.cfs_period_us`), with the hierarchies mounted in their usual places.
    """
    mounts = os.path.join(root, "sys/fs/cgroup")
    text = _read(os.path.join(root, "proc/self/cgroup")) or ""
    quotas = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for mount in (mounts, os.path.join(mounts, "unified")):
                quotas += [_quota_v2(folder) for folder in _ancestry(mount, path)]
        elif "cpu" in controllers.split(","):
            for mount in (os.path.join(mounts, controllers), os.path.join(mounts, "cpu")):
                quotas += [_quota_v1(folder) for folder in _ancestry(mount, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def default_num_threads() -> int:
    """FASTNN_NUM_THREADS; else OMP_NUM_THREADS (first of a list), at most the CPUs allowed; else those.

    An OMP_NUM_THREADS that is not a positive number is ignored, as other libraries do: it is not ours.
    """
    if config.num_threads is not None:
        return config.num_threads
    allowed = min(cpus_allowed(), MAX_THREADS)
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if first.isascii() and first.isdigit() and int(first) > 0:
        return min(int(first), allowed)
    return allowed


def set_num_threads(n: int) -> None:
    """Set the number of threads of the engine, from 1 to 1024, for programs that run from now on.

    Results do not depend on it. More threads than CPUs allowed are accepted, but slow.
    Raises TypeError if `n` is not an integer, ValueError if it is out of range.
    """
    global _num_threads
    _num_threads = check_num_threads(n)


def check_num_threads(n: int, name: str = "n") -> int:
    """`n` as an int if it is a possible number of threads, else TypeError or ValueError that names it."""
    try:
        if isinstance(n, bool):
            raise TypeError
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, found {n!r} of type {type(n).__name__}") from None
    if not 1 <= number <= MAX_THREADS:
        raise ValueError(f"{name}: expected a number of threads from 1 to {MAX_THREADS}, found {number}")
    return number


def get_num_threads() -> int:
    """The number of threads of the engine: as last set, else `default_num_threads()` at the first call."""
    global _num_threads
    if _num_threads is None:
        _num_threads = default_num_threads()
    return _num_threads


def _ancestry(mount: str, path: str) -> list[str]:
    """The cgroup's folder and those above it, up to the mount: each of them may set a quota.

    In a container the path may be the host's, of which only the mount itself is visible.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [os.path.join(mount, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota_v2(folder: str) -> int | None:
    fields = (_read(os.path.join(folder, "cpu.max")) or "").split()
    return _round_up(*fields) if len(fields) == 2 else None


def _quota_v1(folder: str) -> int | None:
    quota, period = (
        _read(os.path.join(folder, f"cpu.cfs_{name}_us")) for name in ("quota", "period")
    )
    return None if quota is None or period is None else _round_up(quota, period)


def _round_up(quota: str, period: str) -> int | None:
    """CPUs from two times in µs; None for `max`, -1 and whatever else is not a quota."""
    quota, period = quota.strip(), period.strip()
    if not (quota.isdecimal() and period.isdecimal() and int(quota) > 0 and int(period) > 0):
        return None
    return -(-int(quota) // int(period))


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except OSError:  # no such hierarchy or controller here, or not readable for this user: no quota known
        return None
