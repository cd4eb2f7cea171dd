"""Exported C: the engine's numbers on every compiler and processor, the promises of the header, and the refusals."""

import re
import sys

import numpy as np
import pytest
from c_export import BOARDS, WARNINGS, Exported, run, tool

import fastnn
from fastnn import Trainer, cli, data, nn, optim
from fastnn import functional as F  # noqa: N812
from fastnn.datasets import load_digits
from fastnn.export import c99

HOSTS = [("gcc", "-O0"), ("gcc", "-O3"), ("clang", "-O2")]


def relative(found, expected):
    """Largest error of each sample, relative to its largest output; a near-zero output has no digits of its own."""
    expected = expected.reshape(len(expected), -1).astype(np.float64)
    return (np.abs(found - expected).max(1) / np.abs(expected).max(1)).max()


def small(*layers, seed=0):
    fastnn.manual_seed(seed)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def digits():
    """A trained network and the samples that it has not seen."""
    X, y = load_digits()
    X = (X / 16).astype(np.float32)
    model = small(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    Trainer(model, nn.CrossEntropyLoss(), optim.Adam(lr=1e-3), seed=0).fit(X[:1300], y[:1300], epochs=5, verbose=0)
    return model, X[1300:]


class Activations(nn.Module):
    """Every activation, side by side, then both softmaxes."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(5, 33)
        self.down = nn.Linear(33, 7)
        self.names = list(nn.activations.BY_NAME)

    def forward(self, x):
        h = self.up(x)
        parts = [nn.activation(name)(h) for name in self.names]
        parts += [F.gelu(h, approximate="tanh"), F.elu(h, 0.5), F.leaky_relu(h, 0.3), F.softplus(h, 2.0, 3.0)]
        fused = [nn.activation(name)(self.down(part)) for name, part in zip(self.names, parts, strict=False)]
        y = F.concatenate(fused, axis=1)
        return F.concatenate([y, F.softmax(y), F.log_softmax(y), *parts], axis=1)


class Everything(nn.Module):
    """Ops of every kind on a batch of (3, 4) arrays."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(np.linspace(-1, 1, 20).reshape(4, 5))
        self.square = nn.Parameter(np.linspace(0.5, 2, 9).reshape(3, 3))
        self.row = nn.Parameter([0.5, -0.25, 2.0, 1.0])

    def forward(self, x):
        n = x.shape[0]
        positive = F.abs(x) + 0.5
        values = [
            x @ self.weight, F.matmul(self.square.transpose() * 2, x), F.matmul(x, F.transpose(x, (0, 2, 1))),
            x + self.row, x - x.mean(axis=2, keepdims=True), self.row / positive, positive**1.5, x**2,
            F.maximum(x, self.row), F.minimum(x, 0.1), F.where(x > self.row, x, -x), x < 0.0, x >= 0.3, F.equal(x, x),
            F.exp(x), F.log(positive), F.sqrt(positive), F.reciprocal(positive), F.erf(x), F.sign(x), F.tanh(x),
            x.sum(axis=1), x.max(axis=2), x.min(axis=(1, 2)), x.mean(axis=(1, 2)), F.max(x, axis=(0, 2)),
            x[:, ::-1, 1::2], x[:, 2], F.expand(x[:, :1], (n, 6, 4)), F.stack([x, -x], axis=3),
            F.transpose(x, (2, 0, 1)), F.softmax(x, dim=1), F.log_softmax(x, dim=0),
        ]
        both = F.concatenate([F.reshape(v, (-1,)) for v in values], axis=0)
        return F.concatenate([both, F.reshape(both.sum() * 1e-3, (1,))], axis=0)


@pytest.mark.parametrize(("compiler", "flag"), HOSTS)
def test_digits_on_the_host(digits, tmp_path, compiler, flag):
    model, X = digits
    assert relative(Exported.of(model, (64,), tmp_path).on_host(X, compiler, flag), model(X)) < 1e-5


@pytest.mark.parametrize("board", BOARDS)
def test_digits_on_a_microcontroller(digits, tmp_path, board):
    model, X = digits
    found, (text, data, _), stack = Exported.of(model, (64,), tmp_path).on_board(X[:200], board)
    assert relative(found, model(X[:200])) < 1e-5
    assert data == 0 and text < 68904 + 2048 and stack < 256


@pytest.mark.parametrize(("compiler", "flag"), HOSTS)
def test_activations_on_the_host(digits, tmp_path, compiler, flag):
    model, x = Activations(), 2 * digits[1][:50, 20:25] - 1
    exported = Exported.of(model, (5,), tmp_path)
    assert relative(exported.on_host(x, compiler, flag), model(x)) < 1e-5
    # Each on its own scale: the error of one must not hide behind another's size.
    found, expected = exported.on_host(x, compiler, flag), model(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("board", BOARDS)
def test_activations_on_a_microcontroller(tmp_path, board):
    fastnn.manual_seed(1)
    model, x = Activations(), np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    found, _, _ = Exported.of(model, (5,), tmp_path).on_board(x, board)
    np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_op(tmp_path, batch_size):
    model, x = Everything(), np.random.default_rng(1).normal(size=(4, batch_size, 3, 4)).astype(np.float32)
    exported = Exported.of(model, (3, 4), tmp_path, batch_size=batch_size)
    expected = np.stack([model(batch) for batch in x])
    for compiler, flag in HOSTS:
        np.testing.assert_allclose(exported.on_host(x, compiler, flag), expected, rtol=1e-5, atol=2e-6)


def test_every_op_with_sanitizers(tmp_path):
    model, x = Everything(), np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype(np.float32)
    exported = Exported.of(model, (3, 4), tmp_path, batch_size=3)
    found = exported.on_host(x, "gcc", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    np.testing.assert_allclose(found, np.stack([model(batch) for batch in x]), rtol=1e-5, atol=2e-6)


class Classes(nn.Module):
    def forward(self, x):
        return F.argmax(x)


def test_argmax_takes_the_first_maximum(tmp_path):
    x = np.array([[[0, 3, 3], [-2, -2, -5]], [[1, 0, 1], [0, 0, 7]]], np.float32)
    exported = Exported.of(Classes(), (2, 3), tmp_path)
    assert exported.output_type == "int64_t"
    np.testing.assert_array_equal(exported.on_host(x, "gcc", "-O2"), [[1, 0], [0, 2]])


class TwoEnds(nn.Module):
    """Two inputs, one of them unused in part; an output that is an input, one that is constant."""

    def forward(self, a, b):
        return F.relu(a) + 1, a, F.exp(F.reshape(a, (1, 4)) * 0)


def test_several_inputs_and_outputs(tmp_path):
    header, source = c99(TwoEnds(), "two_ends", [(2, 2), (3,)], tmp_path)
    assert "const float input0[TWO_ENDS_INPUT0_SIZE], const float input1[TWO_ENDS_INPUT1_SIZE]" in header.read_text()
    main = tmp_path / "main.c"
    main.write_text("""#include "two_ends.h"
    int main(void) {
        const float a[4] = {-1.0f, 2.0f, 3.0f, -4.0f}, b[3] = {0.0f, 0.0f, 0.0f};
        float y[4], same[4], one[4];
        two_ends_work work;
        two_ends(a, b, y, same, one, &work);
        return !(y[0] == 1.0f && y[1] == 3.0f && same[3] == -4.0f && one[0] == 1.0f);
    }""")
    if "two_ends_work" not in header.read_text():
        main.write_text(main.read_text().replace(", &work", "").replace("two_ends_work work;", ""))
    run([tool("gcc"), "-std=c99", *WARNINGS, main, source, "-lm", "-o", tmp_path / "main"])
    run([tmp_path / "main"])


def test_what_the_header_promises(digits, tmp_path):
    model, _ = digits
    exported = Exported.of(model, (64,), tmp_path)
    assert exported.macro("FLASH_BYTES") == 4 * model.num_parameters() == 68904
    assert exported.macro("MULTIPLY_ADDS") == 64 * 128 + 128 * 64 + 64 * 10
    # Both hidden layers are alive at once, and nothing else.
    assert exported.macro("WORK_BYTES") == 4 * (128 + 64)
    assert exported.macro("RAM_BYTES") == 4 * (128 + 64 + 64 + 10)
    assert "flash: 68904 bytes" in exported.text and "multiply-adds: 17024 a call" in exported.text


def test_needs_nothing_and_writes_nothing_global(digits, tmp_path):
    exported = Exported.of(digits[0], (64,), tmp_path)
    assert exported.code.count("#include") == 1
    run([tool("gcc"), "-std=c99", "-O2", "-ffreestanding", "-c", exported.source, "-o", tmp_path / "net.o"])
    symbols = run([tool("nm"), tmp_path / "net.o"]).decode().split("\n")
    kinds = {line.split()[-2] for line in symbols if line}
    # Undefined, data, bss, common: none; memory functions may be the compiler's own idea.
    undefined = {line.split()[-1] for line in symbols if " U " in line}
    assert undefined <= {"memcpy", "memset"} and not kinds & {"D", "d", "B", "b", "C", "c"}


def test_only_math_functions_are_called(tmp_path):
    exported = Exported.of(small(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.LogSoftmax()), (3,), tmp_path)
    run([tool("gcc"), "-std=c99", "-O2", "-c", exported.source, "-o", tmp_path / "net.o"])
    undefined = set(re.findall(r" U (\w+)", run([tool("nm"), tmp_path / "net.o"]).decode()))
    assert {"tanhf", "expf", "logf"} <= undefined <= {"tanhf", "expf", "logf", "memcpy", "memset"}


def test_weights_are_exact(tmp_path):
    model = small(nn.Linear(7, 5))
    model[0].weight.data = np.ldexp(np.random.default_rng(0).normal(size=(5, 7)), -40).astype(np.float32)
    model[0].weight.data[0, :4] = [0.0, -0.0, 1e-45, 3.4028235e38]
    model[0].bias.data = [1, -1, 1024, 0.1, 1 / 3]
    code = Exported.of(model, (7,), tmp_path).code
    for name in ("weight", "bias"):
        body = re.search(rf"p_0_{name}\[\d+\] = {{([^}}]*)}}", code).group(1)
        found = np.array([float.fromhex(v.strip().rstrip("f")) for v in body.split(",")], np.float32)
        assert found.tobytes() == getattr(model[0], name).data.tobytes()


@pytest.mark.parametrize("standard", ["-std=c++98", "-std=c++11", "-std=c++20"])
def test_header_from_cpp(digits, tmp_path, standard):
    exported = Exported.of(digits[0], (64,), tmp_path)
    main = tmp_path / "main.cc"
    main.write_text("""#include "net.h"
    static net_work work;
    int main() { float x[NET_INPUT_SIZE] = {0}, y[NET_OUTPUT_SIZE]; net(x, y, &work); return y[0] == y[0] ? 0 : 1; }""")
    run([tool("gcc"), "-std=c99", "-c", exported.source, "-o", tmp_path / "net.o"])
    run([tool("g++"), standard, *WARNINGS, "-Wno-long-long", main, tmp_path / "net.o", "-o", tmp_path / "main"])
    run([tmp_path / "main"])


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_source_as_cpp(tmp_path, compiler):
    for i, (model, shape) in enumerate([(Everything(), (3, 4)), (Activations(), (5,))]):
        exported = Exported.of(model, shape, tmp_path / str(i))
        run([tool(compiler), "-std=c++17", "-x", "c++", *WARNINGS, "-c", exported.source, "-o", tmp_path / "net.o"])


def test_the_same_model_gives_the_same_text(digits, tmp_path):
    a, b = Exported.of(digits[0], (64,), tmp_path / "a"), Exported.of(digits[0], (64,), tmp_path / "b")
    assert a.code == b.code and a.text == b.text


def test_exporting_changes_nothing(tmp_path):
    model = small(nn.Linear(3, 4), nn.ReLU())
    before, x = model.state_dict(), np.ones((2, 3), np.float32)
    y = model(x)
    view = model[0].weight.data
    c99(model, "net", (3,), tmp_path)
    view[:] += 1
    assert not np.array_equal(model(x), y) and np.array_equal(before["0.bias"], model[0].bias.data)


def test_numpy_op_is_refused_by_layer(tmp_path):
    class Home(nn.Module):
        def forward(self, x):
            return F.numpy_op(np.cbrt, None, x)

    model = nn.Sequential(nn.Linear(3, 3), Home())
    with pytest.raises(ValueError, match=r"layer '1': op numpy_op 'cbrt' has no form in C; supported: .*matmul"):
        c99(model, "net", (3,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layer_names_cannot_leave_their_comment(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    setattr(model, "*/ evil(); /*", nn.Tanh())
    exported = Exported.of(model, (2,), tmp_path)
    assert "evil();" not in exported.code
    np.testing.assert_allclose(exported.on_host(np.ones((1, 2), np.float32), "gcc"), model(np.ones((1, 2))), rtol=1e-5)


def test_an_input_that_is_not_used(tmp_path):
    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.input0 = nn.ReLU()                      # a name that must not count as a use

        def forward(self, a, b):
            return self.input0(b)

    _, source = c99(Second(), "second", [(2,), (3,)], tmp_path)
    assert "(void)input0;" in source.read_text() and "(void)input1;" not in source.read_text()
    run([tool("gcc"), "-std=c99", *WARNINGS, "-c", source, "-o", tmp_path / "second.o"])


@pytest.mark.parametrize("name", ["9x", "a-b", "", "while", "class", "relu", "a__b", "ü", 3, "input", "exp", "memcpy"])
def test_names_that_c_does_not_take(tmp_path, name):
    with pytest.raises(ValueError, match="name"):
        c99(nn.Linear(2, 2), name, (2,), tmp_path)


def test_shapes_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"layer '0' \(Linear\): expected input of shape \(…, 3\)"):
        c99(nn.Sequential(nn.Linear(3, 2)), "net", (4,), tmp_path)
    with pytest.raises(ValueError, match="input_shape must hold positive integers"):
        c99(nn.Linear(3, 2), "net", (-1, 3), tmp_path)
    with pytest.raises(TypeError, match="input_shape must be a tuple of integers"):
        c99(nn.Linear(3, 2), "net", 3, tmp_path)
    with pytest.raises(ValueError, match="batch_size"):
        c99(nn.Linear(3, 2), "net", (3,), tmp_path, batch_size=0)
    with pytest.raises(TypeError, match="model must be a fastnn module"):
        c99(F.relu, "net", (3,), tmp_path)


# -- the command ------------------------------------------------------------------------------------------------


def command(*arguments):
    return cli.main([str(a) for a in arguments])


def test_the_command_takes_features_as_they_are_in_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal([5, -300, 0.01], [1, 50, 0.002], (200, 3))
    rows = [f"{a:.17g},{b:.17g},{c:.17g},{7 * a - b / 10 + 1000 * c:.17g}" for a, b, c in X]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,target", *rows]))
    options = ["--task", "regression", "--target", "target", "--epochs", 3, "--hidden", 8]
    assert command("train", "--data", "data.csv", *options) == 0
    assert command("export", "data.safetensors", "--to", "c", "--name", "net") == 0
    assert command("predict", "data.safetensors", "--data", "data.csv", "--output", "out.csv") == 0
    expected = np.loadtxt(tmp_path / "out.csv", skiprows=1)
    np.testing.assert_allclose(Exported(tmp_path).on_host(X, "gcc", "-O2").reshape(-1), expected, rtol=2e-5)


def test_eight_bits_come_with_the_standardisation(tmp_path, monkeypatch):
    """Means and scales are macros of the header: by them, C's outputs are those of the quantised network."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal([5, -300, 0.01], [1, 50, 0.002], (200, 3))
    rows = [f"{a:.17g},{b:.17g},{c:.17g},{7 * a - b / 10 + 1000 * c:.17g}" for a, b, c in X]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,target", *rows]))
    options = ["--task", "regression", "--target", "target", "--epochs", 40, "--hidden", 16, "--lr", 0.01]
    assert command("train", "--data", "data.csv", *options) == 0
    assert command("export", "data.safetensors", "--to", "c", "--int8", "--name", "q", "--data", "data.csv") == 0
    text = (tmp_path / "q.h").read_text()
    macro = {
        key: np.array([float(v.rstrip("F")) for v in values.split(",")])
        for key, values in re.findall(r"#define Q_((?:FEATURE|TARGET)_(?:MEANS|SCALES)) \{(.*)\}", text)
    }
    statistics = data.Preprocessing.from_metadata(fastnn.load("data.safetensors").metadata)
    for kind, one in (("FEATURE", statistics.features), ("TARGET", statistics.target)):
        np.testing.assert_allclose(macro[f"{kind}_MEANS"], one.mean, rtol=1e-8)
        np.testing.assert_allclose(macro[f"{kind}_SCALES"], one.scale, rtol=1e-8)
    assert re.search(r"y \* SCALES\[i\] \+ MEANS\[i\]", text) and text.index("FEATURE_MEANS") < text.index("#include")


def test_the_command_reports_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).save("my-net.safetensors")
    assert command("export", "my-net.safetensors", "--to", "c", "--output", "made/here") == 0
    assert "176 bytes of constants" in capsys.readouterr().out
    assert (tmp_path / "made/here/my_net.c").exists()
    assert command("export", "my-net.safetensors", "--to", "c", "--int8") == 2
    assert "needs --data" in capsys.readouterr().err
    assert command("export", "my-net.safetensors", "--to", "c", "--data", "x.csv") == 2
    assert "--int8" in capsys.readouterr().err
    assert command("export", "missing.safetensors", "--to", "c") == 2
    assert command("export", "my-net.safetensors", "--to", "rust") == 2
    np.savez("cal.npz", X=np.random.default_rng(0).normal(size=(50, 4)))
    assert command("export", "my-net.safetensors", "--to", "c", "--int8", "--data", "cal.npz", "--name", "q") == 0
    assert "int8_t input[Q_INPUT_SIZE]" in (tmp_path / "q.h").read_text()


def test_importing_fastnn_loads_no_exporter():
    code = "import fastnn, sys; assert not {'fastnn.export', 'fastnn.quantization'} & {*sys.modules}; fastnn.export.c99"
    run([sys.executable, "-c", code])
