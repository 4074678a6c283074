"""A TCP proxy on loopback that does to connections what a bad line does, when it is told to.

Invariant: without a fault it passes every byte on, both ways, in order, and nothing else. It lives
in the loop of the test; its verbs take effect at once, also on connections that are open. The
moments of resets come from a seed. Directions are "there", from whoever dialled to the target, and
"back".
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
from collections.abc import Callable
from typing import Literal, Self

Direction = Literal["there", "back"]
CHUNK_BYTES = 16_384
# What a line may hold unread, or a sender would not notice for long that it is slow.
WAITING_BYTES = 8_192
HOST = "127.0.0.1"
# Bytes of the last connection that are kept, to send them once more.
REPLAY_BYTES_MAX = 2**20
# Generous: a busy machine may need it.
ANSWER_S = 60.0


class FaultProxy:
    """Passes connections to its ``port`` on to ``target``, a port; ``async with`` it."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target = target
        self.port = 0
        self.latency_s, self.bytes_per_s, self.bytes_to_reset = 0.0, math.inf, math.inf
        self.accepted = self.resets = 0
        self.passed: dict[Direction, int] = {"there": 0, "back": 0}
        self.recorded = bytearray()  # what came from the last that dialled
        self._rng = random.Random(seed)
        self._flowing: dict[Direction, asyncio.Event] = {
            "there": asyncio.Event(), "back": asyncio.Event()
        }  # fmt: skip
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self.heal()
        listener = socket.create_server((HOST, 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WAITING_BYTES)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=WAITING_BYTES)
        self.port = listener.getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        writers = [writer for line in self._lines for writer in line.writers]
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    # -- verbs ------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Be a good line again; what was held back goes on its way."""
        self.latency_s, self.bytes_per_s, self.bytes_to_reset = 0.0, math.inf, math.inf
        for flowing in self._flowing.values():
            flowing.set()

    def delay(self, seconds: float) -> None:
        """Bring everything so much later, in each direction."""
        self.latency_s = seconds

    def slow(self, bytes_per_s: float) -> None:
        """Bring at most so many bytes a second, in each direction of each connection."""
        self.bytes_per_s = bytes_per_s

    def reset_after(self, mean_bytes: float) -> None:
        """Reset each connection at a random byte, exponentially distributed around the mean."""
        self.bytes_to_reset = mean_bytes
        for line in self._lines:
            line.left = self._drawn()

    def stall(self) -> None:
        """Accept, and pass nothing on, either way, and say nothing."""
        for flowing in self._flowing.values():
            flowing.clear()

    def only(self, direction: Direction) -> None:
        """Pass on what goes in one direction; of the other nothing."""
        for name, flowing in self._flowing.items():
            flowing.set() if name == direction else flowing.clear()

    def cut(self) -> None:
        """Reset all connections that are open."""
        for line in tuple(self._lines):
            line.reset()

    async def replay(self, said: bytes, is_whole: Callable[[bytes], bool]) -> bytes:
        """Send once more what was recorded, on a connection of its own; return the whole answer."""
        reader, writer = await asyncio.open_connection(HOST, self.target)
        answer = b""
        try:
            writer.write(said)
            async with asyncio.timeout(ANSWER_S):
                while not is_whole(answer):
                    piece = await reader.read(CHUNK_BYTES)
                    assert piece, answer
                    answer += piece
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return answer

    # -- lines ------------------------------------------------------------------------------------

    def _drawn(self) -> float:
        mean = self.bytes_to_reset
        return self._rng.expovariate(1 / mean) if mean < math.inf else math.inf

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # asyncio's server takes a cancelled task of its own for a fault.
        with contextlib.suppress(asyncio.CancelledError):
            await self._lead(reader, writer)

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.recorded = bytearray()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = _Line([writer], self._drawn())
        self._lines.add(line)
        try:
            # A line that is silent does not show whether anybody is behind it.
            await self._flowing["there"].wait()
            there, other = await asyncio.open_connection(HOST, self.target, limit=WAITING_BYTES)
            line.writers.append(other)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, other, "there", line))
                both.create_task(self._pass_on(there, writer, "back", line))
        except* (OSError, EOFError):
            line.reset()
        finally:
            self._lines.discard(line)
            self._tasks.discard(task)
            for each in line.writers:
                each.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        line: _Line,
    ) -> None:
        """Pass on until the end, which is passed on, too."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._write(queue, writer, direction, line))
            while True:
                size = min(CHUNK_BYTES, max(1, int(min(self.bytes_per_s, CHUNK_BYTES) / 10)))
                data = await reader.read(size if self.bytes_per_s < math.inf else CHUNK_BYTES)
                if direction == "there" and len(self.recorded) < REPLAY_BYTES_MAX:
                    self.recorded += data
                await queue.put((loop.time() + self.latency_s, data))
                if not data:
                    return
                await asyncio.sleep(len(data) / self.bytes_per_s)

    async def _write(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        direction: Direction,
        line: _Line,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._flowing[direction].wait()
            if not data:
                writer.write_eof()
                return
            line.left -= len(data)
            if line.left <= 0:
                self.resets += 1
                raise ConnectionResetError("as the seed has it")
            writer.write(data)
            await writer.drain()
            self.passed[direction] += len(data)


class _Line:
    """One connection: both its ends, and the bytes that are left until it is reset."""

    def __init__(self, writers: list[asyncio.StreamWriter], left: float) -> None:
        self.writers, self.left = writers, left

    def reset(self) -> None:
        """End it with a reset, not with an end of the data."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.transport.is_closing():
                # Lingering for no time at all is how a socket is told to reset.
                linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
