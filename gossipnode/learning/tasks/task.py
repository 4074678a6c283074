"""What a task is: a loss over params and data, its gradient, and how good params are.

Invariant: a task never keeps or alters params; whatever it computes lands in the arrays that
the caller hands in. No file, thread or global randomness may enter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.scratch import scratch


class Batch(NamedTuple):
    """m samples: ``features`` of shape (m, p), ``targets`` of shape (m,)."""

    features: Array
    targets: NDArray[Any]


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over ``samples`` samples without the L2 term, and the share predicted right.

    ``accuracy`` is in [0, 1], or None where the task predicts no classes.
    """

    loss: float
    accuracy: float | None
    samples: int


class Task(Protocol):
    """A loss over params of one layout.

    A task keeps nothing between calls, so that all nodes of a process share one; any thread may
    call it.
    """

    @property
    def layout(self) -> Layout:
        """The layout of the params that this task takes."""
        ...

    def initial_params(self, rng: np.random.Generator) -> Array:
        """Return new params, shape (d,), to start training from; the same for the same ``rng``."""
        ...

    def loss_and_gradient(self, params: Array, batch: Batch, gradient_out: Array) -> float:
        """Return the mean loss over ``batch`` plus l2/2·‖params‖²; write its gradient, shape (d,).

        The penalty covers every parameter, biases included, as weight decay in SGD does.
        """
        ...

    def evaluate(self, params: Array, data: Dataset) -> Evaluation:
        """Return mean loss and accuracy over ``data``."""
        ...


def add_l2(params: Array, gradient_out: Array, l2: float) -> float:
    """Add l2·params to ``gradient_out`` and return l2/2·‖params‖²; both arrays of shape (d,)."""
    decay = np.multiply(params, l2, out=scratch("l2", params.shape, params.dtype))
    gradient_out += decay
    return l2 / 2 * float(np.dot(params, params))


def feature_meaning(kind: str, feature_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the part of a layout's meaning that all tasks over data share."""
    return (f"task:{kind}", *(f"feature:{name}" for name in feature_names))
