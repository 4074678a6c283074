"""The node in the real world: HTTP, two threads, files.

Invariant: the loop never trains for long, merges a large model or touches the disk; a trainer
thread and a worker thread do. Stopping has one order (refuse pushes, finish the step and the sends,
last checkpoint, close) and one absolute deadline; asking twice is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import load_peers
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import Learner
from gossipnode.logs import event
from gossipnode.network.admin import Admin
from gossipnode.network.lag import LoopLag
from gossipnode.network.lanes import Lanes
from gossipnode.network.ports import bind, bind_pages, ports_beside, require_loopback
from gossipnode.network.server import Server
from gossipnode.network.sources import Sources
from gossipnode.network.tokens import kept_token, readers_token
from gossipnode.network.turns import Turns
from gossipnode.network.world import NO_TLS, DaemonWorld, data_folder
from gossipnode.node.addresses import Reach
from gossipnode.node.node import Node
from gossipnode.node.report import iso
from gossipnode.node.status import PeerPage, PeerStatus, Status, TransferStatus

if TYPE_CHECKING:
    from gossipnode.network.discovery import Lan
    from gossipnode.network.trust.trust import Trust
    from gossipnode.network.trust.vigil import Vigil

log = logging.getLogger("gossipnode.network.daemon")

# What closing connections and threads may take after the deadline.
CLOSE_S = 2.0
# What the last checkpoint may take: 1 GB at 100 MB/s.
CHECKPOINT_S = 10.0


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
        self.loop_lag, turns = LoopLag(), Turns()
        self._server = Server(self, self.lanes, self.loop_lag, serving, turns=turns)
        pages = partial(Server, self, lag=self.loop_lag, for_peers=False, turns=turns)
        self._pages = pages() if trust else None
        self._vigil: Vigil | None = None
        self._deadline: float | None = None
        self._timer: asyncio.Timeout | None = None
        self.lan: Lan | None = None  # the real one, where none is set before entering

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
            await self._hand_out_tokens()
            await self.start()
            self.loop_lag.start()
            if self._vigil is not None:
                self._vigil.start()
            if options.discover:
                await self._discover()
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

    @property
    def sources(self) -> Sources | None:
        """Where somebody is asked when this node knows nobody."""
        return self._daemon.sources

    @sources.setter
    def sources(self, sources: Sources) -> None:
        self._daemon.sources = sources

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
            status.network.pages = self.status_url
        status.network.loop_lag_s_max = round(self.loop_lag.max_s, 6)
        if self.lanes is not None:
            status.network.lanes = len(self.lanes)
        self._tell_lanes(status.peers)
        status.network.transfers = self._transfers()
        return status

    def peer_page(self, after: str, limit: int) -> PeerPage:
        """Return at most ``limit`` peers behind ``after``; see ``Node``."""
        page = super().peer_page(after, limit)
        self._tell_lanes(page.peers)
        return page

    def _tell_lanes(self, peers: list[PeerStatus]) -> None:
        """Fill in over whose lane each peer is pushed to."""
        for peer in peers:
            lane = None if self.lanes is None else self.lanes.to(peer.address)
            if lane is not None:
                peer.reached = "our lane" if lane.is_opener else "its lane"

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
        beside = ports_beside(self.address or "", self.directory)
        listener = self._status_listener or await bind_pages(self.config.network, beside)
        self._status_listener = listener
        self.status_url = self._pages.origin_of(listener)
        await self._pages.start(listener)
        self._status_listener = None

    async def _hand_out_tokens(self) -> None:
        """Read the tokens, or make the owner's; raises ``ConfigError`` and ``StorageError``."""
        shown = self._pages or self._server
        if self.config.checkpoint.enabled:
            folder = data_folder(self.config, self.id)
            token = await self._daemon.work(kept_token, folder)
            shown.admin = Admin(token, self.counters, self.request_stop, self.reload)
        shown.token = await self._daemon.work(readers_token, self.config)

    async def reload(self) -> dict[str, Any]:
        """Read bundle, revocations and the readers' token anew, and return what holds now.

        New handshakes show the new certificate; connections stay. Raises ``ConfigError`` where
        something cannot be used, and then nothing has changed but, perhaps, the revocations.
        """
        shown, trust = self._pages or self._server, self.trust
        token = await self._daemon.work(readers_token, self.config)
        if trust is not None:
            from gossipnode.network.trusted import meet_seeds, renewed

            await renewed(trust, self.config, self._daemon, self._vigil)
            self._server.renew(trust.serving)
            self._daemon.client.tls = trust.dialling
            if self.lanes is not None:
                self.lanes.tls = trust.dialling
            self._server.cut()
            meet_seeds(self, trust)
        shown.token = token
        told = self.status().network
        event(log, logging.INFO, "node.reloaded", certificate_ends=told.certificate_ends)
        return {"certificate_ends": told.certificate_ends, "revocations": told.revocations}

    def _begin_vigil(self, trust: Trust) -> None:
        from gossipnode.network.trusted import vigil_for

        self._vigil = vigil_for(self, trust, self._daemon, self._server.cut)
        self._server.vigil = self._vigil
        if self._pages is not None:
            self._pages.vigil = self._vigil
        self._vigil.recall()

    async def _discover(self) -> None:
        """Announce this node, and look for others; raises ``ConfigError`` without the library."""
        # Here, not above: 60 ms that nobody else pays.
        from gossipnode.network.discovery import Discovery

        if self.lan is None:
            from gossipnode.network.zeroconf_lan import ZeroconfLan

            self.lan = ZeroconfLan()
        name, address = self.config.swarm.name, self.address or ""
        self._daemon.nearby = Discovery(self.lan, name, self.id, address)
        await self._daemon.nearby.begin()

    async def _close(self) -> None:
        """Close the server, the client and the threads; harmless twice."""
        self.loop_lag.stop()
        for listener in (self._listener, self._status_listener):
            if listener is not None:
                listener.close()
        self._listener = self._status_listener = None
        if self._vigil is not None:
            await self._vigil.close()
        if self._daemon.nearby is not None:
            await self._daemon.nearby.end()
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
