"""The HTTP server around a node: one port for pushes, probes, status and dashboard.

Without trust it is plain, and all there is. With trust it speaks mutual TLS alone, every request is
asked whose certificate the connection has, and a second ``Server`` shows the pages to people.

Built on aiohttp's low-level server with a dictionary for a router: measured 5 % below
``web.Application`` per small push, and 404 and 405 are ours to word. Invariant: it binds
loopback alone unless told otherwise, and a request changes the node in ``POST /v1/push`` only,
or over the lane that ``GET /v1/lane`` becomes; but for revocations, which their signer changes.
Of those that change nothing, ``POST /v1/view`` alone has it dial anybody.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from importlib.metadata import version
from ipaddress import ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import event
from gossipnode.network import admin, openapi, pages
from gossipnode.network.answers import answer, fault, in_pieces, write_pieces
from gossipnode.network.door import Door
from gossipnode.network.events import Streams
from gossipnode.network.gate import Gate
from gossipnode.network.hosts import host_of, is_ours, not_ours
from gossipnode.network.http import (
    BaseRequest,
    HttpProcessingError,
    Response,
    StreamResponse,
    http_parser,
)
from gossipnode.network.lag import LoopLag
from gossipnode.network.lanes import Lanes
from gossipnode.network.pages import Route
from gossipnode.network.pool import BufferPool
from gossipnode.network.ports import BACKLOG
from gossipnode.network.push import Push
from gossipnode.network.tokens import shows
from gossipnode.network.transfers import Transfers
from gossipnode.network.trust.words import REASONS, StrangerError, reason_of
from gossipnode.network.turns import Turns
from gossipnode.network.upgrade import PATH as LANE_PATH
from gossipnode.network.upgrade import PROTOCOL as LANE_PROTOCOL
from gossipnode.network.upgrade import asks_for_lane, hello_of
from gossipnode.network.view import PATH as VIEW_PATH
from gossipnode.network.view import View
from gossipnode.node.node import Node

if TYPE_CHECKING:
    from gossipnode.network.trust.vigil import Vigil

log = logging.getLogger("gossipnode.network.server")

REVOCATIONS_PATH = "/v1/revocations"
ROUTES = (
    Route("POST", "/v1/push", "Deliver one frame; the answer says what became of it."),
    Route("GET", LANE_PATH, "Upgrade to the fast lane, gossipnode/1."),
    Route("GET", "/livez", "Whether the process is alive.", pages.livez),
    Route("GET", "/readyz", "Whether pushes are taken, else why not.", pages.readyz),
    Route("GET", "/metrics", "Counters, gauges and a histogram for Prometheus."),
    Route("GET", "/v1/status", "The whole status.", pages.status),
    Route("GET", "/v1/peers", "The peer table, in pages.", pages.peers),
    Route("GET", "/v1/history", "What was measured since a round.", pages.history),
    Route("GET", "/v1/events", "Events as they happen (server-sent)."),
    Route("GET", "/v1/model", "The current model as a safetensors file.", pages.model),
    Route("GET", "/v1/swarm", "What a joining node adopts.", pages.swarm),
    Route("GET", REVOCATIONS_PATH, "Who was shut out, as the swarm's authority signed it."),
    Route("POST", REVOCATIONS_PATH, "Bring a newer list of who was shut out."),
    Route(
        "POST", VIEW_PATH, "How this node sees whoever asks, and whether it can be dialled back."
    ),
    Route("POST", admin.STOP, "Finish the step, write the last checkpoint, and end."),
    Route("POST", admin.RELOAD, "Read bundle, revocations and token anew."),
    Route("GET", "/v1/openapi.json", "This interface, for programs."),
    Route("GET", "/", "The dashboard.", pages.dashboard),
)
# What aiohttp reads ahead of us before it pauses, twice over: with its own 64 KiB, a body of 100 MB
# comes in hundreds of pauses and takes half as long again.
READ_AHEAD_BYTES = 2**19
MODELS_MAX = 4
# For answers under way when the server closes.
SHUTDOWN_S = 1.0
# Addresses whose last refusal is remembered, so that repeating it fills no log.
REFUSED_KEPT = 1024
# Not shown by a listener that others than this machine reach: a model tells of the data.
LOCAL = frozenset({"/v1/model", "/v1/swarm"})
# What a supervisor asks, and what has a proof of its own: nobody needs the readers' token for it.
OPEN = frozenset({"/livez", "/readyz", LANE_PATH, REVOCATIONS_PATH, VIEW_PATH, *admin.PATHS})


class Server:
    """Serves one node. Constructing does nothing; ``start`` takes a socket of ``bind``.

    Without ``lanes`` it opens none, and peers push by POST; ``lag`` is for the metrics.
    With ``tls`` it speaks nothing else; with ``vigil`` it asks for each request who is there.
    Without ``for_peers`` it has the pages alone. A ``token`` is what readers of pages must show,
    but for peers that have proved who they are; ``admin`` is what its owner may do, never over TLS.
    Two servers in a loop share their ``turns``, which pages and handshakes take.
    """

    def __init__(
        self,
        node: Node,
        lanes: Lanes | None = None,
        lag: LoopLag | None = None,
        tls: SSLContext | None = None,
        *,
        for_peers: bool = True,
        turns: Turns | None = None,
    ) -> None:
        self._node, self._lanes, self._lag, self._tls = node, lanes, lag, tls
        self.vigil: Vigil | None = None
        self.admin: admin.Admin | None = None
        self.token = ""
        self._for_peers, self._is_local = for_peers, True
        self._turns = Turns() if turns is None else turns
        self._door: Door | None = None
        self._refused: dict[tuple[str, str], None] = {}
        self._seen: set[asyncio.Transport] = set()  # when connections were looked at last
        limit = node.config.network.inflight_bytes_max
        self._pool = BufferPool(limit) if lanes is None else lanes.pool
        self.transfers = Transfers()
        self._streams, self._view = Streams(node), View(node)
        self._routes: dict[str, dict[str, Route]] = {}
        for route in ROUTES:
            is_page = route.method == "GET" and route.path != LANE_PATH
            if (for_peers or is_page) if route.path not in admin.PATHS else tls is None:
                self._routes.setdefault(route.path, {})[route.method] = route
        self._http: Gate | None = None
        self._acceptor: asyncio.Server | None = None
        self._models = 0

    async def start(self, listener: socket.socket) -> None:
        """Serve the bound ``listener``; raises ``NetworkError`` without aiohttp's C parser."""
        require_c_parser()
        self._http = Gate(
            self._dispatch,
            self._node.config.network,
            self._node.counters,
            access_log=None,
            read_bufsize=READ_AHEAD_BYTES,
            auto_decompress=False,  # nothing that a stranger sends is ever inflated
            logger=_http_logger(),
        )
        self._is_local = ip_address(str(listener.getsockname()[0])).is_loopback
        if self._tls is not None:
            timeout_s = self._node.config.network.handshake_timeout_s
            self._door = Door(self._http, self._tls, self._stranger, timeout_s, self._turns)
            self._door.open(listener)
            return
        self._acceptor = await asyncio.get_running_loop().create_server(
            self._http, sock=listener, backlog=BACKLOG
        )

    def renew(self, tls: SSLContext) -> None:
        """Show another certificate from the next handshake on."""
        self._tls = tls
        if self._door is not None:
            self._door.context = tls

    def origin_of(self, listener: socket.socket) -> str:
        """Return ``http://host:port`` of a bound socket, https with TLS."""
        host, port = listener.getsockname()[:2]
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    async def close(self) -> None:
        """End the event streams, let answers under way finish, close; harmless twice."""
        acceptor, self._acceptor = self._acceptor, None
        door, self._door = self._door, None
        if acceptor is not None or door is not None:
            assert self._http is not None
            self._streams.close()
            if acceptor is not None:
                acceptor.close()
            if door is not None:
                await door.close()
            await asyncio.sleep(0)  # what was accepted just now gets its handler first
            self._http.close()
            self._http.pre_shutdown()
            await self._http.shutdown(SHUTDOWN_S)

    def cut(self) -> None:
        """End the connections of peers that count no longer; those of lanes are the lanes'.

        One that was never good is spared once: its request is about to be answered, in words.
        """
        assert self.vigil is not None
        lanes: set[object] = set()
        if self._lanes is not None:
            self._lanes.cut()
            lanes = self._lanes.transports
        seen, self._seen = self._seen, set()
        for transport in self._door.connections() if self._door is not None else ():
            if transport in lanes:
                continue
            try:
                self.vigil.trust.peer_of(transport)
            except StrangerError as error:
                if transport in seen:
                    self._stranger(str(transport.get_extra_info("peername")[0]), error)
                    transport.abort()
                    continue
            self._seen.add(transport)

    def _stranger(self, host: str, error: Exception) -> None:
        """Count a connection that got no further, and tell it once."""
        reason = reason_of(error)
        self._node.counters.add("connections_refused", label=("reason", reason))
        is_new = (host, reason) not in self._refused
        self._refused[host, reason] = None
        while len(self._refused) > REFUSED_KEPT:
            del self._refused[next(iter(self._refused))]
        words = error.words if isinstance(error, StrangerError) else REASONS[reason]
        # Whoever only looks whether somebody listens breaks off, too.
        level = logging.WARNING if is_new and reason != "broken" else logging.DEBUG
        event(log, level, "connection.refused", address=host, code=reason, reason=words)

    async def _dispatch(self, request: BaseRequest) -> StreamResponse:
        node, path, method = self._node, request.path, request.method
        proven: str | None = None
        is_push = path == "/v1/push" and method == "POST" and self._for_peers
        timeout_s = node.config.network.body_timeout_s
        if self.vigil is not None and self._for_peers:
            try:
                proven = self.vigil.trust.peer_of(request.transport)
            except StrangerError as error:
                self._stranger(request.remote or "", error)
                if is_push:
                    push = Push(node, self._pool, self.transfers, request, timeout_s)
                    return push.turned_away(error.words)
                response = fault(request, 403, "not_a_neighbour", error.words)
                response.force_close()
                return response
        if is_push:
            push = Push(node, self._pool, self.transfers, request, timeout_s, proven)
            return await push.answer()
        await self._turns.take()
        routes = self._routes.get(path)
        if routes is None or (not self._for_peers and path in LOCAL and not self._is_local):
            reason = f"there is no {path[:200]!a}; /v1/openapi.json lists what there is"
            return fault(request, 404, "not_found", reason)
        route = routes.get("GET" if method == "HEAD" else method)
        if route is None:
            takes = ", ".join(routes)
            return fault(
                request, 405, "method_not_allowed", f"{path} takes {takes}", {"Allow": takes}
            )
        if path in admin.PATHS:
            return await self._administered(request)
        return await self._page(route, request, proven)

    async def _administered(self, request: BaseRequest) -> StreamResponse:
        if self.admin is None:
            reason = "this node keeps nothing on disk, so it has no token for its owner"
            return fault(request, 404, "not_found", reason)
        return await self.admin.answer(request)

    async def _page(self, route: Route, request: BaseRequest, proven: str | None) -> StreamResponse:
        refusal = self._refusal(route, request, proven)
        if refusal is not None:
            return refusal
        if route.path == "/v1/events":
            return await self._streams.answer(request)
        if route.path == LANE_PATH:
            return self._lane(request, proven)
        if route.path == VIEW_PATH:
            return await self._view.answer(request, proven)
        if route.path == REVOCATIONS_PATH:
            return await pages.revocations(self.vigil, request)
        if route.path == "/v1/openapi.json":
            return answer(request, openapi.document(ROUTES, version("gossipnode")))
        if route.path == "/metrics":
            return pages.metrics(self._node, self._lag)
        assert route.handler is not None
        if route.path == "/v1/model":
            return await self._model(route, request)
        return await route.handler(self._node, request)

    def _refusal(
        self, route: Route, request: BaseRequest, proven: str | None
    ) -> StreamResponse | None:
        """Return why a page may not be read like this, if it may not."""
        host = request.headers.get("Host", "localhost")  # browsers never leave it out
        # Peers may know this node by names of their own, and what has an Origin is refused there.
        if route.path not in (LANE_PATH, REVOCATIONS_PATH, VIEW_PATH) and not is_ours(
            host, self._names()
        ):
            self._node.counters.add("requests_refused", label=("reason", "host"))
            return fault(request, 421, "wrong_host", not_ours(host))
        is_closed = self.token and proven is None and route.path not in OPEN
        if is_closed and not shows(request, self.token, basic=True):
            self._node.counters.add("requests_refused", label=("reason", "token"))
            reason = "this node's pages are for those who show its token"
            ask = {"WWW-Authenticate": 'Bearer, Basic realm="gossipnode", charset="UTF-8"'}
            return fault(request, 401, "unauthorized", reason, ask)
        if request.headers.get("Content-Encoding", "identity") != "identity":
            self._node.counters.add("requests_refused", label=("reason", "encoding"))
            response = fault(request, 415, "unsupported_encoding", "send bodies as they are")
            response.force_close()
            return response
        return None

    def _names(self) -> set[str]:
        """Return the names that people gave this node."""
        node = self._node
        own = host_of((node.address or "").rpartition("://")[2])
        return {own, node.id.lower(), *(name.lower() for name in node.config.network.hosts)}

    def _lane(self, request: BaseRequest, proven: str | None) -> StreamResponse:
        """Make the connection a lane, or say why not."""
        if not asks_for_lane(request):
            reason = f"this is for Upgrade: {LANE_PROTOCOL}"
            headers = {"Upgrade": LANE_PROTOCOL, "Connection": "Upgrade"}
            return fault(request, 426, "upgrade_required", reason, headers)
        if self._lanes is None:
            return fault(request, 404, "not_found", "this node opens no lanes; POST to /v1/push")
        try:
            return self._lanes.accept(request, hello_of(request), proven)
        except PeerError as error:
            retry = {"Retry-After": "1"} if error.http_status == 503 else None
            return fault(request, error.http_status, error.code, error.reason, retry)

    async def _model(self, route: Route, request: BaseRequest) -> StreamResponse:
        """Serve the model, to a few clients at a time: each holds a copy until it has read it."""
        assert route.handler is not None
        if self._models >= MODELS_MAX:
            reason = f"{MODELS_MAX} clients are fetching the model already"
            return fault(request, 503, "busy", reason, {"Retry-After": "5"})
        self._models += 1
        try:
            response = await route.handler(self._node, request)
            if not isinstance(response, Response) or not isinstance(response.body, bytes):
                return response
            stream = in_pieces(response)
            try:
                async with asyncio.timeout(self._node.config.network.answer_timeout_s):
                    await write_pieces(request, stream, response.body)
            except ConnectionError:
                pass  # gone, or cut by the gate
            except TimeoutError:
                assert self._http is not None
                self._http.count("unread")
                if request.transport is not None:
                    request.transport.abort()
            return stream
        finally:
            self._models -= 1


def require_c_parser() -> None:
    """Raise ``NetworkError`` if aiohttp would parse HTTP in Python, ten times as slowly."""
    if not hasattr(http_parser, "HttpRequestParserC"):
        raise NetworkError(
            "aiohttp runs without its C parser; install a wheel of aiohttp for this platform, and "
            "unset AIOHTTP_NO_EXTENSIONS"
        )


class _PeersFault(logging.Filter):
    """Keeps what strangers do, sending broken HTTP or hanging up, from filling the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass our own faults; note the others in one line at debug level."""
        error: Any = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | ConnectionError):
            name = "http.malformed" if isinstance(error, HttpProcessingError) else "http.gone"
            event(log, logging.DEBUG, name, reason=type(error).__name__)
            return False
        return True


def _http_logger() -> logging.Logger:
    logger = logging.getLogger("gossipnode.network.http")
    if not logger.filters:
        logger.addFilter(_PeersFault())
    return logger
