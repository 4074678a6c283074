"""Softmax regression: a linear classifier trained by cross-entropy.

Invariant: loss = −1/m Σ ln softmax(XW + b)[target] + l2/2·‖params‖². Nothing but numpy may enter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.scratch import scratch
from gossipnode.learning.tasks.crossentropy import evaluate_logits, loss_into_gradient
from gossipnode.learning.tasks.task import Batch, Evaluation, add_l2, feature_meaning


class SoftmaxRegression:
    """Predict a class by XW + b: ``weight`` of shape (features, classes), ``bias`` (classes,)."""

    def __init__(
        self,
        feature_names: tuple[str, ...],
        labels: tuple[str, ...],
        *,
        l2: float = 0.0,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.l2 = l2
        self.layout = Layout.of(
            {"weight": (len(feature_names), len(labels)), "bias": (len(labels),)},
            dtype,
            (*feature_meaning("softmax", feature_names), *(f"class:{name}" for name in labels)),
        )
        self._shape = len(feature_names), len(labels)
        self._bias_at = len(feature_names) * len(labels)

    def initial_params(self, rng: np.random.Generator) -> Array:
        """Return zeros: the loss is convex."""
        del rng
        return self.layout.zeros()

    def loss_and_gradient(self, params: Array, batch: Batch, gradient_out: Array) -> float:
        """Return the loss of the module's docstring; write its gradient."""
        features, targets = batch
        logits = scratch("logits", (len(targets), self._shape[1]), self.layout.dtype)
        bias_at = self._bias_at
        np.matmul(features, params[:bias_at].reshape(self._shape), out=logits)
        logits += params[bias_at:]
        loss = loss_into_gradient(logits, targets)
        np.matmul(features.T, logits, out=gradient_out[:bias_at].reshape(self._shape))
        np.add.reduce(logits, axis=0, out=gradient_out[bias_at:])
        if self.l2:
            loss += add_l2(params, gradient_out, self.l2)
        return loss

    def evaluate(self, params: Array, data: Dataset) -> Evaluation:
        """Return mean cross-entropy and accuracy over ``data``."""
        weight, bias = params[: self._bias_at].reshape(self._shape), params[self._bias_at :]
        return evaluate_logits(lambda features: features @ weight + bias, data)
