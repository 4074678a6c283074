"""How long the connections that a node opens may hang on a line that swallows packets.

Invariant: a push ends soon after its peer has vanished without a word, and what comes after it does
not wait for the old connection's patience. Lanes see to themselves (``alive``).
"""

from __future__ import annotations

import socket
from typing import Any, Final

# The system sends again after 0.2, 0.4, 0.8, … s, so that after 30 s without an answer it may keep
# still for another 25 s, although the line is whole again: pushes took 21 to 28 s to come through.
# Ended after 10 s, a new connection is tried instead; what is sent again before that is at most 4 s
# away. It counts from the first byte that nobody acknowledges, or that finds no room at the other
# end, so a slow line is not meant.
UNHEARD_S: Final = 10.0
# To connect: the system asks after 0, 1 and 3 s, the next time would be after 7 s. Less than what
# opening a lane may take in all (``lanes``).
CONNECT_S: Final = 4.0

# Of Linux; elsewhere the system's own patience holds.
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


def impatient(address: tuple[Any, ...]) -> socket.socket:
    """Return a new socket for one of ``getaddrinfo``'s answers; raises ``OSError``."""
    family, kind, protocol = address[:3]
    connection = socket.socket(family, kind, protocol)
    if _USER_TIMEOUT is not None:
        connection.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(UNHEARD_S * 1000))
    return connection
