"""What went wrong between this node and one that it asks, in words of our own.

Invariant: no text of the peer's is in them.
"""

from __future__ import annotations

import errno
import os
from ssl import SSLError

from gossipnode.errors import NetworkError, PeerError
from gossipnode.network.http import aiohttp


def translated(error: Exception) -> NetworkError | PeerError:
    """Return what is raised in place of an error of the libraries."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NetworkError("the name does not resolve")
    if isinstance(error, aiohttp.InvalidURL):
        return NetworkError("the address is no http://host:port")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return PeerError("malformed_frame", f"the answer is broken: {_kind(error)}")
    if isinstance(error, aiohttp.ClientError | OSError):
        return NetworkError(_kind(error))
    # yarl's, and the idna codec's, about a host name that no resolver is ever asked for.
    return NetworkError("the address cannot be dialled")


def tls_fault(error: BaseException | None) -> BaseException | None:
    """Return what TLS said, wherever aiohttp has wrapped it; None where it said nothing."""
    for _ in range(4):
        if error is None or (isinstance(error, SSLError) and not _is_wrapping(error)):
            return error
        error = getattr(error, "os_error", None) or error.__cause__ or error.__context__
    return None


def _is_wrapping(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientError)


def _kind(error: BaseException) -> str:
    """Return what happened, without text of the peer's."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the peer closed the connection before it answered"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return type(error).__name__


def is_cut(error: BaseException) -> bool:
    """Whether a connection that was open broke before the answer began."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError) or (
        isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE)
    )
