"""A quadratic without data: the problem on which methods are compared to the last digit.

Invariant: f(x) = ½xᵀAx − bᵀx with A symmetric; the gradient Ax − b is exact, batches are ignored.
Nothing but numpy may enter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.tasks.task import Batch, Evaluation


class Quadratic:
    """Minimise ½xᵀAx − bᵀx (which may be negative) over ``x`` of shape (d,).

    ``A`` has shape (d, d) and is symmetric, ``b`` shape (d,). ``evaluated``, where given, is the
    quadratic that ``evaluate`` measures: the mean of all nodes' instead of this node's own.
    """

    def __init__(
        self,
        A: Array,
        b: Array,
        *,
        dtype: DTypeLike = "float64",
        evaluated: Quadratic | None = None,
    ) -> None:
        self.layout = Layout.of({"x": (len(b),)}, dtype, ("task:quadratic",))
        self.A: Array = np.ascontiguousarray(A, self.layout.dtype)
        self.b: Array = np.ascontiguousarray(b, self.layout.dtype)
        assert self.A.shape == (len(b), len(b))
        assert np.array_equal(self.A, self.A.T)
        self._evaluated = evaluated or self

    def initial_params(self, rng: np.random.Generator) -> Array:
        """Return zeros."""
        del rng
        return self.layout.zeros()

    def loss_and_gradient(self, params: Array, batch: Batch | None, gradient_out: Array) -> float:
        """Return f(params); write Ax − b. ``batch`` is ignored."""
        del batch
        np.matmul(self.A, params, out=gradient_out)
        # ½xᵀAx − bᵀx = ½xᵀ(Ax − b) − ½bᵀx
        gradient_out -= self.b
        return float(np.dot(params, gradient_out) - np.dot(self.b, params)) / 2

    def evaluate(self, params: Array, data: Dataset | None = None) -> Evaluation:
        """Return f(params); there is no accuracy and there are no samples."""
        del data
        loss = self._evaluated.loss_and_gradient(params, None, np.empty_like(params))
        return Evaluation(loss, None, 0)
