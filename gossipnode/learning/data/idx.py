"""The IDX files of MNIST and its kin, gzip-compressed or not.

Invariant: no more is read than the file's header announces, and all of that must be there.
Source: the format's description on the MNIST page of LeCun, Cortes and Burges.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import DataError
from gossipnode.learning.data.arrays import dataset_of
from gossipnode.learning.data.dataset import Dataset


def read_idx(
    folder: Path, dtype: np.dtype[Any], *, regression: bool, labels: Sequence[str]
) -> tuple[Dataset, Dataset | None]:
    """Return the images in ``folder``, pixels in [0, 1], and its test images where told apart.

    An ``…images…idx3…`` file belongs to the ``…labels…idx1…`` file with the same beginning. A
    lone pair is the training set, whatever its name; of two pairs, that which begins with
    ``train`` is. Raises DataError for whatever is wrong.
    """
    pairs = _pairs(folder)
    if len(pairs) == 1:
        return _read_pair(*pairs.popitem()[1], dtype, regression, labels), None
    trains = [prefix for prefix in pairs if prefix.startswith("train")]
    if len(pairs) != 2 or len(trains) != 1:
        raise DataError(
            f"holds {len(pairs)} pairs of images and labels ({', '.join(sorted(pairs))}); one, "
            "or one that begins with train and one more, is needed",
            file=str(folder),
        )
    train = _read_pair(*pairs.pop(trains[0]), dtype, regression, labels)
    test_files = pairs.popitem()[1]
    # The test images are encoded by the training images' classes: a new one there is an error.
    test = _read_pair(*test_files, dtype, regression, labels or train.labels)
    if test.features.shape[1] != train.features.shape[1]:
        raise DataError(
            "its images differ in size from the training images", file=str(test_files[0])
        )
    return train, test


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return (images, labels) by the files' common beginning; plain files win over compressed."""
    if not folder.is_dir():
        raise DataError("is no folder; idx:DIR names the folder of the IDX files", file=str(folder))
    found: dict[str, dict[str, Path]] = {"images": {}, "labels": {}}
    for path in sorted(folder.iterdir(), reverse=True):
        for what, kind in (("images", "idx3"), ("labels", "idx1")):
            prefix, separator, rest = path.name.partition(what)
            if separator and kind in rest:
                found[what][prefix] = path
    images, labels = found["images"], found["labels"]
    if not images:
        raise DataError("holds no *images*idx3* file", file=str(folder))
    for prefix, path in images.items():
        if prefix not in labels:
            raise DataError(f"has no {prefix}labels*idx1* file beside it", file=str(path))
    return {prefix: (path, labels[prefix]) for prefix, path in images.items()}


def _read_pair(
    images_path: Path,
    labels_path: Path,
    dtype: np.dtype[Any],
    regression: bool,
    labels: Sequence[str],
) -> Dataset:
    images, values = _read_array(images_path, 3), _read_array(labels_path, 1)
    if len(images) != len(values) or not images.size:
        raise DataError(
            f"holds {len(values)} labels for {len(images)} images of {images.shape[1:]} pixels",
            file=str(labels_path),
        )
    features = np.divide(images.reshape(len(images), -1), 255, dtype=dtype)
    _, height, width = images.shape
    names = tuple(f"pixel{row}_{column}" for row in range(height) for column in range(width))
    return dataset_of(features, values, names, regression, labels, file=str(labels_path))


def _read_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the unsigned bytes in ``path``: a magic number, the shape (big-endian), the data."""
    file = str(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
            if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, 8, dimensions)):
                raise DataError(
                    f"is no IDX file of unsigned bytes in {dimensions} dimension(s)", file=file
                )
            shape = tuple(int(extent) for extent in np.frombuffer(header, ">u4", offset=4))
            size = int(np.prod(shape, dtype=object))
            content = stream.read(size)
            if len(content) != size or stream.read(1):
                raise DataError(
                    f"does not hold the {size} bytes that its header announces", file=file
                )
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {reason}", file=file) from error
    return np.frombuffer(content, np.uint8).reshape(shape)
