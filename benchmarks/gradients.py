"""The local step that all contenders in ``benchmarks.ring`` take: softmax regression on noise.

Invariant: numpy and the package's learner alone, so that an interpreter with PyTorch runs the very
same step; the data are drawn from the node's number, so nothing is read.
"""

from __future__ import annotations

import numpy as np

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.learner import NumpyLearner
from gossipnode.learning.optimizer import SGD
from gossipnode.learning.schedule import schedule
from gossipnode.learning.tasks import SoftmaxRegression

CLASSES = 10
# Params -> samples a step. At a million params a row of features is 400 KB: with few of them the
# step does not hide the exchange, which is what is compared.
BATCHES = {7_850: 32, 1_000_000: 4}
SAMPLES = 64


def learner_of(size: int, index: int) -> NumpyLearner:
    """Return the learner of node ``index`` with ``size`` params; size/10 − 1 features."""
    features = size // CLASSES - 1
    rng = np.random.default_rng([7, index])
    names = tuple(str(i) for i in range(features))
    labels = tuple(str(i) for i in range(CLASSES))
    data = Dataset(
        rng.random((SAMPLES, features), np.float32), rng.integers(CLASSES, size=SAMPLES),
        labels, names,
    )  # fmt: skip
    learner = NumpyLearner(
        SoftmaxRegression(names, labels),
        data,
        None,
        SGD(0.01),
        schedule("constant", steps=1, factor=1.0),
        BATCHES[size],
        rng,
    )
    assert learner.layout.size == size
    return learner
