"""TLS contexts of a bundle: version 1.3 alone, both ends verified, ids in place of host names.

Addresses may change and ids may not, so no host name is compared. Who dials names the id that it
means as the server name; the certificate that answers must be of that id (``checks``). Invariant:
no handshake of these contexts ends well with a certificate that ``Gate`` refuses.

asyncio drops what OpenSSL has to say when a handshake fails: the alert that tells the other side
why. ``alerts_to`` names the socket, and the alert is written before the connection is cut.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.identity import pem_of

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


def context_of(bundle: Bundle, *, serving: bool) -> Context:
    """Return a context that shows the bundle's certificate and trusts whom the bundle trusts."""
    context = Context(ssl.PROTOCOL_TLS_SERVER if serving else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # Python 3.13's default, on every version.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if serving:
        # A ticket would resume a session without showing the certificate again.
        context.num_tickets = 0
    with _as_file(pem_of(bundle.certificate) + pem_of(bundle.key)) as chain:
        context.load_cert_chain(chain)
    if bundle.trusted:
        context.load_verify_locations(cadata="".join(map(pem_of, bundle.trusted)))
    return context


@contextlib.contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Name a file with ``text``, since Python reads keys from files alone; in memory if it can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile("w") as file:  # mode 0600
        file.write(text)
        file.flush()
        yield file.name
