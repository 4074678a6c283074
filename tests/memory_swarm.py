"""A swarm of real nodes in one process: frames go through the real codec, but no socket.

In virtual time it is deterministic. Faults are verbs: ``cut``, ``heal``, ``pause``.
On the way out it checks what must hold in every test: params finite, nothing reserved for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from gossipnode.config import Config, PeerEntry
from gossipnode.errors import NetworkError
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import consensus_distance
from gossipnode.node.node import Node
from gossipnode.node.world import Receipt, Store
from gossipnode.simulation.delivery import deliver, open_bytes
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message


class MemoryWorld:
    """One node's surroundings: the swarm's wires, inline computing, a counted wall clock."""

    def __init__(self, swarm: MemorySwarm, name: str, store: Store | None = None) -> None:
        self.swarm, self.name, self.store = swarm, name, store
        self.step_s = 0.0
        self.running = asyncio.Event()
        self.running.set()

    def post(self, *_: Any) -> None:
        """Nothing can be sent without a task here."""

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        receiver = address.removeprefix("memory://")
        data = frame.tobytes()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.sleep(self.swarm.latency_s(self.name, receiver))
                return await self.swarm.carry(self.name, receiver, data)
        except TimeoutError:
            raise NetworkError(f"timed out after {timeout_s:g} s") from None

    async def is_listening(self, address: str, timeout_s: float) -> bool:
        receiver = address.removeprefix("memory://")
        if (self.name, receiver) in self.swarm.cuts:
            await asyncio.sleep(timeout_s)
            return True
        return receiver not in self.swarm.down

    async def id_at(self, address: str, timeout_s: float) -> str | None:
        name = address.removeprefix("memory://")
        return None if name in self.swarm.down or name not in self.swarm.nodes else name

    async def seeds(self) -> Sequence[str]:
        return ()

    async def train(self, work: Callable[[], Any], steps: int, *, brief: bool = False) -> Any:
        result = work()
        await asyncio.sleep(self.step_s * steps)
        await self.running.wait()
        return result

    async def seal(self, make: Callable[[], Frame]) -> Frame:
        return make()

    async def work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    def wall_time(self) -> float:
        return 1.7e9 + asyncio.get_running_loop().time()


class MemorySwarm:
    """Nodes by id, and what is wrong with the wires between them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.worlds: dict[str, MemoryWorld] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.down: set[str] = set()
        self.cuts: set[tuple[str, str]] = set()
        self.frames: list[tuple[str, str, Message]] = []
        self.latency_s: Callable[[str, str], float] = lambda sender, receiver: 0.0

    def add(
        self,
        config: Config,
        name: str,
        peers: Sequence[PeerEntry],
        learner: Learner | None = None,
        store: Store | None = None,
    ) -> Node:
        named = config.model_copy(update={"node": config.node.model_copy(update={"id": name})})
        world = MemoryWorld(self, name, store)
        node = Node(named, world=world, peers=peers, learner=learner, membership=False)
        node.address = f"memory://{name}"
        self.nodes[name], self.worlds[name] = node, world
        self.down.discard(name)
        return node

    async def carry(self, sender: str, receiver: str, data: bytes) -> Receipt:
        """Deliver ``data`` as the server would: header first, then the body in its own buffer."""
        if (sender, receiver) in self.cuts:
            await asyncio.Event().wait()
        if receiver in self.down or receiver not in self.nodes:
            raise NetworkError("connection refused")
        node = self.nodes[receiver]
        await self.worlds[receiver].running.wait()
        message, body = open_bytes(data)
        self.frames.append((sender, receiver, message))
        receipt, _ = await deliver(node, message, body)
        return receipt

    def cut(self, one: str, other: str) -> None:
        """Let frames between the two vanish, both ways."""
        self.cuts |= {(one, other), (other, one)}

    def heal(self) -> None:
        """Mend every wire."""
        self.cuts.clear()

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does: it neither trains nor answers."""
        self.worlds[name].running.clear()

    def resume(self, name: str) -> None:
        self.worlds[name].running.set()

    async def kill(self, name: str) -> None:
        """End a node as SIGKILL does: nothing is written, nobody is told."""
        self.down.add(name)
        task = self.tasks.pop(name)
        task.cancel()
        await asyncio.wait([task])

    async def start(self) -> None:
        for node in self.nodes.values():
            if not node.has_started:
                await node.start()

    def launch(self, name: str) -> asyncio.Task[None]:
        self.tasks[name] = asyncio.create_task(self.nodes[name].run(), name=name)
        return self.tasks[name]

    async def run(self) -> None:
        """Start all nodes and run them until each has used up its budget."""
        await self.start()
        for name in self.nodes:
            if name not in self.tasks:
                self.launch(name)
        await asyncio.gather(*self.tasks.values())

    def models(self) -> np.ndarray[Any, Any]:
        """Return X, the params as rows, in the order that the nodes were added."""
        return np.stack([node.params for node in self.nodes.values()])

    def consensus_distance(self) -> float:
        return consensus_distance([node.params for node in self.nodes.values()])

    def check(self) -> None:
        for node in self.nodes.values():
            if node.has_started:
                assert np.isfinite(node.params).all()
                assert node.inbox.inflight_bytes == 0
                assert not node.params.flags.writeable


def entries(names: Sequence[str]) -> tuple[PeerEntry, ...]:
    """Return a peer list; the addresses are names of the wires in memory."""
    return tuple(PeerEntry.model_construct(id=n, address=f"memory://{n}") for n in names)


@asynccontextmanager
async def swarm_of(
    config: Config, names: Sequence[str], learners: Sequence[Learner | None] | None = None
):
    """A started swarm; whatever still runs at the end is stopped, and the invariants checked."""
    swarm = MemorySwarm()
    for name, learner in zip(names, learners or [None] * len(names), strict=True):
        swarm.add(config, name, entries(names), learner)
    await swarm.start()
    try:
        yield swarm
        swarm.check()
    finally:
        for task in swarm.tasks.values():
            task.cancel()
        await asyncio.gather(*swarm.tasks.values(), return_exceptions=True)
