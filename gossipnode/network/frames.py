"""Frames in and out of an HTTP body: streamed into one buffer, written from the params' memory.

Invariant: a body is held in memory once. What arrives is copied straight from the socket's
chunks into an array of exactly the announced size, which ``admit`` has allowed before; what
leaves is never joined unless it is small. No route, status code or session may enter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from gossipnode.errors import PeerError
from gossipnode.network.http import AbstractStreamWriter, Payload, aiohttp
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import CONTENT_TYPE, Frame, FrameReader, arrays, verify_checksum
from gossipnode.wire.message import Message

# Below this, one copy is cheaper than a second system call: 64 KiB are copied in 5 us.
JOINED_BYTES_MAX = 2**16
# A write in flight: large enough to cost nothing per byte, small enough that an event loop which
# copies what the socket does not take (asyncio's own before 3.12) copies little.
WRITE_BYTES = 2**20
# A checksum over more than this leaves the loop: 1 MB takes 40 us.
INLINE_BYTES_MAX = 2**20


@dataclass(slots=True)
class Head:
    """A frame whose header is read: ``rest`` is what has come of its body already."""

    message: Message
    reader: FrameReader
    head_bytes: int
    rest: memoryview


async def read_head(content: aiohttp.StreamReader) -> Head:
    """Read prefix and header from the stream, never holding more than one chunk of the body.

    Raises ``PeerError`` as ``FrameReader`` does, and where the stream ends or breaks too early.
    """
    reader = FrameReader()
    head_bytes = 0
    while True:
        chunk = await _next_chunk(content)
        if not chunk:
            reader.finish()
        rest = reader.feed(chunk)
        head_bytes += len(chunk) - len(rest)
        if reader.message is not None:
            return Head(reader.message, reader, head_bytes, rest)


async def read_body(content: aiohttp.StreamReader, head: Head, body: memoryview) -> None:
    """Read the body into ``body``, writable and of exactly ``head.message.body_bytes`` bytes.

    Raises ``PeerError``.
    """
    filled = len(head.rest)
    body[:filled] = head.rest
    while filled < len(body):
        chunk = await _next_chunk(content)
        if not chunk:
            break
        head.reader.feed(chunk)
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    head.reader.finish()


async def receipt_of(message: Message, body: memoryview) -> Receipt:
    """Return the answer of an exchange, its checksum verified; raises ``PeerError``."""
    if len(body) > INLINE_BYTES_MAX:
        await asyncio.to_thread(verify_checksum, message, body)
    else:
        verify_checksum(message, body)
    return Receipt(message=message, arrays=arrays(message, body))


async def _next_chunk(content: aiohttp.StreamReader) -> bytes:
    """Return what has arrived; nothing only at the end. One chunk, so that nothing is joined."""
    try:
        while True:
            chunk, _ = await content.readchunk()
            if chunk or content.at_eof():
                return chunk
    except (ConnectionError, aiohttp.ClientPayloadError, asyncio.IncompleteReadError) as error:
        raise PeerError("malformed_frame", "the connection broke inside the frame") from error


def joined_or_payload(frame: Frame) -> bytes | FramePayload:
    """Return what aiohttp can send: one copy of a small frame, a large one as it lies."""
    return frame.tobytes() if frame.nbytes <= JOINED_BYTES_MAX else FramePayload(frame)


class FramePayload(Payload):
    """Sends a frame piece by piece from its own memory; can be sent again."""

    _autoclose = True

    def __init__(self, frame: Frame) -> None:
        super().__init__(frame, content_type=CONTENT_TYPE)
        self._frame = frame
        self._size = frame.nbytes
        self.body_written = 0  # bytes, in the try under way

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        """A frame is no text."""
        raise TypeError("a frame is no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write prefix, header and body, waiting for the socket in between."""
        self.body_written = 0
        await writer.write(self._frame.head)
        for piece in self._pieces():
            await writer.write(piece)
            self.body_written += len(piece)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """The same: the length announced is the frame's own."""
        assert content_length is None or content_length == self._size
        await self.write(writer)

    def _pieces(self) -> Iterator[memoryview]:
        for view in self._frame.body:
            for start in range(0, len(view), WRITE_BYTES):
                yield view[start : start + WRITE_BYTES]
