"""Convolution layers against PyTorch: shapes, initialisation, values, gradients, files; and what they refuse."""

import numpy as np
import pytest
from networks import Shift

import fastnn
from fastnn import Trainer, nn, optim

RNG = np.random.default_rng(3)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


LAYERS = [
    ("Conv2d", (3, 8, 3), {}, (2, 3, 9, 8)),
    ("Conv2d", (1, 16, 3), {"padding": 1}, (3, 1, 7, 7)),
    ("Conv2d", (4, 6, (3, 5)), {"stride": (2, 1), "padding": (0, 2), "bias": False}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 3), {"padding": "same", "dilation": 2, "groups": 2}, (2, 4, 7, 8)),
    ("Conv2d", (4, 6, (2, 4)), {"padding": "same"}, (2, 4, 7, 8)),
    ("Conv2d", (5, 7, 1), {"padding": "valid"}, (2, 5, 4, 3)),
    ("Conv2d", (5, 7, 1), {"stride": 2, "padding": 1}, (2, 5, 4, 5)),
    ("Conv2d", (3, 8, 3), {"stride": 2}, (3, 9, 8)),
    ("Conv2d", (6, 12, 3), {"groups": 6}, (2, 6, 6, 5)),
    ("Conv1d", (3, 8, 5), {"padding": 2}, (2, 3, 11)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "dilation": 2, "groups": 2}, (2, 4, 13)),
    ("Conv1d", (4, 6, 1), {}, (4, 9)),
    ("ConvTranspose2d", (5, 3, 3), {}, (2, 5, 4, 5)),
    ("ConvTranspose2d", (4, 6, 4), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 3, 5)),
    ("ConvTranspose2d", (4, 6, (3, 2)), {"stride": 3, "padding": (1, 0), "output_padding": 1, "dilation": 2,
                                         "bias": False}, (2, 4, 3, 4)),
    ("ConvTranspose2d", (4, 6, 3), {"output_padding": (1, 0), "dilation": 2, "groups": 2}, (2, 4, 3, 4)),
    ("ConvTranspose2d", (4, 5, 3), {"stride": (2, 1), "output_padding": 2, "dilation": 3}, (2, 4, 1, 4)),
]  # fmt: skip


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5, atol=2e-6 * max(1, theirs.abs().max().item()))


def check(ours, theirs, x):
    """Outputs and all gradients for a random output gradient, with the parameters of PyTorch's layer."""
    import torch

    ours.load_state_dict({name: p.numpy() for name, p in theirs.state_dict().items()})
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: tuple(v.shape) for k, v in
                                                                  theirs.state_dict().items()}
    tx = torch.from_numpy(x).requires_grad_()
    expected = theirs(tx)
    direction = floats(*expected.shape)
    expected.backward(torch.from_numpy(direction))
    close(ours(x), expected)
    found = Trainer(Shift(ours, x.shape), lambda p, t: (p * direction).sum()).gradients(x, np.zeros(len(x)))
    close(found.pop("shift"), tx.grad)
    for name, parameter in theirs.named_parameters():
        close(found[f"layer.{name}"], parameter.grad)


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS, ids=str)
def test_layer(name, arguments, options, shape):
    torch = pytest.importorskip("torch")
    check(getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options), floats(*shape))


def network(kind):
    return kind.Sequential(
        kind.Conv2d(1, 16, 3), kind.ReLU(), kind.Conv2d(16, 9, 3, stride=2, padding=1), kind.GELU(),
        kind.Conv2d(9, 5, 1), kind.SiLU(), kind.ConvTranspose2d(5, 3, 2, stride=2), kind.Tanh(), kind.Flatten(),
        kind.Linear(3 * 8 * 8, 10),
    )  # fmt: skip


def test_a_network_of_images():
    torch = pytest.importorskip("torch")
    check(network(nn), network(torch.nn), floats(5, 1, 9, 9))


def test_a_network_of_sequences():
    torch = pytest.importorskip("torch")

    def sequences(kind):
        return kind.Sequential(kind.Conv1d(2, 8, 3), kind.ReLU(), kind.Conv1d(8, 5, 4, stride=2), kind.Sigmoid(),
                               kind.Flatten(), kind.Linear(30, 3))

    check(sequences(nn), sequences(torch.nn), floats(4, 2, 17))


def test_initialisation_is_uniform_in_one_over_the_root_of_fan_in():
    fastnn.manual_seed(0)
    for layer, fan_in in ((nn.Conv2d(8, 32, 3, groups=2), 36), (nn.Conv1d(6, 64, 5), 30),
                          (nn.ConvTranspose2d(64, 8, 3), 72)):
        for values in (layer.weight.data, layer.bias.data):
            assert abs(values).max() <= fan_in**-0.5
        assert abs(layer.weight.data.std() * (3 * fan_in) ** 0.5 - 1) < 0.05


def test_a_model_is_described_and_built_again(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, (3, 1), padding="same"), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, bias=False))
    x = floats(2, 3, 5, 6)
    model.save(tmp_path / "model.safetensors")
    again = fastnn.load(tmp_path / "model.safetensors")
    assert np.array_equal(again(x), model(x))
    assert again[1].output_padding == (1, 1) and again[0].padding == "same"


def test_training_is_the_same_on_any_number_of_threads():
    x, y = floats(8, 1, 9, 9), np.arange(8) % 10
    results, before = [], fastnn.get_num_threads()
    for threads in (1, 3):
        fastnn.manual_seed(1)
        model = network(nn)
        fastnn.set_num_threads(threads)
        try:
            trainer = Trainer(model, nn.CrossEntropyLoss(), optim.Adam(), seed=0)
            for _ in range(3):
                trainer.step(x, y)
        finally:
            fastnn.set_num_threads(before)
        results.append(model.state_dict())
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


def test_summary_counts_the_products():
    text = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)).summary((2, 3, 10, 10))
    conv, pointwise = text.splitlines()[2:4]
    # Two operations for each multiplication and addition, one for each bias added.
    assert f"{2 * 2 * 100 * 8 * 27 + 2 * 100 * 8:,}" in conv and f"{2 * 2 * 100 * 8 * 4 + 2 * 100 * 4:,}" in pointwise


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Conv2d(3, 8, 3, groups=2), ["groups", "in_channels", "2", "3"]),
        (lambda: nn.Conv2d(4, 9, 3, groups=2), ["groups", "out_channels", "9"]),
        (lambda: nn.Conv2d(0, 9, 3), ["in_channels", "0"]),
        (lambda: nn.Conv2d(3, 9, (3, 3, 3)), ["kernel_size", "(3, 3, 3)"]),
        (lambda: nn.Conv2d(3, 9, 3, stride=0), ["stride", "0"]),
        (lambda: nn.Conv2d(3, 9, 3, padding=-1), ["padding", "-1"]),
        (lambda: nn.Conv2d(3, 9, 3, padding="full"), ["padding", "full", "same", "valid"]),
        (lambda: nn.Conv2d(3, 9, 3, 2, "same"), ["same", "stride"]),
        (lambda: nn.Conv2d(3, 9, 3, padding_mode="reflect"), ["padding_mode", "zeros", "reflect"]),
        (lambda: nn.ConvTranspose2d(3, 9, 3, padding="same"), ["padding", "same"]),
        (lambda: nn.Conv1d(3, 9, 2.0), ["kernel_size", "2.0"]),
    ],
)
def test_arguments_that_do_not_fit(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (nn.Conv2d(3, 8, 3), (2, 4, 9, 9), ["layer '0' (Conv2d)", "3 channels", "(n, 3, h, w)", "(2, 4, 9, 9)"]),
        (nn.Conv2d(4, 8, 3, groups=2), (2, 2, 9, 9), ["4 channels", "2 groups", "(2, 2, 9, 9)"]),
        (nn.Conv2d(3, 8, 5), (2, 3, 9, 4), ["layer '0' (Conv2d)", "covers 5", "width 4", "at least 5"]),
        (nn.Conv2d(3, 8, 3, padding=1, dilation=3), (2, 3, 4, 9), ["covers 7", "height 4", "at least 5"]),
        (nn.Conv2d(3, 8, 3), (2, 3), ["(n, channels, h, w)", "(2, 3)"]),
        (nn.Conv1d(3, 8, 3), (2, 4, 9), ["layer '0' (Conv1d)", "(n, 3, length)", "(2, 4, 9)"]),
        (nn.Conv1d(3, 8, 3), (2, 3, 2), ["covers 3", "length 2", "at least 3"]),
        (nn.ConvTranspose2d(3, 8, 3), (2, 8, 4, 4), ["layer '0' (ConvTranspose2d)", "3 channels", "(2, 8, 4, 4)"]),
        (nn.ConvTranspose2d(3, 8, 1, padding=2), (2, 3, 4, 4), ["padding (2, 2)", "nothing"]),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, words):
    with pytest.raises(ValueError) as error:
        nn.Sequential(layer)(floats(*shape))
    assert all(word in str(error.value) for word in words), str(error.value)
