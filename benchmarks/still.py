"""Nodes that stand still: what comes is all that happens. Nothing is trained here, or measured."""

from __future__ import annotations

from typing import Any

from gossipnode.config import Config
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.learning.tasks import Evaluation
from gossipnode.network import HttpNode
from gossipnode.node.inbox import Admission
from gossipnode.node.passive import Delivery
from gossipnode.wire.reply import Reply


class Still:
    """A learner of one vector that never learns."""

    samples = 1

    def __init__(self, size: int) -> None:
        self.layout = Layout.of({"x": (size,)}, "float32", ())

    def initial_params(self, seed: int) -> Any:
        """Return zeros."""
        del seed
        return self.layout.zeros()

    def train(self, params: Any, steps: int) -> TrainResult:
        """Change nothing."""
        del params
        return TrainResult(0.0, steps, 1)

    def evaluate(self, params: Any) -> Evaluation:
        """Return nothing of interest."""
        del params
        return Evaluation(0.0, 0.0, 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing."""
        return {}, {}

    def restore(self, arrays: Any, meta: Any) -> None:
        """Take nothing."""

    def describe(self) -> dict[str, Any]:
        """Say nothing."""
        return {}


class Sink(HttpNode):
    """A node that takes a body in and thanks for it, without a look at it."""

    async def deliver(self, admission: Admission, body: memoryview) -> Delivery:
        """Acknowledge."""
        del body
        self.release(admission)
        return Delivery(Reply("merged", self.id))


def config_of(name: str, folder: str) -> Config:
    """Return the config of an idle gossip node on a free port."""
    return Config.model_validate(
        {
            "node": {"id": name, "data_dir": folder},
            "network": {"bind": "127.0.0.1", "port": 0},
            "algorithm": {"name": "gossip", "period_s": 86_400.0},
            "topology": {"graph": "random"},
            "checkpoint": {"enabled": False},
            "log": {"level": "warning"},
        }
    )
