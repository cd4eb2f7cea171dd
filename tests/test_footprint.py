"""A light library: its size, its import, its memory, and what an import must not touch."""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import fastnn
from fastnn import footprint
from fastnn.cli import main

ROOT = Path(fastnn.__file__).resolve().parents[1]
USE = """
import numpy as np
from fastnn import nn
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
x, y = np.ones((20, 8), np.float32), np.arange(20) % 3
model(x)
trainer = fastnn.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=fastnn.optim.Adam(lr=1e-3))
trainer.fit(x, y, epochs=2, batch_size=8, verbose=0)
"""


def python(code, *flags, **options):
    """Output of a fresh interpreter; -I hides PYTHONPATH, so the package's folder comes as an argument."""
    code = f"import sys; sys.path.insert(0, {str(options.pop('root', ROOT))!r})\n{code}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FASTNN_"))}
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120,
        **{"env": environment, **options},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_goals():
    measured = footprint.measure(["fastnn"], rounds=3)["fastnn"]
    assert 0 < measured.disk <= 3e6
    assert measured.memory <= 8e6
    assert 0 < measured.training <= 8e6


def test_import_time():
    """15 ms on a quiet machine; on a busy one, a third of what NumPy's own import takes in the same processes.

    Of this thread alone: those that NumPy's BLAS starts spin beside it.
    """
    code = """
import time
a = time.thread_time(); import numpy
b = time.thread_time(); import fastnn
print(b - a, time.thread_time() - b)
"""
    runs = [tuple(map(float, python(code).split())) for _ in range(8)][1:]
    numpy, ours = (statistics.median(column) for column in zip(*runs, strict=True))
    assert ours <= max(0.015, numpy / 3), f"import fastnn takes {ours * 1e3:.1f} ms, NumPy {numpy * 1e3:.1f} ms"


def test_import_leaves_optional_parts_alone():
    code = """
import numpy
before = set(sys.modules)
import fastnn
print(*sorted(set(sys.modules) - before))
"""
    loaded = set(python(code).split())
    unwanted = {
        "argparse", "csv", "ctypes", "dataclasses", "fnmatch", "gzip", "json", "logging", "multiprocessing", "pathlib",
        "shutil", "socket", "subprocess", "tempfile", "urllib", "zipfile",
        "fastnn.benchmark", "fastnn.cli", "fastnn.data.readers", "fastnn.datasets", "fastnn.io.onnx",
        "fastnn.io.safetensors",
        "matplotlib", "onnx", "sklearn", "torch",
    }
    # What NumPy has loaded already costs nothing, so this list holds for any NumPy.
    assert not loaded & unwanted


AUDIT = """
import json, numpy
events = []
def hook(event, args):
    if event == "open":
        path, mode, flags = args
        events.append([event, str(path), bool(flags & (1 | 2 | 64 | 512 | 1024))])
    elif event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system",
                           "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate",
                           "os.chmod", "os.putenv", "tempfile.", "urllib.", "ctypes.", "webbrowser.", "winreg.")):
        events.append([event, "", True])
sys.dont_write_bytecode = True
sys.addaudithook(hook)
import fastnn
"""


@pytest.mark.parametrize("use", ["", USE], ids=["import", "use"])
def test_touches_nothing(use, tmp_path):
    home = tmp_path / "home"
    environment = {"PATH": "/nonexistent", "HOME": str(home), "TMPDIR": str(tmp_path / "tmp")}
    events = json.loads(python(f"{AUDIT}{use}print(json.dumps(events))", "-I", "-OO", env=environment))
    assert events, "the hook saw nothing"
    library = [str(ROOT / "fastnn"), *{p for p in (sys.prefix, sys.base_prefix)}]
    for event, path, changes in events:
        assert event == "open" and not changes, (event, path)
        allowed = any(path.startswith(prefix) for prefix in library) or path.startswith(("/proc/", "/sys/fs/cgroup"))
        assert allowed, f"opened {path}"
    assert not home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="already runs without root's rights")
def test_as_another_user_without_a_writable_folder(tmp_path):
    shutil.copytree(ROOT / "fastnn", tmp_path / "fastnn", ignore=shutil.ignore_patterns("__pycache__", "*.c"))
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
            if folder == Path("/"):
                break
    options = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/", "root": tmp_path}
    try:
        python("import numpy", **options)
    except (AssertionError, PermissionError):
        pytest.skip("this interpreter lies in a folder that other users may not read")
    assert python(f"import fastnn{USE}print(model.num_parameters())", "-I", "-OO", **options).split() == ["195"]
    assert not list(tmp_path.rglob("__pycache__"))


def test_within_64_mb_of_address_space():
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    if limit != resource.RLIM_INFINITY:
        pytest.skip("this process has a limit of its own")
    code = f"""
import resource, numpy
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 64 * 2**20,) * 2)
try:
    numpy.ones(80 * 2**20, numpy.uint8)
except MemoryError:
    print("limited")
import fastnn
{USE}
print(model.num_parameters())
"""
    # The stacks and heaps of threads that NumPy's BLAS starts would be taken from the 64 MB.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FASTNN_"))}
    environment["OPENBLAS_NUM_THREADS"] = "1"
    assert python(code, env=environment).split() == ["limited", "195"]


def test_command(capsys):
    assert main(["footprint", "fastnn", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["on", "disk", "MB", "import", "ms", "memory", "MB", "training", "MB"]
    assert lines[1].startswith("fastnn ") and lines[2].startswith("goal of fastnn")
    numbers = [float(cell) for cell in lines[1].split()[1:]]
    assert len(numbers) == 4 and all(0 < n < 1000 for n in numbers)


@pytest.mark.parametrize("argv", [["tensorflow-lite-for-me"], ["--rounds", "0"], ["--what"]])
def test_command_errors_are_one_line(argv, capsys):
    assert main(["footprint", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastnn: error: ") and error.count("\n") == 1


def test_disk_counts_files_but_no_caches(tmp_path, monkeypatch):
    package = tmp_path / "weighty"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").write_bytes(b"#" * 1000)
    (package / "__pycache__" / "x.pyc").write_bytes(b"#" * 5000)
    (tmp_path / "weighty.libs").mkdir()
    (tmp_path / "weighty.libs" / "a.so").write_bytes(b"#" * 300)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(footprint.PACKAGES, "weighty", ("weighty", "not_there"))
    assert footprint.disk("weighty") == 1300


def test_a_failing_process_is_reported(monkeypatch):
    monkeypatch.setitem(footprint.IMPORTS, "fastnn", "raise SystemExit('no such luck')")
    with pytest.raises(RuntimeError, match="no such luck"):
        footprint.measure(["fastnn"], rounds=1)


def test_families_that_load_on_first_use_find_what_they_need():
    """Each in a process of its own, where nothing else has loaded it."""
    uses = (
        "nn.MultiheadAttention(8, 2)(x, x, x, key_padding_mask=numpy.zeros((3, 1), bool))",
        "nn.TransformerEncoderLayer(8, 2, 8)(x)",
        "nn.LSTM(8, 4)(x)",
        "nn.Embedding(5, 8)(numpy.zeros((1, 3), int))",
        "nn.RotaryEmbedding(8)(x)",
        "functional.embedding(numpy.zeros((1, 3), int), x[0])",
        "functional.scaled_dot_product_attention(x, x, x)",
        "fastnn.quantize(nn.Sequential(nn.Linear(8, 2)), x[0])(x[0])",
        "fastnn.models.GPT(9, 4, 1, 1, 8).generate(numpy.zeros(1, int), 2)",
    )
    start = "import numpy, fastnn\nfrom fastnn import functional, nn\nx = numpy.ones((1, 3, 8), numpy.float32)\n"
    for use in uses:
        python(start + use)
