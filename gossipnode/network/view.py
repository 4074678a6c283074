"""``POST /v1/view``: how this node sees whoever asks, and whether it can be dialled back.

What a machine cannot find out by itself: the address that it comes from, how far its clock is from
others', and whether a firewall lets anybody in. Invariant: a stranger chooses no host. Dialled is
the address of the connection itself, or that which is known of the member who has proved to be it;
nothing is sent there, and how many are dialled at a time is bounded.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gossipnode.network.answers import answer, fault
from gossipnode.network.http import BaseRequest, StreamResponse
from gossipnode.network.upgrade import NoAddressError, connect
from gossipnode.node.addresses import Reach, is_number, may_dial

if TYPE_CHECKING:
    from gossipnode.node.node import Node

PATH: Final = "/v1/view"
DIAL_S: Final = 3.0
DIALS_MAX: Final = 4
# Whoever sends these passes on what others ask, so its address is not theirs.
PASSED_ON: Final = ("Forwarded", "X-Forwarded-For", "Via")

Where = tuple[str, int]


class View:
    """Answers for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._dials = 0

    async def answer(self, request: BaseRequest, proven: str | None) -> StreamResponse:
        """Tell ``proven``, or whoever it is, what is seen; with ``?port=N`` or a place, dial it."""
        if "Origin" in request.headers:
            return fault(request, 403, "not_a_neighbour", "web pages may not have anybody dialled")
        text = request.query.get("port")
        if text is not None and not _is_port(text):
            return fault(request, 400, "bad_query", "port is a number, 1 to 65535")
        node = self._node
        told: dict[str, Any] = {
            "node_id": node.id,
            "swarm": node.config.swarm.name,
            "time": node.world.wall_time(),
            "from": _origin(request),
            "proven": proven,
            "dialled": None,
            "outcome": None,
        }
        where = self._listed(proven) or self._own(request, int(text or 0))
        if where is not None:
            if self._dials >= DIALS_MAX:
                reason = f"{DIALS_MAX} are being dialled already"
                return fault(request, 503, "busy", reason, {"Retry-After": "1"})
            told["dialled"] = [*where]
            told["outcome"] = await self._dial(where)
        return answer(request, told)

    def _listed(self, proven: str | None) -> Where | None:
        """Return where a member is known to be; None where it is not proved, or not known."""
        if proven is None or proven not in self._node.peers:
            return None
        parts = urlsplit(self._node.peers[proven].address)
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None

    def _own(self, request: BaseRequest, port: int) -> Where | None:
        """Return the address of the connection, with the port that was asked for, if any was."""
        origin = _origin(request)
        if not port or not origin or any(name in request.headers for name in PASSED_ON):
            return None
        return (origin, port) if may_dial(origin, self._node.address or "") else None

    async def _dial(self, where: Where) -> str:
        self._dials += 1
        try:
            reach = Reach(self._node.directory, self._node.address or "")
            async with asyncio.timeout(DIAL_S):
                return await dial(*where, reach)
        except TimeoutError:
            return "timeout"
        finally:
            self._dials -= 1


async def dial(host: str, port: int, reach: Reach | None = None) -> str:
    """Connect and hang up; return ``connected``, ``refused``, ``unreachable`` or ``no_address``.

    All that ``host`` stands for is tried, and what ``reach`` forbids is left out.
    """
    try:
        (await connect(host, port, reach)).close()
    except (NoAddressError, socket.gaierror, UnicodeError):
        return "no_address"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"
    return "connected"


def _origin(request: BaseRequest) -> str | None:
    """Return where the connection is from; IPv4 as such, though it came to a socket of IPv6."""
    remote = request.remote
    if not remote or not is_number(remote):
        return remote
    mapped = getattr(ip_address(remote), "ipv4_mapped", None)
    return remote if mapped is None else str(mapped)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 2**16
