"""The door of a node with TLS: accepts connections, and leads each through its handshake.

asyncio's own server drops what goes wrong in a handshake: here each is a task, so that the reason
and the address are known, the other side is told, and slow ones end in time. Invariant: nothing is
handed to HTTP before the handshake is over, and every accepted connection is handed on or closed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial
from ssl import SSLContext

from gossipnode.logs import event
from gossipnode.network.gate import Gate, Knock
from gossipnode.network.hello import hello_from
from gossipnode.network.trust.handshakes import alerts_to
from gossipnode.network.turns import Turns

log = logging.getLogger("gossipnode.network.door")

# Accepted in a row before others have their turn: with their handshakes begun 2 ms; 64 took 6, and
# a push that waits for several turns waits for each of them.
ROW = 8
# New connections after which those that have ended are forgotten.
FORGOTTEN_EVERY = 64
# Without a free descriptor the queue of the kernel has to wait.
FULL_S = 0.5
# After this end has said that it closes: the peer of an idle connection may be gone.
SHUTDOWN_S = 0.5
# For a handshake whose hello came in the last moment; uvloop wants more than none.
LEAST_S = 0.001
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Door:
    """Hands connections to protocols of ``gate``, which counts them from their handshake on.

    ``on_refused`` is told of those that fail: the address, without the port, and the exception. A
    handshake has ``timeout_s``, and begins when its ``turns`` allow it. Those that begin take
    ``context`` as it is then.
    """

    def __init__(
        self,
        gate: Gate,
        context: SSLContext,
        on_refused: Callable[[str, Exception], None],
        timeout_s: float,
        turns: Turns,
    ) -> None:
        self._gate, self.context, self._on_refused = gate, context, on_refused
        self._timeout_s, self._turns = timeout_s, turns
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.Transport] = set()
        self._timer: asyncio.TimerHandle | None = None

    def open(self, listener: socket.socket) -> None:
        """Accept from ``listener``, which is bound, and closed by ``close``."""
        self._loop = asyncio.get_running_loop()
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    def connections(self) -> Iterator[asyncio.Transport]:
        """Yield the connections that are open, whoever owns them by now."""
        self._open = {transport for transport in self._open if not transport.is_closing()}
        yield from tuple(self._open)

    async def close(self) -> None:
        """Accept no more, and give up the handshakes; harmless twice."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(listener.fileno())
        listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(ROW):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._rest(error)
                return
            knock = self._gate.arrive(str(address[0]))
            if knock is None:
                connection.close()
                continue
            task = self._loop.create_task(self._lead(connection, knock))
            self._tasks.add(task)
            knock.give_up = task.cancel
            task.add_done_callback(partial(self._led, connection, knock))

    def _led(self, connection: socket.socket, knock: Knock, task: asyncio.Task[None]) -> None:
        """See that nothing is left of a handshake that was given up, even before it began."""
        self._tasks.discard(task)
        knock.give_up = None
        if task.cancelled():
            knock.abandon()
            connection.close()

    def _rest(self, error: OSError) -> None:
        """Stop accepting for a moment: the descriptors are used up."""
        assert self._listener is not None
        event(log, logging.ERROR, "door.full", reason=error.strerror)
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(FULL_S, self._go_on)

    def _go_on(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    async def _lead(self, connection: socket.socket, knock: Knock) -> None:
        connection.setblocking(False)
        due = self._loop.time() + self._timeout_s
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout_at(due):
                await hello_from(connection)
                await self._turns.take()  # an answer to a hello is the dearest thing here
            with alerts_to(connection):
                transport, _ = await self._loop.connect_accepted_socket(
                    lambda: knock,
                    sock=connection,
                    ssl=self.context,
                    ssl_handshake_timeout=max(due - self._loop.time(), LEAST_S),
                    ssl_shutdown_timeout=SHUTDOWN_S,
                )
        except OSError as error:
            self._on_refused(knock.host, error)
            knock.abandon()
            connection.close()
        except BaseException:
            knock.abandon()
            connection.close()
            raise
        else:
            self._open.add(transport)
            if len(self._open) % FORGOTTEN_EVERY == 0:
                for _ in self.connections():
                    break  # forget those that have closed
