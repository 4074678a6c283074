"""An endless stream of minibatches: reshuffled epochs, drawn without replacement within each.

Invariant: every batch has exactly ``batch_size`` samples, and after e·m samples have been drawn
each of the m has been drawn e times. The generator is handed in and belongs to the stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class BatchStream:
    """Draw batches of positions in range(``size``); an epoch's short rest opens the next batch.

    ``batch_size`` 0, or no less than ``size``, gives all positions in order, every time.
    ``size`` ≥ 1.

    >>> stream = BatchStream(3, 2, np.random.default_rng(0))
    >>> sorted(int(i) for _ in range(3) for i in stream.next())
    [0, 0, 1, 1, 2, 2]
    """

    def __init__(self, size: int, batch_size: int, rng: np.random.Generator) -> None:
        assert size >= 1
        assert batch_size >= 0
        self.full = batch_size == 0 or batch_size >= size
        self.batch_size = size if self.full else batch_size
        self._size = size
        self._rng = rng
        self._rng_before_epoch: dict[str, Any] = {}
        self._order: NDArray[np.intp] = np.arange(size)
        self._position = 0
        if not self.full:
            self._begin_epoch()

    def next(self) -> NDArray[np.intp]:
        """Return the next batch's positions, shape (batch_size,); not to be written to."""
        if self.full:
            return self._order
        end = self._position + self.batch_size
        batch = self._order[self._position : end]
        self._position = end
        if end >= self._size:
            self._begin_epoch()
            if end > self._size:
                self._position = end - self._size
                batch = np.concatenate([batch, self._order[: self._position]])
        return batch

    def state(self) -> dict[str, Any]:
        """Return JSON values from which ``restore`` continues with the very same batches."""
        return {
            "size": self._size,
            "position": self._position,
            "rng_before_epoch": self._rng_before_epoch,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where the stream was that returned ``state``.

        The epoch's order is not stored: it is drawn again from the generator's state before it. A
        new epoch begins where that was of another number of samples, as when a file has grown or
        shares are smaller since a peer has come, or where all positions were given every time.
        """
        before = state["rng_before_epoch"]
        if self.full or not before:
            return
        self._rng.bit_generator.state = before
        self._begin_epoch()
        if state["size"] == self._size:
            self._position = int(state["position"])

    def _begin_epoch(self) -> None:
        self._rng_before_epoch = dict(self._rng.bit_generator.state)
        self._order = self._rng.permutation(self._size)
        self._position = 0
