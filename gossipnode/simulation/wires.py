"""The wires between simulated nodes: a push there, its delivery, the answer back.

Invariant: every delivery enters the trace and the checks, in the order in which it happens.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from typing import TYPE_CHECKING

import xxhash

from gossipnode.errors import NetworkError
from gossipnode.node.world import Receipt
from gossipnode.simulation.delivery import deliver, read_head
from gossipnode.simulation.network import ModelledNetwork
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message

if TYPE_CHECKING:
    from gossipnode.simulation.swarm import SimulatedSwarm

_EVENT = struct.Struct("<dIIBqQQ")


class Wires:
    """Carries frames between the nodes of ``swarm`` over its modelled network."""

    def __init__(self, swarm: SimulatedSwarm, network: ModelledNetwork) -> None:
        self.swarm, self.network = swarm, network
        self.frames: Counter[str] = Counter()  # delivered, by sender
        self.outcomes: Counter[str] = Counter()
        self.echoes: set[asyncio.Task[None]] = set()
        self._number = {name: i for i, name in enumerate(swarm.names)}
        self._trace = xxhash.xxh3_64()

    @property
    def trace_hash(self) -> str:
        """A digest of everything delivered so far: who, whom, when, what, and the outcome."""
        return str(self._trace.hexdigest())

    async def carry(self, sender: str, receiver: str, frame: Frame) -> Receipt:
        """Take a push there, deliver it, and take the answer back."""
        data = frame.tobytes()
        await self.network.carry(sender, receiver, len(data))
        receipt = await self._deliver(sender, receiver, data)
        if self.network.duplicates(sender, receiver):
            echo = asyncio.get_running_loop().create_task(
                self._deliver_again(sender, receiver, data)
            )
            self.echoes.add(echo)
            echo.add_done_callback(self.echoes.discard)
        if self.network.loses_reply(sender, receiver):
            raise NetworkError("connection reset by peer")
        answered = 0
        if receipt.message is not None:
            answered = receipt.message.body_bytes
        await self.network.carry(receiver, sender, answered)
        return receipt

    async def _deliver_again(self, sender: str, receiver: str, data: bytes) -> None:
        await self.network.carry(sender, receiver, len(data))
        try:
            await self._deliver(sender, receiver, data)
        except NetworkError:
            return  # the receiver has died meanwhile, and nobody waits for this answer

    async def _deliver(self, sender: str, receiver: str, data: bytes) -> Receipt:
        """Do what the server does: header first, then the body in a buffer of its own."""
        await self.swarm.worlds[receiver].running.wait()
        if receiver in self.swarm.down:
            raise NetworkError("connection refused")
        message, body_at = read_head(data)
        receipt, outcome = await deliver(self.swarm.nodes[receiver], message, data, body_at)
        self._note(sender, receiver, message, outcome)
        return receipt

    def _note(self, sender: str, receiver: str, message: Message, outcome: str) -> None:
        """Enter a delivery into the trace, and have it checked."""
        self.frames[sender] += 1
        self.outcomes[outcome] += 1
        self._trace.update(
            _EVENT.pack(
                self.swarm.time,
                self._number[sender],
                self._number[receiver],
                message.kind,
                message.round,
                message.seq,
                message.checksum[1] if message.checksum else 0,
            )
            + outcome.encode()
        )
        self.swarm.delivered(receiver, message, outcome)
