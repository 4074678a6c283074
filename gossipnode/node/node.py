"""The node: its life, with an active side (``active``) and a passive side (``passive``).

created → starting → ready → running (→ finished) → draining → stopped, or failed.

Invariant: this file knows no socket, thread or file. Time is the running loop's, the rest comes
from its ``World``, so that the same node runs in the daemon and in virtual time. Constructors do
nothing; ``start``, ``run``, ``drain`` and ``stop`` do, in that order, and stopping twice is
harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gossipnode.algorithms import build_algorithm
from gossipnode.algorithms.base import Vector
from gossipnode.codecs import build_codec
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import PeerError, TrainingError
from gossipnode.learning.learner import Learner, TrainResult
from gossipnode.logs import event
from gossipnode.node.active import ActiveSide, finish
from gossipnode.node.contents import bound_by
from gossipnode.node.counters import Counters
from gossipnode.node.courier import Courier
from gossipnode.node.directory import Directory
from gossipnode.node.inbox import SENDERS_MAX, Admission, Inbox
from gossipnode.node.learners import check_learner, learner_for
from gossipnode.node.measuring import Measurements
from gossipnode.node.memory import Memory
from gossipnode.node.passive import Delivery, PassiveSide
from gossipnode.node.peers import PEERS_KEPT, PeerTable
from gossipnode.node.place import Place, find_place
from gossipnode.node.replica import Replica
from gossipnode.node.report import (
    build_peer_page,
    build_shared_config,
    build_status,
    model_facts,
)
from gossipnode.node.status import PeerPage, Status
from gossipnode.node.world import World
from gossipnode.wire.message import Message
from gossipnode.wire.reply import Reply

if TYPE_CHECKING:
    from gossipnode.node.membership.membership import Membership

log = logging.getLogger("gossipnode.node")

# Streams of random numbers, apart so that one more draw here changes nothing there.
STREAM_ALGORITHM, STREAM_SAMPLER, STREAM_BACKOFF = 1, 2, 3
ROUND_TIMES_KEPT = 32


class Node(ActiveSide):
    """One node of the swarm. See the module's text for its life.

    ``peers`` lists all nodes, this one included where it has a fixed place. ``learner`` defaults
    to the one that the config describes, ``node_id`` to the config's. Of at most ``peers_kept``
    peers more is remembered than the peer list says, and of ``senders_max`` what was merged from
    them, unless they are neighbours. ``address`` is where peers dial this node; whoever owns
    the network sets it before ``start``. ``on_measurement`` gets each history row. ``membership``
    says whether it finds out who is there; by default the config does.
    """

    def __init__(
        self,
        config: Config,
        *,
        world: World,
        peers: Sequence[PeerEntry] = (),
        learner: Learner | None = None,
        node_id: str = "",
        peers_kept: int = PEERS_KEPT,
        senders_max: int = SENDERS_MAX,
        membership: bool | None = None,
    ) -> None:
        self.config, self.world, self.directory = config, world, Directory.of(peers)
        self.place: Place = find_place(config, self.directory, node_id)
        self.id = self.place.id
        self.algorithm = build_algorithm(config)
        self.counters = Counters()
        self.senders_max = SENDERS_MAX if self.algorithm.needs_graph else senders_max
        self.peers = PeerTable(
            config.network.peers_max,
            self.directory,
            self.id,
            None if self.algorithm.needs_graph else peers_kept,
        )
        self.measurements = Measurements(self)
        self.passive = PassiveSide(self)
        self.memory = Memory(self)
        self.membership: Membership | None = None
        wanted = config.membership.probes or config.membership.shuffle_period_s > 0
        on = wanted if membership is None else membership
        self._has_membership = on and (len(self.peers) > 0 or not self.algorithm.needs_graph)
        self.address: str | None = None
        self.on_measurement: Callable[[dict[str, Any]], None] | None = None
        self.state, self.reason, self.round = "created", "", 0
        self.epoch = self.seq = self.durable_age = 0
        self.checkpoint_error = ""
        # Times of day, in seconds since 1970; and of the loop.
        self.started_at = self.since = 0.0
        self.life_began = self.run_began = self._round_began = 0.0
        self.has_started = self.in_step = self.is_active = False
        self.last_training: TrainResult | None = None
        self.round_times: deque[float] = deque(maxlen=ROUND_TIMES_KEPT)
        self._given_learner = learner
        self._asked_to_stop = self._enough = False
        self._waiting: set[asyncio.Event | asyncio.Future[None]] = set()

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load data and checkpoint, then be ready. Raises ``ConfigError``, ``DataError``, …"""
        self.time = asyncio.get_running_loop().time
        self.started_at, self.life_began = self.world.wall_time(), self.time()
        self._set_state("starting")
        try:
            await self._prepare()
        except Exception as error:
            self.fail(error)
            raise
        self.has_started = True
        self._set_state("ready")
        event(
            log,
            logging.INFO,
            "node.ready",
            id=self.id,
            address=self.address,
            round=self.round,
            age=self.age,
            params=self.layout.size,
            peers=len(self.peers),
        )

    async def _prepare(self) -> None:
        """Build what needs the data: learner, inbox, courier; then recall the checkpoint."""
        self.learner: Learner = (
            self._given_learner
            if self._given_learner is not None
            else await self.world.work(learner_for, self.config, self.place)
        )
        check_learner(self.learner, self.config)
        self.layout = self.learner.layout
        self.codec = build_codec(self.config.codec, self.layout.tensors)
        seed = [self.config.swarm.seed, self.place.index]
        self._rng = np.random.default_rng([*seed, STREAM_ALGORITHM])
        self.sampler_rng = np.random.default_rng([*seed, STREAM_SAMPLER])
        self.restore_params(self.learner.initial_params(self.config.swarm.seed), 0)
        self.inbox = Inbox(
            swarm=self.config.swarm.name,
            node_id=self.id,
            layout=self.layout,
            algorithm=self.algorithm,
            graph=self.place.graph,
            senders=self._senders(),
            inflight_bytes_max=self.config.network.inflight_bytes_max,
            senders_max=self.senders_max,
            bound=bound_by(self.config.network.magnitude_ratio_max, lambda: self.params),
        )
        self.courier = Courier(
            world=self.world,
            peers=self.peers,
            counters=self.counters,
            rng=lambda: np.random.default_rng([*seed, STREAM_BACKOFF]),
            timeout_s=self.config.network.push_timeout_s,
            insist=self.algorithm.needs_graph,
            on_change=lambda peer: self.algorithm.peer_changed(self, peer),
            on_exchange=self.passive.exchanged,
            on_refusal=lambda peer, code: self.algorithm.refused(self, peer, code),
            room={} if self.algorithm.cumulative else self.place.room,
            room_least=self.algorithm.room,
            timed=self.codec is not None and self.codec.adapts,
        )
        if self._has_membership:  # imported here: who has no peers does without
            from gossipnode.node.membership.membership import build_membership

            self.membership = build_membership(self)
        await self.memory.recall()

    def _senders(self) -> Collection[str] | None:
        """Return who may send here; None: anybody."""
        if not self.algorithm.needs_graph:
            return None
        return self.directory.number if self.algorithm.talks_to_all else self.place.senders

    def fail(self, error: Exception) -> None:
        """Say that ``error`` keeps the node from running: nothing of this life is kept."""
        self._set_state("failed", str(error))

    async def run(self) -> None:
        """Be active until the budget is used up (then linger, if so configured) or stopped.

        Raises ``TrainingError`` when the model diverges.
        """
        self.run_began = self._round_began = self.time()
        self._set_state("running")
        timer = None
        if self.config.run.duration_s:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(self.config.run.duration_s, self._end_active_side)
        if not self.budget_left:
            hint = "nothing left to run: raise run.rounds, or begin anew with --fresh"
            event(log, logging.WARNING, "run.over", id=self.id, round=self.round, hint=hint)
        try:
            async with asyncio.TaskGroup() as self.tasks:
                self.is_active = True
                if self.membership is not None:
                    self.membership.begin(self.tasks)
                await self.measure()
                self.algorithm.begin(self)
                if self.algorithm.keeps_first and not self.memory.recalled:
                    await self.memory.keep()
                await self.algorithm.run(self)
                last = self.measurements.last
                if last is None or last["round"] != self.round:
                    await self.measure()
                await self.courier.flush(self.config.run.drain_deadline_s)
                if self.config.run.linger and not self._asked_to_stop:
                    await self.memory.keep()
                    self._set_state("finished")
                    await self._linger()
                self.is_active = False
                if self.membership is not None:
                    self.membership.end()
        except BaseExceptionGroup as group:
            error = _single(group)
            if isinstance(error, PeerError):  # mixing overflowed: nobody's message is to blame
                error = TrainingError(f"mixing diverged in round {self.round}: {error.reason}")
            self._set_state("failed", str(error))
            raise error from None
        finally:
            self.is_active = False
            self.courier.close()
            if timer is not None:
                timer.cancel()

    def request_stop(self) -> None:
        """Ask the node to finish what it does; ``run`` returns soon."""
        self._asked_to_stop = True
        self._end_active_side()

    def _end_active_side(self) -> None:
        self._enough = True
        for waiting in self._waiting:
            if isinstance(waiting, asyncio.Event):
                waiting.set()
            else:
                finish(waiting)

    async def _linger(self) -> None:
        """Serve until asked to stop; what is merged meanwhile is kept like all before."""
        while not self._asked_to_stop:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.memory.look_every_s):
                    await self._until_woken()
            if not self._asked_to_stop:  # then all is kept anyway
                self.memory.keep_news_if_due()

    async def _until_woken(self) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        try:
            await woken
        finally:
            self._waiting.discard(woken)

    async def drain(self) -> None:
        """Refuse new pushes (503 draining), and tell those who watch this node."""
        if self.has_started:
            self.inbox.draining = True
        if self.state not in ("stopped", "failed"):
            self._set_state("draining")
        if self.membership is not None:
            await self.membership.leave()

    async def stop(self) -> None:
        """Write the last checkpoint; harmless twice."""
        self.request_stop()
        if self.state == "stopped":
            return
        if self.has_started:
            # What failed or was cut in a step is not consistent: the last one that is stays.
            torn = self.state == "failed" or self.in_step
            if torn:
                event(log, logging.WARNING, "checkpoint.skipped", id=self.id, age=self.durable_age)
            await (self.memory.settle() if torn else self.memory.keep())
            if self.membership is not None and self.membership.book is not None:
                await self.membership.book.keep()
        if self.state != "failed":
            self._set_state("stopped")

    @property
    def ready(self) -> bool:
        """Whether pushes are welcome."""
        return self.state in ("ready", "running", "finished")

    def restore_params(self, params: Vector, age: int) -> None:
        """Set the params that this life begins with."""
        assert not self.has_started
        self.replica = Replica(params, age, self.compute)

    def _set_state(self, state: str, reason: str = "") -> None:
        self.state, self.reason, self.since = state, reason, self.world.wall_time()
        level = logging.ERROR if state == "failed" else logging.INFO
        if state != "ready":  # told by start, with more to it
            event(log, level, f"node.{state}", id=self.id, **({"reason": reason} if reason else {}))
        self.measurements.publish({"event": "state", "state": state, "round": self.round})

    # -- passive side (what the network calls) ----------------------------------------------------

    def admit(self, message: Message) -> Admission:
        """Let a body come after seeing its header, or raise ``PeerError``."""
        return self.passive.admit(message)

    def release(self, admission: Admission) -> None:
        """Say that the body will not come."""
        self.inbox.release(admission)

    async def deliver(self, admission: Admission, body: memoryview | Sequence[Vector]) -> Delivery:
        """Merge an arrived body; owns ``body`` (writable) from now on. Raises ``PeerError``."""
        return await self.passive.deliver(admission, body)

    def refuse(self, error: PeerError, sender: str | None) -> Reply:
        """Count and log a refusal, and return what to answer."""
        return self.passive.refuse(error, sender)

    def meet(self, peers: Iterable[PeerEntry]) -> None:
        """Take in peers that somebody told of, as many as there is room for."""
        shuffle = None if self.membership is None else self.membership.shuffle
        for entry in peers:
            if shuffle is not None:
                shuffle.meet(entry.id, entry.address, hearsay=True)
            elif entry.id not in self.peers:
                self.peers.add(entry.id, entry.address)

    # -- what others see --------------------------------------------------------------------------

    def history(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the measurements of rounds ≥ ``since``."""
        return self.measurements.rows(since)

    def subscribe(self) -> asyncio.Queue[dict[str, Any]]:
        """Return a queue of events; a reader that falls behind by its size misses some."""
        return self.measurements.subscribe()

    def unsubscribe(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """Stop the events."""
        self.measurements.unsubscribe(queue)

    def status(self) -> Status:
        """Return the status of this moment."""
        return build_status(self)

    def peer_page(self, after: str, limit: int) -> PeerPage:
        """Return at most ``limit`` >= 1 peers of the list behind ``after``, "" for the first.

        Raises ``KeyError`` where ``after`` is no peer.
        """
        return build_peer_page(self, after, limit)

    def model(self) -> bytes:
        """Return the current params as a safetensors file; blocks for the time of a copy."""
        # Here, not above: safetensors costs 1 MB that an idle node need not hold.
        from gossipnode.learning.modelfile import model_bytes

        return model_bytes(self.params, self.layout, model_facts(self))

    def shared_config(self) -> dict[str, Any]:
        """Return what a joining node adopts: the options that all nodes share, and the peers."""
        return build_shared_config(self)


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error inside nested groups, or the group where there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
