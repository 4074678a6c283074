"""The wires between simulated nodes: a push there, its delivery, the answer back.

Invariant: every delivery enters the trace and the checks, in the order in which it happens.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import xxhash

from gossipnode.errors import NetworkError
from gossipnode.node.begun import go_on
from gossipnode.node.node import Node
from gossipnode.node.world import Posted, Receipt
from gossipnode.simulation.delivery import checksum_of, deliver, open_frame
from gossipnode.simulation.loop import Happening, VirtualLoop
from gossipnode.simulation.network import ModelledNetwork
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message

if TYPE_CHECKING:
    from gossipnode.simulation.swarm import SimulatedSwarm

T = TypeVar("T")

_EVENT = struct.Struct("<dIIBqQQ")


class Wires:
    """Carries frames between the nodes of ``swarm`` over its modelled network."""

    def __init__(self, swarm: SimulatedSwarm, network: ModelledNetwork, loop: VirtualLoop) -> None:
        self.swarm, self.network, self.loop = swarm, network, loop
        self.frames: Counter[str] = Counter()  # delivered pushes, by sender
        self.outcomes: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()  # deliveries that take their time
        self._number = {name: i for i, name in enumerate(swarm.names)}
        self._trace = xxhash.xxh3_64()

    @property
    def trace_hash(self) -> str:
        """A digest of everything delivered so far: who, whom, when, what, and the outcome."""
        return str(self._trace.hexdigest())

    def carry(
        self,
        sender: str,
        receiver: str,
        frame: Frame,
        timeout_s: float,
        answered: Callable[[Posted], None],
    ) -> Posted:
        """Take a push there, deliver it, and take the answer back.

        Fails with ``NetworkError``, after ``timeout_s`` at the latest.
        """
        carriage = Carriage(self, sender, receiver, frame, timeout_s, answered)
        carriage.leave()
        return carriage

    def note(
        self, sender: str, receiver: str, message: Message, checksum: int, outcome: str
    ) -> None:
        """Enter a delivery into the trace, and have it checked."""
        if message.control is None:
            self.frames[sender] += 1
        self.outcomes[outcome] += 1
        self._trace.update(
            _EVENT.pack(
                self.loop.now,
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


class Carriage(Happening):
    """One push and its answer on their way: each method is an instant, and sets the next one's.

    How long a way takes is known when it is begun, so that no timer has to watch it. Where
    ``answered`` is None the push is an echo: it is delivered, and nobody hears what came of it.
    """

    __slots__ = (
        "answer_bytes", "answered", "deadline", "frame", "is_over", "next", "outcome",
        "receipt", "receiver", "sender", "timeout_s", "wires",
    )  # fmt: skip

    def __init__(
        self,
        wires: Wires,
        sender: str,
        receiver: str,
        frame: Frame,
        timeout_s: float,
        answered: Callable[[Posted], None] | None,
    ) -> None:
        self.wires, self.sender, self.receiver = wires, sender, receiver
        self.frame, self.timeout_s, self.answered = frame, timeout_s, answered
        self.is_over = False
        self.outcome: Receipt | Exception | None = None

    def cancel(self) -> None:
        """Give it up: what is not delivered yet never is."""
        self.is_over, self.answered = True, None

    def _run(self) -> None:
        if not self.is_over:
            self.next(self)

    def leave(self) -> None:
        """Send it off, once the sender's process runs; an echo is on the line already."""
        if self.is_over:
            return
        wires, sender = self.wires, self.sender
        world = wires.swarm.worlds[sender]
        if world.is_paused and self.answered is not None:
            world.once_resumed(self.leave)
            return
        self.deadline = wires.loop.now + self.timeout_s
        passage = wires.network.send(sender, self.receiver, self.frame.nbytes)
        self._after(passage.seconds, Carriage._get_lost if passage.is_lost else Carriage._reach)

    def _after(self, seconds: float, then: Callable[[Carriage], None]) -> None:
        """Go on in ``seconds``, or fail at the deadline if that is earlier."""
        loop = self.wires.loop
        instant = loop.now + seconds
        self.next = then
        if instant > self.deadline:
            instant, self.next = self.deadline, Carriage._time_out
        loop.happen_at(instant, self)

    def _reach(self) -> None:
        """Be at the receiver's line: who comes first has it first, whoever was sent first."""
        seconds = self.wires.network.receive(self.sender, self.receiver, self.frame.nbytes)
        if seconds:
            self._after(seconds, Carriage._arrive)
        else:
            self._arrive()

    def _arrive(self) -> None:
        """Do what the server does; a paused process lets it wait."""
        if self.is_over:
            return
        swarm, receiver = self.wires.swarm, self.receiver
        world = swarm.worlds[receiver]
        if world.is_paused:
            world.once_resumed(self._arrive)
            self.wires.loop.call_at(self.deadline, self._time_out)
            return
        if receiver in swarm.down:
            self._fail("connection refused")
            return
        message, body = open_frame(self.frame)
        checksum, node = checksum_of(message, body), swarm.nodes[receiver]
        work = deliver(node, message, body)
        try:
            # Next to always it is done at once, and needs no task.
            waiting = work.send(None)
        except StopIteration as end:
            self._delivered(node, message, checksum, *end.value)
        except Exception as error:  # noqa: BLE001 - a bug of ours: it ends the sender's node
            self._settle(error)
        else:
            rest = self._deliver(node, message, checksum, go_on(work, waiting))
            task = self.wires.loop.create_task(rest)
            self.wires.tasks.add(task)
            task.add_done_callback(self.wires.tasks.discard)

    async def _deliver(
        self, node: Node, message: Message, checksum: int, work: Awaitable[tuple[Receipt, str]]
    ) -> None:
        try:
            receipt, outcome = await work
        except Exception as error:  # noqa: BLE001 - as above
            self._settle(error)
        else:
            self._delivered(node, message, checksum, receipt, outcome)

    def _delivered(
        self, node: Node, message: Message, checksum: int, receipt: Receipt, outcome: str
    ) -> None:
        wires, sender, receiver = self.wires, self.sender, self.receiver
        if receiver in wires.swarm.down or wires.swarm.nodes[receiver] is not node:
            self._fail("connection reset by peer")  # it was killed over this
            return
        wires.note(sender, receiver, message, checksum, outcome)
        if self.answered is None:
            return
        self.receipt, network = receipt, wires.network
        if network.duplicates(sender, receiver):
            Carriage(wires, sender, receiver, self.frame, self.timeout_s, None).leave()
        if network.loses_reply(sender, receiver):
            self._get_lost()
            return
        self.answer_bytes = 0 if receipt.message is None else receipt.message.body_bytes
        passage = network.answer(receiver, sender, self.answer_bytes)
        self._after(passage.seconds, Carriage._return)

    def _return(self) -> None:
        """Be at the sender's line again."""
        seconds, nbytes = 0.0, self.answer_bytes
        if nbytes:
            seconds = self.wires.network.receive(self.receiver, self.sender, nbytes)
        if seconds:
            self._after(seconds, Carriage._hand_over)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        self._settle(self.receipt)

    def _get_lost(self) -> None:
        self._fail("connection reset by peer")

    def _time_out(self) -> None:
        self._fail(f"timed out after {self.timeout_s:g} s")

    def _fail(self, why: str) -> None:
        self._settle(NetworkError(why))

    def _settle(self, result: Receipt | Exception) -> None:
        """Tell the sender, once its process runs."""
        world = self.wires.swarm.worlds[self.sender]
        if self.is_over:
            return
        if world.is_paused and self.answered is not None:
            world.once_resumed(partial(self._settle, result))
            return
        answered, self.answered = self.answered, None  # who is told may hold this: no cycle
        self.is_over, self.outcome = True, result
        if answered is not None:
            answered(self)
        elif isinstance(result, Exception) and not isinstance(result, NetworkError):
            raise result
