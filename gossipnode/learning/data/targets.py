"""From target values to targets: positions in the class names, or numbers.

Invariant: the order of class names depends on the set of names alone, never on the row order.
No file may be opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import DataError, nearest_spelling
from gossipnode.learning.data import table
from gossipnode.learning.params import Array

NO_CLASS = "is no class: classes are whole numbers or names; for numbers there is --task linear"

RowOf = Callable[[int], int]
"""Maps a sample's position to the 1-based row by which its file's reader knows it."""


def next_row(position: int) -> int:
    """Return the 1-based row of a file without a header."""
    return position + 1


def sorted_names(names: set[str]) -> tuple[str, ...]:
    """Sort by value where every name is a whole number, by characters otherwise.

    >>> sorted_names({"10", "9", "-1"}), sorted_names({"10", "9", "x"})
    (('-1', '9', '10'), ('10', '9', 'x'))
    """
    if all(name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def class_targets(
    values: Sequence[str] | NDArray[Any],
    labels: Sequence[str],
    *,
    file: str,
    column: str,
    row_of: RowOf = next_row,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return each value's position in the class names, shape (m,), and the class names.

    ``values`` are strings, whole numbers or booleans. ``labels``, where not empty, are the class
    names. Raises DataError for a value that is none of them, and where only one class occurs
    although no class names were given, or more than a few that are fractions.
    """
    found, inverse = np.unique(_names(values, file, column, row_of), return_inverse=True)
    if not labels and (fractions := _fractions_in(found)):
        first = int(np.argmax(np.isin(inverse, fractions)))
        cell = found[inverse.reshape(-1)[first]]
        raise DataError(f"{cell} {NO_CLASS}", file=file, row=row_of(first), column=column)
    names = tuple(labels) or sorted_names({str(name) for name in found})
    if len(names) < 2:
        raise DataError(
            f"only one class occurs, {', '.join(names)!r}; name all of them in data.classes",
            file=file,
            column=column,
        )
    place = {name: position for position, name in enumerate(names)}
    for index, name in enumerate(found):
        if str(name) not in place:
            near = nearest_spelling(str(name), names)
            raise DataError(
                f"class {str(name)!r} is none of the class names {', '.join(names)}"
                + (f"; did you mean {near!r}?" if near else ""),
                file=file,
                row=row_of(int(np.argmax(inverse == index))),
                column=column,
            )
    order = np.array([place[str(name)] for name in found], np.int64)
    return order[inverse.reshape(-1)], names


def _names(
    values: Sequence[str] | NDArray[Any], file: str, column: str, row_of: RowOf
) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            position = int(np.argmin(whole))
            raise DataError(
                f"{array[position]} {NO_CLASS}",
                file=file,
                row=row_of(position),
                column=column,
            )
        return array.astype(np.int64)
    if array.dtype.kind not in "biuU":
        raise DataError(f"{array.dtype} values are no classes", file=file, column=column)
    return array.astype(np.int64) if array.dtype.kind == "b" else array


def _fractions_in(found: NDArray[Any]) -> list[int]:
    """Return where fractions are in texts that are many numbers: nobody means those as classes."""
    if found.dtype.kind != "U" or len(found) <= table.FEW:
        return []
    numbers = [table.number(str(name)) for name in found]
    if None in numbers:
        return []
    return [n for n, number in enumerate(numbers) if number is not None and number % 1]


def check_finite(
    features: Array, feature_names: Sequence[str], *, file: str, row_of: RowOf = next_row
) -> None:
    """Raise DataError naming row and column of the first element that is not finite."""
    for position, row in enumerate(features):
        finite = np.isfinite(row)
        if not finite.all():
            column = int(np.argmin(finite))
            raise DataError(
                f"{row[column]} is not a finite {features.dtype} number",
                file=file,
                row=row_of(position),
                column=feature_names[column],
            )
