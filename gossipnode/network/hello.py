"""The hello of a TLS client, waited for before TLS has to know of the connection.

What OpenSSL and uvloop keep for a handshake is some 50 KiB, from its first moment on; a socket that
waits for its hello costs some 4, however slowly the hello drips. Nothing is read, so TLS finds all
of it. Invariant: the kernel is asked twice a connection at most, however many pieces the
hello comes in.
"""

from __future__ import annotations

import asyncio
import socket

HANDSHAKE = 22
HEAD_BYTES = 5
# RFC 8446, 5.1: of one record's content. A hello has some 500 bytes; what claims more TLS refuses.
RECORD_MAX = 2**14


async def hello_from(connection: socket.socket) -> None:
    """Wait until the first record is whole, or cannot become one: TLS has words for that.

    Raises ``OSError`` for a connection that has broken.
    """
    head = _waiting(connection, HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        head = await _come(connection, HEAD_BYTES)
    if len(head) < HEAD_BYTES or head[0] != HANDSHAKE:
        return
    length = int.from_bytes(head[3:5])
    whole = HEAD_BYTES + length
    if length <= RECORD_MAX and len(_waiting(connection, whole)) < whole:
        await _come(connection, whole)


def _waiting(connection: socket.socket, nbytes: int) -> bytes:
    """Return up to ``nbytes`` of what has come, and leave them there."""
    try:
        return connection.recv(nbytes, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return b""


async def _come(connection: socket.socket, nbytes: int) -> bytes:
    """Return ``nbytes`` once they are there, or fewer if no more will come."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # The kernel does not wake this process for less: one byte a second costs it nothing.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
    loop.add_reader(connection.fileno(), _tell, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return _waiting(connection, nbytes)


def _tell(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
