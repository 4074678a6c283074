"""A learner whose every step adds the same number: what a model must be is plain arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.learning.tasks import Evaluation


class PlainLearner:
    """Starts at ``start``, of shape (d,); each step adds ``step``."""

    samples = 1

    def __init__(
        self, start: Sequence[float], step: float = 0.0, dtype: str = "float64", meaning: str = ""
    ) -> None:
        self.layout = Layout.of({"x": (len(start),)}, dtype, (meaning,) if meaning else ())
        self.start, self.step, self.steps_done = start, step, 0

    def initial_params(self, seed: int) -> Any:
        return np.array(self.start, self.layout.dtype)

    def train(self, params: Any, steps: int) -> TrainResult:
        for _ in range(steps):
            params += self.step
        self.steps_done += steps
        return TrainResult(0.0, steps, 1)

    def evaluate(self, params: Any) -> Evaluation:
        return Evaluation(0.0, None, 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"steps_done": self.steps_done}

    def restore(self, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        self.steps_done = meta["steps_done"]

    def describe(self) -> dict[str, Any]:
        return {}


def plain_config(**flags: Any) -> Config:
    """Return a config by keys like ``run__rounds``: two underscores stand for the dot."""
    common = {"run.evaluate_every": 0, "training.local_steps": 1}
    return load_config(flags={**common, **{k.replace("__", "."): v for k, v in flags.items()}})
