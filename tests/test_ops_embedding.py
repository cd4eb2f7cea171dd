"""Embedding against its reference, on every instruction set, and against PyTorch."""

import numpy as np
import pytest
import reference_embedding as R  # noqa: N812
from check_op import Case, bound, check_op, for_each_isa

import fastnn
from fastnn import Trainer, nn, optim
from fastnn import functional as F  # noqa: N812

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ids(*shape, n):
    return RNG.integers(0, n, shape)


def lookup(i, w):
    return F.embedding(i, w)


CASES = [
    Case(f"embedding {rows} × {width}, ids {shape}", lookup, R.embedding, (ids(*shape, n=rows), normal(rows, width)))
    for rows, width, shape in [
        (1, 1, (1,)), (7, 3, (5,)), (65, 16, (3, 4)), (5, 33, (2, 3, 2)), (300, 128, (7,)), (3, 1030, (40,)),
    ]
] + [
    # A table that is also multiplied with: the rows are added to the product's gradient in place.
    Case("tied table", lambda i, w, x: (F.embedding(i, w), F.linear(x, w)), lambda i, w, x: (w[i], x @ w.T),
         (ids(6, n=9), normal(9, 17), normal(4, 17))),
    Case("two lookups", lambda i, j, w: (F.embedding(i, w), F.embedding(j, w)), lambda i, j, w: (w[i], w[j]),
         (ids(6, n=9), ids(2, 5, n=9), normal(9, 17))),
]


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_embedding(case, isa):
    check_op(case, isa)


@for_each_isa
def test_padding_row_takes_no_gradient(isa):
    with bound(isa):
        layer = nn.Embedding(6, 20, padding_idx=-2)
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(60, 2))
        assert not layer.weight.data[4].any()
        x = np.array([[4, 4, 1], [0, 4, 5]])
        gradient = Trainer(model, nn.CrossEntropyLoss()).gradients(x, [0, 1])["0.weight"]
    assert not gradient[[2, 3, 4]].any()
    assert gradient[[0, 1, 5]].all()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8"])
def test_every_integer_dtype_and_a_memory_map_give_the_same(dtype, tmp_path):
    x = RNG.integers(0, 11, (40, 5))
    np.save(tmp_path / "x.npy", x.astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = x[:, 0] % 3

    def trained(data):
        fastnn.manual_seed(1)
        model = nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(30, 3))
        trainer = Trainer(model, nn.CrossEntropyLoss(), optim.Adam())
        trainer.fit(data, y, epochs=2, batch_size=7, verbose=0)
        return model.state_dict(), trainer.evaluate(data, y), trainer.predict(data), model(data[:3])

    for a, b in zip(trained(x), trained(mapped), strict=True):
        if isinstance(a, dict):
            assert all(np.array_equal(a[k], b[k]) for k in a)
        else:
            assert np.array_equal(a, b)


def model_of(n=11):
    return nn.Sequential(nn.Embedding(n, 6), nn.Flatten(), nn.Linear(30, 3))


@pytest.mark.parametrize("bad", [-1, 11, 2**40])
def test_ids_out_of_range_are_refused_before_anything_runs(bad):
    model = model_of()
    trainer = Trainer(model, nn.CrossEntropyLoss())
    x, y = RNG.integers(0, 11, (20, 5)), np.zeros(20, int)
    model(x), trainer.step(x, y)
    x[13, 2] = bad
    before = model.state_dict()
    calls = [
        lambda: model(x), lambda: trainer.step(x, y), lambda: trainer.fit(x, y, verbose=0), lambda: trainer.predict(x),
        lambda: trainer.evaluate(x, y), lambda: trainer.gradients(x, y), lambda: trainer.find_lr(x, y),
        lambda: trainer.fit(x[:10], y[:10], validation_data=(x, y), verbose=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"has id {bad} at sample 13; layer '0' has 11 embeddings.*0 to 10"):
            call()
    assert all(np.array_equal(before[k], v) for k, v in model.state_dict().items())


def test_eager_ids_are_checked():
    with pytest.raises(ValueError, match="id 3 is out of range: the embedding has 3 rows"):
        F.embedding(np.array([0, 3]), normal(3, 2))
    with pytest.raises(TypeError, match="integer ids, found dtype float64"):
        F.embedding(np.array([0.0]), normal(3, 2))
    assert F.embedding([2, 0], np.eye(3)).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_columns_of_ids_are_checked_each_against_its_own_embedding():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Embedding(3, 4), nn.Embedding(50, 4), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(F.concatenate([self.a(x[:, 0]), self.b(x[:, 1])], axis=1))

    model = Two()
    x = np.array([[2, 49], [0, 7]])
    trainer = Trainer(model, nn.CrossEntropyLoss())
    model(x), trainer.step(x, [0, 1])
    for call in (model, lambda x: trainer.step(x, [0, 1])):
        with pytest.raises(ValueError, match=r"id 3 at sample 1; layer 'a' has 3"):
            call(np.array([[2, 49], [3, 7]]))
        with pytest.raises(ValueError, match=r"id 50 at sample 0; layer 'b' has 50"):
            call(np.array([[2, 50], [1, 7]]))


def test_floats_are_refused():
    model = model_of()
    with pytest.raises(ValueError, match=r"layer '0' \(Embedding\): an embedding needs integer ids, found float32"):
        model(np.zeros((2, 5), np.float32))
    with pytest.raises(TypeError, match="X must hold integers"):
        Trainer(model, nn.CrossEntropyLoss()).step(np.zeros((2, 5)), [0, 1])
    for bad in (5, -6):
        with pytest.raises(ValueError, match="padding_idx"):
            nn.Embedding(5, 2, padding_idx=bad)
    with pytest.raises(ValueError, match="num_embeddings"):
        nn.Embedding(0, 2)


def test_embedding_survives_a_file(tmp_path):
    model = nn.Sequential(nn.Embedding(11, 6, padding_idx=-1), nn.Flatten(), nn.Linear(30, 3))
    model.save(tmp_path / "m.safetensors")
    loaded = fastnn.load(tmp_path / "m.safetensors")
    x = ids(3, 5, n=11)
    assert loaded[0].padding_idx == 10
    assert np.array_equal(loaded(x), model(x))
    assert "Embedding(11, 6" in model.summary((3, 5))


def test_embedding_goes_to_onnx_and_back(tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, x = model_of(), ids(4, 5, n=11)
    model.export_onnx(tmp_path / "m.onnx", (5,))
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x})[0], model(x), rtol=1e-5, atol=1e-6)
    again = fastnn.load_onnx(tmp_path / "m.onnx")
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="id 11 at sample 0"):
        again(np.full((1, 5), 11))


class Tied(nn.Module):
    """Embedding and head share one parameter."""

    def __init__(self, n=9, d=6):
        super().__init__()
        self.wte, self.body, self.head = nn.Embedding(n, d), nn.Linear(d, d), nn.Linear(d, n, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, x):
        return self.head(F.tanh(self.body(self.wte(x))))


def test_tied_weights_are_saved_once_and_loaded_under_either_name(tmp_path):
    model, other = Tied(), Tied()
    state = model.state_dict()
    assert list(state) == ["wte.weight", "body.weight", "body.bias"]
    model.save(tmp_path / "m.safetensors")
    other.load(tmp_path / "m.safetensors")
    x = ids(2, 4, n=9)
    assert np.array_equal(other(x), model(x))
    # As PyTorch's state_dict has them: both names, or the other one alone.
    both = {**state, "head.weight": state["wte.weight"]}
    fresh = Tied()
    fresh.load_state_dict(both)
    assert np.array_equal(fresh(x), model(x))
    del both["wte.weight"]
    fresh = Tied()
    fresh.load_state_dict(both)
    assert np.array_equal(fresh(x), model(x))
    with pytest.raises(ValueError, match=r"head\.weight differs from wte\.weight"):
        fresh.load_state_dict({**state, "head.weight": state["wte.weight"] + 1})
    with pytest.raises(ValueError, match=r"missing: wte\.weight"):
        fresh.load_state_dict({k: v for k, v in state.items() if k != "wte.weight"})


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_a_tied_model_trains_as_in_pytorch(threads):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    fastnn.manual_seed(0)
    model = Tied(30, 40)

    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = torch.nn.Embedding(30, 40)
            self.body, self.head = torch.nn.Linear(40, 40), torch.nn.Linear(40, 30, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, x):
            return self.head(torch.tanh(self.body(self.wte(x))))

    peer = Peer()
    peer.load_state_dict({k: torch.tensor(v) for k, v in model.state_dict().items()}, strict=False)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-2)
    trainer = Trainer(model, nn.CrossEntropyLoss(), optim.AdamW(lr=1e-2), metrics=["accuracy"], num_threads=threads)
    for step in range(20):
        x = np.random.default_rng(step).integers(0, 30, (5, 8))
        y = np.roll(x, -1, 1)
        loss = torch.nn.functional.cross_entropy(peer(torch.tensor(x)).flatten(0, 1), torch.tensor(y).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(x, y) == pytest.approx(loss.item(), rel=2e-5)
    expected = dict(peer.named_parameters())
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, expected[name].detach().numpy(), rtol=1e-3, atol=2e-5)
    assert 0 <= trainer.evaluate(x, y)["accuracy"] <= 1


def test_embedding_starts_as_in_pytorch():
    weight = nn.Embedding(400, 100).weight.data
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02


def test_pretrained_vectors_are_frozen_unless_asked():
    vectors = normal(11, 6)
    for freeze in (True, False):
        layer = nn.Embedding.from_pretrained(vectors, freeze=freeze)
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(30, 3))
        Trainer(model, nn.CrossEntropyLoss(), optim.SGD(lr=0.1)).step(ids(4, 5, n=11), [0, 1, 2, 0])
        assert np.array_equal(layer.weight.data, vectors) is freeze
    with pytest.raises(ValueError, match=r"found shape \(6,\)"):
        nn.Embedding.from_pretrained(vectors[0])


def test_cross_entropy_of_sequences():
    """Classes last, on axis 1 and flattened are the same numbers; what fits both must be said."""
    logits, target = normal(2, 5, 7), ids(2, 5, n=7)
    flat = nn.CrossEntropyLoss()(logits.reshape(10, 7), target.reshape(10))
    assert nn.CrossEntropyLoss()(logits, target) == flat
    assert nn.CrossEntropyLoss()(logits.transpose(0, 2, 1), target) == flat
    assert nn.CrossEntropyLoss(class_dim=-1)(logits, target) == flat
    square = normal(2, 5, 5)
    target %= 5
    with pytest.raises(ValueError, match=r"fit classes on axis 1 and on the last axis"):
        nn.CrossEntropyLoss()(square, target)
    last = nn.CrossEntropyLoss(class_dim=-1)(square, target)
    assert last == nn.CrossEntropyLoss(class_dim=1)(square.transpose(0, 2, 1), target)
    with pytest.raises(ValueError, match="class_dim"):
        nn.CrossEntropyLoss(class_dim=2)
