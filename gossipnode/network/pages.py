"""The read-only endpoints: probes, status, history, model, dashboard.

Invariant: nothing here changes the node, and an answer costs at most one model of memory.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import xxhash

from gossipnode.errors import PeerError
from gossipnode.network.answers import answer, fault, plain
from gossipnode.network.http import BaseRequest, Response, StreamResponse
from gossipnode.network.lag import LoopLag
from gossipnode.node.node import Node
from gossipnode.node.status import PEERS_SHOWN

# A page of 256 peers takes 5 ms and 80 kB: the loop must not be away for longer than 20 ms.
PEERS_PAGE_MAX = 256

if TYPE_CHECKING:
    from gossipnode.network.trust.vigil import Vigil

# 1 MiB at 100 KB/s.
REVOCATIONS_S = 10.0

Handler = Callable[[Node, BaseRequest], Awaitable[StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint; without a ``handler`` the server itself has the answer."""

    method: str
    path: str
    summary: str
    handler: Handler | None = None


async def livez(node: Node, request: BaseRequest) -> Response:
    """200 while the loop ticks (that it answers proves it) and the node has not failed; its id."""
    if node.state == "failed":
        return fault(request, 503, "failed", node.reason)
    return answer(request, {"live": True, "id": node.id})


async def readyz(node: Node, request: BaseRequest) -> Response:
    """200 while pushes are taken, else 503 and why not; tells what goes on but not as it should."""
    if not node.ready:
        headers = {"Retry-After": "1"}
        return fault(request, 503, "not_ready", f"this node is {node.state}", headers)
    if node.checkpoint_error:
        # Not a 503: training and gossip need no disk, and taking the node out would not mend it.
        return answer(request, {"ready": True, "degraded": node.checkpoint_error})
    return answer(request, {"ready": True})


def metrics(node: Node, lag: LoopLag | None) -> Response:
    """Prometheus' text format."""
    from gossipnode.network.metrics import exposition

    body, content_type = exposition(node, lag)
    return Response(body=body, headers={"Content-Type": content_type})


async def status(node: Node, request: BaseRequest) -> Response:
    """The whole status."""
    return answer(request, plain(node.status()))


async def peers(node: Node, request: BaseRequest) -> Response:
    """A page of the peer table: at most ``limit`` peers behind ``after``."""
    after, limit = request.query.get("after", ""), request.query.get("limit", str(PEERS_SHOWN))
    numeric = limit.isdecimal() and limit.isascii() and len(limit) <= 9
    if not numeric or not 0 < int(limit) <= PEERS_PAGE_MAX:
        reason = f"limit is a number of peers, 1 to {PEERS_PAGE_MAX}"
        return fault(request, 400, "bad_query", reason)
    try:
        page = node.peer_page(after, int(limit))
    except KeyError:
        return fault(
            request, 400, "bad_query", f"after is the id of a peer; {after[:128]!a} is none"
        )
    return answer(request, plain(page))


async def history(node: Node, request: BaseRequest) -> Response:
    """What was measured in round ``since`` and later."""
    text = request.query.get("since", "0")
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        return fault(request, 400, "bad_query", "since is a round: a whole number, 0 or more")
    return answer(request, {"history": node.history(int(text))})


async def swarm(node: Node, request: BaseRequest) -> Response:
    """What a joining node adopts: sections of the config, and the peers."""
    return answer(request, node.shared_config())


async def model(node: Node, request: BaseRequest) -> Response:
    """The current params as a safetensors file."""
    if not node.has_started:
        reason = f"this node is {node.state}; come again"
        return fault(request, 503, "not_ready", reason, {"Retry-After": "1"})
    round_, age = node.round, node.age
    digest = await node.world.work(xxhash.xxh3_64_hexdigest, node.params)
    # Weak, and of the params: safetensors writes its metadata in any order.
    etag = f'W/"{round_}-{age}-{digest}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if etag in request.headers.get("If-None-Match", ""):
        return Response(status=304, headers=headers)
    headers |= {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{node.id}.safetensors"',
        "Gossipnode-Round": str(round_),
        "Gossipnode-Age": str(age),
    }
    return Response(body=await node.world.work(node.model), headers=headers)


async def revocations(vigil: Vigil | None, request: BaseRequest) -> StreamResponse:
    """The list of who was shut out, as it was signed; or take one, which may be from anybody."""
    if request.method == "POST":
        if vigil is None:
            return fault(request, 404, "not_found", "this node has no bundle, and shuts nobody out")
        return await _take_revocations(vigil, request)
    text = request.query.get("than", "0")
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        return fault(request, 400, "bad_query", "than is a counter: a whole number, 0 or more")
    found = None if vigil is None else vigil.trust.revocations
    body = found.text if found is not None and found.counter > int(text) else ""
    return Response(body=body.encode(), headers={"Content-Type": "text/plain; charset=utf-8"})


async def _take_revocations(vigil: Vigil, request: BaseRequest) -> StreamResponse:
    from gossipnode.network.trust.revocations import BYTES_MAX

    if "Origin" in request.headers:
        return fault(request, 403, "not_a_neighbour", "web pages may not bring revocations")
    length = request.content_length
    if length is None or length > BYTES_MAX:
        code = "length_required" if length is None else "too_large"
        response = fault(
            request, 411 if length is None else 413, code, f"a list has at most {BYTES_MAX} bytes"
        )
        response.force_close()
        return response
    try:
        async with asyncio.timeout(REVOCATIONS_S):
            data = await request.content.readexactly(length)
        is_new = vigil.hear(data.decode("utf-8", "replace"), request.remote or "")
    except PeerError as error:
        return fault(request, error.http_status, error.code, error.reason)
    except (TimeoutError, asyncio.IncompleteReadError):
        response = fault(request, 408, "body_timeout", "the list did not arrive in time")
        response.force_close()
        return response
    return answer(request, {"counter": vigil.trust.revocations.counter, "new": is_new})


async def dashboard(_node: Node, _request: BaseRequest) -> Response:
    """The page for people. Its own script and style run, and nothing else."""
    page, policy = _dashboard()
    return Response(
        body=page,
        headers={
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )


@functools.cache
def _dashboard() -> tuple[bytes, str]:
    """Return the page and its policy, which names script and style by their hashes."""
    page = (files("gossipnode") / "web" / "index.html").read_bytes()
    script, style = (
        base64.b64encode(hashlib.sha256(match.group(1)).digest()).decode()
        for tag in (b"script", b"style")
        if (match := re.search(b"<" + tag + b">(.*?)</" + tag + b">", page, re.DOTALL))
    )
    policy = (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy
