"""Linear regression by least squares.

Invariant: the loss is 1/(2m)·‖Xw + b − y‖² + l2/2·(‖w‖² + b²). Nothing but numpy may enter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.tasks.task import Batch, Evaluation, add_l2, feature_meaning


class LinearRegression:
    """Predict a number as Xw + b: ``weight`` of shape (p,), ``bias`` of shape (1,)."""

    def __init__(
        self,
        feature_names: tuple[str, ...],
        *,
        l2: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.l2 = l2
        self.layout = Layout.of(
            {"weight": (len(feature_names),), "bias": (1,)},
            dtype,
            feature_meaning("linear", feature_names),
        )

    def initial_params(self, rng: np.random.Generator) -> Array:
        """Return zeros: the loss is convex."""
        del rng
        return self.layout.zeros()

    def loss_and_gradient(self, params: Array, batch: Batch, gradient_out: Array) -> float:
        """Return the loss of the module's docstring; write its gradient."""
        features, targets = batch
        residual = features @ params[:-1]
        residual += params[-1]
        residual -= targets
        loss = float(np.dot(residual, residual)) / (2 * len(targets))
        residual /= len(targets)
        np.dot(residual, features, out=gradient_out[:-1])
        gradient_out[-1] = residual.sum()
        if self.l2:
            loss += add_l2(params, gradient_out, self.l2)
        return loss

    def evaluate(self, params: Array, data: Dataset) -> Evaluation:
        """Return 1/(2m)·‖Xw + b − y‖² over ``data``; there is no accuracy."""
        residual: np.ndarray[Any, np.dtype[np.float64]] = np.subtract(
            data.features @ params[:-1] + params[-1], data.targets, dtype=np.float64
        )
        loss = float(np.dot(residual, residual)) / (2 * len(data))
        return Evaluation(loss, None, len(data))
