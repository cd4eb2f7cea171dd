"""How many threads: affinity, cgroup quotas from fake file trees, environment variables, set and get."""

import os

import numpy as np
import pytest

from fastnn import Trainer, config, functional, nn, optim
from fastnn.engine import threads
from fastnn.graph.compile import Compiled
from fastnn.graph.tensor import Out

CGROUP = "proc/self/cgroup"
V1 = "sys/fs/cgroup/cpu"
V2 = "sys/fs/cgroup"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No choice made yet, no variable set."""
    monkeypatch.setattr(threads, "_num_threads", None)
    monkeypatch.setattr(config, "num_threads", None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def cpus(monkeypatch):
    """Pretend that the affinity mask has this many CPUs, 16 until told otherwise."""

    def pretend(n):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(n)))

    pretend(16)
    return pretend


def tree(root, files):
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def v1(folder, quota, period=100000):
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


def v2(folder, text):
    return {f"{folder}/cpu.max": f"{text}\n"}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("", {}, None, id="no cgroups"),
        pytest.param("0::/\n", {}, None, id="v2 root has no cpu.max"),
        pytest.param("0::/\n", v2(V2, "max 100000"), None, id="v2 without quota"),
        pytest.param("0::/\n", v2(V2, "200000 100000"), 2, id="v2 whole"),
        pytest.param("0::/\n", v2(V2, "250000 100000"), 3, id="v2 rounded up"),
        pytest.param("0::/\n", v2(V2, "1000 100000"), 1, id="v2 tiny"),
        pytest.param("0::/\n", v2(V2, ""), None, id="v2 empty file"),
        pytest.param("0::/a/b\n", v2(V2 + "/a/b", "300000 100000"), 3, id="v2 nested"),
        pytest.param(
            "0::/a/b\n",
            {**v2(V2 + "/a", "150000 50000"), **v2(V2 + "/a/b", "700000 100000")},
            3,
            id="v2 parent is stricter",
        ),
        pytest.param("0::/host/abc\n", v2(V2, "500000 100000"), 5, id="v2 host path seen in a container"),
        pytest.param("0::/../other\n", v2(V2, "400000 100000"), 4, id="v2 outside the namespace"),
        pytest.param("4:cpu:/\n0::/\n", v1(V1, -1), None, id="v1 without quota"),
        pytest.param("5:memory:/\n4:cpu:/x\n", v1(V1 + "/x", 150000), 2, id="v1 rounded up"),
        pytest.param("4:cpu,cpuacct:/x\n", v1(V2 + "/cpu,cpuacct", 700000), 7, id="v1 joint, on the mount"),
        pytest.param("4:cpu,cpuacct:/x\n", v1(V1 + "/x", 350000, 50000), 7, id="v1 joint, by its link"),
        pytest.param("4:cpuset:/\n", v1(V1, 100000), None, id="v1 cpuset is another controller"),
        pytest.param(
            "4:cpu:/\n0::/user\n",
            {**v1(V1, 600000), **v2(V2 + "/unified/user", "900000 100000")},
            6,
            id="hybrid",
        ),
    ],
)
def test_cgroup_quota(tmp_path, cpus, groups, files, expected):
    root = tree(tmp_path, {CGROUP: groups, **files} if groups else files)
    assert threads.cgroup_cpus(root) == expected
    assert threads.cpus_allowed(root) == (16 if expected is None else expected)


def test_affinity_may_be_less_than_the_quota(tmp_path, cpus):
    cpus(3)
    assert threads.cpus_allowed(tree(tmp_path, {CGROUP: "0::/\n", **v2(V2, "800000 100000")})) == 3


def test_real_affinity():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads.cpus_allowed() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= threads.cpus_allowed() <= len(allowed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2", 2), ("4,2", 4), (" 3 , 1", 3), ("64", 6), ("0", 6), ("-1", 6), ("", 6), ("many", 6), ("2.5", 6)],
)
def test_omp_num_threads(monkeypatch, value, expected):
    monkeypatch.setattr(threads, "cpus_allowed", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.default_num_threads() == expected


def test_own_variable_wins_even_above_the_cpus_allowed(monkeypatch):
    monkeypatch.setattr(threads, "cpus_allowed", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(config, "num_threads", 8)
    assert threads.default_num_threads() == 8


def test_without_variables_all_cpus_allowed_but_no_more_than_a_team_holds(monkeypatch):
    monkeypatch.setattr(threads, "cpus_allowed", lambda: 6)
    assert threads.default_num_threads() == 6
    monkeypatch.setattr(threads, "cpus_allowed", lambda: 4096)
    assert threads.default_num_threads() == threads.MAX_THREADS


def test_get_keeps_its_first_answer_and_set_changes_it(monkeypatch):
    monkeypatch.setattr(threads, "cpus_allowed", lambda: 6)
    assert threads.get_num_threads() == 6
    monkeypatch.setattr(threads, "cpus_allowed", lambda: 2)
    assert threads.get_num_threads() == 6
    threads.set_num_threads(np.int64(9))
    assert threads.get_num_threads() == 9
    assert type(threads.get_num_threads()) is int


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_set_rejects_numbers_out_of_range(n):
    threads.set_num_threads(3)
    with pytest.raises(ValueError, match=f"from 1 to 1024, found {n}"):
        threads.set_num_threads(n)
    assert threads.get_num_threads() == 3


@pytest.mark.parametrize("n", [2.0, "2", None, True])
def test_set_rejects_other_types(n):
    with pytest.raises(TypeError, match="n: expected an integer, found"):
        threads.set_num_threads(n)


@pytest.mark.parametrize(("size", "chosen"), [(8, 1), (32, 1), (128, 4), (1024, 4)])
def test_a_product_takes_the_threads_that_pay(size, chosen):
    compiled = Compiled(functional.matmul, [Out((size, size), "float32")] * 2)
    assert compiled.program.threads(4) == chosen


def test_a_call_of_its_own_must_save_what_waking_threads_costs():
    compiled = Compiled(functional.matmul, [Out((96, 96), "float32")] * 2)
    assert compiled.program.threads(4) > 1
    assert compiled.program.threads(4, start=1e-5) == 1


def test_small_steps_choose_one_thread():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    trainer = Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=1e-3), seed=0)
    assert trainer.program(batch_size=32).threads(64) == 1
    assert trainer.program(batch_size=512).threads(4) == 4
