"""Which reader opens a source: the one place that knows the forms of ``data.source``.

Invariant: a reader's module is imported when its source is named, never before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.learning.data.dataset import Dataset

SOURCES: Final = "digits, idx:DIR, npz:FILE, csv:FILE, parquet:FILE"


def load(
    source: str,
    *,
    label: str | None = None,
    regression: bool = False,
    dtype: DTypeLike = "float32",
    labels: Sequence[str] = (),
) -> tuple[Dataset, Dataset | None]:
    """Read ``source`` and return its training samples and, where it tells them apart, its test.

    ``source`` is one of ``digits``, ``idx:DIR``, ``npz:FILE``, ``csv:FILE``, ``parquet:FILE``.
    ``label`` names the target column of a table. ``labels`` are all class names in order; where
    empty they are those that occur, sorted. Raises ConfigError for an unknown form or a missing
    option, DataError for whatever is wrong in the file.
    """
    kind, _, rest = source.partition(":")
    if (kind == "digits") == bool(rest) or kind not in ("digits", "idx", "npz", "csv", "parquet"):
        raise ConfigError(
            f"unknown data source {source!r}",
            key="data.source",
            allowed=SOURCES,
            nearest=nearest_spelling(kind, ("digits", "idx", "npz", "csv", "parquet")),
        )
    path, number = expanded(rest), np.dtype(dtype)
    if kind == "digits":
        from gossipnode.learning.data.arrays import read_digits

        return read_digits(number, regression=regression, labels=labels), None
    if kind == "npz":
        from gossipnode.learning.data.arrays import read_npz

        return read_npz(path, number, regression=regression, labels=labels), None
    if kind == "idx":
        from gossipnode.learning.data.idx import read_idx

        return read_idx(path, number, regression=regression, labels=labels)
    if not label:
        raise ConfigError(
            f"{source!r} is a table: name the column to predict",
            key="data.label",
            allowed="a name in the table's header",
        )
    if kind == "csv":
        from gossipnode.learning.data.csvfile import read_csv

        return read_csv(path, label, number, regression=regression, labels=labels), None
    from gossipnode.learning.data.parquet import read_parquet

    return read_parquet(path, label, number, regression=regression, labels=labels), None
