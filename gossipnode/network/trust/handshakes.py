"""TLS handshakes that can be judged, and that tell the other side why they failed.

asyncio drops what OpenSSL has to say when a handshake fails: the alert with the reason. Here it is
written to the socket before the connection is cut (``alerts_to`` names the socket). And whoever
owns a context may judge the certificate that a handshake ends with, beyond what OpenSSL checks.
Invariant: nothing heavy is imported here; a node without trust loads this file.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

# The socket of the handshake that begins in this context.
_socket: ContextVar[int | None] = ContextVar("socket", default=None)


@contextlib.contextmanager
def alerts_to(connection: socket.socket) -> Iterator[None]:
    """Write the alerts of handshakes that begin within to ``connection``."""
    token = _socket.set(connection.fileno())
    try:
        yield
    finally:
        _socket.reset(token)


class _Handshake(ssl.SSLObject):
    """One end of one connection."""

    outgoing: ssl.MemoryBIO
    descriptor: int | None
    judge: Callable[[bytes, str | None], None] | None

    def do_handshake(self) -> None:
        """Go on with the handshake; where it ends, judge who is there. Raises ``ssl.SSLError``."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self._tell()
            raise
        if self.judge is not None:
            certificate = self.getpeercert(binary_form=True)
            assert certificate is not None, "the context requires one"
            self.judge(certificate, self.server_hostname)

    def _tell(self) -> None:
        """Send the alert. Nothing else waits to be sent: the last flight left when it was made."""
        if self.descriptor is not None and self.outgoing.pending:
            with contextlib.suppress(OSError):  # the other side has gone, or takes nothing
                os.write(self.descriptor, self.outgoing.read())


class Context(ssl.SSLContext):
    """A context whose ``judge(certificate, server name)`` may refuse by raising ``SSLError``."""

    sslobject_class = _Handshake
    judge: Callable[[bytes, str | None], None] | None = None

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *arguments: Any, **options: Any
    ) -> ssl.SSLObject:
        """Return one end of a connection, which knows where its alerts go."""
        made = super().wrap_bio(incoming, outgoing, *arguments, **options)
        assert isinstance(made, _Handshake)
        made.outgoing, made.descriptor, made.judge = outgoing, _socket.get(), self.judge
        return made
