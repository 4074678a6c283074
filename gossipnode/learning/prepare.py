"""From the options of ``data`` to the samples of one node: load, split, standardize, share.

Invariant: what is loaded is kept per process and never altered afterwards, so that a parent
which forks its nodes loads once and the children share the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, DataError
from gossipnode.learning.data import Dataset, Standardizer, load, split
from gossipnode.learning.data.arrays import read_arrays
from gossipnode.learning.partition import parse_partition, partition, sample
from gossipnode.learning.tasks import Quadratic


@dataclass(frozen=True)
class Prepared:
    """Training and test samples, standardized by ``standardizer`` where there is one."""

    train: Dataset
    test: Dataset | None
    standardizer: Standardizer | None


@lru_cache(maxsize=4)
def prepare(
    source: str,
    *,
    label: str | None,
    regression: bool,
    dtype: str,
    labels: tuple[str, ...],
    test_fraction: float,
    split_seed: int,
    standardize: str,
) -> Prepared:
    """Load ``source`` and split it (unless it brings its own test samples), then standardize.

    ``standardize`` is ``none``, ``local`` (measured on the training samples) or the path of a
    JSON file. Raises ConfigError and DataError as ``load`` does.
    """
    train, test = load(source, label=label, regression=regression, dtype=dtype, labels=labels)
    if test is None:
        train, test = split(train, test_fraction, split_seed)
    if not len(train):
        raise DataError("no sample is left to train on", file=source)
    standardizer = None
    if standardize == "local":
        standardizer = Standardizer.fit(train.features, train.feature_names)
    elif standardize != "none":
        standardizer = Standardizer.read(expanded(standardize))
        standardizer.check(train.feature_names, file=standardize)
    for part in (train, test):
        if part is not None and standardizer is not None:
            standardizer.apply(part.features)
        if part is not None:
            part.features.flags.writeable = False
    return Prepared(train, test, standardizer)


def forget_loaded_data() -> None:
    """Let go of what ``prepare`` keeps: a lone node needs its own share alone."""
    prepare.cache_clear()


def share_of(
    train: Dataset, scheme: str, share_index: int, share_count: int, partition_seed: int
) -> Dataset:
    """Return a copy of share ``share_index`` of ``share_count``, or ``train`` itself of 1."""
    assert 0 <= share_index < share_count
    name, value = parse_partition(scheme)
    if name == "sample":  # its own draw alone: of ten thousand nodes each needs only one
        return train.take(sample(len(train), int(value), partition_seed, share_index))
    if share_count == 1:
        return train
    return train.take(partition(train.targets, share_count, scheme, partition_seed)[share_index])


def read_quadratic(source: str, share_index: int, share_count: int, dtype: str) -> Quadratic:
    """Return node ``share_index``'s quadratic of ``npz:FILE``, evaluated at the nodes' mean.

    The file holds A, shape (n, d, d) with n ≥ share_count or (d, d) for all nodes, symmetric,
    and b, shape (n, d) or (d,). The mean is over the first ``share_count`` of n.
    """
    kind, _, path = source.partition(":")
    if kind != "npz" or not path:
        raise ConfigError(
            f"a quadratic cannot be read from {source!r}",
            key="data.source",
            allowed="npz:FILE with arrays A and b",
        )
    A, b = (_numbers(array, path) for array in read_arrays(expanded(path), ("A", "b")))
    if A.ndim not in (2, 3) or A.shape[-1] != A.shape[-2] or not A.size:
        raise DataError(f"A has shape {A.shape}; (d, d) or (nodes, d, d) is needed", file=path)
    if b.ndim not in (1, 2) or b.shape[-1] != A.shape[-1]:
        raise DataError(
            f"b has shape {b.shape}; ({A.shape[-1]},) or (nodes, {A.shape[-1]}) is needed",
            file=path,
        )
    A = _per_node(A, 3, share_count, "A", path)
    b = _per_node(b, 2, share_count, "b", path)
    largest = np.abs(A).max()
    crooked = np.argwhere(np.abs(A - A.transpose(0, 2, 1)) > 1e-6 * largest)
    if len(crooked):
        node, row, column = (int(entry) for entry in crooked[0])
        raise DataError(
            f"A of node {node} is not symmetric", file=path, row=row + 1, column=column + 1
        )
    A = (A + A.transpose(0, 2, 1)) / 2
    mean = Quadratic(A.mean(axis=0), b.mean(axis=0), dtype=dtype)
    return Quadratic(A[share_index], b[share_index], dtype=dtype, evaluated=mean)


def _numbers(array: NDArray[Any], file: str) -> NDArray[np.float64]:
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise DataError("arrays A and b must hold finite numbers", file=file)
    return array.astype(np.float64)


def _per_node(
    array: NDArray[np.float64], dimensions: int, nodes: int, name: str, file: str
) -> NDArray[np.float64]:
    if array.ndim < dimensions:
        return np.broadcast_to(array, (nodes, *array.shape))
    if len(array) < nodes:
        raise DataError(f"{name} holds {len(array)} nodes; {nodes} are needed", file=file)
    return array[:nodes]
