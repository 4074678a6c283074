"""Connections count from before their TLS handshake: silent ones make room, and end in time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import PATIENCE_S, until
from trusting import authority_in, bundle_of, contexts_of

from gossipnode.config import NetworkOptions
from gossipnode.network import hello
from gossipnode.network.door import Door
from gossipnode.network.gate import Gate
from gossipnode.network.http import BaseRequest, Response
from gossipnode.network.trust.handshakes import Context
from gossipnode.network.trust.words import reason_of
from gossipnode.network.turns import Turns
from gossipnode.node.counters import Counters


class Porch:
    """A door with nothing behind it but an answer."""

    def __init__(self, folder: Path) -> None:
        authority = authority_in(folder)
        self.serving, self.dialling = contexts_of(bundle_of(authority, "a"))
        _, self.foreign = contexts_of(bundle_of(authority_in(folder / "other"), "b"))
        self.counters, self.refused = Counters(), list[tuple[str, Exception]]()
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self, **options: Any) -> None:
        made = NetworkOptions(**options)
        self.gate = Gate(self._answer, made, self.counters)
        listener = socket.create_server(("127.0.0.1", 0), backlog=300)
        self.port = listener.getsockname()[1]
        refused = lambda *what: self.refused.append(what)  # noqa: E731
        self.door = Door(self.gate, self.serving, refused, made.handshake_timeout_s, Turns())
        self.door.open(listener)

    async def _answer(self, request: BaseRequest) -> Response:
        return Response(text="here")

    async def close(self) -> None:
        self.hang_up()
        await self.door.close()
        self.gate.close()
        await self.gate.shutdown(0.1)

    async def dial(
        self, tls: ssl.SSLContext | None = None, address: str = "127.0.0.2"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; closed with the porch, if not before."""
        options: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": ""}
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, local_addr=(address, 0), **options
            )
        self.writers.append(writer)
        return reader, writer

    async def ask(self) -> bytes:
        reader, writer = await self.dial(self.dialling, "127.0.0.3")
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            line = await reader.readline()
        writer.transport.abort()
        return line

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    def cut(self, limit: str) -> int:
        return self.counters.get("connections_cut", label=("limit", limit))

    def is_empty(self) -> bool:
        gate = self.gate
        return not (gate.total or gate.by_address or gate._silent or gate._begun)


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionError):
            return await reader.read(1) == b""
        return True


Open = Callable[..., Awaitable[Porch]]


@pytest.fixture
async def open_porch(tmp_path: Path) -> AsyncIterator[Open]:
    porch = Porch(tmp_path)

    async def open_it(**options: Any) -> Porch:
        await porch.open(**options)
        return porch

    yield open_it
    await porch.close()


async def test_a_handshake_counts_and_ends_in_its_time(open_porch: Open) -> None:
    porch = await open_porch(handshake_timeout_s=0.3)
    reader, _ = await porch.dial()
    await until(lambda: porch.gate.total == 1)
    assert porch.gate.by_address == {"127.0.0.2": 1}
    assert await ended(reader)
    await until(porch.is_empty)
    assert [host for host, _ in porch.refused] == ["127.0.0.2"]


async def test_one_address_has_so_many_handshakes(open_porch: Open) -> None:
    porch = await open_porch(connections_per_address_max=3)
    for _ in range(3):
        await porch.dial()
    await until(lambda: porch.gate.total == 3)
    reader, _ = await porch.dial()
    assert await ended(reader)
    assert porch.cut("address") == 1
    assert b"200" in await porch.ask()  # another address is not concerned
    porch.hang_up()
    await until(porch.is_empty)


async def test_the_handshake_that_lasts_longest_makes_room(open_porch: Open) -> None:
    porch = await open_porch(connections_max=3)
    held = []
    for count in range(3):
        held.append(await porch.dial())
        await until(lambda count=count: porch.gate.total == count + 1)
    assert b"200" in await porch.ask()
    assert await ended(held[0][0])
    assert porch.cut("evicted") == 1
    await until(lambda: porch.gate.total == 2)
    assert not any(reader.at_eof() for reader, _ in held[1:])
    porch.hang_up()
    await until(porch.is_empty)


async def test_a_handshake_that_fails_is_counted_no_longer(open_porch: Open) -> None:
    porch = await open_porch()
    for _ in range(5):
        _, writer = await porch.dial()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")  # no TLS
    with contextlib.suppress(OSError):
        reader, _ = await porch.dial(porch.foreign)
        await ended(reader)
    await until(lambda: len(porch.refused) == 6 and porch.is_empty())


async def test_a_connection_counts_once_whatever_stage_it_is_in(open_porch: Open) -> None:
    """With one place in all, the handshake and what comes of it are the same connection."""
    porch = await open_porch(connections_max=1)
    for _ in range(3):
        assert b"200" in await porch.ask()
        await until(porch.is_empty)
    assert not porch.cut("total")


async def test_closing_gives_up_the_handshakes(open_porch: Open) -> None:
    porch = await open_porch()
    lines = [await porch.dial() for _ in range(5)]
    await until(lambda: porch.gate.total == 5)
    await porch.door.close()
    for reader, _ in lines:
        assert await ended(reader)
    await until(porch.is_empty)


async def test_whoever_says_nothing_after_the_handshake_is_ended(open_porch: Open) -> None:
    porch = await open_porch(header_timeout_s=0.2)
    reader, _ = await porch.dial(porch.dialling)
    assert await ended(reader)
    assert porch.cut("header_time") == 1
    porch.hang_up()
    await until(porch.is_empty)


class Client:
    """One end of a handshake, whose bytes the test carries over a connection."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._from, self._to = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._from, self._to)

    def hello(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._to.read()

    def finish(self, answer: bytes) -> bytes:
        self._from.write(answer)
        self._tls.do_handshake()
        self._tls.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return self._to.read()


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What TLS has been told of so far."""
    told: list[Any] = []
    wrap = Context.wrap_bio

    def note(self: Context, *arguments: Any, **options: Any) -> ssl.SSLObject:
        if options.get("server_side") or True in arguments:
            told.append(self)
        return wrap(self, *arguments, **options)

    monkeypatch.setattr(Context, "wrap_bio", note)
    return told


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How the kernel was asked for what waits at a connection."""
    times: list[int] = []
    waiting = hello._waiting

    def note(connection: socket.socket, nbytes: int) -> bytes:
        times.append(nbytes)
        return waiting(connection, nbytes)

    monkeypatch.setattr(hello, "_waiting", note)
    return times


@pytest.mark.parametrize("piece", [1, 2**16])
async def test_tls_hears_of_a_connection_with_its_whole_hello(
    open_porch: Open, wrapped: list[Any], asked: list[int], piece: int
) -> None:
    """However it comes, with its last byte alone behind all others."""
    porch = await open_porch()
    for _ in range(5):
        await porch.dial()
    client = Client(porch.dialling)
    reader, writer = await porch.dial()
    text = client.hello()
    for at in range(0, len(text) - 1, piece):
        writer.write(text[at : min(at + piece, len(text) - 1)])
        await writer.drain()
        if at % 50 == 0:
            await asyncio.sleep(0)
    await until(lambda: porch.gate.total == 6 and len(text) in asked)
    await asyncio.sleep(0)  # what would be told now is told in the loop's next turns
    await asyncio.sleep(0)
    assert not wrapped
    assert asked.count(len(text)) == 1, "it is not woken by each piece"
    writer.write(text[-1:])
    async with asyncio.timeout(PATIENCE_S):
        writer.write(client.finish(await reader.read(2**16)))
        assert await reader.read(2**16)
    assert len(wrapped) == 1
    porch.hang_up()
    await until(porch.is_empty)


@pytest.mark.parametrize("words", [b"", b"\x16\x03", b"\x16\x03\x01\x01\x00half of a hello"])
async def test_who_breaks_off_amid_the_hello_is_forgotten_at_once(
    open_porch: Open, asked: list[int], words: bytes
) -> None:
    porch = await open_porch()
    _, writer = await porch.dial()
    writer.write(words)
    wanted = hello.HEAD_BYTES + (256 if len(words) > hello.HEAD_BYTES else 0)
    await until(lambda: wanted in asked)
    writer.write_eof()
    await until(porch.is_empty)
    assert [reason_of(error) for _, error in porch.refused] == ["broken"]
    assert len(asked) <= 4
