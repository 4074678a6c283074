"""Which ids the swarm's authority has shut out: a list that it signs, with a counter.

Any node may hand the list to any other, since only the authority can make one. Invariant: of two
lists that hold, the one with the higher counter counts, so nobody can bring an older one back;
``Revocations`` that were parsed were signed.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from gossipnode.errors import PeerError

TITLE: Final = "gossipnode revocations 1"
# 28 bytes an id: room for 37,000.
BYTES_MAX: Final = 2**20
_HEAD = re.compile(r"swarm ([A-Za-z0-9._-]{1,128})\ncounter (0|[1-9][0-9]{0,17})\n")
_ID = re.compile(r"[a-z2-7]{26}")


@dataclass(frozen=True, slots=True)
class Revocations:
    """The ids that are shut out, and ``text``, the signed list; counter 0 is the empty one."""

    swarm: str
    counter: int = 0
    ids: frozenset[str] = frozenset()
    text: str = ""

    @classmethod
    def sign(
        cls, swarm: str, counter: int, ids: frozenset[str], key: ec.EllipticCurvePrivateKey
    ) -> Revocations:
        """Return a signed list; ``counter`` is above that of every list before."""
        lines = [TITLE, f"swarm {swarm}", f"counter {counter}", *sorted(ids), ""]
        body = "\n".join(lines)
        signature = key.sign(body.encode(), ec.ECDSA(hashes.SHA256()))
        text = f"{body}signature {base64.b64encode(signature).decode()}\n"
        return cls(swarm, counter, ids, text)

    @classmethod
    def parse(cls, text: str, swarm: str, key: ec.EllipticCurvePublicKey) -> Revocations:
        """Read a list that the authority with ``key`` has signed; raises ``PeerError``."""
        if len(text) > BYTES_MAX:
            raise PeerError("too_large", f"a list of revocations of more than {BYTES_MAX} bytes")
        body, found, signature = text.rpartition("signature ")
        if not found:
            raise _malformed("it has no signature")
        try:
            raw = base64.b64decode(signature.removesuffix("\n"), validate=True)
            key.verify(raw, body.encode(), ec.ECDSA(hashes.SHA256()))
        except (ValueError, InvalidSignature):
            raise _malformed("the swarm's authority has not signed it") from None
        head = _HEAD.match(body, len(TITLE) + 1)
        if not body.startswith(TITLE + "\n") or head is None:
            raise _malformed(f"it does not begin with {TITLE!r}, swarm and counter")
        if head[1] != swarm:
            raise PeerError("wrong_swarm", f"revocations of another swarm; this is {swarm}")
        ids = body[head.end() :].splitlines()
        if not all(_ID.fullmatch(each) for each in ids):
            raise _malformed("a line is no id")
        return cls(swarm, int(head[2]), frozenset(ids), text)


def _malformed(reason: str) -> PeerError:
    return PeerError("malformed_frame", f"no list of revocations: {reason}")
