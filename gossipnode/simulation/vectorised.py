"""A synchronous swarm as one matrix: X ← W(X − ηG), for ten thousand nodes.

Rows of X are the nodes' params. In lockstep without faults nothing depends on when messages
arrive, so a round is τ local steps a row and one sparse product with W. The learners are the
nodes' own: the same batches, the same float arithmetic; only the order in which a row of W is
summed differs from the event-driven engine, so both agree to rounding.

Invariant: no event, no time, no message. What it counts (bytes, messages) it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.config import Config, DpsgdOptions, PeerEntry
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import consensus_distance
from gossipnode.node.directory import Directory
from gossipnode.node.node import learner_for
from gossipnode.node.place import Place
from gossipnode.simulation.world import address_of
from gossipnode.topology import mixing_matrix


class VectorisedSwarm:
    """``nodes`` nodes of a dpsgd ``config``, round by round; X is ``models``, shape (n, d).

    ``learners`` replace those that the config describes, one a node. Raises ``ConfigError`` for
    any other algorithm.
    """

    def __init__(
        self, config: Config, nodes: int, *, learners: Sequence[Learner] | None = None
    ) -> None:
        if not isinstance(config.algorithm, DpsgdOptions):
            raise ConfigError(
                f"{config.algorithm.name} is asynchronous: its order of events matters",
                key="algorithm.name",
                allowed="dpsgd; the event-driven simulator runs all",
            )
        self.config, self.nodes = config, nodes
        names = [f"n{i}" for i in range(nodes)]
        directory = Directory([PeerEntry(id=n, address=address_of(n)) for n in names])
        graph, rule, _ = directory.graph(config)
        self.messages_a_round = sum(len(row) for row in graph.out_neighbours)
        self.learners = list(
            learners or (_learner(config, names[i], i, nodes) for i in range(nodes))
        )
        layout = self.learners[0].layout
        # The product is taken in the params' own precision, as the nodes do.
        self._W = mixing_matrix(graph, rule).csr().astype(layout.dtype)
        first = self.learners[0].initial_params(config.swarm.seed)
        self.models: NDArray[Any] = np.tile(first, (nodes, 1))
        self.round = 0

    def run(self, rounds: int) -> None:
        """Run ``rounds`` rounds of the configured form."""
        for _ in range(rounds):
            trained = self.models.copy()
            for row, learner in zip(trained, self.learners, strict=True):
                learner.train(row, self.config.training.local_steps)
            if self.config.algorithm.name == "dpsgd" and self.config.algorithm.form == "cta":
                # x_i^{k+1} = Σ_j w_ij x_j^k − η Σ g_i(x_i^k)
                trained -= self.models
                trained += self._W @ self.models
                self.models = trained
            else:
                # x_i^{k+1} = Σ_j w_ij x_j^{k+½}
                self.models = self._W @ trained
            self.round += 1

    def consensus_distance(self) -> float:
        """Return sqrt(1/n Σ‖x_i − x̄‖²)."""
        return consensus_distance(list(self.models))


def _learner(config: Config, name: str, index: int, nodes: int) -> Learner:
    return learner_for(config, Place(name, index, nodes))
