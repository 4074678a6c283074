"""Looking why a plain connection was cut: whether somebody speaks TLS there.

OpenSSL hangs up on plain HTTP without a word, so the client has to find out for itself. Invariant:
nothing is sent but the beginning of a handshake, and nothing that is learnt is believed for more
than the words of an error.
"""

from __future__ import annotations

import asyncio
import ssl

from yarl import URL

from gossipnode.network.http import AbstractResolver

TIMEOUT_S = 1.0
# Asked again at the earliest after this: each answer costs a connection.
KEPT_S = 30.0
KEPT_MAX = 1024

WORDS = (
    "it speaks TLS alone there: a peer needs a bundle of its swarm (start --bundle); people ask "
    "its status port, which is plain"
)


class Probe:
    """Remembers for a while what it found."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[float, bool]] = {}

    async def speaks_tls(self, url: URL, resolver: AbstractResolver) -> bool:
        """Whether a server of TLS answers where ``url`` leads; False also where nobody does."""
        if url.scheme != "http" or url.host is None or url.port is None:
            return False
        now, key = asyncio.get_running_loop().time(), (url.host, url.port)
        if key in self._found and now - self._found[key][0] < KEPT_S:
            return self._found[key][1]
        if len(self._found) >= KEPT_MAX:
            self._found.clear()
        self._found[key] = now, await _try(*key, resolver)
        return self._found[key][1]


async def _try(host: str, port: int, resolver: AbstractResolver) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whoever it is: the connection is closed at once
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await resolver.resolve(host, port)
            _, writer = await asyncio.open_connection(found[0]["host"], port, ssl=context)
    except (OSError, TimeoutError, ValueError):
        return False
    writer.transport.abort()
    return True
