"""8-bit networks: integer arithmetic against Python's, accuracy against float, engine against exported C."""

import json
from fractions import Fraction

import numpy as np
import pytest
from c_export import BOARDS, Exported
from check_op import ISAS, bound

import fastnn
from fastnn import Trainer, nn, optim
from fastnn import functional as F  # noqa: N812
from fastnn.datasets import load_digits
from fastnn.graph.compile import Compiled
from fastnn.graph.ops import apply
from fastnn.graph.tensor import Out, source
from fastnn.nn.quantized import fixed_point

for_each_isa = pytest.mark.parametrize("isa", ISAS)
ACTIVATIONS = ["relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh", "softplus", "hardswish"]
NORMAL = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def fitted(model, X, y, epochs, lr=1e-3):
    Trainer(model, nn.CrossEntropyLoss(), optim.Adam(lr=lr), seed=0).fit(X, y, epochs=epochs, verbose=0)
    return model


def accuracy(model, X, y):
    return (model(X).argmax(1) == y).mean()


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits()
    X = (X / 16).astype(np.float32)
    fastnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    fitted(model, X[:1300], y[:1300], 20)
    return model, X, y, fastnn.quantize(model, X[:300])


def integers(layer, x):
    """What a `Quantize` layer gives."""
    return np.clip(np.rint(x / np.float32(layer.scale)) + layer.zero_point, -128, 127).astype(np.int8)


def reals(layer, q):
    """What a `Dequantize` layer gives."""
    return (q.astype(np.int32) - layer.zero_point).astype(np.float32) * np.float32(layer.scale)


def reference(layer, x):
    """A QuantizedLinear in Python's integers of any size, from its buffers and the published rounding rule."""
    rows = []
    for row in x.astype(int).tolist():
        out = []
        for w, b, scale in zip(layer.weight.tolist(), layer.bias.tolist(), layer.weight_scale.tolist(), strict=True):
            total = b + sum((a - layer.input_zero_point) * c for a, c in zip(row, w, strict=True))
            multiplier, shift = fixed_point(layer.input_scale * scale / layer.output_scale)
            value = (2 * total * multiplier + 2**shift) // 2 ** (shift + 1) + layer.output_zero_point
            low = max(layer.output_zero_point, -128) if layer.relu else -128
            out.append(min(max(value, low), 127))
        rows.append(out)
    return np.array(rows, np.int8)


def of_integers(layer, x, nthreads=1):
    """A quantised layer on an int8 array."""
    holder = source("constant", x.shape, "int8", value=np.ascontiguousarray(x))
    run = Compiled(lambda like: apply("dequantize", layer(holder), scale=1.0, zero_point=0), [Out((1,))])
    return run(np.zeros(1, np.float32), nthreads=nthreads).astype(np.int8)


def random_layer(k, n, rows, relu=False):
    """A layer (k, n) whose outputs spread over the range, and int8 inputs (rows, k)."""
    rng = np.random.default_rng([k, n, rows])
    layer = nn.QuantizedLinear(k, n, 0.02, int(rng.integers(-128, 128)), 0.5, int(rng.integers(-128, 128)), relu)
    layer.weight = rng.integers(-127, 128, (n, k)).astype(np.int8)
    layer.bias = rng.integers(-20000, 20000, n).astype(np.int32)
    layer.weight_scale = (2.0 ** rng.uniform(-12, -4, n)).astype(np.float32)
    return layer, rng.integers(-128, 128, (rows, k)).astype(np.int8)


@pytest.mark.parametrize("exponent", [-61.7, -40, -31, -8.3, -1, 0, 3.5, 29])
def test_fixed_point_has_31_bits(exponent):
    factor = 2.0**exponent
    multiplier, shift = fixed_point(factor)
    assert 1 <= shift <= 62 and 0 <= multiplier < 2**31
    error = abs(Fraction(multiplier, 2**shift) / Fraction(factor) - 1)
    assert error <= Fraction(1, 2**31) or (shift == 62 and abs(Fraction(multiplier, 2**62) - Fraction(factor)) < 2**-62)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), 2.0**30])
def test_fixed_point_refuses(factor):
    with pytest.raises(ValueError, match="requantisation factor"):
        fixed_point(factor)


@for_each_isa
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 5), (16, 16), (63, 17), (64, 33), (130, 65), (259, 4)])
@pytest.mark.parametrize(("rows", "relu"), [(1, False), (3, True), (7, False), (19, True)])
def test_linear_is_exact(isa, k, n, rows, relu):
    layer, x = random_layer(k, n, rows, relu=relu)
    with bound(isa):
        found = of_integers(layer, x)
    np.testing.assert_array_equal(found, reference(layer, x))


def test_the_layers_above_do_not_just_saturate():
    values = of_integers(*random_layer(64, 33, 7))
    assert len(np.unique(values)) > 60 and ((values > -128) & (values < 127)).mean() > 0.3


@for_each_isa
@pytest.mark.parametrize("k", [2047, 2049, 4095, 4097])
def test_linear_around_the_depth_of_a_panel(isa, k):
    layer, x = random_layer(k, 3, 5)
    layer.weight_scale = layer.weight_scale / 64
    with bound(isa):
        np.testing.assert_array_equal(of_integers(layer, x), reference(layer, x))


@for_each_isa
def test_linear_at_the_extremes(isa):
    """Every product as large as it gets, in as many terms as are allowed: int32 must hold."""
    for zero, value, weight in [(-128, 127, 127), (-128, 127, -127), (127, -128, 127), (127, -128, -127)]:
        layer = nn.QuantizedLinear(32768, 2, 0.01, zero, 1e5, 0)
        layer.weight = np.full((2, 32768), weight, np.int8)
        layer.bias = np.array([2**30, -(2**30)], np.int32)
        layer.weight_scale = np.array([1e-2, 1], np.float32)
        x = np.full((1, 32768), value, np.int8)
        with bound(isa):
            np.testing.assert_array_equal(of_integers(layer, x), reference(layer, x))
    with pytest.raises(ValueError, match="at most 32768"):
        nn.QuantizedLinear(32769, 2, 1.0, 0, 1.0, 0)


def test_halves_are_rounded_up():
    layer = nn.QuantizedLinear(1, 1, 0.5, 0, 1.0, 0)
    layer.weight[:] = 1
    x = np.array([[-5], [-3], [-1], [1], [3], [5]], np.int8)
    np.testing.assert_array_equal(of_integers(layer, x)[:, 0], [-2, -1, 0, 1, 2, 3])


@pytest.mark.parametrize("nthreads", [2, 3, 4])
def test_threads_change_nothing(nthreads):
    for k, n, rows in [(64, 2100, 1), (33, 17, 7)]:
        layer, x = random_layer(k, n, rows)
        np.testing.assert_array_equal(of_integers(layer, x, nthreads), of_integers(layer, x))


@for_each_isa
def test_quantize_and_dequantize(isa):
    x = np.array([0, 0.5, 1.5, 2.5, -0.5, -1.5, 300, -300, 1e30, -1e30, 63.4999, 63.5], np.float32)
    model = nn.Sequential(nn.Quantize(0.5, 3), nn.Dequantize(0.5, 3))
    with bound(isa):
        np.testing.assert_array_equal(model(x), reals(model[1], integers(model[0], x)))
        odd = nn.Sequential(nn.Quantize(0.1, -7), nn.Dequantize(0.1, -7))
        values = np.linspace(-15, 15, 1203, dtype=np.float32)
        np.testing.assert_array_equal(odd(values), reals(odd[1], integers(odd[0], values)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_within_a_step(name):
    """The table's output is the activation of the 8-bit input, rounded to the output's grid."""
    fastnn.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Identity(), nn.Linear(9, 8), nn.activation(name), nn.Linear(8, 2))
    q = fastnn.quantize(model, NORMAL)
    kinds = [type(layer).__name__ for layer in q]
    assert kinds.count("Lookup") == (name != "relu")
    if name != "relu":
        before, table = q[2], next(layer for layer in q if isinstance(layer, nn.Lookup))
        after = q[list(q).index(table) + 1]
        steps = np.arange(-128, 128)
        x = ((steps - before.output_zero_point) * np.float64(before.output_scale)).astype(np.float32)
        y = nn.activation(name)(x[None])[0]
        error = np.abs((table.table.astype(int) - after.input_zero_point) * after.input_scale - y)
        inside = (y >= (-128 - after.input_zero_point) * after.input_scale) & (
            y <= (127 - after.input_zero_point) * after.input_scale
        )
        assert inside.sum() > 100 and error[inside].max() <= 0.501 * after.input_scale
    error = np.abs(q(NORMAL) - model(NORMAL)).max()
    assert error < 0.05 * np.ptp(model(NORMAL))


def test_weights_are_symmetric_per_output_channel(digits):
    model, _, _, q = digits
    for linear, quantized in ((model[0], q[1]), (model[2], q[2]), (model[4], q[3])):
        weight = linear.weight.data
        scale = np.abs(weight).max(1) / 127
        np.testing.assert_allclose(quantized.weight_scale, scale, rtol=1e-6)
        assert np.abs(quantized.weight * quantized.weight_scale[:, None] - weight).max() <= 0.501 * scale.max()
        assert (np.abs(quantized.weight.astype(int)).max(1) == 127).all()


def test_digits_accuracy(digits):
    model, X, y, q = digits
    assert accuracy(model, X[1300:], y[1300:]) > 0.88
    assert accuracy(q, X[1300:], y[1300:]) >= accuracy(model, X[1300:], y[1300:]) - 0.005


def test_engine_and_host_c_agree_bit_for_bit(digits, tmp_path):
    _, X, _, q = digits
    exported = Exported.of(q, (64,), tmp_path)
    assert exported.input_type == exported.output_type == "int8_t"
    assert not any(word in exported.code for word in ("float", "double", "math.h"))
    undefined = ("gcc", "-fsanitize=undefined", "-fno-sanitize-recover=all")
    for compiler, *flags in (("gcc", "-O0"), ("gcc", "-O3"), ("clang", "-O2"), undefined):
        found = exported.on_host(integers(q[0], X), compiler, *flags)
        np.testing.assert_array_equal(reals(q[-1], found), q(X))


@pytest.mark.parametrize("board", BOARDS)
def test_digits_fit_a_small_microcontroller(digits, tmp_path, board):
    """24 KB of flash and 1 KB of RAM in all: the image would not link with more. Its code needs no library."""
    _, X, _, q = digits
    exported = Exported.of(q, (64,), tmp_path)
    found, (text, data, bss), stack = exported.on_board(integers(q[0], X[1300:]), board, flash=24 * 1024, ram=1024)
    np.testing.assert_array_equal(reals(q[-1], found), q(X[1300:]))
    assert text + data <= 24 * 1024 and data + bss + stack <= 1024
    assert bss - exported.macro("RAM_BYTES") <= 4 and exported.macro("FLASH_BYTES") == 17024 + 202 * (4 + 4 + 1)


@pytest.mark.parametrize("name", ["gelu", "sigmoid"])
def test_tables_in_c(tmp_path, name):
    fastnn.manual_seed(0)
    q = fastnn.quantize(nn.Sequential(nn.Linear(6, 9), nn.activation(name), nn.Linear(9, 5), nn.Tanh()), NORMAL)
    exported = Exported.of(q, (6,), tmp_path, batch_size=4)
    found = exported.on_host(integers(q[0], NORMAL).reshape(50, 4, 6), "gcc", "-O2").reshape(200, 5)
    np.testing.assert_array_equal(reals(q[-1], found), q(NORMAL))


def test_images_and_nested_models(tmp_path):
    fastnn.manual_seed(0)
    inner = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.ReLU())
    model = nn.Sequential(nn.Flatten(), nn.Identity(), inner, nn.Linear(8, 3))
    X = np.random.default_rng(0).normal(size=(90, 3, 4)).astype(np.float32)
    q = fastnn.quantize(model, X)
    assert q[2].relu and np.abs(q(X) - model(X)).max() < 0.03 * np.ptp(model(X))
    found = Exported.of(q, (3, 4), tmp_path).on_host(integers(q[0], X), "gcc")
    np.testing.assert_array_equal(reals(q[-1], found), q(X))


class Mixed(nn.Module):
    """Integers in the middle, float at both ends."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return F.softmax(self.inner(F.tanh(x)))


def test_float_around_integers_in_c(tmp_path):
    fastnn.manual_seed(0)
    model = Mixed(fastnn.quantize(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5)), np.tanh(NORMAL)))
    exported = Exported.of(model, (6,), tmp_path)
    assert exported.input_type == "float"
    assert exported.macro("WORK_BYTES") % 4 == 0
    found = exported.on_host(NORMAL, "gcc", "-O2")
    # tanh may differ in the last bit, and with it one input by one step.
    assert np.isclose(found, model(NORMAL), rtol=1e-5).all(1).mean() > 0.98


def test_save_and_load(digits, tmp_path):
    _, X, _, q = digits
    q.metadata = {"note": "kept"}
    q.save(tmp_path / "q.safetensors")
    assert (tmp_path / "q.safetensors").stat().st_size < 17024 + 202 * 8 + 3000
    back = fastnn.load(tmp_path / "q.safetensors")
    np.testing.assert_array_equal(back(X), q(X))
    assert back.metadata == {"note": "kept"} and back[1].weight.dtype == np.int8
    state = back.state_dict()
    state["1.weight"] = state["1.weight"].astype(np.float32)
    with pytest.raises(ValueError, match="wrong dtypes: 1.weight: float32, expected int8"):
        back.load_state_dict(state)
    back.load_state_dict({name: np.zeros_like(v) if name == "3.weight" else v for name, v in q.state_dict().items()})
    assert not np.array_equal(back(X), q(X))


def test_a_description_cannot_ask_for_more_than_its_file(tmp_path):
    from fastnn.io.safetensors import save_file

    q = fastnn.quantize(nn.Sequential(nn.Linear(6, 5)), NORMAL)
    layer = {"layer": "QuantizedLinear", "args": [30000, 10**9, 1.0, 0, 1.0, 0], "kwargs": {}}
    metadata = {"fastnn.architecture": json.dumps({"format": 1, "model": layer})}
    save_file(q.state_dict(), tmp_path / "lie.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="more than"):
        fastnn.load(tmp_path / "lie.safetensors")


def test_the_original_is_left_alone(digits):
    model, X, _, _ = digits
    before, arena, y = model.state_dict(), model.arena(), model(X[:5])
    fastnn.quantize(model, X[:50])
    fastnn.quantization_aware(model, X[:50])
    assert model.arena() is arena and np.array_equal(model(X[:5]), y)
    assert all(np.array_equal(v, before[name]) for name, v in model.state_dict().items())


def test_ranges_that_are_hard():
    """Constant zero, one sign only, a channel without weights, and a bias that dwarfs its weights."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].weight.data[0] = 0
    model[0].bias.data = [-1, 1e-3, 0, 0]
    model[2].weight.data[1] = 1e-12
    model[2].bias.data = [100, 50, -100]
    for X in (np.zeros_like(NORMAL), np.abs(NORMAL), -np.abs(NORMAL) - 5):
        q = fastnn.quantize(model, X)
        assert np.abs(q(X) - model(X)).max() < 1.0, "less than one hundredth of the range"
    assert fastnn.quantize(nn.Linear(6, 2, bias=False), NORMAL)(NORMAL).shape == (200, 2)


def test_layers_without_an_8_bit_form_are_named():
    with pytest.raises(ValueError, match=r"layer '1.0' \(LogSoftmax\) has no 8-bit form; leave it out.*supported: Seq"):
        fastnn.quantize(nn.Sequential(nn.Linear(6, 2), nn.Sequential(nn.LogSoftmax())), NORMAL)
    with pytest.raises(ValueError, match="softmax has no form as a layer of its own"):
        fastnn.quantize(Mixed(nn.Linear(6, 2)), NORMAL)
    with pytest.raises(ValueError, match="calibration_data must be"):
        fastnn.quantize(nn.Linear(6, 2), NORMAL[0])
    with pytest.raises(ValueError, match="finite"):
        fastnn.quantize(nn.Linear(6, 2), np.full((2, 6), np.inf))
    with pytest.raises(ValueError, match="needs int8, found float32"):
        nn.QuantizedLinear(6, 2, 1.0, 0, 1.0, 0)(NORMAL)


# -- quantisation-aware training --------------------------------------------------------------------------------


def fake_reference(x, scale, zero, low, high):
    return (np.clip(np.rint(x / scale) + zero, low, high) - zero) * scale


class Faked(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.shift = nn.Parameter(np.zeros((5, 7)))

    def forward(self, x):
        scale = source("constant", self.rows.shape, value=self.rows)
        return apply("fake_quantize", x + self.shift, scale, zero_point=3, low=-128, high=127)


@for_each_isa
@pytest.mark.parametrize("scale", [np.float32(0.25).reshape(()), np.array([0.5, 0.1, 1, 0.03, 2], np.float32)])
def test_fake_quantize_and_its_gradient(isa, scale):
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 20
    rows = scale.reshape(-1, 1) if scale.ndim else scale
    with bound(isa):
        model = Faked(scale)
        np.testing.assert_allclose(model(x), fake_reference(x, rows, 3, -128, 127), rtol=1e-6)
        found = Trainer(model, lambda y, t: (y * t).sum()).gradients(x, np.ones((5, 7), np.float32) * 1.5)["shift"]
    inside = (np.rint(x / rows) + 3 >= -128) & (np.rint(x / rows) + 3 <= 127)
    assert 0 < inside.sum() < 35 or scale.ndim == 0
    np.testing.assert_array_equal(found, np.where(inside, np.float32(1.5), 0))


def test_aware_network_computes_what_the_integers_will(digits):
    model, X, y, q = digits
    aware = fastnn.quantization_aware(model, X[:300])
    again = fastnn.quantize(aware, X[:10])            # the ranges are those that it was trained with
    np.testing.assert_array_equal(again(X), q(X))
    step = q[-1].scale
    error = np.abs(aware(X) - q(X)) / step
    assert error.max() < 3 and (error > 0.5).mean() < 0.02


def test_fine_tuning_wins_back_what_rounding_lost(digits):
    """A function-preserving rescaling puts hidden units on unequal scales, which one scale a tensor cannot serve."""
    model, X, y, _ = digits
    hard = nn.Sequential(*[nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)])
    hard.load_state_dict(model.state_dict())
    factor = np.where(np.arange(128) % 16 == 0, 300.0, 1.0).astype(np.float32)
    hard[0].weight.data *= factor[:, None]
    hard[0].bias.data *= factor
    hard[2].weight.data /= factor
    held = slice(1300, None)
    full = accuracy(hard, X[held], y[held])
    before = accuracy(fastnn.quantize(hard, X[:300]), X[held], y[held])
    aware = fitted(fastnn.quantization_aware(hard, X[:300]), X[:1300], y[:1300], 3, lr=3e-4)
    after = accuracy(fastnn.quantize(aware, X[:300]), X[held], y[held])
    assert before < full - 0.005 <= after
