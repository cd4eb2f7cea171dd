"""Random crop, shift, flip and normalisation: the kernels, and what training makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import reference_augment as R  # noqa: N812
from check_op import Case, check_op, for_each_isa

from fastnn import Trainer, nn, optim, rng
from fastnn.data.transforms import Normalize, RandomCrop, RandomHorizontalFlip, RandomShift

SEED, STEP = 5, 0                                   # of a program that check_op runs
generator = np.random.default_rng(2)


def images(n, c, h, w):
    return generator.standard_normal((n, c, h, w)).astype(np.float32)


def crop_case(shape, size, padding=0, fill=0.0):
    x = images(*shape)
    down, across = (padding, padding) if isinstance(padding, int) else padding[::-1]
    sizes = (size, size) if isinstance(size, int) else size
    return Case(
        f"RandomCrop {shape} {size} {padding} {fill}", RandomCrop(size, padding, fill),
        lambda x: R.crop(x, sizes, (down, across), fill, 1, 1, SEED), (x,), wanted=(), eager=False, rtol=0, atol=0,
    )


def both(x):
    """Two transforms of a program draw different numbers."""
    return RandomHorizontalFlip(0.4)(RandomShift((1, 2), fill=3.0)(x))


CASES = [
    crop_case((64, 1, 28, 28), 28, 2),
    crop_case((33, 3, 9, 7), (5, 6)),
    crop_case((5, 2, 3, 4), (8, 2), (0, 3), fill=-1.5),
    crop_case((17, 1, 4, 4), 4, 6),                  # the whole image may be out of the window
    crop_case((1, 1, 1, 1), 1, 1, fill=2.0),
    crop_case((2, 5, 6, 6), 6),
    *[
        Case(f"flip {shape} {p}", RandomHorizontalFlip(p), lambda x, p=p: R.flip(x, p, 1, 1, SEED), (images(*shape),),
             wanted=(), eager=False, rtol=0, atol=0)
        for shape, p in (((40, 3, 5, 8), 0.5), ((18, 1, 2, 7), 0.3), ((3, 1, 4, 1), 0.5),
                         ((16, 2, 3, 3), 0), ((1, 1, 1, 2), 1))
    ],
    Case(
        "shift, then flip", both,
        lambda x: R.flip(R.crop(x, (6, 5), (1, 2), 3.0, 1, 1, SEED), 0.4, 2, 1, SEED), (images(35, 2, 6, 5),),
        wanted=(), eager=False, rtol=0, atol=0,
    ),
    Case("Normalize", Normalize((0.5, -2, 7), (0.1, 1, 30)), lambda x: R.normalize(x, (0.5, -2, 7), (0.1, 1, 30)),
         (images(6, 3, 5, 5),), wanted=(), atol=1e-6),
    Case("Normalize features", Normalize((3, 0), (1, 2)), lambda x: R.normalize(x, (3, 0), (1, 2)),
         (generator.standard_normal((7, 2)).astype(np.float32),), wanted=()),
]  # fmt: skip


@for_each_isa
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_transform(case, isa):
    check_op(case, isa)


class Recorder(nn.Module):
    """A model whose gradient is the batch that it was given: the loss is the sum of weight · x."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(np.ones(shape, np.float32))

    def forward(self, x):
        return (x * self.weight).reshape(x.shape[0], -1).sum(axis=1)


def seen(x, transforms, seed=0, iteration=0, num_threads=1):
    """The batch of a training step after its transforms, sample by sample."""
    model = Recorder(x.shape)
    trainer = Trainer(model, lambda prediction, target: prediction.sum(), seed=seed, num_threads=num_threads)
    trainer.transforms, trainer.iteration = transforms, iteration
    return trainer.gradients(x, np.zeros(len(x), np.float32))["weight"]


def test_a_training_step_draws_by_seed_iteration_and_place():
    x = generator.integers(0, 256, (20, 3, 6, 6), dtype=np.uint8)
    transforms = [RandomCrop(6, padding=2, fill=9), RandomHorizontalFlip()]
    for seed, iteration in ((0, 0), (2**40 + 1, 0), (0, 17)):
        step = iteration + 1
        wanted = R.flip(R.crop(x.astype(np.float32), (6, 6), (2, 2), 9, 1, step, seed), 0.5, 2, step, seed)
        assert np.array_equal(seen(x, transforms, seed, iteration), wanted)


def test_any_number_of_threads_and_dtype_gives_the_same_bits():
    x = generator.integers(0, 256, (130, 1, 12, 12), dtype=np.uint8)
    transforms = [RandomShift(3), RandomHorizontalFlip(), Normalize.fit(x)]
    once = seen(x, transforms)
    assert all(np.array_equal(seen(x, transforms, num_threads=n), once) for n in (2, 3, 4))
    assert np.array_equal(seen(x.astype(np.float64), transforms), once)


def test_crops_reach_every_place_equally_often_and_flips_about_half():
    x = np.zeros((4000, 1, 5, 5), np.float32)
    x[:, :, 2, 2] = 1
    x[:, :, 2, 3] = 2
    moved = seen(x, [RandomShift(2)]).reshape(-1, 25)
    counts = np.bincount(np.argmax(moved == 1, 1), minlength=25)
    assert counts.min() > 100 and np.sum((counts - 160) ** 2 / 160) < 60           # χ², 24 degrees of freedom
    flipped = seen(x, [RandomHorizontalFlip(0.25)])[:, 0, 2, 1] == 2
    assert abs(flipped.mean() - 0.25) < 0.03


# -- training ---------------------------------------------------------------------------------------------------------

X = generator.integers(0, 256, (90, 2, 6, 6), dtype=np.uint8)
Y = generator.integers(0, 3, 90)


def trainer(**arguments):
    rng.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return Trainer(model, nn.CrossEntropyLoss(), optim.Adam(lr=1e-2), metrics=["accuracy"], **arguments)


ALL = [RandomCrop(6, padding=1), RandomHorizontalFlip(), RandomShift(1), Normalize.fit(X)]


def test_only_normalisation_outside_of_training():
    one = trainer()
    one.fit(X, Y, epochs=2, transforms=ALL, verbose=0)
    normalized = Normalize.fit(X)(X)
    np.testing.assert_allclose(normalized.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std((0, 2, 3)), 1, atol=1e-5)
    outputs = one.predict(X, batch_size=32)
    assert np.array_equal(outputs, one.model(normalized))
    found = one.evaluate(X, Y)
    assert found["accuracy"] == pytest.approx(np.mean(outputs.argmax(1) == Y))
    one.transforms = []
    assert one.evaluate(normalized, Y) == found


def test_transforms_are_part_of_every_way_to_train():
    whole, halves, threads = trainer(), trainer(), trainer(num_threads=3)
    whole.fit(X, Y, epochs=4, batch_size=32, transforms=ALL, verbose=0)
    threads.fit(X, Y, epochs=4, batch_size=32, transforms=ALL, verbose=0)
    halves.fit(X, Y, epochs=2, batch_size=32, transforms=ALL, verbose=0, shuffle=False)
    assert any(not np.array_equal(a, whole.model.state_dict()[k]) for k, a in halves.model.state_dict().items())
    assert all(np.array_equal(a, whole.model.state_dict()[k]) for k, a in threads.model.state_dict().items())
    steps, fit = trainer(), trainer()
    steps.transforms = ALL
    for i in range(0, 90, 32):
        steps.step(X[i : i + 32], Y[i : i + 32])
    fit.fit(X, Y, batch_size=32, shuffle=False, transforms=ALL, verbose=0)
    assert all(np.array_equal(a, fit.model.state_dict()[k]) for k, a in steps.model.state_dict().items())


def test_a_resumed_training_draws_on(tmp_path):
    whole, part, rest = trainer(), trainer(), trainer()
    whole.fit(X, Y, epochs=3, transforms=ALL, verbose=0)
    part.fit(X, Y, epochs=1, transforms=ALL, verbose=0)
    part.save(tmp_path / "c.safetensors")
    rest.fit(X, Y, epochs=3, transforms=ALL, verbose=0, resume=tmp_path / "c.safetensors")
    assert all(np.array_equal(a, whole.model.state_dict()[k]) for k, a in rest.model.state_dict().items())


def test_transforms_leave_the_dropout_masks_as_they_are():
    plain, shifted = trainer(), trainer()
    plain.fit(X, Y, verbose=0)
    shifted.fit(X, Y, transforms=[RandomShift(0), RandomHorizontalFlip(0)], verbose=0)
    assert all(np.array_equal(a, plain.model.state_dict()[k]) for k, a in shifted.model.state_dict().items())


def test_a_crop_that_changes_the_size_takes_the_middle_outside_of_training():
    x = images(4, 1, 7, 8)
    assert np.array_equal(RandomCrop((3, 4))(x), x[:, :, 2:5, 2:6])
    assert np.array_equal(RandomCrop(7)(images(2, 1, 7, 7) * 0 + 1), np.ones((2, 1, 7, 7)))
    with pytest.raises(ValueError, match=r"RandomCrop: outside of training a crop of \(9, 9\)"):
        RandomCrop(9, padding=4)(x)


def test_functions_are_transforms_too():
    a, b = trainer(), trainer()
    a.fit(X, Y, transforms=lambda x: x / 255, verbose=0)
    b.fit(X / np.float32(255), Y, verbose=0)
    assert all(np.allclose(v, b.model.state_dict()[k], atol=1e-5) for k, v in a.model.state_dict().items())
    assert np.allclose(a.predict(X), b.predict(X / 255), atol=1e-5)


def test_memory_maps_of_bytes_are_read_in_place(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    a, b = trainer(), trainer()
    a.fit(mapped, Y, transforms=ALL, verbose=0)
    b.fit(X, Y, transforms=ALL, verbose=0)
    assert all(np.array_equal(v, b.model.state_dict()[k]) for k, v in a.model.state_dict().items())
    assert Normalize.fit(mapped) == Normalize.fit(X)


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (RandomCrop(9, padding=1), "RandomCrop: a crop of 9 × 9 is larger than images of 6 × 6 padded to 8 × 8"),
        (RandomCrop((2, 7)), "a crop of 2 × 7 is larger than images of 6 × 6"),
        (Normalize(0.5, 0.2), r"Normalize with 1 means needs samples of 1 channels.* found float32 \(32, 2, 6, 6\)"),
    ],
)
def test_what_does_not_fit_is_said_before_the_training(transform, message):
    one = trainer()
    before = one.model.state_dict()
    with pytest.raises(ValueError, match=message):
        one.fit(X, Y, transforms=[transform], verbose=0)
    assert one.transforms == ()
    assert all(np.array_equal(v, before[k]) for k, v in one.model.state_dict().items())


@pytest.mark.parametrize("transform", [RandomCrop(2), RandomShift(1), RandomHorizontalFlip()])
def test_images_are_needed(transform):
    with pytest.raises(ValueError, match=r"needs images of shape \(samples, channels, height, width\), found"):
        trainer().fit(X.reshape(90, 72), Y, transforms=[transform], verbose=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(0), "size must be an integer of at least 1"),
        (lambda: RandomCrop((2, 3, 4)), "or two of them"),
        (lambda: RandomCrop(2.5), "found 2.5"),
        (lambda: RandomCrop(4, padding=-1), "padding must be an integer of at least 0"),
        (lambda: RandomCrop(4, fill=np.nan), "fill must be a finite number"),
        (lambda: RandomShift("3"), "shift must be"),
        (lambda: RandomHorizontalFlip(1.5), "p must be a probability"),
        (lambda: Normalize((1, 2), (1,)), "2 and 1 numbers"),
        (lambda: Normalize(0, 0), "std must be above 0"),
        (lambda: Normalize((), ()), "equally long"),
        (lambda: Normalize.fit(np.zeros(3)), r"found \(3,\)"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_transforms_must_be_callable():
    with pytest.raises(TypeError, match="transforms must be those of fastnn.data.transforms"):
        trainer().fit(X, Y, transforms=["flip"], verbose=0)
    with pytest.raises(TypeError, match="found <class"):
        trainer().fit(X, Y, transforms=[RandomHorizontalFlip], verbose=0)
    with pytest.raises(TypeError, match="must return a tensor of 32 samples, found NoneType"):
        trainer().fit(X, Y, transforms=[lambda x: None], verbose=0)
