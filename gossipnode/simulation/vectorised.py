"""A synchronous swarm as one matrix: X ← W(X − ηG), for ten thousand nodes.

Rows of X are the nodes' params. In lockstep without faults nothing depends on when messages
arrive, so a round is τ local steps a row and one sparse product with the round's W. Batches,
shares and float arithmetic are the nodes' own; only the order of a sum differs from the
event-driven engine, so both agree to rounding.

Invariant: no event, no time, no message. What it counts (bytes, messages) it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.algorithms.dpsgd import DpsgdOptions
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, TrainingError
from gossipnode.learning.dtypes import computed_in, dtype_of
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import all_finite
from gossipnode.learning.tasks import Evaluation
from gossipnode.node.directory import Directory
from gossipnode.node.learners import learner_for
from gossipnode.node.place import Place
from gossipnode.simulation.stacked import StackedLearners, stacks
from gossipnode.simulation.traffic import Traffic
from gossipnode.simulation.world import address_of
from gossipnode.topology.sequences import GraphSequence

# Rounds of W that are kept where it repeats: 14 of them have 10 MB at 10,000 nodes of degree 14.
PERIOD_KEPT_MAX = 64
# Rows that are looked at together, so that float64 copies of all models never exist at once.
ROWS = 1024

Train = Callable[[NDArray[Any], int], NDArray[Any]]


class VectorisedSwarm:
    """``nodes`` nodes (or ``names``) of a dpsgd ``config``, round by round.

    ``models`` is X, shape (n, d): a round makes a new one. ``learners`` replace those that the
    config describes, one a node. ``losses`` (n,) are the mean losses of the last round's local
    steps, None before the first. Raises ``ConfigError`` for any other algorithm, and
    for codecs.
    """

    def __init__(
        self,
        config: Config,
        nodes: int = 0,
        *,
        names: Sequence[str] = (),
        learners: Sequence[Learner] = (),
    ) -> None:
        if not isinstance(config.algorithm, DpsgdOptions):
            raise ConfigError(
                f"{config.algorithm.called} is more than X ← W(X − ηG)",
                key="algorithm.name",
                allowed="dpsgd; the event-driven simulator runs all",
            )
        if config.algorithm.form == "stale":
            raise ConfigError(
                "stale mixes half-steps of two rounds, which is more than X ← W(X − ηG)",
                key="algorithm.form",
                allowed="atc, cta; the event-driven simulator runs all",
            )
        if computed_in(config.task.dtype) != dtype_of(config.task.dtype):
            raise ConfigError(
                f"one matrix of all nodes cannot be {config.task.dtype}",
                key="task.dtype",
                allowed="float32 and float64; the event-driven simulator takes all",
            )
        if config.codec.name != "none":
            raise ConfigError(
                f"no message is made here that {config.codec.name} could make smaller",
                key="codec.name",
                allowed="none; the event-driven simulator runs all",
            )
        self.config, self.form = config, config.algorithm.form
        self.names = tuple(names) or tuple(f"n{i}" for i in range(nodes))
        nodes = len(self.names)
        directory = Directory([PeerEntry(id=n, address=address_of(n)) for n in self.names])
        self.sequence: GraphSequence = directory.sequence(config)
        self._kept: dict[int, Any] = {}
        self._places = [Place(name, i, nodes) for i, name in enumerate(self.names)]
        self._learners: dict[int, Learner] = dict(enumerate(learners))
        self._train = self._how_to_train()
        # The first learner stands for all where nothing depends on the node.
        self.learner = self._learner(0)
        first = self.learner.initial_params(config.swarm.seed)
        self.models: NDArray[Any] = np.tile(first, (nodes, 1))
        self.losses: NDArray[Any] | None = None
        self.traffic = Traffic(config, self.names, self.learner.layout)
        self.round = 0

    def run(self, rounds: int) -> None:
        """Run ``rounds`` rounds of the configured form; raises ``TrainingError`` on divergence."""
        with np.errstate(all="ignore"):  # what is not finite is found and told
            for _ in range(rounds):
                self._run_round()

    def _run_round(self) -> None:
        tau, before, after = self.config.training.local_steps, self.models, self.models.copy()
        W = self._mixing(self.round)
        losses = self._train(after, tau)
        if self.form == "cta":
            # x_i^{k+1} = Σ_j w_ij x_j^k − η Σ g_i(x_i^k)
            after -= before
            after += W @ before
        else:
            # x_i^{k+1} = Σ_j w_ij x_j^{k+½}
            after = W @ after
        if not all_finite(after):
            raise TrainingError(
                f"training diverged in round {self.round}: the params are no longer finite; "
                "lower training.learning_rate"
            )
        self.models = after
        self.losses = losses if tau else None
        self.traffic.add(self.sequence.at(self.round), self.round)
        self.round += 1

    def evaluate(self, i: int) -> Evaluation:
        """Return loss and accuracy of node ``i``'s model on the test samples."""
        return self._learner(i).evaluate(self.models[i])

    def evaluate_mean(self) -> Evaluation:
        """Return loss and accuracy of x̄, on the test samples of the first node."""
        return self.learner.evaluate(self.mean().astype(self.learner.layout.dtype))

    def mean(self) -> NDArray[np.float64]:
        """Return x̄, (d,)."""
        return np.asarray(self.models.mean(axis=0, dtype=np.float64))

    def consensus_distance(self) -> float:
        """Return sqrt(1/n Σ‖x_i − x̄‖²), in float64."""
        mean, total = self.mean(), 0.0
        for start in range(0, len(self.models), ROWS):
            away = (self.models[start : start + ROWS] - mean).reshape(-1)
            total += float(np.dot(away, away))
        return float(np.sqrt(total / len(self.models)))

    def _mixing(self, round_: int) -> Any:
        """Return W of a round in the params' own precision, in which the nodes mix."""
        period = self.sequence.period
        k = round_ % period if period else round_
        W = self._kept.get(k)
        if W is None:
            W = self.sequence.at(k).csr().astype(self.learner.layout.dtype)
            if period and period <= PERIOD_KEPT_MAX:
                self._kept[k] = W
        return W

    def _how_to_train(self) -> Train:
        """Return what takes local steps on all rows: by blocks where the task allows it."""
        if not self._learners and stacks(self.config):
            return StackedLearners(self.config, self._places).train
        each = [self._learner(i) for i in range(len(self.names))]

        def train(models: NDArray[Any], steps: int) -> NDArray[Any]:
            results = [learner.train(row, steps) for row, learner in zip(models, each, strict=True)]
            return np.array([result.loss for result in results])

        return train

    def _learner(self, i: int) -> Learner:
        """Return node ``i``'s learner, made when first asked for."""
        if i not in self._learners:
            self._learners[i] = learner_for(self.config, self._places[i])
        return self._learners[i]
