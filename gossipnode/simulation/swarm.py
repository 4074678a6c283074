"""A swarm in virtual time, and the verbs of a scenario.

Reads aloud::

    with SimulatedSwarm(config, nodes=3, seed=1) as swarm:
        swarm.run(60)
        swarm.partition(["n0"], ["n1", "n2"])
        swarm.run(60)
        swarm.heal()
        swarm.run(60)
        swarm.expect_consensus_below(1e-3)

Invariant: what runs is the node, and the same arguments give the same trace hash. After every
delivery and at the end the checkers look (``simulation.checkers``); what they find is raised with
seed, time and the command that replays it. Faults are counted by name (``simulation.faults``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossipnode.config import Config, PeerEntry
from gossipnode.errors import GossipNodeError
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import consensus_distance
from gossipnode.node.directory import Directory
from gossipnode.node.node import Node
from gossipnode.simulation.checkers import Checkers, Total
from gossipnode.simulation.delivery import ObjectEncoder
from gossipnode.simulation.faults import Fired
from gossipnode.simulation.loop import StuckError, VirtualLoop, rare_collections
from gossipnode.simulation.network import Link, ModelledNetwork
from gossipnode.simulation.verbs import FaultVerbs
from gossipnode.simulation.wires import Wires
from gossipnode.simulation.world import SimulatedStore, SimulatedWorld, address_of
from gossipnode.wire.message import Message

T = TypeVar("T")

# In so large a swarm a node meets few others twice, and remembers no more of them than it needs:
# of senders, those of the time in which a push may be repeated.
CROWD = 1000
REMEMBERED_IN_A_CROWD = {"peers_kept": 8, "senders_max": 32}


class SimulationError(AssertionError):
    """An invariant broke in a simulation; the text tells seed, time and how to replay it."""


class SimulatedSwarm(FaultVerbs):
    """Nodes ``n0``, ``n1``, … (or ``names``) that run ``config`` in virtual time.

    ``seed`` decides network and faults (the model and the data have ``config.swarm.seed``);
    ``step_s`` is what a local step takes; ``learners`` replace what the config describes, one a
    node. ``stores`` gives each node a simulated disk. Those of ``late`` wait for ``start_late``.
    ``objects`` passes messages without making bytes: the same trace, faster. With ``membership``
    nodes ask each other who is there, as the config has it; with ``seeds`` too, names of
    some, none has a list, and each begins with knowing those. ``replay`` is the command to print
    when an invariant breaks. Use it as a context: entering starts the nodes.
    """

    # Where none is given. Whoever runs many swarms by one command, as a test does, sets it here.
    replay_default: ClassVar[str] = ""

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
        objects: bool = False,
        late: Iterable[str] = (),
        replay: str = "",
        membership: bool = False,
        seeds: Sequence[str] = (),
    ) -> None:
        self.config, self.seed, self.replay = config, seed, replay or self.replay_default
        self.names = tuple(names) or tuple(f"n{i}" for i in range(nodes))
        self.network = ModelledNetwork(link or Link(), seed)
        self.network.fired = Fired()
        self.nodes: dict[str, Node] = {}
        self.worlds: dict[str, SimulatedWorld] = {}
        self.down: set[str] = set(late)
        self.step_s, self.membership, self.seeds = step_s, membership, tuple(seeds)
        self._stores = (
            {name: SimulatedStore(config.checkpoint.keep) for name in self.names} if stores else {}
        )
        self._encode = ObjectEncoder() if objects else None
        self._learners = dict(zip(self.names, learners, strict=True)) if learners else {}
        self._loop = VirtualLoop()
        self.wires = Wires(self, self.network, self._loop)
        self._peers = Directory(
            [PeerEntry(id=name, address=address_of(name)) for name in self.names]
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._checkers = Checkers(config, self.names)
        self._fault: tuple[float, str] | None = None

    def __enter__(self) -> Self:
        for name in self.names:
            self._create(name)
        for name in self._names_up():
            self._complete(self.nodes[name].start())
        self._checkers.begin(self.up)
        for name in self._names_up():
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

    # -- looking --------------------------------------------------------------------------------

    @property
    def up(self) -> list[Node]:
        """The nodes that are not down, in order."""
        return [self.nodes[name] for name in self._names_up()]

    def models(self) -> NDArray[Any]:
        """Return X: the params of the nodes that are up, as rows."""
        return np.stack([node.params for node in self.up])

    def total(self) -> NDArray[np.float64]:
        """Return Σx over the nodes that are up, in float64."""
        return Total.of(self.up).sum

    def consensus_distance(self) -> float:
        """Return sqrt(1/n Σ‖x_i − x̄‖²) of the nodes that are up."""
        return consensus_distance([node.params for node in self.up])

    @property
    def trace_hash(self) -> str:
        """A digest of everything delivered so far: who, whom, when, what, and the outcome."""
        return self.wires.trace_hash

    @property
    def frames(self) -> Counter[str]:
        """Pushes delivered so far, by sender."""
        return self.wires.frames

    @property
    def outcomes(self) -> Counter[str]:
        """What became of the frames delivered so far, refusals by their code."""
        return self.wires.outcomes

    def expect(self, holds: bool, what: str) -> None:
        """Raise ``SimulationError`` with all that a replay needs unless ``holds``."""
        if not holds:
            raise SimulationError(self._told(self.time, what))

    def _told(self, instant: float, what: str) -> str:
        replay = f"; replay: {self.replay}" if self.replay else ""
        return f"seed {self.seed}, t = {instant:.6f} s: {what}{replay}"

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

    def expect_total_preserved(self, tolerance: float | None = None) -> None:
        """Expect Σx to be what it was at the beginning, in each coordinate to ``tolerance``.

        By default to what rounding can have done. Fails also where the algorithm promises no
        such thing, or not at this moment: when a round or an exchange is under way.
        """
        reason = self._why_total_may_move()
        self.expect(not reason, f"Σx need not be preserved: {reason}")
        if tolerance is None:
            tolerance = self._checkers.rounding(self.up, sum(self.frames.values()))
        moved = self._checkers.total_moved(self.up)
        self.expect(moved <= tolerance, f"Σx moved by {moved:g}, more than {tolerance:g}")

    def check(self) -> None:
        """Check all that must hold of the nodes that are up; see ``simulation.checkers``.

        With ``training.local_steps`` 0, so that nothing is learnt, Σx too, where the algorithm
        promises that it stays.
        """
        self._raise_faults()
        for node in self.up:
            for fault in self._checkers.at_rest(node, self.worlds[node.id], self.time):
                self.expect(False, fault)
        if not self.config.training.local_steps and not self._why_total_may_move():
            self.expect_total_preserved()

    def _why_total_may_move(self) -> str:
        if self.down or self.network.fired["kill"] or self.network.fired["stop"]:
            return "a node was down"
        return self._checkers.why_total_may_move(self.up)

    # -- deliveries ------------------------------------------------------------------------------

    def delivered(self, receiver: str, message: Message, outcome: str) -> None:
        """Check a delivery that the wires have just made; they hand in what came of it."""
        if message.control is not None:
            return  # nothing to merge
        fault, overtaken = self._checkers.delivered(
            self.nodes[receiver], message, outcome, look=self._encode is None
        )
        if overtaken:
            self.network.fired["overtaken"] += 1
        if fault and self._fault is None:
            self._fault = self.time, fault

    # -- life -----------------------------------------------------------------------------------

    def _names_up(self) -> list[str]:
        return [name for name in self.names if name not in self.down]

    def _create(self, name: str) -> Node:
        # The machine outlives the process: its speed, its clock and its disk stay what they were.
        world = self.worlds.get(name)
        if world is None:
            world = SimulatedWorld(self, name, self._stores.get(name))
            world.step_s = self.step_s
        node = Node(
            self.config,
            world=world,
            peers=() if self.seeds else self._peers,
            learner=self._learners.get(name),
            node_id=name,
            membership=self.membership,
            **(REMEMBERED_IN_A_CROWD if len(self.names) >= CROWD else {}),
        )
        node.address = address_of(name)
        node.memory.on_snapshot = partial(self._remember_merges, name)
        if self._encode is not None:
            node.passive.encode = self._encode
        self.nodes[name], self.worlds[name] = node, world
        return node

    def _remember_merges(self, name: str) -> None:
        """A snapshot of a node was taken: with it, the disk will know what was merged by now."""
        self._stores[name].note = self._checkers.merges.of(name)

    def _start(self, node: Node) -> Node:
        self._complete(node.start())
        self.down.discard(node.id)
        self._launch(node.id)
        return node

    def _launch(self, name: str) -> None:
        self._tasks[name] = self._loop.create_task(self.nodes[name].run(), name=name)

    def _complete(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            with rare_collections():
                return self._loop.run_until_complete(work)
        except StuckError as error:
            raise SimulationError(self._told(self.time, str(error))) from error

    def _raise_faults(self) -> None:
        if self._fault is not None:
            raise SimulationError(self._told(*self._fault))
        for name, task in self._tasks.items():
            if task.done() and not task.cancelled() and task.exception() is not None:
                error = task.exception()
                if isinstance(error, GossipNodeError):
                    error.add_note(self._told(self.time, f"{name} ended"))
                    raise error
                raise SimulationError(self._told(self.time, f"{name}: {error!r}")) from error

    def _close(self) -> None:
        tasks = [*self._tasks.values(), *self.wires.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            self._complete(asyncio.wait(tasks))
        self._loop.close()
