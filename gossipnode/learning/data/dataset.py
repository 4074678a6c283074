"""A dataset in memory, and its split into training and test samples.

Invariant: row i of ``features`` belongs to entry i of ``targets``; features are C-contiguous.
No file may be opened here: the readers beside this module do that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.learning.params import Array


@dataclass(frozen=True)
class Dataset:
    """m samples of p features with their targets.

    ``features``: shape (m, p), the task's dtype, C-contiguous. ``targets``: shape (m,); int64
    positions in ``labels`` for classification, floats for regression, whose ``labels`` are
    empty. ``feature_names``: p names.
    """

    features: Array
    targets: NDArray[Any]
    labels: tuple[str, ...]
    feature_names: tuple[str, ...]

    def __post_init__(self) -> None:
        assert self.features.ndim == 2
        assert self.features.flags.c_contiguous
        assert self.targets.shape == self.features.shape[:1]
        assert len(self.feature_names) == self.features.shape[1]

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: NDArray[np.integer[Any]]) -> Dataset:
        """Return a copy of the samples at ``indices``, in that order."""
        return replace(self, features=self.features[indices], targets=self.targets[indices])


NO_DATA: Final = Dataset(np.empty((0, 0)), np.empty(0), (), ())
"""No samples: for a task that needs none."""


def split(dataset: Dataset, test_fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Shuffle with ``default_rng(seed).permutation(m)``; the last round(m·test_fraction) test.

    The test part is None where it would be empty. ``test_fraction`` is in [0, 1).
    """
    assert 0 <= test_fraction < 1
    order = np.random.default_rng(seed).permutation(len(dataset))
    train_size = len(dataset) - round(len(dataset) * test_fraction)
    train = dataset.take(order[:train_size])
    return train, dataset.take(order[train_size:]) if train_size < len(dataset) else None
