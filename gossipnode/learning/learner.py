"""The learner: what a node asks of machine learning, and its implementation in numpy.

Invariant: ``train`` alters nothing but the params that it is given (a private copy) and the
learner's own state; ``evaluate`` alters nothing and may run beside it in another thread.
No socket or wall clock may enter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.learning.batches import BatchStream
from gossipnode.learning.data.dataset import NO_DATA, Dataset
from gossipnode.learning.dtypes import computed_in
from gossipnode.learning.optimizer import SGD
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.prepare import prepare, read_quadratic, share_of
from gossipnode.learning.schedule import Schedule
from gossipnode.learning.schedule import schedule as make_schedule
from gossipnode.learning.scratch import scratch
from gossipnode.learning.tasks import (
    Batch,
    Evaluation,
    LinearRegression,
    MultilayerPerceptron,
    SoftmaxRegression,
    Task,
)

# What local steps cost, in products of a sample and a param, 0.2 ns each: besides its products a
# step takes 25 us of calls, and passes over the params that are worth 12 samples. 2^20 are 0.2 ms.
STEP_COST: Final = 2**17
PASSES_COST: Final = 12
BRIEF_COST_MAX: Final = 2**20
TASKS: Final = ("linear", "softmax", "mlp", "quadratic")


@dataclass(frozen=True)
class TrainResult:
    """What local training did: ``loss`` is the mean over ``steps`` batches, 0 for no steps.

    It may be infinite or NaN: the caller checks. ``samples`` is how many the node trains on.
    """

    loss: float
    steps: int
    samples: int


class Learner(Protocol):
    """What a node asks of machine learning; an adapter to another framework implements this."""

    @property
    def layout(self) -> Layout:
        """The layout of the params that this learner trains."""
        ...

    @property
    def samples(self) -> int:
        """How many training samples this node has."""
        ...

    def initial_params(self, seed: int) -> Array:
        """Return new params to start from: the same on all nodes for the same ``seed``."""
        ...

    def train(self, params: Array, steps: int) -> TrainResult:
        """Take ``steps`` local steps on ``params`` in place; runs in a worker thread, if not brief.

        Divergence raises nothing: params and loss are then not finite, and the caller checks.
        """
        ...

    def evaluate(self, params: Array) -> Evaluation:
        """Return loss and accuracy on the test samples; may run while ``train`` does."""
        ...

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return optimizer arrays, and JSON values: steps done, data position, generator.

        Not to be called while ``train`` runs. The arrays are the learner's own: copy to keep.
        """
        ...

    def restore(self, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Continue exactly where the learner was that returned this ``state``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return JSON values for a model file: what a stranger needs to apply the model."""
        ...


class GradientLearner(Learner, Protocol):
    """A learner that also hands out gradients, for algorithms that do more with them than SGD."""

    @property
    def step_size(self) -> float:
        """η of the next step, by the schedule."""
        ...

    def gradient(self, params: Array, gradient_out: Array) -> TrainResult:
        """Write the gradient at ``params`` on the next batch; this is a step of the schedule."""
        ...


class BriefLearner(Learner, Protocol):
    """A learner that can tell how long its steps take, and needs no thread for short ones."""

    def is_brief(self, steps: int) -> bool:
        """Whether ``steps`` local steps, or a gradient, never wait and take 0.2 ms at most."""
        ...


class NumpyLearner:
    """A task, this node's samples, an optimizer and a batch stream.

    ``train`` is None where the task needs no samples or the learner only evaluates. Without
    ``test``, evaluation is over the training samples. ``batch_size`` 0 means all samples.

    ``dtype`` is that of the params where it is narrower than the task's, float16 or bfloat16 and
    float32: then a call of ``train`` takes all its steps on a float32 copy, with gradients,
    samples and momentum in float32, and rounds to nearest once, at its end. Rounded after every
    step, an update below 1/256 of a param would be lost each time; so, only where all of a call's
    steps together stay below.
    """

    def __init__(
        self,
        task: Task,
        train: Dataset | None,
        test: Dataset | None,
        optimizer: SGD,
        schedule: Schedule,
        batch_size: int,
        rng: np.random.Generator,
        *,
        description: Mapping[str, Any] | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.task = task
        self.layout: Layout = task.layout if dtype is None else task.layout.in_dtype(dtype)
        self.samples = len(train) if train else 1
        self.steps_done = 0
        self._train_data: Dataset = train or NO_DATA
        self._test_data: Dataset = test or self._train_data
        self._optimizer, self._schedule = optimizer, schedule
        self._description = description or {}
        self._batches = BatchStream(self.samples, batch_size, rng)

    def initial_params(self, seed: int) -> Array:
        """Return what ``task`` starts from with ``default_rng(seed)``, in the params' dtype."""
        params = self.task.initial_params(np.random.default_rng(seed))
        return params.astype(self.layout.dtype, copy=False)

    def train(self, params: Array, steps: int) -> TrainResult:
        """Take ``steps`` SGD steps on ``params`` in place, each on the next batch."""
        self.layout.check(params)
        wide = self._wide(params)
        total, optimizer = 0.0, self._optimizer
        gradient = scratch("gradient", wide.shape, wide.dtype)
        with np.errstate(all="ignore"):
            for _ in range(steps):
                total += self.task.loss_and_gradient(wide, self._next_batch(), gradient)
                rate = optimizer.learning_rate * self._schedule(self.steps_done)
                optimizer.step(wide, gradient, rate)
                self.steps_done += 1
            if wide is not params:
                np.copyto(params, wide, casting="unsafe")
        return TrainResult(total / max(steps, 1), steps, self.samples)

    def is_brief(self, steps: int) -> bool:
        """Whether ``steps`` batches meet few enough params; a task without samples may do more."""
        products = (self._batches.batch_size + PASSES_COST) * self.layout.size
        return steps * (STEP_COST + products) <= BRIEF_COST_MAX and self._train_data is not NO_DATA

    @property
    def step_size(self) -> float:
        """The learning rate times the schedule's factor of the next step."""
        return self._optimizer.learning_rate * self._schedule(self.steps_done)

    def gradient(self, params: Array, gradient_out: Array) -> TrainResult:
        """Write the gradient at ``params`` on the next batch; the optimizer's state stays."""
        self.layout.check(params)
        wide = self._wide(params)
        found = gradient_out if wide is params else scratch("gradient", wide.shape, wide.dtype)
        with np.errstate(all="ignore"):
            loss = self.task.loss_and_gradient(wide, self._next_batch(), found)
            if found is not gradient_out:
                np.copyto(gradient_out, found, casting="unsafe")
        self.steps_done += 1
        return TrainResult(loss, 1, self.samples)

    def evaluate(self, params: Array) -> Evaluation:
        """Return loss and accuracy on the test samples, in buffers of its own."""
        self.layout.check(params)
        with np.errstate(all="ignore"):
            params = params.astype(self.task.layout.dtype, copy=False)
            return self.task.evaluate(params, self._test_data)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the optimizer's arrays, and steps done and batch position as JSON values."""
        meta = {"steps_done": self.steps_done, "batches": self._batches.state()}
        return dict(self._optimizer.state), meta

    def restore(self, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Continue exactly where the learner was that returned this ``state``."""
        for array in arrays.values():
            self.task.layout.check(array)
        self._optimizer.state = {name: array.copy() for name, array in arrays.items()}
        self.steps_done = int(meta["steps_done"])
        self._batches.restore(meta["batches"])

    def describe(self) -> dict[str, Any]:
        """Return the description that the learner was built with, tuples as lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self._description.items()}

    def _wide(self, params: Array) -> Array:
        """Return ``params`` in the task's dtype: themselves, or a copy in scratch memory."""
        if params.dtype == self.task.layout.dtype:
            return params
        wide = scratch("params", params.shape, self.task.layout.dtype)
        np.copyto(wide, params)
        return wide

    def _next_batch(self) -> Batch:
        features, targets = self._train_data.features, self._train_data.targets
        if self._batches.full:
            return Batch(features, targets)
        picked, rows = self._batches.next(), self._batches.batch_size
        batch = Batch(
            scratch("features", (rows, features.shape[1]), features.dtype),
            scratch("targets", (rows,), targets.dtype),
        )
        # Without mode="clip" numpy fills a copy first, lest a bad index leave the buffer torn.
        features.take(picked, axis=0, out=batch.features, mode="clip")
        targets.take(picked, out=batch.targets, mode="clip")
        return batch


def make_task(description: Mapping[str, Any]) -> Task:
    """Return the task that a learner's description tells of: linear, softmax or mlp.

    Its dtype is the one to compute in: float32 for params of float16 or bfloat16.
    """
    return _task(
        _check_task(description["task"]),
        tuple(description["feature_names"]),
        tuple(description["labels"]),
        tuple(description["hidden"]),
        float(description["l2"]),
        computed_in(description["dtype"]).name,
    )


@lru_cache(maxsize=4)
def _task(
    kind: str,
    names: tuple[str, ...],
    labels: tuple[str, ...],
    hidden: tuple[int, ...],
    l2: float,
    dtype: str,
) -> Task:
    """Return the one task of all nodes of this process."""
    if kind == "linear":
        return LinearRegression(names, l2=l2, dtype=dtype)
    if kind == "softmax":
        return SoftmaxRegression(names, labels, l2=l2, dtype=dtype)
    return MultilayerPerceptron(names, labels, hidden=hidden, l2=l2, dtype=dtype)


def _check_task(kind: str) -> str:
    if kind in ("linear", "softmax", "mlp"):
        return kind
    raise ConfigError(
        f"unknown task {kind!r}",
        key="task.kind",
        allowed=", ".join(TASKS),
        nearest=nearest_spelling(kind, TASKS),
    )


def build_learner(
    *,
    task: str,
    data: str,
    hidden: Sequence[int] = (64,),
    l2: float = 0.0,
    dtype: str = "float32",
    label: str | None = None,
    labels: Sequence[str] = (),
    test_fraction: float = 0.2,
    split_seed: int = 0,
    standardize: str = "none",
    partition: str = "iid",
    share_index: int = 0,
    share_count: int = 1,
    partition_seed: int = 0,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    schedule: str = "constant",
    schedule_steps: int = 1000,
    schedule_factor: float = 0.5,
    seed: int = 0,
) -> NumpyLearner:
    """Load the data, take share ``share_index`` of ``share_count`` and return a node's learner.

    The batches are those of ``BatchStream(samples, batch_size, default_rng([seed,
    share_index]))``. ``labels`` are all class names, where the data may lack some. The dataset
    is kept per process (``prepare.forget_loaded_data``). Raises ConfigError and DataError.
    """
    wide = computed_in(dtype).name
    optimizer = SGD(learning_rate, momentum, nesterov)
    factor = make_schedule(schedule, steps=schedule_steps, factor=schedule_factor)
    rng = np.random.default_rng([seed, share_index])
    if task == "quadratic":
        quadratic = read_quadratic(data, share_index, share_count, wide)
        description: dict[str, Any] = {"task": task, "dtype": dtype}
        return NumpyLearner(
            quadratic, None, None, optimizer, factor, 0, rng, description=description, dtype=dtype
        )
    _check_task(task)
    prepared = prepare(
        data,
        label=label or None,
        regression=task == "linear",
        dtype=wide,
        labels=tuple(labels),
        test_fraction=test_fraction,
        split_seed=split_seed,
        standardize=standardize,
    )
    whole, statistics = prepared.train, prepared.standardizer
    description = {
        "task": task,
        "dtype": dtype,
        "hidden": list(hidden) if task == "mlp" else [],
        "l2": l2,
        "label": label or "",
        "labels": whole.labels,
        "feature_names": whole.feature_names,
        "standardizer": statistics.to_json() if statistics else None,
    }
    return NumpyLearner(
        make_task(description),
        share_of(whole, partition, share_index, share_count, partition_seed),
        prepared.test,
        optimizer,
        factor,
        batch_size,
        rng,
        description=description,
        dtype=dtype,
    )
