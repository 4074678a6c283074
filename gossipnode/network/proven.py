"""Whether a frame or an answer is of whom the connection's certificate is.

Invariant: with trust nobody speaks in another's name, whichever end has dialled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gossipnode.errors import PeerError
from gossipnode.logs import bounded
from gossipnode.network.http import aiohttp
from gossipnode.node.world import Receipt

if TYPE_CHECKING:
    from aiohttp.connector import Connection


def require_sender(sender: str, proven: str, what: str = "frame") -> None:
    """Raise ``PeerError`` unless ``sender``, as it calls itself, is the node that was proved."""
    if sender != proven:
        raise PeerError(
            "not_a_neighbour",
            f"the {what} is of {bounded(sender, 128)}, and the certificate of {proven}",
        )


def sender_of(receipt: Receipt) -> str:
    """Return who answered, as it calls itself."""
    answer = receipt.message or receipt.reply
    assert answer is not None
    return answer.sender


class TracedResponse(aiohttp.ClientResponse):
    """An answer that knows the certificate of whom it came from, also once it has been read.

    asyncio's transports know nothing any more once they are closed.
    """

    certificate: Mapping[str, Any] | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Begin to read."""
        if connection.transport is not None and not connection.transport.is_closing():
            self.certificate = connection.transport.get_extra_info("peercert")
        return await super().start(connection)
