"""What changes a node: stopping it, and having it read its files anew.

Invariant: nothing here happens but for whoever is on this machine, names it by loopback, is no web
page, and shows the token of the node's own folder; that is asked in this order.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gossipnode.errors import GossipNodeError
from gossipnode.logs import event
from gossipnode.network.answers import answer, fault
from gossipnode.network.hosts import host_of
from gossipnode.network.http import BaseRequest, Response
from gossipnode.network.tokens import shows
from gossipnode.node.addresses import is_loopback_number
from gossipnode.node.counters import Counters

log = logging.getLogger("gossipnode.network.admin")

STOP: Final = "/v1/admin/stop"
RELOAD: Final = "/v1/admin/reload"
PATHS: Final = (STOP, RELOAD)


class Admin:
    """Lets the owner of ``token`` ``stop`` a node, and ``reload`` its files."""

    def __init__(
        self,
        token: str,
        counters: Counters,
        stop: Callable[[], None],
        reload: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._token, self._counters, self._stop, self._reload = token, counters, stop, reload

    async def answer(self, request: BaseRequest) -> Response:
        """Do what is asked at one of ``PATHS``, or say why not."""
        refused = self._refusal(request)
        if refused is not None:
            self._counters.add("requests_refused", label=("reason", refused[1]))
            status, _, code, reason = refused
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            response = fault(request, status, code, reason, headers)
            response.force_close()
            return response
        if request.path == STOP:
            event(log, logging.INFO, "admin.stop")
            self._stop()
            return answer(request, {"stopping": True}, 202)
        try:
            return answer(request, await self._reload())
        except GossipNodeError as error:
            return fault(request, 409, "not_reloaded", str(error))

    def _refusal(self, request: BaseRequest) -> tuple[int, str, str, str] | None:
        """Return status, label, code and reason of a refusal; None for whoever may."""
        transport = request.transport
        ends = (
            [transport.get_extra_info(end) for end in ("peername", "sockname")] if transport else []
        )
        if not ends or not all(end and is_loopback_number(str(end[0])) for end in ends):
            return 403, "remote", "not_local", "only from this machine, over loopback"
        if "Origin" in request.headers:
            return 403, "origin", "not_local", "web pages may change nothing"
        host = host_of(request.headers.get("Host", ""))
        if host != "localhost" and not is_loopback_number(host):
            return 421, "host", "wrong_host", "name this machine localhost, 127.0.0.1 or ::1"
        if not shows(request, self._token):
            reason = "show the token of the node's folder: Authorization: Bearer TOKEN"
            return 401, "token", "unauthorized", reason
        return None
