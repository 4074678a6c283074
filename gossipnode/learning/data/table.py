"""What tables share: which columns are features, and how categories become numbers.

Invariant: the features' order and names depend on the header and the sets of categories alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gossipnode.errors import DataError, nearest_spelling

# One stray letter in a column of measurements would turn it into as many columns as it has
# distinct values; past this many it is taken for the mistake that it is.
CATEGORIES_MAX: Final = 1000
# Up to this share of cells that are no numbers is taken for slips, in a column of more than a few
# different values.
STRAY_SHARE: Final = 0.05
FEW: Final = 20

MISSING: Final = frozenset({"", "na", "n/a", "nan", "null", "?"})


@dataclass(frozen=True)
class Column:
    """A column of the table: a number, or one-hot over its sorted ``categories``."""

    name: str
    categories: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Return the names of the features that it becomes: ``name`` or ``name=category``."""
        if not self.categories:
            return (self.name,)
        return tuple(f"{self.name}={category}" for category in self.categories)


def label_position(header: Sequence[str], label: str, *, file: str) -> int:
    """Return where ``label`` stands in ``header``; DataError for a bad header or label."""
    for position, name in enumerate(header):
        if not name:
            raise DataError("has no name in the header", file=file, row=1, column=position + 1)
        if name in header[:position]:
            raise DataError("occurs twice in the header", file=file, row=1, column=name)
    if label not in header:
        near = nearest_spelling(label, header)
        hint = f"; did you mean {near!r}?" if near else ""
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            hint = "; cells must be separated by commas"
        raise DataError(
            f"no label column {label!r}; the columns are {', '.join(header)}{hint}",
            file=file,
            row=1,
        )
    if len(header) < 2:
        raise DataError("has no column besides the label", file=file, row=1)
    return list(header).index(label)


def number(cell: str) -> float | None:
    """Return the number in ``cell``, or None where it is none (``1_000`` is none)."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def is_missing(cell: str) -> bool:
    """Tell whether ``cell`` is empty or one of na, n/a, nan, null and ? in any case."""
    return cell.strip().lower() in MISSING


def finite_number(cell: str, *, file: str, row: int, column: str) -> float:
    """Return the number in ``cell``; DataError where it is none or not finite."""
    value = number(cell)
    if value is None or not math.isfinite(value):
        raise DataError(f"{cell[:40]!r} is not a finite number", file=file, row=row, column=column)
    return value
