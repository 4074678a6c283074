"""Readers: what they read, and that whatever is wrong is named with file, row and column."""

from __future__ import annotations

import builtins
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from gossipnode.errors import ConfigError, DataError
from gossipnode.learning.data import load
from gossipnode.learning.data.table import FEW


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(source: str, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        load(source, **options)
    return caught.value


# -- sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["", "digit", "digits:x", "csv", "npz:", "zip:file"])
def test_unknown_sources_tell_the_forms(source):
    with pytest.raises(ConfigError, match="digits, idx:DIR, npz:FILE, csv:FILE, parquet:FILE"):
        load(source)


@pytest.mark.parametrize("kind", ["idx", "npz", "csv", "parquet"])
def test_absent_files_are_named(kind, tmp_path):
    missing = tmp_path / "nowhere"
    assert refused(f"{kind}:{missing}", label="y").file == str(missing)


def test_tables_need_a_label(tmp_path):
    with pytest.raises(ConfigError, match="name the column to predict"):
        load(f"csv:{tmp_path}/a.csv")


def test_digits_are_scikit_learns():
    dataset, test = load("digits")
    original = load_digits()
    assert test is None
    assert dataset.features.dtype == np.float32
    assert np.array_equal(dataset.features * 16, original.data)
    assert np.array_equal(dataset.targets, original.target)
    assert dataset.targets.dtype == np.int64
    assert dataset.labels == tuple("0123456789")
    assert dataset.feature_names[9] == "pixel1_1"


# -- idx ---------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.arange(24).reshape(4, 3, 2)
KINDS = np.array([7, 1, 7, 1])


def write_pair(folder: Path, prefix: str, images=IMAGES, kinds=KINDS, pack=lambda raw: raw, end=""):
    write(folder / f"{prefix}images-idx3-ubyte{end}", pack(idx(images)))
    write(folder / f"{prefix}labels-idx1-ubyte{end}", pack(idx(kinds)))


@pytest.mark.parametrize(("pack", "end"), [(lambda raw: raw, ""), (gzip.compress, ".gz")])
def test_idx_reads_pixels_and_labels(tmp_path, pack, end):
    write_pair(tmp_path, "any-", pack=pack, end=end)
    dataset, test = load(f"idx:{tmp_path}", dtype="float64")
    assert test is None
    assert np.array_equal(dataset.features, IMAGES.reshape(4, 6) / 255)
    assert dataset.labels == ("1", "7")
    assert dataset.targets.tolist() == [1, 0, 1, 0]
    assert dataset.feature_names == (
        *("pixel0_0", "pixel0_1", "pixel1_0", "pixel1_1", "pixel2_0", "pixel2_1"),
    )


def test_idx_tells_train_from_test(tmp_path):
    write_pair(tmp_path, "t10k-", images=IMAGES[:1], kinds=np.array([7]))
    write_pair(tmp_path, "train-")
    train, test = load(f"idx:{tmp_path}")
    assert (len(train), len(test)) == (4, 1)
    assert test.targets.tolist() == [1]
    assert test.labels == train.labels


def test_idx_test_class_unknown_to_training_is_refused(tmp_path):
    write_pair(tmp_path, "t10k-", kinds=np.array([1, 1, 7, 5]))
    write_pair(tmp_path, "train-")
    error = refused(f"idx:{tmp_path}")
    assert error.row == 4
    assert "class '5' is none of the class names 1, 7" in str(error)


def test_idx_refuses_what_is_not_whole(tmp_path):
    write_pair(tmp_path, "")
    images = tmp_path / "images-idx3-ubyte"
    whole = images.read_bytes()
    for broken, words in (
        (whole[:-1], "does not hold the 24 bytes"),
        (whole + b"x", "does not hold the 24 bytes"),
        (whole[:7], "is no IDX file"),
        (b"\0\0\x0d\3" + whole[4:], "is no IDX file"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 3, 3, 2) + whole[16:34], "4 labels for 3 images"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *(2**32 - 1,) * 3), "cannot be read|does not hold"),
    ):
        write(images, broken)
        with pytest.raises(DataError, match=words):
            load(f"idx:{tmp_path}")


def test_idx_refuses_a_torn_gzip(tmp_path):
    write_pair(tmp_path, "", pack=lambda raw: gzip.compress(raw)[:-9], end=".gz")
    assert "images" in str(refused(f"idx:{tmp_path}").file)


def test_idx_names_what_is_missing(tmp_path):
    assert "holds no *images*idx3* file" in str(refused(f"idx:{tmp_path}"))
    write(tmp_path / "train-images-idx3-ubyte", idx(IMAGES))
    assert "no train-labels*idx1* file" in str(refused(f"idx:{tmp_path}"))


def test_idx_refuses_to_guess_among_several_pairs(tmp_path):
    for prefix in ("a-", "b-"):
        write_pair(tmp_path, prefix)
    assert "holds 2 pairs of images and labels (a-, b-)" in str(refused(f"idx:{tmp_path}"))


# -- npz ---------------------------------------------------------------------------------------


def npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_flattens_samples(tmp_path):
    source = npz(tmp_path / "a.npz", x=IMAGES, y=np.array(["b", "a", "b", "c"]))
    dataset, test = load(source)
    assert test is None
    assert np.array_equal(dataset.features, IMAGES.reshape(4, 6).astype(np.float32))
    assert dataset.labels == ("a", "b", "c")
    assert dataset.targets.tolist() == [1, 0, 1, 2]


def test_npz_regression_keeps_numbers(tmp_path):
    source = npz(tmp_path / "a.npz", x=np.eye(3), y=np.array([0.5, -1, 2]))
    dataset, _ = load(source, regression=True)
    assert dataset.targets.tolist() == [0.5, -1, 2]
    assert dataset.targets.dtype == np.float32
    assert dataset.labels == ()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"X": np.eye(2), "y": [0, 1]}, "no array 'x'; it holds X, y"),
        ({"x": np.eye(2)}, "no array 'y'; it holds x"),
        ({"x": np.ones(2), "y": [0, 1]}, "x has shape (2,)"),
        ({"x": np.eye(2), "y": [0, 1, 1]}, "y has shape (3,); x asks for (2,)"),
        ({"x": np.array([["a", "b"]]), "y": [0]}, "not numbers"),
        ({"x": np.eye(2), "y": [0.5, 1]}, "row 1, column 'y': 0.5 is no class"),
        ({"x": np.eye(2), "y": [1, 1]}, "only one class occurs, '1'"),
        ({"x": [[1, 2], [3, np.nan]], "y": [0, 1]}, "row 2, column 'x1': nan is not a finite"),
        (
            {"x": [[1, 1e300], [3, 4]], "y": [0, 1]},
            "row 1, column 'x1': inf is not a finite float32",
        ),
    ],
)
def test_npz_faults_are_named(tmp_path, arrays, words):
    error = refused(npz(tmp_path / "a.npz", **arrays))
    assert words in str(error)
    assert error.file == str(tmp_path / "a.npz")


def test_npz_object_arrays_are_never_loaded(tmp_path):
    source = npz(tmp_path / "a.npz", x=np.eye(2), y=np.array([{}, 1], dtype=object))
    assert "array 'y' cannot be read" in str(refused(source))


@given(st.binary(max_size=200), st.booleans())
def test_npz_noise_is_refused(tmp_path_factory, noise, prefixed):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    assert refused(f"npz:{write(path, b'PK' * prefixed + noise)}").file == str(path)


def test_npz_torn_file_is_refused(tmp_path):
    npz(tmp_path / "a.npz", x=np.eye(40), y=np.arange(40))
    whole = (tmp_path / "a.npz").read_bytes()
    for length in (10, 200, len(whole) // 2, len(whole) - 1):
        write(tmp_path / "a.npz", whole[:length])
        refused(f"npz:{tmp_path / 'a.npz'}")
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 255
    write(tmp_path / "a.npz", bytes(flipped))
    refused(f"npz:{tmp_path / 'a.npz'}")


# -- csv ---------------------------------------------------------------------------------------

TABLE = """\
height,colour,kind,lot
1.5,red,cat,7
2,blue,dog,8
-3e1,"green, dark",cat,9
"""


def test_csv_reads_numbers_and_categories(tmp_path):
    path = write(tmp_path / "a.csv", TABLE)
    dataset, test = load(f"csv:{path}", label="kind")
    assert test is None
    assert dataset.feature_names == (
        *("height", "colour=blue", "colour=green, dark", "colour=red", "lot"),
    )
    assert dataset.features.tolist() == [[1.5, 0, 0, 1, 7], [2, 1, 0, 0, 8], [-30, 0, 1, 0, 9]]
    assert dataset.labels == ("cat", "dog")
    assert dataset.targets.tolist() == [0, 1, 0]


def test_csv_takes_byte_order_mark_windows_lines_blank_lines_and_spaces(tmp_path):
    content = b"\xef\xbb\xbf a , y \r\n\r\n 1 , u \r\n\r\n2,v\r\n\r\n"
    dataset, _ = load(f"csv:{write(tmp_path / 'a.csv', content)}", label="y")
    assert dataset.feature_names == ("a",)
    assert dataset.features.tolist() == [[1], [2]]
    assert dataset.labels == ("u", "v")


def test_csv_regression(tmp_path):
    dataset, _ = load(f"csv:{write(tmp_path / 'a.csv', TABLE)}", label="lot", regression=True)
    assert dataset.targets.tolist() == [7, 8, 9]
    assert dataset.targets.dtype == np.float32


def test_csv_labels_that_are_measurements_are_no_classes(tmp_path):
    cells = [str(n + 0.25 * (n % 3)) for n in range(FEW + 1)]
    rows = "\n".join(["area,price", *(f"{n},{cell}" for n, cell in enumerate(cells))])
    source = f"csv:{write(tmp_path / 'prices.csv', rows.encode())}"
    with pytest.raises(DataError, match=r"row 3, column 'price': 1\.25 is no class.*--task linear"):
        load(source, label="price")
    assert load(source, label="price", regression=True)[0].targets[1] == 1.25
    assert load(source, label="price", labels=cells)[0].labels == tuple(cells)  # it is meant


def test_csv_labels_that_are_a_few_fractions_are_a_scale(tmp_path):
    path = write(tmp_path / "stars.csv", b"area,stars\n1,4.5\n2,3.5\n3,4.5\n")
    assert load(f"csv:{path}", label="stars")[0].labels == ("3.5", "4.5")


def test_csv_given_labels_fix_the_order_and_may_be_absent(tmp_path):
    path = write(tmp_path / "a.csv", "a,y\n1,cat\n2,cat\n")
    dataset, _ = load(f"csv:{path}", label="y", labels=("dog", "cat"))
    assert dataset.labels == ("dog", "cat")
    assert dataset.targets.tolist() == [1, 1]


def test_csv_whole_number_labels_sort_by_value(tmp_path):
    path = write(tmp_path / "a.csv", "a,y\n1,10\n2,9\n3,-1\n")
    assert load(f"csv:{path}", label="y")[0].labels == ("-1", "9", "10")


@pytest.mark.parametrize(
    ("content", "row", "column", "words"),
    [
        ("a,y\n1,u\n,v\n", 3, "a", "value is missing"),
        ("a,y\n1,u\n2,NA\n", 3, "y", "value is missing"),
        ("a,y\n1,u\n\n2\n", 4, None, "has 1 cells where the header has 2"),
        ("a,y\n1,u\n2,v,w\n", 3, None, "has 3 cells where the header has 2"),
        ('a,b,y\n"two\nlines",1,u\nx,,v\n', 4, "b", "value is missing"),
        ("a,y\n1,u\ninf,v\n", 3, "a", "inf is not a finite"),
        ("a,y\n1,u\n1e99,v\n", 3, "a", "inf is not a finite float32"),
        ("a,kind\n1,u\n2,v\n", 1, None, "no label column 'y'; the columns are a, kind"),
        ("a,yy\n1,u\n", 1, None, "did you mean 'yy'?"),
        ("a;y\n1;u\n", 1, None, "cells must be separated by commas"),
        ("a,a,y\n1,1,u\n", 1, "a", "occurs twice in the header"),
        ("a,,y\n1,1,u\n", 1, 2, "has no name in the header"),
        ("y\nu\nv\n", 1, None, "no column besides the label"),
        ("", None, None, "is empty"),
        ("a,y\n", None, None, "has a header and no samples"),
        ("a,y\n1,u\n2,u\n", None, "y", "only one class occurs, 'u'"),
        ('a,y\n1,u\n"2,v\n', 3, None, "is no CSV"),
        (b"a,y\n1,u\n\n2,\xff\n", 4, None, "is not UTF-8"),
    ],
)
def test_csv_faults_are_named_as_an_editor_counts(tmp_path, content, row, column, words):
    path = write(tmp_path / "a.csv", content)
    error = refused(f"csv:{path}", label="y")
    assert words in str(error)
    assert (error.file, error.row, error.column) == (str(path), row, column)


def test_csv_class_outside_the_given_labels_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "a,y\n1,cat\n2,cta\n")
    error = refused(f"csv:{path}", label="y", labels=("cat", "dog"))
    assert (error.row, error.column) == (3, "y")
    assert "did you mean 'cat'" in str(error)


def test_csv_target_that_is_no_number_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "a,y\n1,2.5\n2,2,5\n".replace("2,2,5", "2,2;5"))
    error = refused(f"csv:{path}", label="y", regression=True)
    assert (error.row, error.column) == (3, "y")


@pytest.mark.parametrize("stray_at", [0, 700, 1400])
def test_csv_stray_letter_does_not_make_a_thousand_columns(tmp_path, stray_at):
    cells = [f"{value}.25,{'uv'[value % 2]}" for value in range(1500)]
    cells[stray_at] = "1O,u"
    path = write(tmp_path / "a.csv", "a,y\n" + "\n".join(cells) + "\n")
    error = refused(f"csv:{path}", label="y")
    assert (error.row, error.column) == (stray_at + 2, "a")
    assert "'1O' is no number" in str(error)


# -- parquet -----------------------------------------------------------------------------------


def parquet(path: Path, **columns) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return f"parquet:{path}"


def test_parquet_reads_what_csv_reads(tmp_path):
    source = parquet(
        tmp_path / "a.parquet",
        height=[1.5, 2, -30],
        colour=["red", "blue", "green, dark"],
        kind=["cat", "dog", "cat"],
        lot=[7, 8, 9],
    )
    from_parquet, _ = load(source, label="kind")
    from_csv, _ = load(f"csv:{write(tmp_path / 'a.csv', TABLE)}", label="kind")
    assert from_parquet.feature_names == from_csv.feature_names
    assert from_parquet.labels == from_csv.labels
    assert np.array_equal(from_parquet.features, from_csv.features)
    assert np.array_equal(from_parquet.targets, from_csv.targets)


@pytest.mark.parametrize(
    ("columns", "row", "column", "words"),
    [
        ({"a": [1, None], "y": ["u", "v"]}, 2, "a", "value is missing"),
        ({"a": [1, 2], "y": ["u", None]}, 2, "y", "value is missing"),
        ({"a": [1, float("nan")], "y": ["u", "v"]}, 2, "a", "not a finite"),
        ({"a": [[1, 2], [3]], "y": ["u", "v"]}, None, "a", "neither numbers nor text"),
        ({"a": [[1, 2], [3, 4]], "y": ["u", "v"]}, None, "a", "neither numbers nor text"),
        ({"a": [1, 2], "z": ["u", "v"]}, 1, None, "no label column 'y'"),
    ],
)
def test_parquet_faults_are_named(tmp_path, columns, row, column, words):
    error = refused(parquet(tmp_path / "a.parquet", **columns), label="y")
    assert words in str(error)
    assert (error.row, error.column) == (row, column)


def test_parquet_noise_is_refused(tmp_path):
    refused(f"parquet:{write(tmp_path / 'a.parquet', b'PAR1 nothing PAR1')}", label="y")


def test_parquet_without_pyarrow_tells_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ConfigError, match=r"pip install 'gossipnode\[parquet\]'"):
        load(f"parquet:{tmp_path / 'a.parquet'}", label="y")


def test_a_slip_in_a_column_of_numbers_is_no_category(tmp_path: Path) -> None:
    path = tmp_path / "slip.csv"
    rows = [f"{i / 7},{i % 3},{i % 2}" for i in range(60)]
    rows[40] = "o.5,1,0"
    path.write_text("a,kind,y\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"'o\.5' is no number, as 59 of 60 cells") as caught:
        load(f"csv:{path}", label="y")
    assert (caught.value.row, caught.value.column) == (42, "a")


def test_a_few_codes_beside_numbers_are_categories(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text("code,y\n" + "".join(f"{i % 9 or 'B'},{i % 2}\n" for i in range(90)))
    train, _ = load(f"csv:{path}", label="y")
    assert "code=B" in train.feature_names
    assert len(train.feature_names) == 9
