"""Softmax with cross-entropy: the head that softmax regression and the perceptron share.

Invariant: no logit, however large, overflows: each row is shifted by its maximum first.
Nothing but numpy may enter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.params import Array
from gossipnode.learning.tasks.task import Evaluation

# Bounds what an evaluation allocates: 4096 rows of 784 float32 features are 13 MB already.
EVALUATED_ROWS = 4096


def loss_into_gradient(logits: Array, targets: NDArray[Any]) -> float:
    """Return the mean loss and turn ``logits``, shape (m, classes), into its gradient.

    With P = softmax(Z): loss = −1/m Σ_r ln P[r, target_r], ∂loss/∂Z = (P − onehot)/m.
    """
    rows, classes = logits.shape
    # Positions in the flat array: cheaper than pairs.
    picked = _first_entries(rows, classes) + targets
    flat = logits.reshape(-1)
    logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
    right = np.add.reduce(flat.take(picked))
    np.exp(logits, out=logits)
    total = np.add.reduce(logits, axis=1, keepdims=True)
    loss: float = float(np.log(total).sum() - right) / rows
    total *= rows
    logits /= total
    flat[picked] -= 1 / rows
    return loss


@lru_cache(maxsize=4)
def _first_entries(rows: int, classes: int) -> NDArray[np.intp]:
    first = np.arange(rows) * classes
    first.flags.writeable = False
    return first


def evaluate_logits(logits_of: Callable[[Array], Array], data: Dataset) -> Evaluation:
    """Return mean cross-entropy (in float64) and accuracy of ``logits_of(features)`` on ``data``.

    A row whose logits are not finite counts as predicted wrong.
    """
    loss, right = 0.0, 0
    for start in range(0, len(data), EVALUATED_ROWS):
        targets = data.targets[start : start + EVALUATED_ROWS]
        logits = np.asarray(logits_of(data.features[start : start + EVALUATED_ROWS]), np.float64)
        top = logits.max(axis=1, keepdims=True)
        picked = np.take_along_axis(logits, targets[:, None], axis=1)
        loss += float(
            (np.log(np.exp(logits - top).sum(axis=1, keepdims=True)) + top - picked).sum()
        )
        finite = np.isfinite(logits).all(axis=1)
        right += int(((logits.argmax(axis=1) == targets) & finite).sum())
    return Evaluation(loss / len(data), right / len(data), len(data))
