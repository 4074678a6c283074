"""The local steps of many nodes in one go, for tasks whose gradients batch.

Theory of operation. A step of softmax regression at d = 650 takes a learner 27 µs, nearly all of
it in calling numpy. Here nodes with equally large batches form blocks, and a block takes the step
as one: features (b, m, p) by weights (b, p, c). That is 5 µs a node.

Invariant: row i gets the steps that node i's own learner would take: its share, its batches, its
schedule; only the order in which a product is summed may differ. Samples are kept once, whatever
the number of nodes. No event, no time, no message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.config import Config
from gossipnode.learning.batches import BatchStream
from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.optimizer import SGD
from gossipnode.learning.partition import parse_partition, partition
from gossipnode.learning.prepare import prepare
from gossipnode.learning.schedule import schedule
from gossipnode.node.place import Place, share_of

Matrix = NDArray[Any]
Gradient = Callable[[Matrix, Matrix, NDArray[Any], Matrix], Matrix]

# A block's models, gradients and batch at d = 650 are 3 MB and stay in the cache; the price of
# calling numpy is spread over as many nodes. 512 take as long a node, 1000 longer.
BLOCK_NODES: Final = 256


class StackedLearners:
    """The learners of ``places`` as ``config`` describes them; see ``stacks`` for which it can.

    Node i trains on ``train`` at ``shares[i]``, with the random stream of its own learner.
    """

    def __init__(self, config: Config, places: Sequence[Place]) -> None:
        assert stacks(config)
        train = _training_samples(config)
        found = [share_of(config, place) for place in places]
        shares = _shares(config, train, found[0][1])
        seed, size = config.swarm.seed, config.training.batch_size
        by_size: dict[int, list[tuple[int, NDArray[np.intp], BatchStream]]] = {}
        for row, (index, _) in enumerate(found):
            rng = np.random.default_rng([seed, index])
            stream = BatchStream(len(shares[index]), size, rng)
            by_size.setdefault(stream.batch_size, []).append((row, shares[index], stream))
        self._blocks = [
            _Block(config, train, members[a : a + BLOCK_NODES])
            for members in by_size.values()
            for a in range(0, len(members), BLOCK_NODES)
        ]

    def train(self, models: Matrix, steps: int) -> Matrix:
        """Take ``steps`` local steps on each row of ``models``, (n, d), in place.

        Returns each row's mean loss, (n,) float64, as its learner would.
        """
        losses = np.zeros(len(models))
        with np.errstate(all="ignore"):
            for block in self._blocks:
                rows = models[block.rows]
                losses[block.rows] = block.train(rows, steps)
                models[block.rows] = rows
        return losses


class _Block:
    """Nodes with batches of one size: (row, positions of its samples, stream of batches) each."""

    def __init__(
        self,
        config: Config,
        train: Dataset,
        members: Sequence[tuple[int, NDArray[np.intp], BatchStream]],
    ) -> None:
        training = config.training
        self.rows = np.array([row for row, _, _ in members])
        self._data = train
        self._streams = [stream for _, _, stream in members]
        self._shares = [share for _, share, _ in members]
        self._gradient_of, self._l2 = GRADIENTS[config.task.kind], config.task.l2
        self._optimizer = SGD(training.learning_rate, training.momentum, training.nesterov)
        self._schedule = schedule(
            training.schedule, steps=training.schedule_steps, factor=training.schedule_factor
        )
        self._steps_done = 0

    def train(self, models: Matrix, steps: int) -> Matrix:
        """Take ``steps`` on ``models``, (b, d), in place; return the mean losses."""
        total, gradient = np.zeros(len(models)), np.empty_like(models)
        for _ in range(steps):
            picked = np.stack(list(self._batches()))
            features = self._data.features.take(picked, axis=0)
            targets = self._data.targets.take(picked)
            total += self._gradient_of(models, features, targets, gradient)
            if self._l2:
                gradient += self._l2 * models
                total += self._l2 / 2 * np.einsum("bd,bd->b", models, models)
            rate = self._optimizer.learning_rate * self._schedule(self._steps_done)
            # The optimizer works on single numbers, so that a block is one long vector to it.
            self._optimizer.step(models.reshape(-1), gradient.reshape(-1), rate)
            self._steps_done += 1
        return total / max(steps, 1)

    def _batches(self) -> Iterator[NDArray[np.intp]]:
        for share, stream in zip(self._shares, self._streams, strict=True):
            yield share[stream.next()]


def softmax_gradients(
    models: Matrix, features: Matrix, targets: NDArray[Any], gradients_out: Matrix
) -> Matrix:
    """Return b mean cross-entropies; write ∂loss/∂params of each row of ``models``, (b, d).

    ``features`` has shape (b, m, p), ``targets`` (b, m); d = (p + 1)·classes as in
    ``SoftmaxRegression``. With Z = XW + b and P = softmax(Z): ∂loss/∂Z = (P − onehot)/m.
    """
    b, m, p = features.shape
    classes = models.shape[1] // (p + 1)
    W, bias = models[:, : p * classes].reshape(b, p, classes), models[:, p * classes :]
    # Z is kept as (b, classes, m): sums over a short last axis take twice as long.
    Z = np.matmul(W.swapaxes(1, 2), features.swapaxes(1, 2))
    Z += bias[:, :, None]
    Z -= Z.max(axis=1, keepdims=True)
    picked = targets[:, None, :]
    right = np.take_along_axis(Z, picked, axis=1)
    np.exp(Z, out=Z)
    total = Z.sum(axis=1, keepdims=True)
    losses: Matrix = (np.log(total) - right).mean(axis=(1, 2))
    total *= m
    Z /= total
    np.put_along_axis(Z, picked, np.take_along_axis(Z, picked, axis=1) - 1 / m, axis=1)
    of_weights = gradients_out[:, : p * classes].reshape(b, p, classes)
    np.matmul(features.swapaxes(1, 2), Z.swapaxes(1, 2), out=of_weights)
    Z.sum(axis=2, out=gradients_out[:, p * classes :])
    return losses


def linear_gradients(
    models: Matrix, features: Matrix, targets: NDArray[Any], gradients_out: Matrix
) -> Matrix:
    """Return b losses 1/(2m)·‖Xw + b − y‖²; write the gradient of each row of ``models``, (b, d).

    ``features`` has shape (b, m, p), ``targets`` (b, m); d = p + 1 as in ``LinearRegression``.
    """
    m = targets.shape[1]
    residuals = np.matmul(features, models[:, :-1, None])[:, :, 0]
    residuals += models[:, -1:]
    residuals -= targets
    losses: Matrix = np.einsum("bm,bm->b", residuals, residuals) / (2 * m)
    residuals /= m
    gradients_out[:, :-1] = np.matmul(residuals[:, None, :], features)[:, 0]
    residuals.sum(axis=1, out=gradients_out[:, -1])
    return losses


GRADIENTS: Final[dict[str, Gradient]] = {"softmax": softmax_gradients, "linear": linear_gradients}


def stacks(config: Config) -> bool:
    """Tell whether the config's task has a batched gradient."""
    return config.task.kind in GRADIENTS


def _training_samples(config: Config) -> Dataset:
    """Return what the nodes share: what ``build_learner`` loads, and the process keeps."""
    task, data = config.task, config.data
    return prepare(
        data.source,
        label=data.label or None,
        regression=task.kind == "linear",
        dtype=task.dtype,
        labels=tuple(data.classes),
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
        standardize=data.standardize,
    ).train


def _shares(config: Config, train: Dataset, count: int) -> Sequence[NDArray[np.intp]]:
    """Return the positions of each of ``count`` shares, as ``prepare.share_of`` takes them."""
    scheme = config.data.partition
    if count == 1 and parse_partition(scheme)[0] != "sample":
        return [np.arange(len(train))]
    return partition(train.targets, count, scheme, config.swarm.seed)
