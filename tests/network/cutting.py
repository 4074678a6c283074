"""A proxy between two nodes that cuts connections, plain ones or TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import count

from loopback import until

from gossipnode.network import HttpNode


class Proxy:
    """Forwards connections to ``port``; each is cut after its share of ``cuts`` bytes."""

    def __init__(self, port: int, cuts: Iterator[int | None]) -> None:
        self.port, self.cuts = port, cuts
        self.forwarded: list[int] = []  # towards the node, by connection
        self.writers: set[asyncio.StreamWriter] = set()
        self.deaf = False  # whether the node is not told of a cut

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for writer in self.writers:
                writer.transport.abort()
            await until(lambda: not self.running)

    running = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.running += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers |= {writer, back}
        number = len(self.forwarded)
        self.forwarded.append(0)
        backwards = asyncio.create_task(self._copy(there, writer))
        cut = next(self.cuts)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                if cut is not None:
                    data = data[: cut - self.forwarded[number]]
                self.forwarded[number] += len(data)
                back.write(data)
                await back.drain()
                if self.forwarded[number] == cut:
                    break
        if not self.deaf:
            back.close()
        writer.transport.abort()
        backwards.cancel()
        self.running -= 1

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()


def port_of(node: HttpNode) -> int:
    return int(node.url.rsplit(":", 1)[1])


def forever(*cuts: int | None) -> Iterator[int | None]:
    yield from cuts
    yield from (None for _ in count())
