"""Rules of layout: permutations sink and vanish, nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from test_fuse import check, graph_of, ops, unchanged

from fastnn import Trainer, nn, optim
from fastnn import functional as F  # noqa: N812
from fastnn.graph import layout as rules
from fastnn.graph.autodiff import gradients
from fastnn.graph.fuse import RULES, fuse

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)
IMAGES = (2, 4, 5, 3)


def first(x):
    return F.permute(x, FIRST)


@pytest.mark.parametrize(
    "function, shapes, op",
    [
        (lambda x: F.tanh(first(x)), (IMAGES,), "unary"),
        (lambda x, y: first(x) + first(y), (IMAGES, IMAGES), "binary"),
        (lambda x: first(x) * 2, (IMAGES,), "binary"),
        (lambda x, b: first(x) + b, (IMAGES, (3, 1, 1)), "binary"),
        (lambda x, b: b / first(x), (IMAGES, (2, 3, 1, 1)), "binary"),
        (lambda x, b: first(x) - b, (IMAGES, (4, 5)), "binary"),
        (lambda x: first(x)[:, 1:, ::2], (IMAGES,), "slice"),
        (lambda x, y: F.concatenate((first(x), first(y)), 1), (IMAGES, (2, 4, 5, 7)), "concatenate"),
        (lambda x, y: F.concatenate((first(x), first(y)), 2), (IMAGES, (2, 6, 5, 3)), "concatenate"),
        (lambda x: F.exp(F.permute(x, (0, 2, 1))), ((2, 5, 3),), "unary"),
    ],
)
def test_permute_sinks(function, shapes, op):
    count = sum("transpose" == name for name in ops(graph_of(function, *shapes)))
    graph = check(function, shapes, rules.permute_sinks, ["transpose"] * count + [op], [op, "transpose"])
    assert graph.outputs[0].op == "transpose"


@pytest.mark.parametrize(
    "function, shapes",
    [
        (lambda x: F.tanh(F.permute(x, (0, 2, 1, 3))), (IMAGES,)),
        (lambda x, y: first(x) + y, (IMAGES, (2, 3, 4, 5))),
        (lambda x, y: first(x) + y, (IMAGES, (3, 4, 1))),
        (lambda x, y: F.concatenate((first(x), y), 1), (IMAGES, (2, 1, 4, 5))),
        (lambda x: F.softmax(first(x)), (IMAGES,)),
    ],
    ids=["other axes", "array", "pixels", "one of two", "rows"],
)
def test_permute_does_not_sink(function, shapes):
    before = ops(graph_of(function, *shapes))
    check(function, shapes, rules.permute_sinks, before, before)


def test_permutations_cancel():
    check(lambda x: F.tanh(F.permute(first(x), LAST)), (IMAGES,), rules.permute_of_permute,
          ["transpose", "transpose", "unary"], ["unary"])
    check(lambda x: F.permute(first(x), (1, 0, 2, 3)), (IMAGES,), rules.permute_of_permute,
          ["transpose", "transpose"], ["transpose"])


def test_a_permutation_of_axes_of_one_moves_nothing():
    check(lambda x: F.exp(F.permute(x, LAST)), ((3, 1, 4, 5),), rules.permute_in_place, ["transpose", "unary"],
          ["unary"])
    check(lambda x: F.exp(F.permute(x, LAST)), ((3, 2, 4, 5),), rules.permute_in_place, ["transpose", "unary"],
          ["transpose", "unary"])


def test_a_reduction_reads_the_permuted_axes():
    check(lambda x: first(x).mean((2, 3)), (IMAGES,), rules.reduce_of_permute, ["transpose", "reduce"], ["reduce"])
    check(lambda x: first(x).sum((1, 2)), (IMAGES,), rules.reduce_of_permute, ["transpose", "reduce"],
          ["transpose", "reduce"])


def test_what_is_repeated_is_permuted_first():
    check(lambda x: F.permute(F.expand(x, (2, 3, 4, 5)), LAST), ((3, 1, 1),), rules.permute_of_expand,
          ["expand", "transpose"], ["expand"])


def test_what_is_repeated_is_cut_first():
    graph = check(lambda x: F.expand(x, (2, 3, 4, 5))[:, 1:, 2:], ((3, 1, 5),), rules.slice_of_expand,
                  ["expand", "slice"], ["slice", "expand"])
    assert [node.shape for node in graph.nodes if node.op == "slice"] == [(2, 1, 5)]


def test_outputs_keep_memory_of_their_own():
    graph = graph_of(lambda x: (F.permute(F.permute(x, LAST), FIRST), F.permute(x, FIRST)), (3, 1, 4, 1))
    assert ops(fuse(graph)) == ["copy", "copy"]
    unchanged(graph, fuse(graph))


def training_ops(model, x) -> list[str]:
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.SGD())
    trainer.step(x, np.arange(len(x)) % 3)
    nodes = trainer.program(batch_size=len(x)).graph.nodes
    # Weights are small; only what has as many elements as there are samples and more is an image.
    return [node.op for node in nodes if node.shape[:1] == (len(x),)]


def test_a_training_step_permutes_images_only_in_front_of_flatten():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(4, 5, 3), nn.GELU(),
                          nn.Conv2d(5, 6, 1), nn.Tanh(), nn.Flatten(), nn.Linear(96, 3))
    found = training_ops(model, np.ones((23, 1, 6, 6), np.float32))
    assert found.count("transpose") == 2 and "unary" not in found
    assert found.count("unary_grad") == 2            # tanh's, in front of Flatten; relu's, behind the dropout


class Pooled(nn.Module):
    """Residual blocks, concatenation and a mean over pixels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.out(F.concatenate((F.relu(x + self.b(x)), x), 1).mean((2, 3)))


def test_a_training_step_of_residual_blocks_permutes_no_image():
    assert "transpose" not in training_ops(Pooled(), np.ones((23, 1, 6, 6), np.float32))


def test_a_dropout_that_sank_draws_the_mask_of_its_gradient():
    class Scaled(nn.Module):
        """y = dropout(conv(x)·s): the gradient of Σ y by s is Σ y/s, mask and all."""

        def __init__(self):
            super().__init__()
            self.conv, self.scale = nn.Conv2d(2, 3, 1, bias=False), nn.Parameter(np.full((3, 1, 1), 2, np.float32))

        def forward(self, x):
            return F.dropout(self.conv(x) * self.scale, 0.5)

    model = Scaled()
    trainer = Trainer(model, lambda p, t: (p * t).sum(), optim.SGD(), seed=4)
    x, t = np.ones((2, 2, 4, 5), np.float32), np.ones((2, 3, 4, 5), np.float32)
    gradient = trainer.gradients(x, t)["scale"]
    # Every element that is kept adds 2·(w·x) of its channel.
    per_pixel = 2 * model.conv.weight.data.sum((1, 2, 3))
    kept = gradient.reshape(3) / per_pixel
    assert np.allclose(kept, np.round(kept), atol=1e-4) and 5 < kept.min() and kept.max() < 35
    assert trainer.step(x, t) == pytest.approx(float((2 * per_pixel * kept).sum()), rel=1e-5)


@pytest.mark.parametrize("function", [F.relu, F.tanh], ids=["relu", "tanh"])
@pytest.mark.parametrize("kernel, stride", [(2, 2), (3, 2)])
def test_an_activations_gradient_goes_before_unpooling(function, kernel, stride):
    def loss(x, w, v):
        y = F.max_pool2d(function(F.conv2d(x, w, padding=1)), kernel, stride)
        return gradients(F.sum(F.conv2d(y, v)), [w, v])

    graph = graph_of(loss, (3, 2, 9, 8), (5, 2, 3, 3), (4, 5, 2, 2))
    others = tuple(rule for rule in RULES if rule.__name__ != "activation_gradient_before_unpooling")
    before, after = fuse(graph, others), fuse(graph)
    # Where the maxima lie, the derivative joins the convolution behind the pooling.
    assert ops(before).count("unary_grad") == 1 and "unary_grad" not in ops(after)
    unchanged(before, after)


def test_the_usual_network_permutes_and_activates_small_arrays_only():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1),
                          nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 3))
    found = training_ops(model, np.ones((23, 1, 8, 8), np.float32))
    assert found.count("transpose") == 2 and found.count("unary_grad") == 1 and "unary" not in found
