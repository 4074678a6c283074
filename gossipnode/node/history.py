"""What was measured on the way: one row a measurement, bounded however long the run."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


class History:
    """Rows in the order measured. When full, every second old row goes: the curve stays whole."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Append a row."""
        self._rows.append(row)
        if len(self._rows) > self.limit:
            last = self._rows[-1]
            self._rows = self._rows[:-1:2]
            self._rows.append(last)

    def rows(self, since: int = 0) -> list[Row]:
        """Return the rows of rounds ≥ ``since``."""
        return [row for row in self._rows if row["round"] >= since]

    @property
    def last(self) -> Row | None:
        """The newest row, or None before the first measurement."""
        return self._rows[-1] if self._rows else None
