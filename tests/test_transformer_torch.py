"""The Transformer's layers and stacks against PyTorch: values, gradients, training, files."""

import numpy as np
import pytest
from test_attention_torch import close, floats

import fastnn
from fastnn import Trainer, nn, optim

torch = pytest.importorskip("torch")

D, H, FF, N, T, S = 12, 3, 20, 2, 5, 7
VARIANTS = [{}, {"norm_first": True}, {"activation": "gelu"}, {"bias": False}]


def arrays(state):
    return {name: p.detach().numpy() for name, p in state.items()}


def layers(kind, **options):
    """The same layer twice, with parameters that are all random."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    options = {"dim_feedforward": FF, "dropout": 0.0, "batch_first": True, **options}
    theirs = getattr(torch.nn, kind)(D, H, **options)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, 0.1, 0.5)
    ours = getattr(nn, kind)(D, H, **options)
    ours.load_state_dict(arrays(theirs.state_dict()))
    return ours, theirs


class Named(nn.Module):
    """The inputs as parameters, for their gradients."""

    def __init__(self, layer, inputs, options):
        super().__init__()
        self.layer, self.options = layer, options
        for i, x in enumerate(inputs):
            setattr(self, f"input{i}", nn.Parameter(x))
        self.count = len(inputs)

    def forward(self, x):
        inputs = [getattr(self, f"input{i}") + 0.0 for i in range(self.count)]
        return self.layer(*inputs, **self.options) + 0.0 * x.sum()


def check(ours, theirs, inputs, options=None, their_options=None):
    """Outputs, and gradients of inputs and parameters."""
    theirs.train()                              # PyTorch's inference has another way through the layer
    theirs.zero_grad()
    tensors = [torch.from_numpy(x).requires_grad_() for x in inputs]
    expected = theirs(*tensors, **(their_options or {}))
    direction = floats(*expected.shape)
    expected.backward(torch.from_numpy(direction))
    close(ours(*inputs, **(options or {})), expected)
    model = Named(ours, inputs, options or {})
    found = Trainer(model, lambda y, _: (y * direction).sum()).gradients(np.zeros((1, 1)), np.zeros(1))
    for i, x in enumerate(tensors):
        close(found.pop(f"input{i}"), x.grad, 1e-5)
    assert found.keys() == {f"layer.{name}" for name, _ in theirs.named_parameters()}
    for name, p in theirs.named_parameters():
        close(found[f"layer.{name}"], p.grad, 1e-5)


CAUSAL = np.triu(np.ones((T, T), bool), 1)
PADDING = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize("variant", VARIANTS)
def test_encoder_layer(variant):
    ours, theirs = layers("TransformerEncoderLayer", **variant)
    check(ours, theirs, [floats(N, T, D)])
    check(ours, theirs, [floats(N, T, D)], {"is_causal": True},
          {"src_mask": torch.from_numpy(CAUSAL), "is_causal": True})  # fmt: skip
    check(ours, theirs, [floats(N, T, D)], {"src_mask": CAUSAL, "src_key_padding_mask": PADDING},
          {"src_mask": torch.from_numpy(CAUSAL), "src_key_padding_mask": torch.from_numpy(PADDING)})  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoder_layer(variant):
    ours, theirs = layers("TransformerDecoderLayer", **variant)
    check(ours, theirs, [floats(N, T, D), floats(N, S, D)], {"tgt_is_causal": True},
          {"tgt_mask": torch.from_numpy(CAUSAL), "tgt_is_causal": True})  # fmt: skip


def test_time_first():
    ours, theirs = layers("TransformerDecoderLayer", batch_first=False)
    check(ours, theirs, [floats(T, N, D), floats(S, N, D)])


def test_stacks():
    ours, theirs = layers("TransformerEncoderLayer")
    ours = nn.TransformerEncoder(ours, 3, nn.LayerNorm(D))
    theirs = torch.nn.TransformerEncoder(theirs, 3, torch.nn.LayerNorm(D), enable_nested_tensor=False)
    start = ours.state_dict()
    for name, p in theirs.state_dict().items():
        np.testing.assert_array_equal(start[name], p.numpy(), name)     # the copies start alike
        p.add_(0.1 * torch.randn_like(p))
    ours.load_state_dict(arrays(theirs.state_dict()))
    check(ours, theirs, [floats(N, T, D)], {"mask": CAUSAL}, {"mask": torch.from_numpy(CAUSAL)})
    ours, theirs = layers("TransformerDecoderLayer", norm_first=True)
    ours = nn.TransformerDecoder(ours, 2, nn.LayerNorm(D))
    theirs = torch.nn.TransformerDecoder(theirs, 2, torch.nn.LayerNorm(D))
    check(ours, theirs, [floats(N, T, D), floats(N, S, D)])


def test_training_follows_pytorch():
    ours, theirs = layers("TransformerEncoderLayer", norm_first=True)
    x, goal = floats(15, 4, T, D), floats(15, 4, T, D)
    trainer = Trainer(ours, nn.MSELoss(), optim.SGD(lr=0.05, momentum=0.9))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for xb, yb in zip(x, goal, strict=True):
        mine = trainer.step(xb, yb)
        loss = torch.nn.functional.mse_loss(theirs(torch.from_numpy(xb)), torch.from_numpy(yb))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert abs(mine - loss.item()) < 2e-5 * loss.item()
    state = ours.state_dict()
    for name, p in theirs.state_dict().items():
        close(state[name], p, 1e-4)


def test_a_saved_stack_comes_back(tmp_path):
    layer = nn.TransformerEncoderLayer(D, H, FF, batch_first=True, norm_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, nn.LayerNorm(D))
    x = floats(N, T, D)
    model.save(tmp_path / "encoder.safetensors")
    np.testing.assert_array_equal(fastnn.load(tmp_path / "encoder.safetensors")(x), model(x))


def test_dropout_acts_in_training_only():
    layer = nn.TransformerEncoderLayer(D, H, FF, dropout=0.5, batch_first=True)
    x = floats(N, T, D)
    np.testing.assert_array_equal(layer(x), layer(x))
    trainer = Trainer(layer, nn.MSELoss(), seed=3)
    before = trainer.step(x, x)
    quiet = nn.TransformerEncoderLayer(D, H, FF, dropout=0.0, batch_first=True)
    quiet.load_state_dict(layer.state_dict())
    assert before != Trainer(quiet, nn.MSELoss(), seed=3).step(x, x)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="activation must be 'relu', 'gelu' or a function, found 'tanhh'"):
        nn.TransformerEncoderLayer(D, H, activation="tanhh")
    with pytest.raises(ValueError, match="num_layers must be a positive integer, found 0"):
        nn.TransformerEncoder(nn.TransformerEncoderLayer(D, H, FF), 0)
    layer = nn.TransformerEncoderLayer(D, H, FF, batch_first=True)
    with pytest.raises(ValueError, match=r"'self_attn' \(MultiheadAttention\): expected query .* found \(2, 5, 9\)"):
        layer(floats(N, T, 9))
