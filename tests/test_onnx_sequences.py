"""ONNX files of sequence models and norms: written, run by onnxruntime, read back; operators by hand; from PyTorch."""

import numpy as np
import pytest

import fastnn
from fastnn import functional as F
from fastnn import models, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx_files import RNG, check_reading, check_round_trip, node, run  # noqa: E402


class Attention(nn.Module):
    """Self- and cross-attention, causal, with a mask that lets one query see nothing."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.own = nn.MultiheadAttention(12, 3, batch_first=True)
        self.other = nn.MultiheadAttention(12, 2, batch_first=True, bias=False)

    def forward(self, x):
        y = self.own(x, x, x, need_weights=False, **self.options)[0]
        return self.other(y, x[:, :3], x[:, :3] * 2.0, need_weights=False)[0]


class Heads(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x[:, :, :4], x[:, :, :4], is_causal=True, scale=0.3)


class Rotary(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, x):
        return F.rotary_embedding(x, seq_dim=1, **self.options)


blind = np.zeros((5, 5), np.float32)
blind[2] = -np.inf
LAYERS = {
    "layer norm": (nn.LayerNorm(7), (5, 7)),
    "layer norm, plain": (nn.LayerNorm(7, elementwise_affine=False), (5, 7)),
    "layer norm, two axes": (nn.LayerNorm((5, 7), eps=1e-3), (5, 7)),
    "RMS norm": (nn.RMSNorm(7), (5, 7)),
    "group norm": (nn.GroupNorm(2, 6), (6, 4, 5)),
    "group norm, each channel": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(4, 4), nn.ReLU()), (3, 6, 5)),
    "group norm of a sequence": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.GroupNorm(2, 4)), (3, 6)),
    # Of two numbers; a small eps would turn their rounding errors into large ones where they are about equal.
    "group norm of numbers": (nn.Sequential(nn.Linear(5, 6), nn.GroupNorm(3, 6, eps=0.1), nn.ReLU()), (5,)),
    "attention": (Attention(), (5, 12)),
    "attention, causal": (Attention(is_causal=True, attn_mask=np.triu(np.ones((5, 5), bool), 1)), (5, 12)),
    "attention, blind query": (Attention(attn_mask=blind), (5, 12)),
    "heads first": (Heads(), (2, 6, 8)),
    "encoder layer": (nn.TransformerEncoderLayer(12, 3, 16, batch_first=True), (5, 12)),
    "encoder layer, norm first": (nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, norm_first=True), (5, 12)),
    "rotary": (Rotary(), (5, 2, 6)),
    "rotary, interleaved, some heads": (Rotary(interleaved=True, heads=2), (5, 3, 8)),
    "rotary, some heads": (Rotary(heads=1, offset=3), (5, 3, 8)),
    "RNN": (nn.RNN(6, 5, batch_first=True), (4, 6)),
    "RNN, relu, no bias": (nn.RNN(6, 5, nonlinearity="relu", bias=False, batch_first=True), (4, 6)),
    "LSTM": (nn.LSTM(6, 5, batch_first=True), (4, 6)),
    "LSTM, two layers, both ways": (nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True), (4, 6)),
    "GRU": (nn.GRU(6, 5, batch_first=True), (4, 6)),
    "GRU, two layers, both ways": (nn.GRU(6, 5, 2, bidirectional=True, bias=False, batch_first=True), (4, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    layer, shape = LAYERS[name]
    check_round_trip(layer.eval(), tmp_path / "m.onnx", (1, *shape))


GPT = models.GPT(20, context=8, layers=2, heads=2, width=16)


@pytest.mark.parametrize("model", [GPT, models.LSTMLanguageModel(20, 8)], ids=["gpt", "lstm"])
def test_language_models(model, tmp_path):
    path = tmp_path / "m.onnx"
    model.eval().export_onnx(path, (8,))
    ids = RNG.integers(0, 20, (3, 8))
    logits = model(ids)
    logits = logits[0] if isinstance(logits, tuple) else logits
    np.testing.assert_allclose(run(path, ids)[0], logits, rtol=1e-5, atol=1e-5)
    again = fastnn.load_onnx(path)(ids)
    np.testing.assert_allclose(again[0] if isinstance(again, tuple) else again, logits, rtol=1e-5, atol=1e-5)


def weights(gates: int, directions: int) -> list:
    return [
        (name, RNG.standard_normal(shape).astype(np.float32))
        for name, shape in (
            ("w", (directions, gates * 4, 3)), ("r", (directions, gates * 4, 4)), ("b", (directions, gates * 8))
        )
    ]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("operator", "gates"), [("RNN", 1), ("LSTM", 4), ("GRU", 3)])
def test_recurrent_operators_by_hand(operator, gates, direction, tmp_path):
    count = 2 if direction == "bidirectional" else 1
    outputs = ("y", "h", "c") if operator == "LSTM" else ("y", "h")
    start = RNG.standard_normal((count, 2, 4)).astype(np.float32)
    more = {"linear_before_reset": 1} if operator == "GRU" else {}
    nodes = [node(operator, ["x", "w", "r", "b", "", "h0"], list(outputs), hidden_size=4, direction=direction, **more)]
    check_reading(nodes, (5, 2, 3), [*weights(gates, count), ("h0", start)], outputs=outputs, tmp_path=tmp_path)


@pytest.mark.parametrize(
    ("operator", "gates", "options", "found"),
    [
        ("LSTM", 4, {"clip": 1.0}, "clip"),
        ("GRU", 3, {}, "linear_before_reset 0"),
        ("RNN", 1, {"activations": ["Sigmoid"]}, r"activations \['Sigmoid'\]"),
        ("LSTM", 4, {"layout": 1}, "layout 1"),
    ],
)
def test_recurrences_of_other_kinds_are_refused(operator, gates, options, found, tmp_path):
    nodes = [node(operator, ["x", "w", "r", "b"], ["y"], hidden_size=4, **options)]
    with pytest.raises(ValueError, match=f"{operator} with {found} is not supported"):
        check_reading(nodes, (5, 2, 3), weights(gates, 1), tmp_path=tmp_path)


@pytest.mark.parametrize("axis", [-1, 1])
def test_instance_and_layer_norm_by_hand(axis, tmp_path):
    scale, bias = (RNG.standard_normal(6).astype(np.float32) for _ in range(2))
    nodes = [
        node("InstanceNormalization", ["x", "s", "b"], ["z"], epsilon=1e-3),
        node("LayerNormalization", ["z", "t"], ["y"], axis=axis),
    ]
    more = RNG.standard_normal((6, 5) if axis == 1 else (5,)).astype(np.float32)
    check_reading(nodes, (2, 6, 5), [("s", scale), ("b", bias), ("t", more)], tmp_path=tmp_path)
