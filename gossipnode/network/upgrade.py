"""From HTTP to a lane: ``GET /v1/lane`` with ``Upgrade: gossipnode/1``, both ends of it.

Invariant: a connection is aiohttp's or the lane's, never both; whoever answers anything but a
sound 101 is no lane, and costs no more than ``HEAD_BYTES_MAX``. What the headers say of a node is
a claim: nothing proves it without trust.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from ssl import SSLContext, SSLError
from typing import Any, Final, cast
from urllib.parse import urlsplit

from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import bounded
from gossipnode.network.http import BaseRequest
from gossipnode.network.lane import Lane
from gossipnode.network.records import Hello
from gossipnode.network.sockets import CONNECT_S
from gossipnode.network.trust.handshakes import alerts_to
from gossipnode.node.addresses import Reach

PROTOCOL: Final = "gossipnode/1"
PATH: Final = "/v1/lane"
HEAD_BYTES_MAX: Final = 8192
ID_CHARS_MAX: Final = 128
ADDRESS_CHARS_MAX: Final = 255
# A name may stand for addresses that swallow packets, such as IPv6 that leads nowhere: the next one
# is tried after this (RFC 8305, 5), or they would take all of ``CONNECT_S``.
NEXT_S: Final = 0.25

# Family, kind and protocol of a socket, and where it is to be connected to.
_Address = tuple[int, int, int, Any]


class LaneRefusedError(NetworkError):
    """Somebody answers there, but opens no lane; ``status`` is what HTTP said, 0 if not that."""

    def __init__(self, reason: str, status: int = 0) -> None:
        self.status = status
        super().__init__(reason)


class NoAddressError(OSError):
    """A name stands for nothing that may be dialled."""


# -- the accepting end ----------------------------------------------------------------------------


def hello_of(request: BaseRequest) -> Hello:
    """Return who asks for a lane; raises ``PeerError`` where the request is none for a lane."""
    headers = request.headers
    if "Origin" in headers:
        raise PeerError("not_a_neighbour", "web pages may not open lanes")
    if request.body_exists or request.version < (1, 1):
        raise PeerError("malformed_frame", "a lane is asked for by HTTP/1.1, without a body")
    swarm, node_id = headers.get("Gossipnode-Swarm", ""), headers.get("Gossipnode-Id", "")
    address = headers.get("Gossipnode-Address")
    if not (_is_text(swarm, ID_CHARS_MAX) and _is_text(node_id, ID_CHARS_MAX)):
        raise PeerError("malformed_frame", "Gossipnode-Swarm or Gossipnode-Id is missing or wrong")
    if address is not None and not _is_text(address, ADDRESS_CHARS_MAX):
        raise PeerError("malformed_frame", "Gossipnode-Address is wrong")
    return Hello(swarm, node_id, address)


def asks_for_lane(request: BaseRequest) -> bool:
    """Whether the request names the protocol; if not, the answer is 426."""
    tokens = {word.strip().lower() for word in request.headers.get("Connection", "").split(",")}
    return request.headers.get("Upgrade", "").strip().lower() == PROTOCOL and "upgrade" in tokens


def hand_over(request: BaseRequest, hello: Hello, lane: Lane) -> None:
    """Answer 101 and make the request's connection the lane's.

    aiohttp's handler is told that its connection is lost: it takes it off its table, stops its
    timers, and drops the answer that is returned to it. It must not close what is no longer its
    own, so the transport is taken from it before.
    """
    handler, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the connection is gone")
    handler.transport = None
    handler.connection_lost(None)
    transport.write(_head(["HTTP/1.1 101 Switching Protocols", *_headers(hello)]))
    transport.set_protocol(lane)
    lane.connection_made(transport)


# -- the opening end ------------------------------------------------------------------------------


def feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    """Give ``data``, which came right behind the handshake, to whose it is, as a transport would.

    Nothing of it may be lost: the peer's first frame may be in it.
    """
    view = memoryview(data)
    while view:
        buffer = memoryview(protocol.get_buffer(-1))
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        protocol.buffer_updated(count)
        view = view[count:]


async def dial(
    address: str,
    hello: Hello,
    tls: SSLContext | None = None,
    meant: str | None = None,
    reach: Reach | None = None,
) -> tuple[asyncio.Transport, Hello, bytes]:
    """Ask for a lane; return the connection, who answered, and what came behind the 101.

    ``tls`` is for addresses that begin with ``https``, ``meant`` the id that must answer there, and
    ``reach`` says what names may stand for. The connection does not read until its protocol is set.
    Raises ``OSError`` where nobody listens or TLS fails, ``NetworkError`` where nothing is heard
    at all, and ``LaneRefusedError`` where somebody listens who opens no lane.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.hostname is None or parts.port is None:
        raise LaneRefusedError("the address is no http://host:port")
    if parts.scheme == "https" and tls is None:
        raise LaneRefusedError("the address is https, and this node has no TLS")
    secure = tls if parts.scheme == "https" else None
    name = (meant or parts.hostname) if secure is not None else None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            connection = await connect(parts.hostname, parts.port, reach)
    except TimeoutError:  # nobody has refused a lane: to try by POST would be to wait once more
        raise NetworkError(f"no connection within {CONNECT_S:g} s") from None
    try:
        with alerts_to(connection):
            transport, handshake = await loop.create_connection(
                _Handshake, sock=connection, ssl=secure, server_hostname=name
            )
    except BaseException:
        connection.close()
        raise
    try:
        lines = [f"GET {PATH} HTTP/1.1", f"Host: {parts.netloc}", *_headers(hello)]
        transport.write(_head(lines))
        head, rest = await handshake.answer
        return transport, read_answer(head), rest
    except BaseException:
        transport.abort()
        raise


async def connect(host: str, port: int, reach: Reach | None = None) -> socket.socket:
    """Return a socket that is connected to the first address of ``host`` that answers.

    Raises ``OSError``: a ``NoAddressError`` where ``reach`` allows none of them.
    """
    loop = asyncio.get_running_loop()
    error: OSError = NoAddressError(f"{host} has no address")
    allowed: list[_Address] = []
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        if reach is not None and not reach.allows(host, port, str(address[0])):
            error = NoAddressError(errno.EACCES, "a name that stands for an address no peer has")
            continue
        allowed.append((family, kind, protocol, address))
    if len(allowed) == 1:
        return await _connection_to(*allowed[0])
    return await _first_of(allowed, error)


async def _first_of(addresses: list[_Address], error: OSError) -> socket.socket:
    """Return the connection that is made first; each is begun ``NEXT_S`` after the one before.

    Or as soon as that has failed. Raises the last failure, or ``error`` where there is none.
    """
    trying: set[asyncio.Task[socket.socket]] = set()
    try:
        while addresses or trying:
            if addresses:
                trying.add(asyncio.create_task(_connection_to(*addresses.pop(0))))
            wait_s = NEXT_S if addresses else None
            await asyncio.wait(trying, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in trying if task.done()]:
                trying.discard(task)
                try:
                    return task.result()
                except OSError as failure:
                    error = failure
        raise error
    finally:
        for task in trying:
            task.cancel()
            task.add_done_callback(_close)


def _close(task: asyncio.Task[socket.socket]) -> None:
    """Close a connection that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connection_to(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    connection = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    try:
        await _connected(connection, address)
        # Of a reply that is waited for, no part may wait for another to be acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


async def _connected(connection: socket.socket, address: Any) -> None:
    """Connect a non-blocking socket to ``address``, which is numbers alone; raises ``OSError``.

    uvloop's ``sock_connect`` looks the address up once more, for which libuv starts four threads.
    """
    code = connection.connect_ex(address)
    if code == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(connection.fileno(), _done, writable)
        try:
            await writable
        finally:
            loop.remove_writer(connection.fileno())
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Handshake(asyncio.Protocol):
    """Collects the head of the answer, then stops reading."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[bytes, bytes]] = (
            asyncio.get_running_loop().create_future()
        )
        # Nobody may be left to look at it.
        self.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._data += data
        head, end, rest = bytes(self._data).partition(b"\r\n\r\n")
        if end and len(head) <= HEAD_BYTES_MAX:
            self._transport.pause_reading()
            self.answer.set_result((head, rest))
        elif end or len(self._data) > HEAD_BYTES_MAX:
            self.answer.set_exception(LaneRefusedError("the answer is no HTTP"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer.done():
            return
        if isinstance(exc, SSLError):  # the peer has seen our certificate, and says what it thinks
            self.answer.set_exception(exc)
        else:
            self.answer.set_exception(
                LaneRefusedError("the peer closed the connection before it answered")
            )


def read_answer(head: bytes) -> Hello:
    """Return who answered 101; raises ``LaneRefusedError`` for whatever else it is."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or not status.isdecimal():
        raise LaneRefusedError("the answer is no HTTP")
    if status != "101":
        raise LaneRefusedError(f"HTTP {status}", int(status))
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or name in headers:
            raise LaneRefusedError("the answer's headers are broken")
        headers[name] = value.strip()
    if headers.get("upgrade") != PROTOCOL or headers.get("connection", "").lower() != "upgrade":
        raise LaneRefusedError(f"switched to {bounded(headers.get('upgrade', 'nothing'), 40)}")
    node_id = headers.get("gossipnode-id", "")
    if not _is_text(node_id, ID_CHARS_MAX):
        raise LaneRefusedError("the answer does not say whose it is")
    return Hello(headers.get("gossipnode-swarm", ""), node_id, headers.get("gossipnode-address"))


# -- both -----------------------------------------------------------------------------------------


def _headers(hello: Hello) -> list[str]:
    lines = [
        f"Upgrade: {PROTOCOL}",
        "Connection: Upgrade",
        f"Gossipnode-Swarm: {hello.swarm}",
        f"Gossipnode-Id: {hello.id}",
    ]
    if hello.address is not None and _is_text(hello.address, ADDRESS_CHARS_MAX):
        lines.append(f"Gossipnode-Address: {hello.address}")
    return lines


def _head(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _is_text(text: str, limit: int) -> bool:
    return 0 < len(text) <= limit and text.isascii() and text.isprintable()
