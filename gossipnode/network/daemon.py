"""The node in the real world: HTTP, two threads, files, signals, systemd.

Invariant: the loop never trains, merges a large model or touches the disk; a trainer thread and
a worker thread do. Stopping has one order (refuse pushes, finish the step and the sends, last
checkpoint, close) and one absolute deadline; asking twice is harmless, a second signal forces.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import load_peers
from gossipnode.errors import (
    ConfigError,
    DataError,
    NetworkError,
    StorageError,
    TrainingError,
)
from gossipnode.learning.learner import Learner
from gossipnode.logs import event
from gossipnode.network.gate import allow_descriptors
from gossipnode.network.lag import LoopLag
from gossipnode.network.lanes import Lanes
from gossipnode.network.server import Server, bind, require_loopback
from gossipnode.network.systemd import Notifier
from gossipnode.network.world import NO_TLS, DaemonWorld
from gossipnode.node.addresses import Reach
from gossipnode.node.node import Node
from gossipnode.node.report import iso
from gossipnode.node.status import Status, TransferStatus

if TYPE_CHECKING:
    from gossipnode.network.trust.trust import Trust
    from gossipnode.network.trust.vigil import Vigil

log = logging.getLogger("gossipnode.network.daemon")

# What closing connections and threads may take after the deadline.
CLOSE_S = 2.0
# What the last checkpoint may take: 1 GB at 100 MB/s.
CHECKPOINT_S = 10.0


class ExitCode(IntEnum):
    """What a ``gossipnode`` process ends with."""

    OK = 0
    UNEXPECTED = 1
    CONFIG = 2
    NETWORK = 3
    STORAGE = 4
    DIVERGED = 5
    FORCED = 130


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that stands for ``error``.

    >>> exit_code(NetworkError("the port is in use")).name
    'NETWORK'
    """
    for kind, code in (
        ((ConfigError, DataError), ExitCode.CONFIG),
        ((NetworkError,), ExitCode.NETWORK),
        ((StorageError,), ExitCode.STORAGE),
        ((TrainingError,), ExitCode.DIVERGED),
    ):
        if isinstance(error, kind):
            return code
    return ExitCode.UNEXPECTED


class HttpNode(Node):
    """A node that listens and dials: ``async with HttpNode(config) as node: await node.run()``.

    ``peers`` defaults to the file that the config names; ``listener`` is a bound socket to use
    in place of ``network.bind`` and ``network.port``. ``tls`` is what to serve and what to dial
    with, in this order: then everything is TLS, and addresses begin with ``https``. ``trust``, by
    default that of the config's bundle, brings contexts of its own, and ids that are proved; then
    ``status_listener`` is bound for the plain pages. Making one with a bundle reads it. Entering
    raises ``ConfigError``, ``DataError``, ``NetworkError`` or ``StorageError``.
    """

    def __init__(
        self,
        config: Config,
        *,
        peers: Sequence[PeerEntry] | None = None,
        learner: Learner | None = None,
        listener: socket.socket | None = None,
        tls: tuple[SSLContext, SSLContext] | None = None,
        trust: Trust | None = None,
        status_listener: socket.socket | None = None,
    ) -> None:
        if peers is None:
            peers = load_peers(config.swarm.peers) if config.swarm.peers else ()
        if config.trust.bundle or trust is not None:
            from gossipnode.network.trust.trust import settle, trust_of

            trust = trust if trust is not None else trust_of(config)
            config, peers = settle(config, peers, trust.bundle)
            tls = trust.serving, trust.dialling
        serving, dialling = tls if tls is not None else (None, None)
        self.trust = trust
        self._daemon = DaemonWorld(dialling, trust)
        super().__init__(config, world=self._daemon, peers=peers, learner=learner)
        self.url = self.status_url = ""
        self._listener, self._status_listener = listener, status_listener
        if trust is not None:
            from gossipnode.network.trusted import id_at

            self._daemon.meant = partial(id_at, self)
        lanes = Lanes(self, dialling, trust, self._daemon.meant) if config.network.lanes else None
        self.lanes = self._daemon.lanes = lanes
        self.loop_lag = LoopLag()
        self._server = Server(self, self.lanes, self.loop_lag, serving)
        self._pages = Server(self, lag=self.loop_lag, for_peers=False) if trust else None
        self._vigil: Vigil | None = None
        self._deadline: float | None = None
        self._timer: asyncio.Timeout | None = None

    async def __aenter__(self) -> Self:
        try:
            self._require_tls()
            options, is_secure = self.config.network, self.trust is not None
            listener = self._listener or await bind(options, is_secure=is_secure)
            # Kept until the server has it, so that whatever fails before closes it.
            self._listener = listener
            host = str(listener.getsockname()[0])
            require_loopback(host, insecure=options.insecure or is_secure)
            self.url = self.status_url = self._server.origin_of(listener)
            self.address = self._advertised(host)
            self._daemon.reach = Reach(self.directory, self.address)
            if self.lanes is not None:
                self.lanes.reach = self._daemon.reach
            if self.trust is not None:
                await self._show_pages()
                self._begin_vigil(self.trust)
            await self._server.start(listener)
            self._listener = None
            await self._daemon.open(self.config, self.id)
            await self.start()
            self.loop_lag.start()
            if self._vigil is not None:
                self._vigil.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.request_stop()
        assert self._deadline is not None
        try:
            async with asyncio.timeout_at(self._deadline):
                await self.drain()
        except TimeoutError:
            event(log, logging.WARNING, "drain.cut", deadline_s=self.config.run.drain_deadline_s)
        try:
            # Beyond the deadline: a checkpoint takes a moment, and losing it costs the most.
            async with asyncio.timeout(CHECKPOINT_S):
                await self.stop()
        except TimeoutError:
            self.counters.add("checkpoint_failures")
            event(log, logging.ERROR, "checkpoint.cut", deadline_s=CHECKPOINT_S)
        finally:
            await self._close()

    async def run(self) -> None:
        """Be active until done or stopped; what a stop does not end by its deadline is cut."""
        timer = self._timer = asyncio.timeout_at(self._deadline)
        try:
            async with timer:
                await super().run()
        except TimeoutError:
            if not timer.expired():
                raise
            event(log, logging.WARNING, "run.cut", deadline_s=self.config.run.drain_deadline_s)
        finally:
            self._timer = None

    def request_stop(self) -> None:
        """Ask the node to stop; the deadline for all of it counts from the first time."""
        if self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + self.config.run.drain_deadline_s
            if self._timer is not None:
                self._timer.reschedule(self._deadline)
        super().request_stop()

    def status(self) -> Status:
        """Return the status of this moment, with what the network knows."""
        status = super().status()
        status.network.connections_refused = self.counters.by_label("connections_refused")
        if self.trust is not None:
            status.name = self.trust.member.name
            status.network.certificate_ends = iso(self.trust.member.not_after.timestamp())
            status.network.revocations = self.trust.revocations.counter
        status.network.loop_lag_s_max = round(self.loop_lag.max_s, 6)
        if self.lanes is not None:
            status.network.lanes = len(self.lanes)
        status.network.transfers = self._transfers()
        return status

    def _transfers(self) -> list[TransferStatus]:
        """Return the long bodies under way, over lanes and by POST."""
        found = self.lanes.transfers() if self.lanes is not None else []
        found += self._server.transfers.status()
        posted = self._daemon.transfers()
        busy = self.courier.outbox.busy if posted else ()
        ids = {self.peers[peer_id].address: peer_id for peer_id in busy}
        for one in posted:  # pushes are addressed; people know peers by their ids
            one.peer = ids.get(one.peer, one.peer)
        return found + posted

    async def drain(self) -> None:
        """Refuse new pushes, and forget those that were cut off."""
        if self.lanes is not None:
            self.lanes.partials.close()
        await super().drain()

    @property
    def working(self) -> bool:
        """Whether a thread is at work, perhaps on something that nobody awaits any more."""
        return self._daemon.working

    async def _show_pages(self) -> None:
        """Open the second listener: plain, without anything that changes the node."""
        assert self._pages is not None
        listener = self._status_listener or await bind(self.config.network, is_status=True)
        self._status_listener = listener
        self.status_url = self._pages.origin_of(listener)
        await self._pages.start(listener)
        self._status_listener = None

    def _begin_vigil(self, trust: Trust) -> None:
        from gossipnode.network.trusted import vigil_for

        self._vigil = vigil_for(self, trust, self._daemon, self._server.cut)
        self._server.vigil = self._vigil
        if self._pages is not None:
            self._pages.vigil = self._vigil
        self._vigil.recall()

    async def _close(self) -> None:
        """Close the server, the client and the threads; harmless twice."""
        self.loop_lag.stop()
        for listener in (self._listener, self._status_listener):
            if listener is not None:
                listener.close()
        self._listener = self._status_listener = None
        if self._vigil is not None:
            await self._vigil.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._server.close()
                if self._pages is not None:
                    await self._pages.close()
        except TimeoutError:
            event(log, logging.WARNING, "close.cut", deadline_s=CLOSE_S)
        await self._daemon.close()

    def _require_tls(self) -> None:
        """Raise ``ConfigError`` where an address is https and this node has no TLS."""
        addresses = [entry.address for entry in self.directory]
        for address in (self.config.network.advertise, *addresses):
            if address.startswith("https:") and not self._daemon.is_secure:
                where = "swarm.peers" if address in addresses else "network.advertise"
                raise ConfigError(f"{address}: {NO_TLS}", key=where)

    def _advertised(self, host: str) -> str:
        """Return where peers dial this node; raises ``ConfigError`` where nobody said it."""
        listed = {entry.id: entry.address for entry in self.directory}
        address = self.config.network.advertise.rstrip("/") or listed.get(self.id)
        if address is None and host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            raise ConfigError(
                f"{host} is every address of this machine, and peers need one to dial",
                key="network.advertise",
                allowed="the URL under which peers reach this node, http://HOST:PORT, or https "
                "with a bundle",
            )
        return address or self.url


def serve(
    config: Config,
    *,
    peers: Sequence[PeerEntry] | None = None,
    listener: socket.socket | None = None,
    status_listener: socket.socket | None = None,
    on_ready: Callable[[HttpNode], None] | None = None,
    on_measurement: Callable[[dict[str, Any]], None] | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> ExitCode:
    """Run a node until it is done or signalled, and return the process's exit code.

    Blocks; call it in the main thread, with logging configured. SIGTERM and SIGINT stop it
    cleanly, a second one at once. ``on_ready`` gets the started node, ``on_measurement`` each
    history row; both run in the event loop. ``on_error`` gets what ended the node, if anything did.
    """
    allow_descriptors()
    code = ExitCode.OK
    node = None
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            node = HttpNode(config, peers=peers, listener=listener, status_listener=status_listener)
            node.on_measurement = on_measurement
            runner.run(_serve(node, on_ready))
    except Exception as error:
        code = exit_code(error)
        event(log, logging.ERROR, "node.error", reason=error, exit_code=int(code))
        if code is ExitCode.UNEXPECTED:
            log.exception("node.bug")
        if on_error is not None:
            on_error(error)
    if node is not None and node.working:
        # Python would wait at exit for a thread that the deadline has given up on.
        event(log, logging.WARNING, "work.abandoned", id=node.id)
        _exit(code)
    return code


async def _serve(node: HttpNode, on_ready: Callable[[HttpNode], None] | None) -> None:
    notifier = Notifier()
    handled = _handle_signals(node, notifier)
    watchdog = asyncio.create_task(_watchdog(node, notifier))
    try:
        async with node:
            notifier.ready(f"{node.id} at {node.url}")
            if on_ready is not None:
                on_ready(node)
            await node.run()
            notifier.stopping("writing the last checkpoint")
    finally:
        watchdog.cancel()
        for number in handled:
            asyncio.get_running_loop().remove_signal_handler(number)


def _handle_signals(node: HttpNode, notifier: Notifier) -> tuple[signal.Signals, ...]:
    """Install the handlers and return their signals; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    loop = asyncio.get_running_loop()
    asked: list[signal.Signals] = []

    def handle(number: signal.Signals) -> None:
        asked.append(number)
        if len(asked) > 1:
            event(log, logging.ERROR, "node.forced", id=node.id, signal=number.name)
            _exit(ExitCode.FORCED)
        event(log, logging.INFO, "node.asked_to_stop", id=node.id, signal=number.name)
        notifier.stopping(f"asked to stop by {number.name}")
        node.request_stop()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    return numbers


async def _watchdog(node: HttpNode, notifier: Notifier) -> None:
    """Give systemd signs of life; that this coroutine runs is the proof."""
    while notifier.watchdog_s is not None and node.state != "failed":
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_s)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one: it halves the cost of a small push."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _exit(code: ExitCode) -> None:
    """End the process at once, with the log written."""
    logging.shutdown()
    os._exit(code)
