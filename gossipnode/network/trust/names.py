"""The URI that names a node: ``gossipnode://SWARM/ID``. Nothing heavy may be imported here.

Invariant: what is parsed is spelt in one way only, so two texts are of one node if they are equal.
"""

from __future__ import annotations

import re

from gossipnode.config import ID_PATTERN
from gossipnode.errors import PeerError

SCHEME = "gossipnode"
_URI = re.compile(rf"{SCHEME}://({ID_PATTERN[1:-1]})/([a-z2-7]{{26}})")


def uri_of(swarm: str, node_id: str) -> str:
    """Return the URI of a node.

    >>> uri_of("digits", "a" * 26)
    'gossipnode://digits/aaaaaaaaaaaaaaaaaaaaaaaaaa'
    """
    return f"{SCHEME}://{swarm}/{node_id}"


def parse_uri(uri: str) -> tuple[str, str]:
    """Return (swarm, id); raises ``PeerError``.

    >>> parse_uri("gossipnode://digits/aaaaaaaaaaaaaaaaaaaaaaaaaa")[0]
    'digits'
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise PeerError("not_a_neighbour", "the certificate's URI is no gossipnode://SWARM/ID")
    return match[1], match[2]
