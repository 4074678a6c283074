"""Datasets stored as numpy arrays: the embedded digits and the user's npz files.

Invariant: object arrays are never loaded, for they may run code when they are.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import DataError, nearest_spelling
from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.data.targets import check_finite, class_targets
from gossipnode.learning.params import Array

DIGITS: Final = "digits.npz"

# What numpy and zipfile raise for a bad file: ValueError for an object array or a broken header,
# RuntimeError for an encrypted or unknown compression, MemoryError for a shape that lies.
UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_digits(dtype: np.dtype[Any], *, regression: bool, labels: Sequence[str]) -> Dataset:
    """Return the embedded handwritten digits: 1797 samples of 8 × 8 pixels in [0, 1].

    Source: Alpaydin and Kaynak, UCI repository, doi 10.24432/C50P49 (test portion); see
    ``datasets/LICENSE-digits.txt``.
    """
    packed = resources.files("gossipnode.learning").joinpath("datasets", DIGITS).read_bytes()
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        features, digits = np.divide(arrays["x"], 16, dtype=dtype), arrays["y"]
    names = tuple(f"pixel{row}_{column}" for row in range(8) for column in range(8))
    return dataset_of(features, digits, names, regression, labels, file="digits")


def read_npz(
    path: Path, dtype: np.dtype[Any], *, regression: bool, labels: Sequence[str]
) -> Dataset:
    """Return the samples of arrays ``x``, shape (m, …), and ``y``, shape (m,), in ``path``.

    Each sample is flattened; its features are called x0, x1, …. Raises DataError, with rows
    counted from 1, for whatever is wrong.
    """
    x, y = read_arrays(path, ("x", "y"))
    file = str(path)
    if x.dtype.kind not in "biuf":
        raise DataError(f"array x holds {x.dtype}, not numbers", file=file)
    if x.ndim < 2 or not x.size:
        raise DataError(f"array x has shape {x.shape}; (samples, features) is needed", file=file)
    if y.shape != x.shape[:1]:
        raise DataError(f"array y has shape {y.shape}; x asks for {x.shape[:1]}", file=file)
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(x.reshape(len(x), -1), dtype)
    names = tuple(f"x{index}" for index in range(features.shape[1]))
    check_finite(features, names, file=file)
    return dataset_of(features, y, names, regression, labels, file=file)


def dataset_of(
    features: Array,
    values: NDArray[Any],
    names: tuple[str, ...],
    regression: bool,
    labels: Sequence[str],
    *,
    file: str,
    column: str = "y",
) -> Dataset:
    """Return the dataset of ``features``, shape (m, p), and target ``values``, shape (m,)."""
    if not regression:
        targets, classes = class_targets(values, labels, file=file, column=column)
        return Dataset(features, targets, classes, names)
    if values.dtype.kind not in "biuf":
        raise DataError(f"holds {values.dtype}, not numbers", file=file, column=column)
    with np.errstate(over="ignore"):
        numbers = values.astype(features.dtype)
    check_finite(numbers[:, None], (column,), file=file)
    return Dataset(features, numbers, (), names)


def read_arrays(path: Path, keys: Iterable[str]) -> list[NDArray[Any]]:
    """Return the arrays ``keys`` of the npz file at ``path``; DataError for a bad file or key."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            if stream.read(4)[:2] != b"PK":
                raise DataError("is no npz file (numpy.savez writes one)", file=file)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return [_array(arrays, key, file) for key in keys]
    except UNREADABLE as error:
        raise DataError(f"cannot be read as npz: {error}", file=file) from error


def _array(arrays: Any, key: str, file: str) -> NDArray[Any]:
    if key not in arrays.files:
        near = nearest_spelling(key, arrays.files)
        raise DataError(
            f"no array {key!r}; it holds {', '.join(arrays.files) or 'none'}"
            + (f"; did you mean {near!r}?" if near else ""),
            file=file,
        )
    try:
        return np.asarray(arrays[key])
    except UNREADABLE as error:
        raise DataError(f"array {key!r} cannot be read: {error}", file=file) from error
