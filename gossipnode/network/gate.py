"""What a connection may cost before anybody knows what it wants, and after it was answered.

aiohttp reads and answers; this counts its connections, in all and for each address, from before
their TLS handshake on, and ends those that do not come to a request: a header must be whole in its
time and bounded in its bytes, and what is no HTTP is not read on. It ends as well those that do not
read what they asked for. Invariant: an open port costs at most ``connections_max`` times one
header, and ``UNREAD_MAX`` times one answer, whoever dials it, and a newcomer who speaks at once is
let in whatever waits there silently. Who speaks, and what of, is not asked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from typing import Any, cast

from gossipnode.config import NetworkOptions
from gossipnode.network.http import HttpServer, RequestHandler
from gossipnode.network.stall import StallWatch
from gossipnode.network.taken import taking
from gossipnode.network.trim import Crowd
from gossipnode.node.counters import Counters

# How often a header under way is looked at: what an end by deadline may be late.
SWEEP_S = 0.5
# Of one header's lines; what all of them may have together is an option.
FIELDS_MAX = 64
# Connections at once whose answers wait for the other end: a history may have 2 MB.
UNREAD_MAX = 64
# 900 lanes here and there, 1,024 connections that are none yet, as many pushes by POST, and files.
DESCRIPTORS = 4096


class Gate(HttpServer):
    """aiohttp's server, whose connections are counted and watched. ``others`` are its options."""

    def __init__(
        self, handler: Any, options: NetworkOptions, counters: Counters, **others: Any
    ) -> None:
        super().__init__(
            handler,
            keepalive_timeout=options.idle_timeout_s,
            max_line_size=options.http_header_bytes_max,
            max_field_size=options.http_header_bytes_max,
            max_headers=FIELDS_MAX,
            **others,
        )
        self.options, self._counters = options, counters
        self.by_address: Counter[str] = Counter()
        self.total = 0
        # Those without a request so far, the oldest first; and those with a header under way.
        self._silent: dict[Watched | Knock, None] = {}
        self._begun: dict[Watched, None] = {}
        # Those whose answer the other end does not take, the longest first.
        self._unread: dict[Watched, None] = {}
        self._crowd = Crowd()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> RequestHandler:
        """Return the protocol of one more connection."""
        return Watched(self)

    def arrive(self, host: str) -> Knock | None:
        """Return the protocol of a connection whose handshake begins, if it is let in.

        It counts from now on, until it ends or ``Knock.abandon``.
        """
        if not self.admits(host):
            return None
        knock = Knock(self, host)
        self.enter(knock)
        return knock

    def opened(self, knock: Knock) -> Watched:
        """Return the protocol of a connection whose handshake is over: it counts on."""
        handler = Watched(self, knock.host)
        self._silent.pop(knock, None)
        self._silent[handler] = None
        return handler

    def settings(self) -> dict[str, Any]:
        """Return what aiohttp's handler is made with."""
        return self._kwargs

    def admits(self, host: str) -> bool:
        """Whether one more connection is let in; another, that is silent, may go for it."""
        if self.by_address[counted_as(host)] >= self.options.connections_per_address_max:
            self.count("address")
            return False
        if self.total >= self.options.connections_max:
            if not self._silent:
                self.count("total")
                return False
            self.cut(next(iter(self._silent)), "evicted")
        return True

    def enter(self, handler: Watched | Knock) -> None:
        """Count a connection that was let in, until ``leave``."""
        self.by_address[counted_as(handler.host)] += 1
        self.total += 1
        self._crowd.now(self.total)
        self._silent[handler] = None

    def leave(self, handler: Watched | Knock) -> None:
        """Forget a connection: it has ended, or become a lane."""
        address = counted_as(handler.host)
        self.by_address[address] -= 1
        self.total -= 1
        self._crowd.now(self.total)
        if not self.by_address[address]:
            del self.by_address[address]
        self._forget(handler)

    def begin(self, handler: Watched) -> None:
        """Let the time for a header run, unless it does."""
        if handler in self._begun:
            return
        self._begun[handler] = None
        handler.header_due = self._loop.time() + self.options.header_timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def asked(self, handler: Watched) -> None:
        """Take note that a header is whole."""
        self._silent.pop(handler, None)
        self._begun.pop(handler, None)

    def unread(self, handler: Watched, *, is_full: bool) -> None:
        """Take note that an answer waits for the other end, or does no longer."""
        if not is_full:
            self._unread.pop(handler, None)
            return
        if len(self._unread) >= UNREAD_MAX:
            self.cut(next(iter(self._unread)), "unread")
        self._unread[handler] = None

    def cut(self, handler: Watched | Knock, reason: str) -> None:
        """End a connection without a word: whoever this happens to reads none."""
        self.count(reason)
        self._forget(handler)
        handler.end()

    def _forget(self, handler: Watched | Knock) -> None:
        self._silent.pop(handler, None)
        if isinstance(handler, Watched):
            self._begun.pop(handler, None)
            self._unread.pop(handler, None)

    def count(self, reason: str) -> None:
        """Count one more connection that a limit has ended."""
        self._counters.add("connections_cut", label=("limit", reason))

    def close(self) -> None:
        """Stop looking."""
        self._crowd.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        for handler in list(self._begun):  # in the order of their deadlines
            if handler.header_due > now:
                break
            self.cut(handler, "header_time")
        if self._begun:
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)


class Knock(asyncio.Protocol):
    """A connection during its TLS handshake, without what aiohttp needs for each: 30 KiB."""

    __slots__ = ("_gate", "_is_in", "give_up", "host")

    def __init__(self, gate: Gate, host: str) -> None:
        self._gate, self.host, self._is_in = gate, host, True
        self.give_up: Callable[[], object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make way for the handler: the handshake is over."""
        connection = cast("asyncio.Transport", transport)  # uvloop's is none by its type
        if not self._is_in:
            connection.abort()
            return
        self._is_in = False
        handler = self._gate.opened(self)
        connection.set_protocol(handler)
        handler.connection_made(connection)

    def abandon(self) -> None:
        """Count no longer; harmless after the handshake."""
        if self._is_in:
            self._is_in = False
            self._gate.leave(self)

    def end(self) -> None:
        """Give the handshake up."""
        self.abandon()
        if self.give_up is not None:
            self.give_up()


class Watched(RequestHandler):
    """aiohttp's handler of one connection, with an eye on its headers."""

    __slots__ = (
        "_bytes",
        "_gate",
        "_is_deaf",
        "_is_in",
        "_is_open",
        "_taking",
        "header_due",
        "host",
    )

    def __init__(self, gate: Gate, host: str | None = None) -> None:
        """``host`` is that of a connection that has been let in."""
        super().__init__(gate, loop=asyncio.get_running_loop(), **gate.settings())
        self._gate, self._bytes = gate, 0
        self._is_deaf = self._is_open = False
        self._is_in = host is not None
        self._taking: StallWatch | None = None
        self.host, self.header_due = host or "", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or end it."""
        if not self._is_in:
            peer = transport.get_extra_info("peername")
            self.host = str(peer[0]) if peer else ""
            if not self._gate.admits(self.host):
                self._is_deaf = True
                cast("asyncio.Transport", transport).abort()  # uvloop's is none by its type
                return
            self._is_in = True
            self._gate.enter(self)
        self._is_open = True
        super().connection_made(transport)
        self._gate.begin(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection; aiohttp is told of those alone that it was told of."""
        self.abandon()
        if self._is_open:
            self._is_open = False
            super().connection_lost(exc)

    def abandon(self) -> None:
        """Count no longer."""
        if self._is_in:
            self._is_in = False
            self._gate.leave(self)
        if self._taking is not None:
            self._taking.stop()

    def end(self) -> None:
        """End the connection at once."""
        self._is_deaf = True
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Wait for the other end, but not for ever."""
        super().pause_writing()
        self._gate.unread(self, is_full=True)
        if self._taking is None and self.transport is not None:
            options = self._gate.options
            stopped = partial(self._gate.cut, self, "unread")
            self._taking = taking(
                self.transport, stopped, options.body_rate_min, options.answer_timeout_s
            )
        if self._taking is not None:
            self._taking.begun()

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        self._gate.unread(self, is_full=False)
        if self._taking is not None:
            self._taking.ended()

    def data_received(self, data: bytes) -> None:
        """Read on, unless this was no HTTP: aiohttp would keep every piece of it."""
        if self._is_deaf:
            return
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests:
            self._bytes = 0
            self._gate.asked(self)
            # After what is no HTTP aiohttp answers 400 and closes.
            self._is_deaf = any(hasattr(message, "exc") for message, _ in self._messages)
        elif self._waiter is not None and not self._waiter.done():  # for a request
            if not self._bytes:
                self._gate.begin(self)
            self._bytes += len(data)
            if self._bytes > self._gate.options.http_header_bytes_max:
                self._is_deaf = True
                self._gate.cut(self, "header_bytes")


def counted_as(host: str) -> str:
    """Return what limits count as one address: of IPv6 a /64, which everybody has whole.

    >>> [counted_as(host) for host in ("10.0.0.7", "2a00::1:2:3:4", "::ffff:10.0.0.7")]
    ['10.0.0.7', '2a00::/64', '10.0.0.7']
    """
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address) >> 64 << 64, 64)))


def allow_descriptors() -> None:
    """Let this process have as many connections as its limits say, where the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
