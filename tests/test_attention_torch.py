"""Multi-head attention and positional layers against PyTorch and against their definition."""

import math

import numpy as np
import pytest

from fastnn import Trainer, nn, optim
from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(3)
E, H, N, T, S = 12, 3, 2, 5, 7


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def pair(**options):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)                # the arrays are tiny
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(E, H, **options)
    ours = nn.MultiheadAttention(E, H, **options)
    if options.get("bias", True):
        for bias in (theirs.in_proj_bias, theirs.out_proj.bias):
            torch.nn.init.normal_(bias)
    ours.load_state_dict({name: p.numpy() for name, p in theirs.state_dict().items()})
    return torch, ours, theirs


def close(ours, theirs, tolerance=5e-6):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=tolerance * 10, atol=tolerance * max(1.0, np.abs(theirs).max()))


class Inputs(nn.Module):
    """A layer whose inputs are parameters, so that gradients of all of them can be asked for."""

    def __init__(self, layer, inputs, **options):
        super().__init__()
        self.layer, self.options = layer, options
        for i, x in enumerate(inputs):
            setattr(self, f"input{i}", nn.Parameter(x))
        self.count = len(inputs)

    def forward(self, x):
        y = self.layer(*(getattr(self, f"input{i}") + 0.0 for i in range(self.count)), **self.options)
        y = y[0] if isinstance(y, tuple) else y
        return y + 0.0 * F.sum(x)


def check_gradients(torch, ours, theirs, inputs, ours_options, theirs_options):
    """Outputs, and gradients of every input and parameter, for a random output gradient."""
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    expected = theirs(*tensors, **theirs_options)
    expected = expected[0] if isinstance(expected, tuple) else expected
    direction = floats(*expected.shape)
    expected.backward(torch.from_numpy(direction))
    model = Inputs(ours, inputs, **ours_options)
    trainer = Trainer(model, lambda prediction, target: (prediction * direction).sum())
    found = trainer.gradients(np.zeros((1, 1)), np.zeros(1))
    close(model(np.zeros((1, 1))), expected)
    for i, x in enumerate(tensors):
        close(found.pop(f"input{i}"), x.grad)
    names = dict(theirs.named_parameters())
    assert found.keys() == {f"layer.{name}" for name in names}
    for name, parameter in names.items():
        close(found[f"layer.{name}"], parameter.grad)


CAUSAL = np.triu(np.ones((T, T), bool), 1)
PADDING = np.zeros((N, S), bool)
PADDING[0, 5:] = PADDING[1, 1] = True


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("widths", [{}, {"kdim": 8, "vdim": 10}, {"bias": False}])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_agrees(batch_first, widths, masked):
    torch, ours, theirs = pair(batch_first=batch_first, **widths)
    inputs = [floats(N, T, E), floats(N, S, widths.get("kdim", E)), floats(N, S, widths.get("vdim", E))]
    if not batch_first:
        inputs = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in inputs]
    mine, its = {}, {"need_weights": False}
    if masked:
        added = floats(T, S)
        mine = {"key_padding_mask": PADDING, "attn_mask": added}
        its |= {"key_padding_mask": torch.from_numpy(PADDING).float().masked_fill(torch.from_numpy(PADDING), -math.inf),
                "attn_mask": torch.from_numpy(added)}  # fmt: skip
    check_gradients(torch, ours, theirs, inputs, mine, its)


@pytest.mark.parametrize("batch_first", [False, True])
def test_causal_self_attention_agrees(batch_first):
    torch, ours, theirs = pair(batch_first=batch_first)
    x = floats(N, T, E) if batch_first else floats(T, N, E)

    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mha = theirs

        def forward(self, x):
            return self.mha(x, x, x, attn_mask=torch.from_numpy(CAUSAL), is_causal=True, need_weights=False)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.mha = ours

        def forward(self, x):
            return self.mha(x, x, x, is_causal=True)

    check_gradients(torch, Own(), Same(), [x], {}, {})
    own, _ = ours(x, is_causal=True)
    masked, _ = ours(x, x, x, attn_mask=CAUSAL)
    np.testing.assert_allclose(own, masked, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("average", [True, False])
def test_weights_agree(average):
    torch, ours, theirs = pair(batch_first=True)
    x, y = floats(N, T, E), floats(N, S, E)
    per_head = floats(N * H, T, S)
    out, weights = ours(
        x, y, y, key_padding_mask=PADDING, attn_mask=per_head, need_weights=True, average_attn_weights=average
    )
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    padding = torch.zeros(N, S).masked_fill(torch.from_numpy(PADDING), -math.inf)
    want = theirs(tx, ty, ty, padding, attn_mask=torch.from_numpy(per_head), average_attn_weights=average)
    close(out, want[0])
    close(weights, want[1])
    fused, none = ours(x, y, y, key_padding_mask=PADDING, attn_mask=per_head)
    assert none is None
    np.testing.assert_allclose(fused, out, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch_first", [False, True])
def test_one_sample_needs_no_batch_axis(batch_first):
    torch, ours, theirs = pair(batch_first=batch_first)
    x, y = floats(T, E), floats(S, E)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    out, weights = ours(x, y, y, key_padding_mask=PADDING[0], need_weights=True)
    want = theirs(tx, ty, ty, torch.from_numpy(PADDING[0]))
    close(out, want[0])
    close(weights, want[1])
    for inputs in ((x,), (x, x, x)):
        own, none = ours(*inputs, is_causal=True)
        close(own, theirs(tx, tx, tx, attn_mask=torch.from_numpy(CAUSAL))[0])
        assert none is None
    with pytest.raises(ValueError, match="query .* of width 12, found"):
        ours(floats(T, 7))


def test_training_follows_pytorch():
    """SGD: the gradient of the keys' bias is 0 but for rounding, which Adam would blow up."""
    torch, ours, theirs = pair(batch_first=True)
    x, goal = floats(20, 4, T, E), floats(20, 4, T, E)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = ours

        def forward(self, x):
            return x + self.attention(x, is_causal=True)[0]

    trainer = Trainer(Model(), nn.MSELoss(), optim.SGD(lr=0.1, momentum=0.9))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for xb, yb in zip(x, goal, strict=True):
        mine = trainer.step(xb, yb)
        tx = torch.from_numpy(xb)
        y = tx + theirs(tx, tx, tx, attn_mask=torch.from_numpy(CAUSAL), need_weights=False)[0]
        loss = torch.nn.functional.mse_loss(y, torch.from_numpy(yb))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert abs(mine - loss.item()) < 1e-5 * abs(loss.item())
    for name, p in theirs.state_dict().items():
        close(ours.state_dict()[name], p, 2e-5)


def test_dropout_is_off_outside_training():
    layer = nn.MultiheadAttention(E, H, dropout=0.5, batch_first=True)
    x = floats(N, T, E)
    np.testing.assert_array_equal(layer(x)[0], layer(x)[0])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = layer

        def forward(self, x):
            return self.attention(x)[0]

    trainer = Trainer(Model(), lambda y, _: F.sum(y * y), seed=1)
    first, again = (trainer.gradients(x, np.zeros(N))["attention.out_proj.weight"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    layer.dropout = 0.0
    assert not np.array_equal(first, trainer.gradients(x, np.zeros(N))["attention.out_proj.weight"])


def test_starts_as_pytorch_does():
    torch = pytest.importorskip("torch")
    for widths in ({}, {"kdim": 8, "vdim": 20}):
        ours, theirs = nn.MultiheadAttention(64, 4, **widths), torch.nn.MultiheadAttention(64, 4, **widths)
        state = ours.state_dict()
        assert {k: v.shape for k, v in state.items()} == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
        for name, p in theirs.state_dict().items():
            assert abs(state[name].std() - p.numpy().std()) < 0.1 * p.numpy().std() + 1e-9, name


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="embed_dim must be a multiple of num_heads, found 12 and 5 heads"):
        nn.MultiheadAttention(12, 5)
    with pytest.raises(ValueError, match="dropout must be in"):
        nn.MultiheadAttention(12, 3, dropout=1.0)
    layer = nn.MultiheadAttention(E, H, batch_first=True)
    x = floats(N, T, E)
    for inputs, options, message in [
        ((floats(N, T, 7),), {}, r"MultiheadAttention: expected query \(N, T, width\) of width 12, found \(2, 5, 7\)"),
        ((x, floats(N, S, E), floats(N, T, E)), {}, r"one length of key and value"),
        ((x, floats(3, S, E), floats(3, S, E)), {}, r"one batch size N"),
        ((x,), {"attn_mask": floats(T, S)}, r"attn_mask \(T, S\) \(5, 5\) or .* \(6, 5, 5\), found \(5, 7\)"),
        ((x,), {"key_padding_mask": PADDING}, r"key_padding_mask \(N, S\) \(2, 5\), found \(2, 7\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            layer(*inputs, **options)


def test_a_saved_layer_comes_back(tmp_path):
    import fastnn

    layer = nn.MultiheadAttention(E, H, kdim=8, vdim=10, bias=False, batch_first=True)
    layer.save(tmp_path / "a.safetensors")
    again = fastnn.load(tmp_path / "a.safetensors")
    inputs = floats(N, T, E), floats(N, S, 8), floats(N, S, 10)
    np.testing.assert_array_equal(layer(*inputs)[0], again(*inputs)[0])


# -- positions --------------------------------------------------------------------------------------------------------


def test_sinusoids_are_those_of_the_paper():
    d, t = 6, 9
    got = nn.SinusoidalPositionalEncoding(d)(np.zeros((1, t, d), np.float32))[0]
    for position in range(t):
        for i in range(0, d, 2):
            angle = position / 10000 ** (i / d)
            assert got[position, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert got[position, i + 1] == pytest.approx(math.cos(angle), abs=1e-6)
    assert nn.SinusoidalPositionalEncoding(5)(np.zeros((1, t, 5), np.float32)).shape == (1, t, 5)


def test_learned_positions_add_rows_and_learn():
    layer = nn.LearnedPositionalEmbedding(8, 4)
    x = floats(3, 5, 4)
    np.testing.assert_allclose(layer(x), x + layer.weight.data[:5], rtol=1e-6)
    found = Trainer(layer, lambda y, _: F.sum(y * y)).gradients(x, np.zeros(3))["weight"]
    np.testing.assert_allclose(found[:5], (2 * (x + layer.weight.data[:5])).sum(0), rtol=1e-5, atol=1e-5)
    assert not found[5:].any()
    with pytest.raises(ValueError, match="LearnedPositionalEmbedding: expected at most 8 positions, found 9"):
        layer(floats(1, 9, 4))
    with pytest.raises(ValueError, match=r"expected input \(batch, T, 4\), found \(1, 3, 5\)"):
        layer(floats(1, 3, 5))


def test_rotary_scores_depend_on_the_distance_alone():
    layer = nn.RotaryEmbedding(8)
    q, k = (np.repeat(floats(1, 1, 1, 8), 12, axis=2) for _ in range(2))
    scores = np.einsum("bhtd,bhsd->ts", layer(q), layer(k))
    for distance in range(-11, 12):
        line = np.diagonal(scores, distance)
        np.testing.assert_allclose(line, line[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="dim must be even, found 7"):
        nn.RotaryEmbedding(7)
    with pytest.raises(ValueError, match="a last axis of 8 features"):
        layer(floats(1, 1, 3, 6))
