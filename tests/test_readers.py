"""Readers: what they return, and one clear error for every way a file can be wrong."""

import gzip
import struct

import numpy as np
import pytest

from fastnn import data
from fastnn.data import DataError


def write(folder, text, name="d.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_with_text_classes(tmp_path):
    path = write(tmp_path, 'a,"b, c",kind\n1,2.5,dog\n-3e2, 4 ,cat\n0,0,dog\n')
    made = data.read(path, "kind")
    np.testing.assert_array_equal(made.X, [[1, 2.5], [-300, 4], [0, 0]])
    np.testing.assert_array_equal(made.y, [1, 0, 1])
    assert made.y.dtype == np.int64
    assert (made.task, made.classes, made.feature_names) == ("classification", ["cat", "dog"], ["a", "b, c"])


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffx,t\r\n\r\n1,5\r\n\r\n2,7\r\n",
        "x;t\n1;5\n2;7",
        "\n\nx\tt\n1\t5\n2\t7\n\n",
        '"x","t"\n"1","5"\n"2","7"\n',
        '"x";"a,b,c,d;t"\n1;5\n2;7',
    ],
    ids=["bom, CRLF, blank lines", "semicolons", "tabs", "quotes", "quoted separators"],
)
def test_csv_dialects(tmp_path, text):
    made = data.read_csv(write(tmp_path, text), "a,b,c,d;t" if "a,b" in text else "t")
    np.testing.assert_array_equal(made.X, [[1], [2]])
    assert (made.classes, made.feature_names) == ([5, 7], ["x"])


@pytest.mark.parametrize(
    ("targets", "task", "found", "classes", "y"),
    [
        (["1", "10", "9"], None, "classification", [1, 9, 10], [0, 2, 1]),
        (["1", "10", "9"], "regression", "regression", [], [[1], [10], [9]]),
        (["1.0", "2.5", "3"], None, "regression", [], [[1], [2.5], [3]]),
        (["1.0", "2", "1"], "classification", "classification", [1, 2], [0, 1, 0]),
        (["yes", "no", "yes"], None, "classification", ["no", "yes"], [1, 0, 1]),
        (["3", "x", "3"], "classification", "classification", ["3", "x"], [0, 1, 0]),
        (["-1", "+1", "-1"], None, "classification", [-1, 1], [0, 1, 0]),
    ],
)
def test_csv_task(tmp_path, targets, task, found, classes, y):
    path = write(tmp_path, "t,x\n" + "".join(f"{target},{i}\n" for i, target in enumerate(targets)))
    made = data.read_csv(path, "t", task)
    assert (made.task, made.classes) == (found, classes)
    np.testing.assert_array_equal(made.y, y)


def test_csv_features_by_name(tmp_path):
    path = write(tmp_path, "note,b,a\nhello,1,2\n,3,4\n")
    made = data.read(path, features=["a", "b"], labelled=False)
    np.testing.assert_array_equal(made.X, [[2, 1], [4, 3]])
    assert made.y is None and made.task is None
    with pytest.raises(DataError, match="missing columns: c, d; the file has note, b, a"):
        data.read(path, features=["a", "c", "d"], labelled=False)


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("", None, "the file is empty"),
        ("\n \n", None, "the file is empty"),
        ("a,t\n", None, "a header, but no rows"),
        ("a,t\n1,0\n,1\n", None, "line 3, column 'a': missing value"),
        ("a,t\n\n1,0\n2,\n", None, "line 4, column 't': missing value"),
        ("a,t\n1,0\nred,1\n", None, "line 3, column 'a': expected a number, found text 'red'"),
        ("a,t\n1_0,0\n2,1\n", None, "line 2, column 'a': expected a number, found text '1_0'"),
        ("a,t\n1,0\n2\n", None, "line 3: 1 values, the header has 2 columns"),
        ("a,t\n1,0\n2,1,\n", None, "line 3: 3 values"),
        ("a,t\n1,0\nnan,1\n", None, r"line 3, column 'a': not a finite number \(nan\)"),
        ("a,t\n-inf,0\n2,1\n", None, "line 2, column 'a': not a finite number"),
        ("a,t\n1,0.5\n2,nan\n", None, r"line 3, column 't': not a finite number \(nan\)"),
        ("a,t\n1,0.5\n2,oops\n3,1.5\n", None, "line 3, column 't': text 'oops' among numbers"),
        ("a,t\n1,x\n2,y\n", "regression", "line 2, column 't': expected a number, found text 'x'"),
        ("a,t\n1,0.5\n2,1\n", "classification", "line 2, column 't': class labels are integers or text"),
        ("a,t\n1,7\n2,7\n", None, "column 't': classification needs at least two classes, found only 7"),
        ("a,b\n1,2\n", None, "no column 't' for the target; columns: a, b"),
        ("a,t,a\n1,2,3\n", None, "line 1: two columns are named 'a'"),
        ("a,,t\n1,2,3\n", None, "line 1: column 2 has no name"),
        ("t\n1\n2\n", None, "no feature columns beside the target 't'"),
        ('a,t\n1,"0\n2,1\n', None, "line 3: unexpected end of data"),
        (b"a,t\n1,\xff\n", None, "not UTF-8 text"),
        ("a,t\n1,0\n".encode("utf-16"), None, "not UTF-8 text"),
    ],
)
def test_csv_errors(tmp_path, text, task, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        data.read_csv(path, "t", task)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_read_needs_a_target_for_csv_only(tmp_path):
    with pytest.raises(DataError, match="--target.*columns: a, b"):
        data.read(write(tmp_path, "a,b\n1,2\n"))
    np.savez(tmp_path / "d.npz", X=np.zeros((2, 2)), y=[0, 1])
    with pytest.raises(DataError, match="CSV files only, found 'y'"):
        data.read(tmp_path / "d.npz", "y")


@pytest.mark.parametrize(("name", "message"), [("no.csv", "no such file"), ("d.xlsx", "expected a .csv")])
def test_read_dispatch_errors(tmp_path, name, message):
    write(tmp_path, "", "d.xlsx")
    with pytest.raises(DataError, match=message):
        data.read(tmp_path / name, "t")
    with pytest.raises(ValueError, match="task must be one of classification, regression, found 'cluster'"):
        data.read(tmp_path / name, "t", "cluster")


@pytest.mark.parametrize(
    ("y", "task", "found", "classes", "expected"),
    [
        (np.array([3, 5, 3], np.uint8), None, "classification", [3, 5], [0, 1, 0]),
        (np.array([[3], [5], [3]]), None, "classification", [3, 5], [0, 1, 0]),
        (np.array(["b", "a", "b"]), None, "classification", ["a", "b"], [1, 0, 1]),
        (np.array([True, False, True]), None, "classification", ["False", "True"], [1, 0, 1]),
        (np.array([1.0, 2.0, 1.0]), None, "regression", [], [[1], [2], [1]]),
        (np.array([1.0, 2.0, 1.0]), "classification", "classification", [1, 2], [0, 1, 0]),
        (np.array([3, 5, 3]), "regression", "regression", [], [[3], [5], [3]]),
        (np.ones((3, 2)), None, "regression", [], [[1, 1]] * 3),
    ],
)
def test_npz(tmp_path, y, task, found, classes, expected):
    X = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    np.savez_compressed(tmp_path / "d.npz", X=X, y=y)
    made = data.read(tmp_path / "d.npz", task=task)
    np.testing.assert_array_equal(made.X, X.reshape(3, 4))
    assert (made.task, made.classes, made.feature_names) == (found, classes, ["x0", "x1", "x2", "x3"])
    np.testing.assert_array_equal(made.y, expected)
    assert made.y.shape == np.shape(expected)


X3 = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("arrays", "task", "message"),
    [
        ({"X": X3}, None, "no array 'y' in the file; it has X"),
        ({}, None, "it has nothing"),
        ({"X": X3, "y": [1, 2]}, None, r"X has 3 samples, y has shape \(2,\)"),
        ({"X": X3, "y": 1}, None, r"y has shape \(\)"),
        ({"X": np.zeros(3), "y": [1, 2, 3]}, None, r"expected shape \(samples, features\).*\(3,\)"),
        ({"X": np.zeros((0, 2)), "y": []}, None, r"found \(0, 2\)"),
        ({"X": [["a"], ["b"]], "y": [1, 2]}, None, "X: expected numbers, found dtype <U1"),
        ({"X": X3 * 1j, "y": [1, 2, 1]}, None, "found dtype complex128"),
        ({"X": np.where(np.eye(3, 2), np.nan, 0), "y": [1, 2, 1]}, None, "sample 0, feature 0 is not finite"),
        ({"X": X3, "y": [0.5, np.inf, 1]}, None, "target of sample 1 is not finite"),
        ({"X": X3, "y": np.zeros((3, 2), int)}, None, r"one label per sample, shape \(3,\), found \(3, 2\)"),
        ({"X": X3, "y": [0.5, 1, 2]}, "classification", "class labels are integers or text, found 0.5"),
        ({"X": X3, "y": ["a", "b", "a"]}, "regression", "regression needs numbers"),
        ({"X": X3, "y": [4, 4, 4]}, None, "at least two classes"),
        ({"X": X3, "y": np.array([1, None, "x"], object)}, None, "not a readable .npz file of plain arrays"),
    ],
)
def test_npz_errors(tmp_path, arrays, task, message):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        data.read_npz(path, task)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"text", "whole[:-40]", "npy"])
def test_npz_that_is_none(tmp_path, content):
    path = tmp_path / "d.npz"
    np.savez(path, X=X3, y=[1, 2, 1])
    if content == "whole[:-40]":
        content = path.read_bytes()[:-40]
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, X3)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable .npz file"):
        data.read_npz(path)


def idx(array, code=0x08):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([7, 3, 7, 9], np.uint8)


def test_idx_folder_with_both_sets(tmp_path):
    write(tmp_path, idx(IMAGES), "train-images-idx3-ubyte")
    write(tmp_path, gzip.compress(idx(LABELS)), "train-labels.idx1-ubyte.gz")
    write(tmp_path, gzip.compress(idx(IMAGES[:2])), "t10k-images-idx3-ubyte.gz")
    write(tmp_path, idx(np.array([9, 5], np.uint8)), "t10k-labels-idx1-ubyte")
    made = data.read(tmp_path)
    np.testing.assert_array_equal(made.X, IMAGES.reshape(4, 6))
    np.testing.assert_array_equal(made.y, [2, 0, 2, 3])
    assert made.classes == made.held_out.classes == [3, 5, 7, 9]
    np.testing.assert_array_equal(made.held_out.X, IMAGES[:2].reshape(2, 6))
    np.testing.assert_array_equal(made.held_out.y, [3, 1])


def test_idx_folder_with_test_set_only_and_other_dtypes(tmp_path):
    write(tmp_path, idx((IMAGES / 2).astype(">f4"), 0x0D), "t10k-images-idx3-ubyte")
    write(tmp_path, idx(LABELS.astype(">i4"), 0x0C), "t10k-labels-idx1-ubyte")
    made = data.read_idx_folder(tmp_path)
    np.testing.assert_array_equal(made.X, IMAGES.reshape(4, 6) / 2)
    np.testing.assert_array_equal(made.y, [1, 0, 1, 2])
    assert made.held_out is None and made.X.dtype.isnative


def test_idx_folder_without_labels(tmp_path):
    write(tmp_path, idx(IMAGES), "t10k-images-idx3-ubyte")
    assert data.read(tmp_path, labelled=False).y is None
    with pytest.raises(DataError, match="no file t10k-labels"):
        data.read(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", idx(LABELS), "train-images.*not an idx file: it begins with nothing"),
        (b"\x89PNG\r\n", idx(LABELS), "not an idx file: it begins with 89 50 4e 47"),
        (b"\0\0\x07\1" + bytes(5), idx(LABELS), "not an idx file"),
        (b"\0\0\x08\3\0\0", idx(LABELS), "ends inside its header"),
        (idx(IMAGES)[:-1], idx(LABELS), r"shape \(4, 2, 3\) needs 40 bytes, the file has 39"),
        (idx(IMAGES) + b"x", idx(LABELS), "needs 40 bytes, the file has 41"),
        (b"\0\0\x08\3" + b"\xff" * 12, idx(LABELS), "the file has 16"),
        (idx(IMAGES), idx(LABELS[:3]), "train-labels.*expected 4 integer labels, found uint8"),
        (idx(IMAGES), idx(IMAGES), "expected 4 integer labels"),
        (idx(IMAGES), idx(LABELS * 0), "at least two classes"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "none of them 0"),
    ],
)
def test_idx_errors(tmp_path, images, labels, message):
    write(tmp_path, images, "train-images-idx3-ubyte")
    write(tmp_path, labels, "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match=message):
        data.read(tmp_path)


def test_idx_folder_errors(tmp_path):
    with pytest.raises(DataError, match="no idx files here"):
        data.read(tmp_path)
    write(tmp_path, gzip.compress(idx(IMAGES))[:-9], "train-images-idx3-ubyte.gz")
    write(tmp_path, idx(LABELS), "train-labels-idx1-ubyte")
    with pytest.raises(DataError, match="not a whole gzip file"):
        data.read(tmp_path)
    with pytest.raises(DataError, match="regression needs"):
        data.read(tmp_path, task="regression")
