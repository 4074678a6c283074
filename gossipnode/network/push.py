"""``POST /v1/push``: one frame from a peer, to the node and answered.

The hot path. Invariant: the header is admitted before a byte of the body is waited for or a
byte of memory taken for it, and whatever goes wrong ends in a typed refusal that changed
nothing. What a frame means is the node's business, not this file's.
"""

from __future__ import annotations

import asyncio
import math

from gossipnode.errors import PeerError
from gossipnode.network.answers import JSON, MSGPACK
from gossipnode.network.frames import Head, joined_or_payload, read_body, read_head
from gossipnode.network.http import BaseRequest, Response
from gossipnode.network.pool import BufferPool
from gossipnode.network.proven import require_sender
from gossipnode.network.stall import StallWatch
from gossipnode.network.transfers import Transfers
from gossipnode.node.inbox import Admission, body_bytes_max
from gossipnode.node.node import Node
from gossipnode.node.passive import Delivery
from gossipnode.wire.frame import CONTENT_TYPE, HEADER_BYTES_MAX, PREFIX_BYTES
from gossipnode.wire.reply import Reply

# A refused body of up to this size is read and dropped, which is cheaper than a new connection.
UNREAD_BYTES_MAX = 2**16
RETRY_AFTER_S = 1.0


class Push:
    """One push on its way in. ``sender`` is known once the header is read.

    ``proven`` is the id of the connection's certificate, where there is trust.
    """

    __slots__ = ("_node", "_pool", "_proven", "_request", "_timeout_s", "_transfers", "sender")

    def __init__(
        self,
        node: Node,
        pool: BufferPool,
        transfers: Transfers,
        request: BaseRequest,
        timeout_s: float,
        proven: str | None = None,
    ) -> None:
        self._node, self._pool, self._transfers = node, pool, transfers
        self._request, self._timeout_s = request, timeout_s
        self._proven, self.sender = proven, proven

    async def answer(self) -> Response:
        """Read the frame, deliver it and return the answer; refusals are answers too."""
        if not self._node.has_started:
            return self._refusal(PeerError("busy", "this node is starting; come again"))
        try:
            delivery = await self._deliver()
        except PeerError as error:
            return self._refusal(error)
        if delivery.frame is None:
            return self._reply(delivery.reply, 200)
        return Response(
            body=joined_or_payload(delivery.frame), headers={"Content-Type": CONTENT_TYPE}
        )

    async def _deliver(self) -> Delivery:
        length = self._check_request()
        if self._request.content.is_eof():
            # All of it is here, as with every small frame: no timer needed.
            admission, body = await self._read(length)
        else:
            try:
                admission, body = await self._in_time(length)
            except TimeoutError:
                raise PeerError(
                    "body_timeout",
                    f"the frame came too slowly, or not within {self._timeout_s:g} s",
                ) from None
        return await self._node.deliver(admission, body)

    def _check_request(self) -> int:
        """Return the announced length; raises ``PeerError`` before anything is read."""
        headers = self._request.headers
        if "Origin" in headers:
            # Only browsers send it: a page must not feed models to the node of who looks at it.
            raise PeerError("not_a_neighbour", "web pages may not push")
        if headers.get("Content-Encoding", "identity") != "identity":
            # Never inflated: a kilobyte may become a gigabyte.
            raise PeerError("unsupported_encoding", "send the frame as it is, not compressed")
        length = self._request.content_length
        if length is None:
            raise PeerError("length_required", "send Content-Length, not chunks")
        largest = body_bytes_max(self._node.layout, self._node.algorithm)
        limit = PREFIX_BYTES + HEADER_BYTES_MAX + largest
        if length > limit:
            raise PeerError("too_large", f"{length} bytes; the layout allows {limit}")
        return length

    async def _in_time(self, length: int) -> tuple[Admission, memoryview]:
        """Read as ``_read`` does; raises ``TimeoutError`` where that takes too long, or stalls."""
        loop, content = asyncio.get_running_loop(), self._request.content
        async with asyncio.timeout(self._timeout_s) as timer:
            watch = StallWatch(
                self._timeout_s,
                lambda: content.total_bytes,
                lambda: timer.reschedule(loop.time()),
                self._node.config.network.body_rate_min,
            )
            watch.begun()
            try:
                return await self._read(length)
            finally:
                watch.stop()

    async def _read(self, length: int) -> tuple[Admission, memoryview]:
        """Admit the header, then read the body; the admission is released unless returned."""
        request, node = self._request, self._node
        if "Expect" in request.headers:
            # curl and others hold the body back until they are told to go on, or refused.
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Not part of the answer: aiohttp takes output for an answer that has begun.
            request.writer.output_size = 0
        head = await read_head(request.content)
        if self._proven is not None:
            require_sender(head.message.sender, self._proven)
        self.sender = head.message.sender
        if head.head_bytes + head.message.body_bytes != length:
            raise PeerError("malformed_frame", "Content-Length is not the length of the frame")
        admission = node.admit(head.message)
        try:
            return admission, await self._body(head)
        except BaseException:
            node.release(admission)
            raise

    async def _body(self, head: Head) -> memoryview:
        sender, nbytes = head.message.sender, head.message.body_bytes
        body = self._pool.take(nbytes)
        try:
            with self._transfers.shown(sender, "from", nbytes, lambda: head.reader.body_seen):
                await read_body(self._request.content, head, body)
        finally:
            self._pool.arrived(nbytes)
        return body

    def turned_away(self, words: str) -> Response:
        """Return the answer to somebody who does not count, without reading what came."""
        response = self._refusal(PeerError("not_a_neighbour", words))
        response.force_close()
        return response

    def _refusal(self, error: PeerError) -> Response:
        node = self._node
        if node.has_started:
            reply = node.refuse(error, self.sender)
        else:
            reply = Reply("refused", node.id, 0, 0, error.code, error.reason, RETRY_AFTER_S)
        response = self._reply(reply, error.http_status)
        if error.http_status == 503:
            seconds = reply.retry_after_s if reply.retry_after_s is not None else RETRY_AFTER_S
            response.headers["Retry-After"] = str(max(1, math.ceil(seconds)))
        if not self._request.content.is_eof():
            length = self._request.content_length
            read = self._request.content.total_bytes
            if length is None or length - read > UNREAD_BYTES_MAX:
                # aiohttp goes on reading, and dropping, for its lingering time: a client that
                # sends everything before it looks finds the answer, not a reset.
                response.force_close()
        return response

    def _reply(self, reply: Reply, status: int) -> Response:
        """Return the reply as msgpack, or as JSON if the client asks for that."""
        if "json" in self._request.headers.get("Accept", ""):
            return Response(
                status=status, body=reply.to_json().encode(), headers={"Content-Type": JSON}
            )
        return Response(status=status, body=reply.encode(), headers={"Content-Type": MSGPACK})
