"""Parquet files, through pyarrow where it is installed.

Invariant: pyarrow is imported in the function that needs it and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import ConfigError, DataError
from gossipnode.learning.data import table
from gossipnode.learning.data.arrays import dataset_of
from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.data.table import Column
from gossipnode.learning.data.targets import check_finite, sorted_names


def read_parquet(
    path: Path,
    label: str,
    dtype: np.dtype[Any],
    *,
    regression: bool,
    labels: Sequence[str],
) -> Dataset:
    """Return the table at ``path``, predicting its column ``label``.

    Numbers and booleans are numeric features, strings categorical ones. Raises ConfigError
    without pyarrow, and DataError, with samples counted from 1, for whatever is wrong.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "parquet files need pyarrow: pip install 'gossipnode[parquet]'", key="data.source"
        ) from error
    file = str(path)
    try:
        contents = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as parquet: {error}", file=file) from error
    target_at = table.label_position(contents.column_names, label, file=file)
    if not contents.num_rows:
        raise DataError("holds no samples", file=file)
    columns = {name: _values(contents[name], name, file) for name in contents.column_names}
    targets = columns.pop(contents.column_names[target_at])
    features, names = _features(columns, dtype, file)
    return dataset_of(features, targets, names, regression, labels, file=file, column=label)


def _values(column: Any, name: str, file: str) -> NDArray[Any]:
    """Return a column as numbers or strings, shape (m,); DataError for nulls and other types."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy())) + 1
        raise DataError("value is missing", file=file, row=row, column=name)
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, types = column.type, pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    if types.is_string(kind) or types.is_large_string(kind):
        return np.asarray(column.to_pylist(), np.str_)
    raise DataError(f"holds {kind}, neither numbers nor text", file=file, column=name)


def _features(
    columns: dict[str, NDArray[Any]], dtype: np.dtype[Any], file: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return all feature columns side by side, shape (m, p), and the p names."""
    blocks: list[NDArray[Any]] = []
    names: list[str] = []
    for name, values in columns.items():
        if values.dtype.kind != "U":
            names.append(name)
            with np.errstate(over="ignore"):
                blocks.append(values.astype(dtype)[:, None])
            continue
        categories = sorted_names({str(value) for value in values})
        if len(categories) > table.CATEGORIES_MAX:
            raise DataError(
                f"has over {table.CATEGORIES_MAX} distinct values, too many for categories",
                file=file,
                column=name,
            )
        names.extend(Column(name, categories).feature_names)
        blocks.append((values[:, None] == np.array(categories)).astype(dtype))
    features = np.ascontiguousarray(np.hstack(blocks))
    check_finite(features, names, file=file)
    return features, tuple(names)
