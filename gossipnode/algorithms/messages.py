"""What arrives, and what is answered: messages as an algorithm sees them, decoded and checked.

Invariant: a part is a vector, whatever it was made of on the way: ``node`` makes these of frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np

from gossipnode.codecs.base import Coded, Coding
from gossipnode.errors import PeerError

# The index of a message whose parts hold every coordinate.
ALL: Mapping[str, Any] = MappingProxyType({"kind": "all"})
# What a peer claims is taken up: past the wire's range nobody could read this node's ages again.
AGE_MAX = 2**63 - 1
Vector = np.ndarray[tuple[int], np.dtype[Any]]
# A part as it is sent: whole, or made smaller by a codec.
Sent = Vector | Coded


class Purpose(StrEnum):
    """Why a model travels; ``node`` maps it to the kind of the frame."""

    MODEL = "model"
    EXCHANGE_REQUEST = "exchange_request"
    EXCHANGE_REPLY = "exchange_reply"


class Outcome(StrEnum):
    """What became of an arriving model; also the word in the answer and in the counters."""

    MERGED = "merged"
    BUFFERED = "buffered"
    LATE = "late"
    DROPPED = "dropped"
    DUPLICATE = "duplicate"


@dataclass(slots=True)
class Arrival:
    """A message that has passed every check of the inbox.

    ``parts`` maps roles to vectors of shape (d,) that the algorithm owns and may overwrite.
    ``round`` and ``age`` are the sender's when it sent; ``scalars`` go with the parts. ``own`` is
    set on an exchange reply: the params that this node had sent, as they were then. ``index``
    tells which coordinates the parts are; of two messages of one sender the one with the larger
    ``order`` was made later. ``extent`` bounds the magnitude of all elements of the parts, which
    are finite; infinity: no bound is known. ``codings`` tells how those parts came that came coded,
    ``version`` and ``base_version`` to which state of the sender's a difference leads, and from
    which.
    """

    sender: str
    purpose: Purpose
    round: int
    age: int
    parts: Mapping[str, Vector]
    scalars: Mapping[str, float] = field(default_factory=dict)
    own: Vector | None = None
    own_age: int = 0
    phase: int = 0
    order: tuple[int, int] = (0, 0)
    index: Mapping[str, Any] = field(default_factory=lambda: ALL)
    extent: float = math.inf
    version: int = 0
    base_version: int | None = None
    codings: Mapping[str, Coding] = field(default_factory=dict)


def is_answer(arrival: Arrival) -> bool:
    """Whether a message of an exchange answers this node's own, or asks.

    Raises ``PeerError`` (unsupported_message) for an answer that nobody asked for, which would be
    half of an exchange, and for a question in an answer's place.
    """
    found = arrival.own is not None
    if found != (arrival.purpose is Purpose.EXCHANGE_REPLY):
        wrong = "is a question" if found else "answers nothing that this node asked"
        raise PeerError("unsupported_message", f"this {arrival.purpose.value} {wrong}")
    return found


@dataclass(slots=True)
class Answer:
    """What the passive side says: the outcome, and for an exchange what goes back."""

    outcome: Outcome
    reply: Mapping[str, Sent] | None = None
    reply_age: int = 0
