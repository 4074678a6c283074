"""The HTTP client: frames to peers and answers back, over connections that are kept.

Invariant: what a peer answers costs no more memory than its kind of answer may have, and every
failure is a ``NetworkError`` (nobody answered) or a ``PeerError`` (the answer is none). No
redirect is followed, nothing is decompressed, and no proxy of the environment is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from yarl import URL

from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import bounded
from gossipnode.network.answers import MSGPACK, json_value
from gossipnode.network.faults import is_cut, tls_fault, translated
from gossipnode.network.frames import (
    FramePayload,
    joined_or_payload,
    read_body,
    read_head,
    receipt_of,
)
from gossipnode.network.http import ResolveResult, aiohttp
from gossipnode.network.probe import WORDS as PROBE_WORDS
from gossipnode.network.probe import Probe
from gossipnode.network.proven import TracedResponse, require_sender, sender_of
from gossipnode.network.sockets import CONNECT_S, impatient
from gossipnode.network.transfers import Transfers
from gossipnode.network.trust.words import words_of
from gossipnode.node.addresses import Reach
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import CONTENT_TYPE, Frame
from gossipnode.wire.reply import REPLY_BYTES_MAX, Reply

# Shorter than a server's idle_timeout_s, 14 s, so that it is we who close an idle connection, and
# no push meets one that is just closing.
KEEPALIVE_S = 10.0
DNS_TTL_S = 60
# What get_json reads at most: 10,000 rows of history have 3 MB.
JSON_BYTES_MAX = 2**25
GET_TIMEOUT_S = 30.0

T = TypeVar("T")

_HEADERS = {"Content-Type": CONTENT_TYPE, "Accept": MSGPACK}
_SILENT = frozenset({"User-Agent", "Accept-Encoding"})


class NoNodeError(NetworkError):
    """Somebody answers there, but not as a gossipnode does."""

    def __init__(self, url: str | URL) -> None:
        super().__init__(f"{URL(url).origin()} answers, but is no gossipnode")


class ToldError(NetworkError):
    """A node answers there, with an error of HTTP: ``status`` is which, ``reason`` its own."""

    def __init__(self, status: int, reason: str, url: str = "") -> None:
        self.status, self.reason = status, reason
        super().__init__(f"{url}: " * bool(url) + f"HTTP {status}: {reason}")


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, whatever its status; the names of ``headers`` are of any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """One session for all peers. Enter it in the running loop; close it there.

    Addresses that begin with ``https`` are dialled with ``tls``, which may be set anew; ``meant``
    tells which id must answer at one, and ``dates`` what to say where a peer thinks our certificate
    too old. A ``token`` is shown to whoever is asked, so it is for a client of one node.
    ``proves`` returns the id that a certificate (``getpeercert``'s) proves: who answers a push, or
    tells its id, in another's name is not believed.
    """

    def __init__(
        self,
        tls: SSLContext | None = None,
        meant: Callable[[str], str | None] = lambda _: None,
        dates: Callable[[], str] = lambda: "",
        token: str = "",
        proves: Callable[[Mapping[str, Any] | None], str] | None = None,
    ) -> None:
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.tls, self._meant, self._dates, self._proves = tls, meant, dates, proves
        self._session: aiohttp.ClientSession | None = None
        self._probe = Probe()
        self.transfers = Transfers()  # of pushes, by the address
        self.reach: Reach | None = None  # what names may stand for, if not anything

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Create the session; nothing is dialled yet."""
        assert self._session is None, "the client is open"
        self._session = aiohttp.ClientSession(
            # One frame is in flight a peer, so the peers bound the connections.
            connector=aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEPALIVE_S,
                ttl_dns_cache=DNS_TTL_S,
                resolver=_Resolver(self),
                socket_factory=impatient,
            ),
            # Each call has one deadline of its own, retry included.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=_SILENT,
            response_class=TracedResponse,
        )

    async def close(self) -> None:
        """Close all connections; harmless twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        """POST one frame to ``address`` (http://host:port) and return the answer.

        A refusal is an answer. Raises ``NetworkError`` (refused, broken, timed out) or
        ``PeerError`` (what came back is neither a reply nor a frame for us).
        """
        body = joined_or_payload(frame)
        if isinstance(body, bytes):
            return await self._in_time(self._push(address, frame, body), timeout_s)
        total = frame.nbytes - len(frame.head)
        with self.transfers.shown(address, "to", total, lambda: body.body_written):
            return await self._in_time(self._push(address, frame, body), timeout_s)

    async def id_at(self, address: str, timeout_s: float) -> str:
        """Return the id of the node at ``address``; raises ``NetworkError`` and ``PeerError``."""
        return await self._in_time(self._id_at(f"{address}/livez"), timeout_s)

    async def get_json(self, url: str, timeout_s: float = GET_TIMEOUT_S) -> Any:
        """GET a JSON value; raises ``NetworkError``, also where the answer is an error.

        A ``NoNodeError`` where it is not one of a node.
        """
        data = await self.get_bytes(url, JSON_BYTES_MAX, timeout_s)
        try:
            return json_value(data)
        except ValueError:
            raise NoNodeError(url) from None

    async def get_bytes(self, url: str, limit: int, timeout_s: float = GET_TIMEOUT_S) -> bytes:
        """GET at most ``limit`` bytes; raises ``NetworkError`` where there are more."""
        try:
            return await self._in_time(self._get(url, limit), timeout_s)
        except NoNodeError:
            raise
        except ToldError as error:
            raise ToldError(error.status, error.reason, url) from None
        except NetworkError as error:
            raise NetworkError(f"{url}: {error}") from None

    async def send(self, url: str, data: bytes, timeout_s: float = GET_TIMEOUT_S) -> None:
        """POST ``data``; raises ``NetworkError``, also where the answer is an error."""
        await self._in_time(self._send(url, data), timeout_s)

    async def ask(self, method: str, url: str, timeout_s: float = GET_TIMEOUT_S) -> Heard:
        """Return what is answered, errors of HTTP included; raises ``NetworkError``."""
        return await self._in_time(self._ask(method, url), timeout_s)

    async def _in_time(self, call: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Await ``call`` for at most ``timeout_s``; every failure in plain words."""
        try:
            async with asyncio.timeout(timeout_s):
                return await call
        except aiohttp.ConnectionTimeoutError:
            raise NetworkError(f"no connection within {CONNECT_S:g} s") from None
        except TimeoutError as error:
            if error.errno is not None:  # the system's: see ``sockets``
                raise translated(error) from None
            raise NetworkError(f"timed out after {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            words = words_of(tls_fault(error), self._dates())
            raise (NetworkError(words) if words else translated(error)) from None

    async def _push(self, address: str, frame: Frame, body: bytes | FramePayload) -> Receipt:
        session = self._session
        assert session is not None, "the client is not open"
        url = _push_url(address)
        for is_last in (False, True):
            try:
                async with session.post(
                    url,
                    data=body,
                    headers=_HEADERS,
                    allow_redirects=False,
                    ssl=self.tls or True,
                    server_hostname=self._meant(address) or None,
                ) as response:
                    receipt = await _receipt(response, frame)
                    self._require_own(response, sender_of(receipt))
                    return receipt
            except (aiohttp.ClientError, OSError) as error:
                # A kept connection may have been closed just now. The sequence number makes the
                # second try harmless, whether the first was merged or not.
                if is_last or not is_cut(error):
                    await self._look_for_tls(url, error)
                    raise
        raise AssertionError("two tries end in an answer or an exception")

    def _require_own(self, response: aiohttp.ClientResponse, sender: str) -> None:
        """Raise ``PeerError`` or ``StrangerError`` unless the answer is of who has proved it."""
        if self._proves is not None:
            assert isinstance(response, TracedResponse)
            require_sender(sender, self._proves(response.certificate), "answer")

    async def _id_at(self, url: str) -> str:
        async with self._answered("GET", url) as response:
            text = (await _at_most(response, REPLY_BYTES_MAX)) or b""
            if response.status != 200:
                raise _fault(response, text)
            try:
                name = json_value(text)["id"]
            except (ValueError, KeyError, TypeError):
                name = None
            if not isinstance(name, str):
                raise NoNodeError(url)
            self._require_own(response, name)
            return name

    async def _look_for_tls(self, url: URL, error: Exception) -> None:
        """Raise ``NetworkError`` where a plain connection was cut by somebody who speaks TLS."""
        if is_cut(error) and await self._probe.speaks_tls(url, _Resolver(self)):
            raise NetworkError(PROBE_WORDS) from None

    async def _send(self, url: str, data: bytes) -> None:
        assert self._session is not None, "the client is not open"
        name = self._meant(_origin(url)) or None
        async with self._session.post(
            url, data=data, allow_redirects=False, ssl=self.tls or True, server_hostname=name
        ) as response:
            text = (await _at_most(response, REPLY_BYTES_MAX)) or b""
            if response.status != 200:
                raise _fault(response, text)

    async def _get(self, url: str, limit: int) -> bytes:
        async with self._answered("GET", url) as response:
            if response.status != 200:
                raise _fault(response, (await _at_most(response, REPLY_BYTES_MAX)) or b"")
            data = await _at_most(response, limit)
        if data is None:
            raise NetworkError(f"the answer has more than {limit} bytes")
        return data

    async def _ask(self, method: str, url: str) -> Heard:
        async with self._answered(method, url) as response:
            body = await _at_most(response, JSON_BYTES_MAX)
            if body is None:
                raise NetworkError(f"the answer has more than {JSON_BYTES_MAX} bytes")
            return Heard(response.status, response.headers, body)

    @contextlib.asynccontextmanager
    async def _answered(self, method: str, url: str) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None, "the client is not open"
        headers = {"Accept": "application/json, */*"}
        try:
            name = self._meant(_origin(url)) or None
            async with self._session.request(
                method,
                url,
                headers=headers,
                allow_redirects=False,
                ssl=self.tls or True,
                server_hostname=name,
            ) as response:
                yield response
        except aiohttp.ClientResponseError:
            raise NoNodeError(url) from None  # what came is not HTTP
        except (aiohttp.ClientError, OSError) as error:
            await self._look_for_tls(URL(url), error)
            raise


class _Resolver(aiohttp.ThreadedResolver):
    """The system's resolver, without what the client may not reach."""

    def __init__(self, client: HttpClient) -> None:
        super().__init__()
        self._client = client

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return what ``host`` stands for; raises ``OSError`` where that is no peer."""
        found = await super().resolve(host, port, family)
        reach = self._client.reach
        if reach is None:
            return found
        allowed = [one for one in found if reach.allows(host, port, one["host"])]
        if not allowed:
            raise OSError(errno.EACCES, "a name that stands for an address no peer has")
        return allowed


async def _receipt(response: aiohttp.ClientResponse, pushed: Frame) -> Receipt:
    """Return the answer of a push: a reply, or the frame of an exchange."""
    if response.content_type == CONTENT_TYPE and response.status == 200:
        return await _exchanged(response, pushed)
    if response.content_type != MSGPACK:
        kind = bounded(response.content_type, 64)
        raise PeerError("malformed_frame", f"the answer is no reply: HTTP {response.status} {kind}")
    data = await _at_most(response, REPLY_BYTES_MAX)
    if data is None:
        raise PeerError("malformed_frame", f"a reply of more than {REPLY_BYTES_MAX} bytes")
    return Receipt(reply=Reply.decode(data))


async def _exchanged(response: aiohttp.ClientResponse, pushed: Frame) -> Receipt:
    """Read the frame of an exchange: its body is at most as long as the one that was pushed."""
    head = await read_head(response.content)
    limit = pushed.nbytes - len(pushed.head)
    if head.message.body_bytes > limit:
        raise PeerError(
            "too_large", f"an answer of {head.message.body_bytes} bytes to a push of {limit}"
        )
    body = np.empty(head.message.body_bytes, np.uint8).data
    await read_body(response.content, head, body)
    return await receipt_of(head.message, body)


async def _at_most(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return the whole body, or None if it has more than ``limit`` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _origin(url: str) -> str:
    """Return the address as peer lists have it: a port that is the scheme's own stays."""
    return "/".join(url.split("/", 3)[:3])


def _fault(response: aiohttp.ClientResponse, text: bytes) -> NetworkError:
    """Return what an error answer says; a node's is JSON with a reason, whatever is wrong."""
    try:
        return ToldError(response.status, bounded(json_value(text)["reason"]))
    except (ValueError, KeyError, TypeError):
        return NoNodeError(response.url)


@functools.lru_cache(maxsize=4096)
def _push_url(address: str) -> URL:
    return URL(address + "/v1/push")
