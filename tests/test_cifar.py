"""CIFAR's binary files: what is read, what stays on the disk, and one clear error for every way they can be wrong."""

import numpy as np
import pytest

from fastnn import Trainer, data, nn, optim, rng
from fastnn.data import DataError
from fastnn.data.transforms import Normalize

generator = np.random.default_rng(7)


def write(folder, name, n, labels=1, classes=10):
    """A file of n images; returns (images (n, 3, 32, 32), the last label of each)."""
    records = generator.integers(0, 256, (n, labels + 3072), dtype=np.uint8)
    records[:, :labels] = generator.integers(0, classes, (n, labels))
    (folder / name).write_bytes(records.tobytes())
    return records[:, labels:].reshape(n, 3, 32, 32), records[:, labels - 1]


def test_cifar10_of_several_files(tmp_path):
    sets = [write(tmp_path, f"data_batch_{i}.bin", 3) for i in (1, 2, 4)]
    images, labels = write(tmp_path, "test_batch.bin", 2)
    made = data.read(tmp_path)
    assert made.X.dtype == np.uint8 and made.shape == made.held_out.shape == (3, 32, 32)
    assert made.classes == list(range(10)) and len(made.feature_names) == 3072
    np.testing.assert_array_equal(made.X.reshape(-1, 3, 32, 32), np.concatenate([x for x, _ in sets]))
    np.testing.assert_array_equal(made.y, np.concatenate([y for _, y in sets]))
    np.testing.assert_array_equal(made.held_out.X.reshape(-1, 3, 32, 32), images)
    np.testing.assert_array_equal(made.held_out.y, labels)


def test_cifar100_takes_the_fine_label_and_stays_on_the_disk(tmp_path):
    images, labels = write(tmp_path, "train.bin", 40, labels=2, classes=20)
    (tmp_path / "fine_label_names.txt").write_text("".join(f"class {i}\n" for i in range(100)) + "\n")
    made = data.read_cifar_folder(tmp_path)
    assert made.classes[:2] == ["class 0", "class 1"] and made.held_out is None
    np.testing.assert_array_equal(made.y, labels)
    assert isinstance(made.X.base, np.memmap) or isinstance(made.X, np.memmap)
    x = made.X.reshape(-1, *made.shape)
    assert np.shares_memory(x, made.X)
    np.testing.assert_array_equal(x, images)

    def trained(x):
        rng.manual_seed(0)
        trainer = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(3072, 20)), nn.CrossEntropyLoss(), optim.SGD(lr=1e-3))
        trainer.fit(x, made.y, batch_size=16, transforms=[Normalize.fit(x)], verbose=0)
        return trainer.model[1].weight.data

    assert np.array_equal(trained(x), trained(images))


def test_cifar_names_and_no_labels(tmp_path):
    write(tmp_path, "test_batch.bin", 4)
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert data.read(tmp_path).classes == list("abcdefghij")
    made = data.read(tmp_path, labelled=False)
    assert made.y is None and made.task is None and made.X.shape == (4, 3072)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def relabel(path):
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"data_batch_1.bin: 9218 bytes are no whole number of records of 3073"),
        (lambda path: path.write_bytes(b""), "0 bytes are no whole number"),
        (relabel, "data_batch_1.bin: image 1 has label 10; labels are 0 to 9"),
        (lambda path: (path.parent / "batches.meta.txt").write_text("a\nb\n"), "expected 10 different.*found 2"),
    ],
)  # fmt: skip
def test_cifar_errors(tmp_path, spoil, message):
    write(tmp_path, "data_batch_1.bin", 3)
    spoil(tmp_path / "data_batch_1.bin")
    with pytest.raises(DataError, match=message):
        data.read(tmp_path)


def test_other_folders(tmp_path):
    with pytest.raises(DataError, match="no CIFAR files here"):
        data.read_cifar_folder(tmp_path)
    write(tmp_path, "data_batch_1.bin", 3)
    with pytest.raises(DataError, match="regression needs CSV or .npz"):
        data.read(tmp_path, task="regression")


def test_images_of_npz_and_idx_files_keep_their_shape(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((4, 5, 6)), y=[0, 1, 0, 1])
    np.savez(tmp_path / "b.npz", X=np.zeros((4, 3, 5, 6)), y=[0, 1, 0, 1])
    np.savez(tmp_path / "c.npz", X=np.zeros((4, 5)), y=[0, 1, 0, 1])
    assert [data.read(tmp_path / f"{name}.npz").shape for name in "abc"] == [(1, 5, 6), (3, 5, 6), None]


def test_preprocessing_of_images_survives_a_file():
    x = generator.integers(0, 256, (20, 2, 4, 3), dtype=np.uint8)
    fitted = Normalize.fit(x)
    features = data.Standardizer(np.array(fitted.mean), np.array(fitted.std))
    names = [f"x{i}" for i in range(24)]
    made = data.Preprocessing("classification", names, [0, 1], features, shape=(2, 4, 3))
    again = data.Preprocessing.from_metadata(made.to_metadata())
    assert again.shape == (2, 4, 3) and again.normalize() == fitted
    np.testing.assert_array_equal(again.transform(x.reshape(20, 24)), fitted(x))
    with pytest.raises(ValueError, match=r"must be images of shape \(2, 4, 3\), 24 numbers, found \(20, 12\)"):
        again.transform(x.reshape(20, 24)[:, :12])
    wrong = (([2, 4], "three sizes"), ([3, 4, 2], "24 names for 2 features of images"), ([2, 4, 0], "three sizes"))
    for shape, message in wrong:
        lying = {made.KEY: made.to_metadata()[made.KEY].replace("[2, 4, 3]", str(shape))}
        with pytest.raises(ValueError, match=message):
            data.Preprocessing.from_metadata(lying)
