"""A swarm in virtual time, and the verbs of a scenario.

Reads aloud::

    with SimulatedSwarm(config, nodes=3, seed=1) as swarm:
        swarm.run(60)
        swarm.partition(["n0"], ["n1", "n2"])
        swarm.run(60)
        swarm.heal()
        swarm.run(60)
        swarm.expect_consensus_below(1e-3)

Invariant: what runs is the node, its frames pass through the real codec, and the same arguments
give the same trace hash. After every delivery and at the end the checkers look; what they find
is raised with seed, time and the command that replays it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossipnode.config import Config, PeerEntry
from gossipnode.errors import GossipNodeError
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import all_finite, consensus_distance
from gossipnode.node.directory import Directory
from gossipnode.node.node import Node
from gossipnode.simulation.loop import VirtualLoop
from gossipnode.simulation.network import Link, ModelledNetwork
from gossipnode.simulation.wires import Wires
from gossipnode.simulation.world import SimulatedStore, SimulatedWorld, address_of
from gossipnode.wire.message import Message

T = TypeVar("T")


class SimulationError(AssertionError):
    """An invariant broke in a simulation; the text tells seed, time and how to replay it."""


class SimulatedSwarm:
    """Nodes ``n0``, ``n1``, … (or ``names``) that run ``config`` in virtual time.

    ``seed`` decides network and faults (the model and the data have ``config.swarm.seed``);
    ``step_s`` is what a local step takes; ``learners`` replace what the config describes, one a
    node. ``stores`` gives each node a simulated disk. ``replay`` is the command to print when an
    invariant breaks. Use it as a context: entering starts the nodes.
    """

    def __init__(
        self,
        config: Config,
        nodes: int = 8,
        *,
        names: Sequence[str] = (),
        seed: int = 0,
        link: Link | None = None,
        step_s: float = 0.0,
        learners: Sequence[Learner] | None = None,
        stores: bool = False,
        replay: str = "",
    ) -> None:
        self.config, self.seed, self.replay = config, seed, replay
        self.names = tuple(names) or tuple(f"n{i}" for i in range(nodes))
        self.network = ModelledNetwork(link or Link(), seed)
        self.nodes: dict[str, Node] = {}
        self.worlds: dict[str, SimulatedWorld] = {}
        self.down: set[str] = set()
        self.step_s = step_s
        self._stores = (
            {name: SimulatedStore(config.checkpoint.keep) for name in self.names} if stores else {}
        )
        self._learners = dict(zip(self.names, learners, strict=True)) if learners else {}
        self.wires = Wires(self, self.network)
        self._peers = Directory(
            [PeerEntry(id=name, address=address_of(name)) for name in self.names]
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._merged: dict[str, set[tuple[str, int, int]]] = {name: set() for name in self.names}
        self._fault: BaseException | None = None
        self._loop = VirtualLoop()

    def __enter__(self) -> Self:
        for name in self.names:
            self._create(name)
        for name in self.names:
            self._complete(self.nodes[name].start())
        for name in self.names:
            self._launch(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.check()
        finally:
            self._close()

    # -- time -----------------------------------------------------------------------------------

    @property
    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._loop.time()

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self._complete(asyncio.sleep(seconds))
        self._raise_faults()

    def run_until(self, condition: Callable[[], bool], within: float, every: float = 0.0) -> None:
        """Let time pass until ``condition`` holds; fails when it does not ``within`` seconds.

        It is looked at every ``every`` seconds, by default a thousand times.
        """
        deadline = self.time + within
        while not condition():
            self.expect(self.time < deadline, f"the condition did not hold within {within:g} s")
            self.run(min(every or within / 1000, deadline - self.time))

    def run_to_end(self, within: float = 1e9) -> None:
        """Run until every node that is up has used up its budget."""
        running = [task for name, task in self._tasks.items() if name not in self.down]
        _, pending = self._complete(asyncio.wait(running, timeout=within))
        self._raise_faults()
        self.expect(not pending, f"{len(pending)} nodes did not finish within {within:g} s")

    # -- faults ---------------------------------------------------------------------------------

    def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Cut every wire between two groups, both ways."""
        one, other = tuple(one), tuple(other)
        self.network.cut(one, other)
        self.network.cut(other, one)

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Cut the wires in one direction only."""
        self.network.cut(senders, receivers)

    def heal(self) -> None:
        """Mend every wire."""
        self.network.heal()

    def kill(self, name: str) -> None:
        """End a node as SIGKILL and a power cut do: what was not synced is lost."""
        self.network.fired["kill"] += 1
        self.down.add(name)
        task = self._tasks.pop(name)
        task.cancel()
        self._complete(asyncio.wait([task]))
        if name in self._stores:
            self._stores[name].crash()
        # What was not synced is forgotten, merges included: the next life may merge it again.
        self._merged[name].clear()

    def restart(self, name: str) -> Node:
        """Start a killed node again, from what its disk holds."""
        self.network.fired["restart"] += 1
        assert name in self.down
        node = self._create(name)
        self._complete(node.start())
        self.down.discard(name)
        self._launch(name)
        return node

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does: it neither trains nor answers."""
        self.network.fired["pause"] += 1
        self.worlds[name].running.clear()

    def resume(self, name: str) -> None:
        """Let a paused process go on."""
        self.worlds[name].running.set()

    def slow_down(self, name: str, factor: float) -> None:
        """Make a node's local steps take ``factor`` times as long."""
        self.network.fired["slow"] += 1
        self.worlds[name].step_s = self.step_s * factor

    def skew_clock(self, name: str, seconds: float) -> None:
        """Put a node's clock on the wall off by ``seconds``."""
        self.network.fired["skew"] += 1
        self.worlds[name].clock_skew_s = seconds

    # -- looking --------------------------------------------------------------------------------

    @property
    def up(self) -> list[Node]:
        """The nodes that are not down, in order."""
        return [node for name, node in self.nodes.items() if name not in self.down]

    def models(self) -> NDArray[Any]:
        """Return X: the params of the nodes that are up, as rows."""
        return np.stack([node.params for node in self.up])

    def total(self) -> NDArray[np.float64]:
        """Return Σx over the nodes that are up, in float64."""
        return np.asarray(self.models().astype(np.float64).sum(axis=0))

    def consensus_distance(self) -> float:
        """Return sqrt(1/n Σ‖x_i − x̄‖²) of the nodes that are up."""
        return consensus_distance([node.params for node in self.up])

    @property
    def trace_hash(self) -> str:
        """A digest of everything delivered so far: who, whom, when, what, and the outcome."""
        return self.wires.trace_hash

    @property
    def frames(self) -> Counter[str]:
        """Frames delivered so far, by sender."""
        return self.wires.frames

    @property
    def outcomes(self) -> Counter[str]:
        """What became of the frames delivered so far, refusals by their code."""
        return self.wires.outcomes

    def expect(self, holds: bool, what: str) -> None:
        """Raise ``SimulationError`` with all that a replay needs unless ``holds``."""
        if not holds:
            replay = f"; replay: {self.replay}" if self.replay else ""
            raise SimulationError(f"seed {self.seed}, t = {self.time:.6f} s: {what}{replay}")

    def expect_consensus_below(self, bound: float) -> None:
        """Expect the models to be closer to their mean than ``bound``."""
        distance = self.consensus_distance()
        self.expect(distance < bound, f"consensus distance {distance:g}, not below {bound:g}")

    def expect_progress(self, seconds: float) -> None:
        """Let ``seconds`` pass, and expect every node that is up to close a round meanwhile."""
        before = {node.id: node.round for node in self.up}
        self.run(seconds)
        still = [n for n, k in before.items() if self.nodes[n].round <= k and n not in self.down]
        self.expect(not still, f"no round closed in {seconds:g} s by {', '.join(still)}")

    def check(self) -> None:
        """Check what must hold at any time: finite params in schema, nothing reserved for ever."""
        for node in self.up:
            node.layout.check(node.params)
            self.expect(all_finite(node.params), f"{node.id} has params that are not finite")
            self.expect(not node.params.flags.writeable, f"{node.id} has params one may write to")
            arriving = node.inbox.inflight_bytes
            self.expect(arriving == 0, f"{node.id} still holds {arriving} bytes for bodies")

    # -- deliveries ------------------------------------------------------------------------------

    def delivered(self, receiver: str, message: Message, outcome: str) -> None:
        """Check a delivery that the wires have just made; they hand in what came of it."""
        if outcome in ("merged", "buffered", "late"):
            identity = (message.sender, message.epoch, message.seq)
            twice = identity in self._merged[receiver]
            self._merged[receiver].add(identity)
            if twice and self._fault is None:
                self._fault = AssertionError(f"{receiver} merged {identity} twice")

    # -- life -----------------------------------------------------------------------------------

    def _create(self, name: str) -> Node:
        named = self.config.node.model_copy(update={"id": name})
        world = SimulatedWorld(self, name, self._stores.get(name))
        world.step_s = self.step_s
        node = Node(
            self.config.model_copy(update={"node": named}),
            world=world,
            peers=self._peers,
            learner=self._learners.get(name),
        )
        node.address = address_of(name)
        self.nodes[name], self.worlds[name] = node, world
        return node

    def _launch(self, name: str) -> None:
        self._tasks[name] = self._loop.create_task(self.nodes[name].run(), name=name)

    def _complete(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def _raise_faults(self) -> None:
        if self._fault is not None:
            self.expect(False, str(self._fault))
        for name, task in self._tasks.items():
            if task.done() and not task.cancelled() and task.exception() is not None:
                error = task.exception()
                if isinstance(error, GossipNodeError):
                    raise error
                raise SimulationError(f"seed {self.seed}, t = {self.time:.6f} s: {name}") from error

    def _close(self) -> None:
        tasks = [*self._tasks.values(), *self.wires.echoes]
        for task in tasks:
            task.cancel()
        if tasks:
            self._complete(asyncio.wait(tasks))
        self._loop.close()
