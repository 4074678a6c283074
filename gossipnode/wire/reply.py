"""The answer to a push: merged or not, and why.

Invariant: a reply that is decoded keeps the ranges of docs/wire.md. As in ``frame``, bytes from a
stranger end in a ``Reply`` or a ``PeerError``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import msgpack

from gossipnode.errors import PeerError
from gossipnode.wire.fields import ID_CHARS_MAX, U63_MAX, Fields, unpack_map

Status = Literal["merged", "late", "dropped", "duplicate", "buffered", "refused"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_TAKEN: Final = tuple(status for status in STATUSES if status != "refused")

CONTENT_TYPE: Final = "application/msgpack"
REASON_CHARS_MAX: Final = 512
# A reason of 512 characters of 4 bytes, three short texts and four numbers: below 3 KiB.
REPLY_BYTES_MAX: Final = 4096


@dataclass(slots=True)
class Reply:
    """What became of a push.

    ``sender`` is who answers, ``round`` and ``age`` its clock after the push, ``code`` a key of
    ``errors.REFUSALS`` (a newer peer may send others), ``retry_after_s`` seconds to wait, >= 0.
    """

    status: Status
    sender: str
    round: int = 0
    age: int = 0
    code: str | None = None
    reason: str | None = None
    retry_after_s: float | None = None

    def to_map(self) -> dict[str, object]:
        """Return the reply as a plain map; a reason that is too long is cut."""
        reason = self.reason
        return {
            "status": self.status,
            "sender": self.sender,
            "round": self.round,
            "age": self.age,
            "code": self.code,
            "reason": reason if reason is None else reason[:REASON_CHARS_MAX],
            "retry_after_s": self.retry_after_s,
        }

    def encode(self) -> bytes:
        """Return the reply as msgpack."""
        packed: bytes = msgpack.packb(self.to_map())
        return packed

    def to_json(self) -> str:
        """Return the reply as JSON text with the same keys."""
        return json.dumps(self.to_map(), allow_nan=False)

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview) -> Reply:
        """Read a reply; raises ``PeerError`` (``malformed_frame``, ``unsupported_message``)."""
        if len(data) > REPLY_BYTES_MAX:
            raise PeerError("malformed_frame", f"reply has more than {REPLY_BYTES_MAX} bytes")
        found = unpack_map(data, "reply")
        if (taken := _taken(found)) is not None:
            return cls(*taken)
        fields = Fields(found, "reply.")
        status = fields.text("status")
        if status not in STATUSES:
            raise fields.fault("status", "is unknown", "unsupported_message")
        reply = cls(
            status=status,
            sender=fields.text("sender"),
            round=fields.integer("round", default=0),
            age=fields.integer("age", default=0),
            code=fields.optional_text("code", ID_CHARS_MAX),
            reason=fields.optional_text("reason", REASON_CHARS_MAX),
            retry_after_s=fields.optional_number("retry_after_s"),
        )
        if status == "refused" and reply.code is None:
            raise fields.fault("code", "is missing from a refusal")
        if reply.retry_after_s is not None and reply.retry_after_s < 0:
            raise fields.fault("retry_after_s", "is below 0")
        return reply


def _taken(found: dict[str, Any]) -> tuple[Status, str, int, int] | None:
    """Return status, sender, round and age where all is well and nothing else said; else None.

    Nearly all replies are such; to ask for each of the seven entries by itself takes as long again.
    """
    status, sender, round_, age = map(found.get, ("status", "sender", "round", "age"))
    return (
        (status, sender, round_, age)
        if status in _TAKEN
        and type(sender) is str
        and 0 < len(sender) <= ID_CHARS_MAX
        and sender.isprintable()
        and type(round_) is type(age) is int
        and 0 <= round_ <= U63_MAX
        and 0 <= age <= U63_MAX
        and found.get("code") is found.get("reason") is found.get("retry_after_s") is None
        else None
    )
