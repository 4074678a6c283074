"""What a synchronous swarm would have sent: messages and bytes, computed from the graph.

Invariant: equal to what the event-driven engine counts where nothing is lost. No frame is sent;
one is encoded a round, to be measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gossipnode.algorithms.dpsgd import DpsgdOptions
from gossipnode.config import Config
from gossipnode.learning.params import Layout
from gossipnode.simulation.world import WALL_START_S
from gossipnode.topology.mixing import Mixing
from gossipnode.wire.frame import encode
from gossipnode.wire.message import Kind, Message, Part


class Traffic:
    """Counts of the nodes ``names`` of ``config``, whose models have ``layout``.

    ``messages`` is of all nodes, ``bytes_sent`` (n,) int64 of each: frames with their headers.
    """

    def __init__(self, config: Config, names: Sequence[str], layout: Layout) -> None:
        assert isinstance(config.algorithm, DpsgdOptions)
        self._sends_first = config.algorithm.form == "cta"
        self.messages = 0
        self.bytes_sent: NDArray[np.int64] = np.zeros(len(names), np.int64)
        self._config, self._layout, self._zeros = config, layout, layout.zeros()
        self._id_bytes = np.array([len(name.encode()) for name in names])

    def add(self, mixing: Mixing, round_: int) -> None:
        """Count a round in which every entry of W off the diagonal is one message."""
        self.messages += len(mixing.weights)
        degrees = np.bincount(mixing.senders, minlength=mixing.nodes)
        # A header's length depends on these two alone, but for the round. They are one number here
        # because numpy sorts numbers some ten times as fast as rows.
        width = int(self._id_bytes.max()) + 1
        kinds, kind_of = np.unique(degrees * width + self._id_bytes, return_inverse=True)
        sizes = np.array([self._frame_bytes(round_, *divmod(k, width)) for k in kinds.tolist()])
        self.bytes_sent += degrees * sizes[kind_of]

    def _frame_bytes(self, round_: int, degree: int, id_bytes: int) -> int:
        """Return the size of a push in ``round_`` by a node with that degree and length of id."""
        trained = round_ if self._sends_first else round_ + 1
        message = Message(
            kind=Kind.MODEL,
            swarm=self._config.swarm.name,
            schema=self._layout.schema,
            algorithm=self._config.algorithm.called,
            sender="n" * id_bytes,
            epoch=int(WALL_START_S * 1000),
            seq=round_ + 1,
            round=round_,
            graph="0" * 16,
            degree=degree or None,
            age=trained * self._config.training.local_steps,
            parts=(Part.of("x", self._zeros),),
        )
        return encode(message, [self._zeros]).nbytes
