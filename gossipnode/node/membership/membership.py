"""The common ground of all that a node finds out about others: one task, questions and answers.

What is found out, and how, is in the ``Part`` that a word belongs to. A question is a CONTROL or
VIEW frame without a body; it goes the way that models go, and its answer is a frame, too, or a
refusal. Invariant: a question may come twice or not at all, so answering one changes nothing that
answering it again would change further; a peer that answers nothing, or nonsense, costs a bounded
wait and nobody's task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import bounded
from gossipnode.node.world import Posted, Receipt
from gossipnode.wire.frame import Frame
from gossipnode.wire.members import Member
from gossipnode.wire.message import Kind, Message
from gossipnode.wire.reply import Reply

if TYPE_CHECKING:
    from gossipnode.node.membership.book import AddressBook
    from gossipnode.node.membership.detector import Detector
    from gossipnode.node.membership.shuffle import Shuffle
    from gossipnode.node.node import Node

# A node's streams of random numbers begin with these two; see ``node.node``.
STREAM_MEMBERSHIP = 4
# Without anything to do it looks this often whether there is something.
IDLE_S = 5.0
PAUSED_S = 0.1
# What all goodbyes together may take: it is part of ``run.drain_deadline_s``.
LEAVE_S = 1.0

Handler = Callable[[Message], Awaitable[Frame | Reply]]
Outcome = Receipt | Exception


class Part(Protocol):
    """One thing that a node does to know of others.

    ``words`` are the questions that it answers, by kind and word; a handler raises ``PeerError`` to
    refuse one, and up to its first wait runs without a task.
    """

    words: Mapping[tuple[Kind, str], Handler]

    def tick(self, now: float) -> float:
        """Begin what is due by ``now``, and return when to be called again, in loop time."""

    async def leave(self) -> None:
        """Say goodbye, where that is this part's business; the caller bounds the time."""


class Membership:
    """What ``node`` does to know of others; ``end`` it before the node's tasks are awaited."""

    def __init__(self, node: Node) -> None:
        self.node, self.options = node, node.config.membership
        seed = [node.config.swarm.seed, node.place.index, STREAM_MEMBERSHIP]
        self.rng = np.random.default_rng(seed)
        self.parts: list[Part] = []
        self.duplicate_id = ""  # where another node was found that has this node's id
        self.shuffle: Shuffle | None = None
        self.book: AddressBook | None = None
        self._words: dict[tuple[Kind, str], Handler] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._seq = 0

    def add(self, part: Part) -> None:
        """Let a part take its turn, and answer its words."""
        assert not self._words.keys() & part.words.keys(), "a word belongs to one part"
        self.parts.append(part)
        self._words.update(part.words)

    # -- life -------------------------------------------------------------------------------------

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Let the parts take their turns, in one task of ``tasks``."""
        self._task = tasks.create_task(self._run())

    def end(self) -> None:
        """Stop asking; questions are still answered. Harmless twice."""
        if self._task is not None:
            self._task.cancel()

    async def leave(self) -> None:
        """End, and let every part say goodbye, for at most ``LEAVE_S``."""
        self.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await asyncio.gather(*[part.leave() for part in self.parts])

    def wake(self) -> None:
        """Give every part its turn now: something has happened."""
        self._woken.set()

    def spawn(self, work: Any) -> asyncio.Task[Any] | None:
        """Run a coroutine until it is done or this ends; None, and it is closed, where it ended."""
        if self._tasks is None or self._task is None or self._task.cancelling():
            work.close()
            return None
        return self._tasks.create_task(work)

    def fail(self, error: Exception) -> None:
        """End the node with an error."""

        async def end() -> None:
            # What is on its way ends before the tasks do: none may be made when they are ending.
            self.node.is_active = False
            self.node.courier.close()
            raise error

        self.spawn(end())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                self._woken.clear()
                if self.node.world.is_paused:  # it is as if this process stood still
                    await asyncio.sleep(PAUSED_S)
                    continue
                now = loop.time()
                due = min([part.tick(now) for part in self.parts], default=now + IDLE_S)
                # A timer, and no timeout: the event is nobody's else, and this runs twice a second.
                timer = loop.call_at(due, self._woken.set)
                await self._woken.wait()
                timer.cancel()

    # -- answers ----------------------------------------------------------------------------------

    def admit(self, message: Message) -> None:
        """Raise ``PeerError`` unless a question is for this swarm, and can be one."""
        node = self.node
        if message.swarm != node.config.swarm.name:
            raise PeerError("wrong_swarm", f"this is swarm {node.config.swarm.name}")
        is_other = message.control == "ping" and message.epoch != node.epoch
        if message.sender == node.id and not is_other:
            raise PeerError("not_a_neighbour", f"{node.id} is this node's own id")
        if message.parts:
            raise PeerError("unsupported_message", f"a {message.kind.name} has no parts")
        if (message.kind, message.control) not in self._words:
            word = bounded(message.control or "none")
            raise PeerError("unsupported_message", f"{message.kind.name} {word} is not known here")

    async def answer(self, message: Message) -> Frame | Reply:
        """Answer a question that was admitted; raises ``PeerError`` to refuse it."""
        assert message.control is not None
        self.node.counters.add("controls_received", label=("word", message.control))
        answered = await self._words[message.kind, message.control](message)
        if isinstance(answered, Frame):
            self.node.counters.add("control_bytes_sent", answered.nbytes)
        return answered

    # -- questions --------------------------------------------------------------------------------

    def frame(
        self,
        control: str,
        members: Sequence[Member] = (),
        *,
        kind: Kind = Kind.CONTROL,
        scalars: Mapping[str, float] | None = None,
        ages: Sequence[int] = (),
    ) -> Frame:
        """Return a word of this node's, a question or an answer, as a frame.

        ``ages`` are those of ``members``, one each, in a VIEW.
        """
        node = self.node
        self._seq += 1
        message = Message(
            kind=kind,
            swarm=node.config.swarm.name,
            schema=node.layout.schema,
            algorithm=node.algorithm.called,
            sender=node.id,
            epoch=node.epoch,
            seq=self._seq,
            round=node.round,
            address=node.address,
            age=tuple(ages) or 0,
            scalars=dict(scalars or {}),
            control=control,
            members=tuple(members),
        )
        return node.passive.encode(message, ())

    def count(self, word: str, frame: Frame) -> None:
        """Count a question that is sent."""
        self.node.counters.add("controls_sent", label=("word", word))
        self.node.counters.add("control_bytes_sent", frame.nbytes)

    def ask(
        self,
        address: str,
        word: str,
        frame: Frame,
        timeout_s: float,
        then: Callable[[Outcome], None],
    ) -> None:
        """Send a question, and call ``then`` once with the answer or why there is none.

        Takes no task where the world can do without. Nothing is called after ``end``.
        """
        self.count(word, frame)

        def answered(posted: Posted) -> None:
            assert posted.outcome is not None
            if self._task is not None and not self._task.cancelling():
                then(posted.outcome)

        if self.node.world.post(address, frame, timeout_s, answered) is None:
            self.spawn(self._push(address, frame, timeout_s, then))

    async def _push(
        self, address: str, frame: Frame, timeout_s: float, then: Callable[[Outcome], None]
    ) -> None:
        try:
            outcome: Outcome = await self.node.world.push(address, frame, timeout_s)
        except (NetworkError, PeerError) as error:
            outcome = error
        then(outcome)


def part_classes() -> tuple[type[Detector], type[Shuffle], type[AddressBook]]:
    """Import the parts, some 10 ms, and return their classes."""
    # Here, not above: the parts know this file.
    from gossipnode.node.membership.book import AddressBook
    from gossipnode.node.membership.detector import Detector
    from gossipnode.node.membership.shuffle import Shuffle

    return Detector, Shuffle, AddressBook


def build_membership(node: Node) -> Membership:
    """Return the membership that the node's config asks for."""
    detector, shuffle, book = part_classes()
    membership = Membership(node)
    if membership.options.probes:
        membership.add(detector(membership))
    if node.config.topology.graph == "random" and membership.options.shuffle_period_s:
        membership.shuffle = shuffle(membership)
        membership.book = book(membership)
        membership.add(membership.shuffle)
        membership.add(membership.book)
    return membership
