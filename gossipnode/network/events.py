"""``GET /v1/events``: what happens in the node, as server-sent events.

Invariant: a client that reads too slowly loses its stream, never the node its memory or time:
the queue is bounded, and so is the wait for the socket. Nothing is read from the client.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gossipnode.logs import bounded
from gossipnode.network.answers import fault, json_bytes
from gossipnode.network.http import BaseRequest, StreamResponse
from gossipnode.node.node import Node

# Each costs one connection and a queue; a handful of dashboards and recorders is plenty.
STREAMS_MAX = 32
# Below the minute after which common proxies cut a silent connection.
HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 10.0


class Streams:
    """The event streams that are open; ``close`` ends them all."""

    def __init__(self, node: Node, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._node = node
        self._heartbeat_s = heartbeat_s
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def close(self) -> None:
        """End every stream; their clients see the end of the answer."""
        for task in self._tasks:
            task.cancel()

    async def answer(self, request: BaseRequest) -> StreamResponse:
        """Stream events until the client leaves, is dropped, or the server closes."""
        if len(self._tasks) >= STREAMS_MAX:
            reason = f"{STREAMS_MAX} event streams are open already"
            return fault(request, 503, "busy", reason, {"Retry-After": "10"})
        response = StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        queue = self._node.subscribe()
        try:
            await self._forward(queue, response)
        except (ConnectionError, TimeoutError):
            # Gone, or too slow to be written to: what is still in the socket's buffer is dropped.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._node.unsubscribe(queue)
            self._tasks.discard(task)
        return response

    async def _forward(
        self, queue: asyncio.Queue[dict[str, Any]], response: StreamResponse
    ) -> None:
        await _write(response, b": connected\n\n")
        while True:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    happened = await queue.get()
            except TimeoutError:
                await _write(response, b": heartbeat\n\n")
                continue
            # It was full until now, so events may be lost: better a cut than a silent gap.
            if queue.qsize() == queue.maxsize - 1:
                await _write(response, b": dropped, this client reads too slowly\n\n")
                return
            await _write(response, _encoded(happened))


def _encoded(happened: dict[str, Any]) -> bytes:
    """Return one event; JSON has no line breaks, so the data is one line."""
    name = bounded(happened.get("event", "message"), 64)
    return b"event: " + name.encode() + b"\ndata: " + json_bytes(happened) + b"\n\n"


async def _write(response: StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)
