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
from gossipnode.node.active import finish
from gossipnode.node.world import Receipt
from gossipnode.simulation.delivery import checksum_of, deliver, open_frame
from gossipnode.simulation.network import ModelledNetwork
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message

if TYPE_CHECKING:
    from gossipnode.simulation.swarm import SimulatedSwarm

_EVENT = struct.Struct("<dIIBqQQ")


class Wires:
    """Carries frames between the nodes of ``swarm`` over its modelled network."""

    def __init__(
        self, swarm: SimulatedSwarm, network: ModelledNetwork, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.swarm, self.network, self._loop = swarm, network, loop
        self.frames: Counter[str] = Counter()  # delivered, by sender
        self.outcomes: Counter[str] = Counter()
        self.echoes: set[asyncio.Task[None]] = set()
        self._number = {name: i for i, name in enumerate(swarm.names)}
        self._trace = xxhash.xxh3_64()

    @property
    def trace_hash(self) -> str:
        """A digest of everything delivered so far: who, whom, when, what, and the outcome."""
        return str(self._trace.hexdigest())

    async def carry(self, sender: str, receiver: str, frame: Frame, timeout_s: float) -> Receipt:
        """Take a push there, deliver it, and take the answer back.

        Raises ``NetworkError``, or ``TimeoutError`` after ``timeout_s``. How long a way takes is
        known when it is begun, so that no timer has to watch it.
        """
        deadline = self._loop.time() + timeout_s
        await self._send(sender, receiver, frame.nbytes, deadline)
        receipt = await self._deliver(sender, receiver, frame, deadline)
        if self.network.duplicates(sender, receiver):
            again = self._deliver_again(sender, receiver, frame, timeout_s)
            echo = self._loop.create_task(again)
            self.echoes.add(echo)
            echo.add_done_callback(self.echoes.discard)
        if self.network.loses_reply(sender, receiver):
            raise NetworkError("connection reset by peer")
        answered = 0 if receipt.message is None else receipt.message.body_bytes
        await self._over(self.network.answer(receiver, sender, answered).seconds, deadline)
        seconds = self.network.receive(receiver, sender, answered)
        if seconds:
            await self._over(seconds, deadline)
        return receipt

    async def _send(self, sender: str, receiver: str, nbytes: int, deadline: float) -> None:
        """Take ``nbytes`` there; raises ``NetworkError`` where they are lost."""
        passage = self.network.send(sender, receiver, nbytes)
        await self._over(passage.seconds, deadline)
        if passage.is_lost:
            raise NetworkError("connection reset by peer")
        # Asked at arrival: who comes first has the line first, whoever was sent first.
        seconds = self.network.receive(sender, receiver, nbytes)
        if seconds:
            await self._over(seconds, deadline)

    def _over(self, seconds: float, deadline: float) -> asyncio.Future[None]:
        """Return what is done after ``seconds``, or fails at the deadline."""
        over: asyncio.Future[None] = self._loop.create_future()
        arrival = self._loop.time() + seconds
        if arrival <= deadline:
            self._loop.call_at(arrival, finish, over)
        else:
            self._loop.call_at(deadline, _time_out, over)
        return over

    async def _deliver_again(
        self, sender: str, receiver: str, frame: Frame, timeout_s: float
    ) -> None:
        deadline = self._loop.time() + timeout_s
        try:
            await self._send(sender, receiver, frame.nbytes, deadline)
            await self._deliver(sender, receiver, frame, deadline)
        except (NetworkError, TimeoutError):
            return  # cut, or the receiver has died meanwhile; nobody waits for this answer

    async def _deliver(self, sender: str, receiver: str, frame: Frame, deadline: float) -> Receipt:
        """Do what the server does; a paused process lets it wait."""
        world = self.swarm.worlds[receiver]
        if world.is_paused:
            async with asyncio.timeout_at(deadline):
                await world.until_resumed()
        if receiver in self.swarm.down:
            raise NetworkError("connection refused")
        message, body = open_frame(frame)
        checksum, node = checksum_of(message, body), self.swarm.nodes[receiver]
        receipt, outcome = await deliver(node, message, body)
        if receiver in self.swarm.down or self.swarm.nodes[receiver] is not node:
            raise NetworkError("connection reset by peer")  # it was killed over this
        self._note(sender, receiver, message, checksum, outcome)
        return receipt

    def _note(
        self, sender: str, receiver: str, message: Message, checksum: int, outcome: str
    ) -> None:
        """Enter a delivery into the trace, and have it checked."""
        self.frames[sender] += 1
        self.outcomes[outcome] += 1
        self._trace.update(
            _EVENT.pack(
                self._loop.time(),
                self._number[sender],
                self._number[receiver],
                message.kind,
                message.round,
                message.seq,
                checksum,
            )
            + outcome.encode()
        )
        self.swarm.delivered(receiver, message, outcome)


def _time_out(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
