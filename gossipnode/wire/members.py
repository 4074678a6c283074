"""What a message tells of other nodes: rows of a CONTROL or VIEW message.

Invariant: a row that leaves here keeps the ranges that docs/wire.md states. What a row means, and
which of two counts, is the node's business and may not enter.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from gossipnode.wire.fields import ADDRESS_CHARS_MAX, ID_CHARS_MAX, U32_MAX, U64_MAX, Fields

MemberState = Literal["alive", "suspect", "down", "left"]
STATES: Final[frozenset[str]] = frozenset(get_args(MemberState))
# With the longest ids and addresses, all of four bytes a character, 32 rows are 50 KB of the 64 KiB
# that a header may have; with usual ones 2 KB.
MEMBERS_MAX: Final = 32


class Member(NamedTuple):
    """One node as another tells of it; ``address`` is empty where it is not told.

    (``epoch``, ``incarnation``) says how new that is, and is counted up by the node itself.
    """

    id: str
    address: str
    state: MemberState
    epoch: int
    incarnation: int


def read_members(fields: Fields) -> tuple[Member, ...]:
    """Return the rows at ``members``, at most ``MEMBERS_MAX``; raises ``PeerError``."""
    rows = fields.array("members", MEMBERS_MAX)
    return tuple([_member(fields, f"members[{n}]", row) for n, row in enumerate(rows)])


def _member(fields: Fields, where: str, row: object) -> Member:
    if type(row) is not list or len(row) != len(Member._fields):
        raise fields.fault(where, f"is no array of {len(Member._fields)}")
    node_id, address, state, epoch, incarnation = row
    _require_text(fields, f"{where}.id", node_id, 1, ID_CHARS_MAX)
    _require_text(fields, f"{where}.address", address, 0, ADDRESS_CHARS_MAX)
    if type(state) is not str or state not in STATES:
        raise fields.fault(f"{where}.state", "is not known here", "unsupported_message")
    for key, value, high in (("epoch", epoch, U64_MAX), ("incarnation", incarnation, U32_MAX)):
        if type(value) is not int or not 0 <= value <= high:
            raise fields.fault(f"{where}.{key}", f"is no integer from 0 to {high}")
    return Member(node_id, address, state, epoch, incarnation)  # type: ignore[arg-type]


def _require_text(fields: Fields, key: str, value: object, low: int, high: int) -> None:
    if type(value) is not str:
        raise fields.fault(key, "is no text")
    if not low <= len(value) <= high or not value.isprintable():
        raise fields.fault(key, f"is not {low} to {high} printable characters")
