"""The proxy does what its verbs say, to an echo and to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from chaos.proxy import HOST, FaultProxy

PATIENCE_S = 20.0
# Long enough for an echo on loopback to have come a hundred times over.
IN_VAIN_S = 0.2


@contextlib.asynccontextmanager
async def echoing(seed: int = 0) -> AsyncIterator[FaultProxy]:
    echoes: set[asyncio.Task[None] | None] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        echoes.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(echo, HOST, 0)
    async with FaultProxy(server.sockets[0].getsockname()[1], seed) as proxy:
        yield proxy
    server.close()
    await asyncio.gather(*(each for each in echoes if each is not None))


class Caller:
    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy

    async def __aenter__(self) -> Caller:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.proxy.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def said(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), PATIENCE_S)

    async def is_silent(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), IN_VAIN_S)
        except TimeoutError:
            return True
        return False


async def test_without_a_fault_every_byte_is_passed_on_and_the_end_too() -> None:
    data = random.Random(1).randbytes(300_000)
    async with echoing() as proxy, Caller(proxy) as caller:
        caller.writer.write(data)
        caller.writer.write_eof()
        assert await asyncio.wait_for(caller.reader.read(-1), PATIENCE_S) == data
        assert proxy.passed == {"there": len(data), "back": len(data)}


async def test_a_delay_is_for_each_direction() -> None:
    async with echoing() as proxy, Caller(proxy) as caller:
        proxy.delay(0.1)
        began = asyncio.get_running_loop().time()
        assert await caller.said(b"x") == b"x"
        assert asyncio.get_running_loop().time() - began >= 0.19


async def test_a_slow_line_takes_its_time_and_holds_little() -> None:
    async with echoing() as proxy, Caller(proxy) as caller:
        proxy.slow(20_000)
        began = asyncio.get_running_loop().time()
        assert await caller.said(bytes(8_000)) == bytes(8_000)
        assert asyncio.get_running_loop().time() - began >= 0.3


async def test_a_stalled_line_accepts_is_silent_and_loses_nothing() -> None:
    async with echoing() as proxy, Caller(proxy) as before:
        assert await before.said(b"1") == b"1"
        proxy.stall()
        async with Caller(proxy) as after:
            for caller in (before, after):
                caller.writer.write(b"2")
                assert await caller.is_silent()
            proxy.heal()
            for caller in (before, after):
                assert await asyncio.wait_for(caller.reader.readexactly(1), PATIENCE_S) == b"2"


async def test_of_a_one_way_line_one_direction_arrives() -> None:
    async with echoing() as proxy, Caller(proxy) as caller:
        await caller.said(b"1")
        proxy.only("there")
        passed = dict(proxy.passed)
        caller.writer.write(b"2")
        assert await caller.is_silent()
        assert (proxy.passed["there"], proxy.passed["back"]) == (passed["there"] + 1, 1)
        proxy.only("back")
        assert await asyncio.wait_for(caller.reader.readexactly(1), PATIENCE_S) == b"2"
        caller.writer.write(b"3")
        assert await caller.is_silent()
        assert proxy.passed["there"] == passed["there"] + 1


async def test_a_reset_is_a_reset() -> None:
    async with echoing() as proxy, Caller(proxy) as caller:
        await caller.said(b"1")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(caller.reader.read(1), PATIENCE_S)


async def reset_at(seed: int) -> list[int]:
    """Return how many bytes each of five connections got through."""
    found = []
    async with echoing(seed) as proxy:
        proxy.reset_after(3000)
        for _ in range(5):
            async with Caller(proxy) as caller:
                count = 0
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    while True:
                        await caller.said(bytes(100))
                        count += 100
            found.append(count)
        assert proxy.resets == 5
    return found


async def test_the_seed_decides_when() -> None:
    first, again, other = await reset_at(1), await reset_at(1), await reset_at(2)
    assert first == again
    assert first != other


async def test_what_was_said_is_said_again() -> None:
    async with echoing() as proxy:
        async with Caller(proxy) as caller:
            await caller.said(b"frame")
        said = bytes(proxy.recorded)
        assert await proxy.replay(said, lambda answer: len(answer) >= 5) == b"frame"
