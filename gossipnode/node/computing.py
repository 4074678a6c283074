"""What a node computes: local steps, gradients and the algorithm's vector operations.

Invariant: steps run on a private copy, and what they make is checked before it is used. They leave
the loop unless the learner knows that they are over sooner than handed to a thread. What is not
finite is told to the operator as what it is: training that diverged. The fields belong to ``Node``,
which this is a part of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from gossipnode.algorithms.base import Vector
from gossipnode.errors import PeerError, TrainingError
from gossipnode.learning.learner import GradientLearner, Learner, TrainResult
from gossipnode.learning.params import all_finite
from gossipnode.node.counters import Counters
from gossipnode.node.replica import Replica
from gossipnode.node.world import INLINE_BYTES_MAX, World


class Computing:
    """The part of the active side that keeps the processor busy."""

    world: World
    learner: Learner
    replica: Replica
    counters: Counters
    round: int
    in_step: bool
    last_training: TrainResult | None

    async def train(self, steps: int) -> None:
        """Train a private copy, then apply the difference."""
        if not steps:
            return
        before = self.replica.params
        after, result = await self._steps_from(before, steps)
        try:
            await self.replica.commit(after, before, steps=steps)
            self.in_step = False
        except PeerError:
            raise self._diverged("params are") from None
        self.last_training = result
        self.counters.add("local_steps", steps)

    async def trained(self, at: Vector, steps: int) -> Vector:
        """Return what local steps make of a copy of ``at``."""
        after, self.last_training = await self._steps_from(at, steps)
        if not await self.compute(all_finite, after):
            raise self._diverged("params are")
        self.counters.add("local_steps", steps)
        return after

    async def _steps_from(self, at: Vector, steps: int) -> tuple[Vector, TrainResult]:
        def work() -> tuple[Vector, TrainResult]:
            after = at.copy()
            return after, self.learner.train(after, steps)

        # Until the result is in the params, the learner has moved on and they have not.
        self.in_step = True
        return await self.world.train(work, steps, brief=self._are_brief(steps))

    def _are_brief(self, steps: int) -> bool:
        tell = getattr(self.learner, "is_brief", None)  # a BriefLearner's
        return tell is not None and bool(tell(steps))

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"training diverged in round {self.round}: the {what} no longer finite; "
            "lower training.learning_rate"
        )

    async def gradient(self, at: Vector) -> tuple[Vector, float]:
        """Return the gradient on the next batch, and its η."""
        learner = cast("GradientLearner", self.learner)
        step_size = learner.step_size

        def work() -> tuple[Vector, TrainResult]:
            found = np.empty_like(at)
            return found, learner.gradient(at, found)

        # As above: only the end of the round says that the params have followed.
        self.in_step = True
        found, self.last_training = await self.world.train(work, 1, brief=self._are_brief(1))
        if not await self.compute(all_finite, found):
            raise self._diverged("gradient is")
        self.counters.add("local_steps")
        return found, step_size

    async def compute(self, work: Callable[..., Any], *vectors: Any, size: int = 0) -> Any:
        """Run a vector operation here, or in the worker when it is large.

        ``size`` is its bytes; by default those of the first of ``vectors``.
        """
        if (size or vectors[0].nbytes) <= INLINE_BYTES_MAX:
            return _quietly(work, *vectors)
        return await self.world.work(_quietly, work, *vectors)


# As a decorator it costs half of what it does in a with statement.
@np.errstate(all="ignore")
def _quietly(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run without numpy's warnings: what is not finite is found by ``all_finite`` and refused."""
    return work(*arguments)
