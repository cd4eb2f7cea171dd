"""Latency of a model call on one thread, beside ONNX Runtime: the p50 of single calls, both in the same run.

Needs the packages onnx and onnxruntime. The last column is what a call of fastnn costs above its kernels.
"""

import statistics
import time

import numpy as np
import pytest

import fastnn
from fastnn import nn
from fastnn.benchmark.fastnn_images import module
from fastnn.benchmark.images import IMAGE_NETWORKS

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

NETWORKS = {"64-128-64-10": (64, 128, 64, 10), "784-512-256-10": (784, 512, 256, 10)}
IMAGES = ("a", "c", "d")                 # of fastnn/benchmark/images.py
ROUNDS, CALLS = 40, 100


def network(sizes) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    fastnn.manual_seed(0)
    layers = [layer for i, o in zip(sizes[:-1], sizes[1:], strict=True) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def call_times(call) -> list[float]:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def kernel_seconds(model, x) -> float:
    """What the kernels of a call take, without what is done once for all calls."""
    result = model(x)                                    # the kernels write to it again, so it must stay
    program = next(reversed(model._compiled.values())).program
    seconds = program.executor.seconds(program.static_end, program.length, 300)
    assert np.array_equal(result, model(x))
    return float(sum(seconds))


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("name", [*NETWORKS, *IMAGES])
def test_latency(benchmark, tmp_path, capsys, name, batch):
    if name in NETWORKS:
        model, shape = network(NETWORKS[name]), (NETWORKS[name][0],)
    else:
        chosen = IMAGE_NETWORKS[name]
        fastnn.manual_seed(0)
        model, shape = module(chosen.layers, chosen.shape)[0], chosen.shape
        name = chosen.title.partition(", batch")[0]
    x = np.random.default_rng(0).random((batch, *shape), dtype=np.float32)
    model.export_onnx(tmp_path / "model.onnx", x.shape[1:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    calls = {"fastnn": lambda: model(x), "onnxruntime": lambda: session.run(None, {"x": x})}
    np.testing.assert_allclose(calls["fastnn"](), calls["onnxruntime"]()[0], rtol=1e-4, atol=1e-5)

    benchmark(calls["fastnn"])
    if not benchmark.enabled:
        return
    times = {library: [] for library in calls}
    for _ in range(ROUNDS):
        for library, call in calls.items():
            times[library] += call_times(call)
    p50 = {library: statistics.median(values) for library, values in times.items()}
    p99 = {library: float(np.percentile(values, 99)) for library, values in times.items()}
    above = p50["fastnn"] - kernel_seconds(model, x)
    benchmark.extra_info |= {"p50_us": {k: v * 1e6 for k, v in p50.items()}, "above_kernels_us": above * 1e6}
    with capsys.disabled():
        shown = "   ".join(f"{k} p50 {p50[k] * 1e6:8.2f} µs, p99 {p99[k] * 1e6:8.2f} µs" for k in calls)
        print(f"\n{name} batch {batch}:  {shown}   ratio {p50['onnxruntime'] / p50['fastnn']:.2f}   "
              f"above the kernels {above * 1e6:.2f} µs")
