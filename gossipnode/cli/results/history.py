"""A run's history: a line of JSON for each measurement, on a disk that may be full.

Invariant: the first line that cannot be written is the last, and ``failure`` says why.
"""

from __future__ import annotations

import contextlib
import json
from typing import IO, Any

from gossipnode.errors import StorageError


class History:
    """Writes to ``file``, which whoever has opened it closes."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.failure: StorageError | None = None

    def keep(self, row: dict[str, Any]) -> bool:
        """Write a row; False where that failed, now or before."""
        if self.failure is None:
            try:
                self._file.write(json.dumps(row) + "\n")
            except OSError as error:
                why = f"{self._file.name}: cannot be written: {error.strerror}"
                self.failure = StorageError(why)
                with contextlib.suppress(OSError):
                    self._file.close()  # else it would be tried again
        return self.failure is None

    def require_whole(self) -> None:
        """Raise the ``StorageError``, if a row could not be written."""
        if self.failure is not None:
            raise self.failure
