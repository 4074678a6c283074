"""CSV files: a header, commas, numeric and categorical columns.

Invariant: the file is streamed twice (once to learn the columns, once to fill the array), so
that memory holds the features and never the text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gossipnode.errors import DataError
from gossipnode.learning.data import table
from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.data.table import Column
from gossipnode.learning.data.targets import check_finite, class_targets, sorted_names
from gossipnode.learning.params import Array


def read_csv(
    path: Path,
    label: str,
    dtype: np.dtype[Any],
    *,
    regression: bool,
    labels: Sequence[str],
) -> Dataset:
    """Return the table at ``path``, UTF-8 with a header, predicting its column ``label``.

    A column with any cell that is no number is categorical and becomes one feature for each of
    its sorted categories. Blank lines are skipped. Raises DataError, with lines counted as an
    editor does, for a missing value, a row of another length and whatever else is wrong.
    """
    header, columns, rows = _survey(path, label)
    target_at = header.index(label)
    names = tuple(name for column in columns for name in column.feature_names)
    features = np.zeros((len(rows), len(names)), dtype)
    places = [{name: place for place, name in enumerate(c.categories)} for c in columns]
    cells_of_label: list[str] = []
    with np.errstate(over="ignore"):  # what overflows the dtype is named by check_finite
        for position, (_, cells) in enumerate(_rows(path, header)):
            cells_of_label.append(cells.pop(target_at))
            _fill(features[position], cells, places)
    file = str(path)
    check_finite(features, names, file=file, row_of=rows.__getitem__)
    if not regression:
        targets, classes = class_targets(
            cells_of_label, labels, file=file, column=label, row_of=rows.__getitem__
        )
        return Dataset(features, targets, classes, names)
    numbers = np.array(
        [
            table.finite_number(cell, file=file, row=row, column=label)
            for row, cell in zip(rows, cells_of_label, strict=True)
        ],
        dtype,
    )
    return Dataset(features, numbers, (), names)


def _fill(row: Array, cells: list[str], places: list[dict[str, int]]) -> None:
    """Write one sample's features, shape (p,); ``places`` has each column's categories, if any."""
    at = 0
    for place, cell in zip(places, cells, strict=True):
        if place:
            row[at + place[cell]] = 1
        else:
            row[at] = float(cell)
        at += len(place) or 1


class _Survey:
    """What the first pass learns of one column: whether all are numbers, and its categories."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: set[str] = set()
        self.stray: tuple[int, str] | None = None  # row and text of the first that is no number
        self.cells = self.strays = 0

    def add(self, row: int, cell: str, file: str) -> None:
        """Take one cell in; raise DataError where the column cannot be either kind."""
        self.cells += 1
        is_number = table.number(cell) is not None
        self.strays += not is_number
        if self.stray is None:
            if not is_number:
                self.stray = row, cell
            elif len(self.seen) > table.CATEGORIES_MAX:
                return
        self.seen.add(cell)
        if self.stray is not None and len(self.seen) > table.CATEGORIES_MAX:
            raise DataError(
                f"{self.stray[1][:40]!r} is no number, and for categories the column has too "
                f"many distinct values (over {table.CATEGORIES_MAX})",
                file=file,
                row=self.stray[0],
                column=self.name,
            )

    def column(self, file: str) -> Column:
        """Return the column as the second pass needs it.

        Raises DataError for a column of many different numbers with a few other cells: those are
        slips, and one of them would turn the column into as many as it has numbers.
        """
        if 0 < self.strays <= self.cells * table.STRAY_SHARE and len(self.seen) > table.FEW:
            assert self.stray is not None
            row, cell = self.stray
            raise DataError(
                f"{cell[:40]!r} is no number, as {self.cells - self.strays} of {self.cells} cells "
                "of the column are; mend it, or write categories that no number can be (c12)",
                file=file,
                row=row,
                column=self.name,
            )
        return Column(self.name, sorted_names(self.seen) if self.stray is not None else ())


def _survey(path: Path, label: str) -> tuple[list[str], list[Column], list[int]]:
    """Return the header, the feature columns and the file's line number of each sample."""
    file = str(path)
    header = _header(path)
    table.label_position(header, label, file=file)
    surveys = [_Survey(name) for name in header]
    rows: list[int] = []
    for row, cells in _rows(path, header):
        rows.append(row)
        for survey, cell in zip(surveys, cells, strict=True):
            if table.is_missing(cell):
                raise DataError("value is missing", file=file, row=row, column=survey.name)
            if survey.name != label:
                survey.add(row, cell, file)
    if not rows:
        raise DataError("has a header and no samples", file=file)
    return header, [survey.column(file) for survey in surveys if survey.name != label], rows


def _header(path: Path) -> list[str]:
    for _, cells in _records(path):
        return [cell.strip() for cell in cells]
    raise DataError("is empty; a header is needed", file=str(path))


def _rows(path: Path, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and stripped cells of each record after the header."""
    records = _records(path)
    next(records)
    for row, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"has {len(cells)} cells where the header has {len(header)}",
                file=str(path),
                row=row,
            )
        yield row, [cell.strip() for cell in cells]


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, and its cells; blank lines are skipped."""
    file, begins = str(path), 1
    try:
        with path.open("rb") as stream:
            reader = csv.reader(_lines(stream, file), strict=True)
            try:
                for cells in reader:
                    if cells:
                        yield begins, cells
                    begins = reader.line_num + 1
            except csv.Error as error:
                raise DataError(f"is no CSV: {error}", file=file, row=begins) from error
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {reason}", file=file) from error


def _lines(stream: Iterator[bytes], file: str) -> Iterator[str]:
    """Decode line by line, so that a bad byte is named with its line."""
    for row, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8-sig" if row == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"is not UTF-8: {error.reason}", file=file, row=row) from error
