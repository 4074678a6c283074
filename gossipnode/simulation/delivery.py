"""A message from one simulated node to another: what the server and the client do with it.

Invariant: what arrives is the receiver's own; no array is in two nodes' hands. Messages are, and
nobody writes to them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import InitVar, dataclass

import numpy as np
import xxhash

from gossipnode.algorithms.base import Vector
from gossipnode.errors import PeerError
from gossipnode.node.node import Node
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import PREFIX_BYTES, Frame, decode, decode_header, decode_prefix, encode
from gossipnode.wire.message import Message, Part

Body = memoryview | Sequence[Vector]
NOTHING = xxhash.xxh3_64_intdigest(b"")


@dataclass(slots=True)
class ObjectFrame(Frame):
    """A frame that is passed on as objects; ``size`` is what it would have as bytes."""

    message: Message
    arrays: Sequence[Vector]
    size: InitVar[int]

    def __post_init__(self, size: int) -> None:
        """Have that size."""
        self.nbytes = size

    def tobytes(self) -> bytes:
        """Return the real frame."""
        return encode(self.message, self.arrays).tobytes()


class ObjectEncoder:
    """``encode`` without making bytes, for all nodes of a swarm; knows how many they would be."""

    def __init__(self) -> None:
        self._heads: dict[Hashable, int] = {}

    def __call__(self, message: Message, arrays: Sequence[Vector]) -> ObjectFrame:
        """Return ``message`` with its ``arrays``, which nobody may write to from now on."""
        age = message.age
        body_bytes = message.body_bytes
        # All that makes one head of a swarm longer than another: numbers and names.
        kind = (
            message.kind,
            body_bytes,
            *[
                part.role if part.codec == "raw" and part.covers_all else _lengths(part)
                for part in message.parts
            ],
            message.phase.bit_length(),
            message.resync,
            message.version and message.version.bit_length(),
            message.base_version and message.base_version.bit_length(),
            message.seq.bit_length(),
            message.round.bit_length(),
            age.bit_length() if isinstance(age, int) else tuple(n.bit_length() for n in age),
            message.epoch.bit_length(),
            message.degree and message.degree.bit_length(),
            len(message.sender),
            message.address and len(message.address),
            message.control,
            *[
                (len(one.id), len(one.address), one.state, one.epoch.bit_length(), one.incarnation)
                for one in message.members
            ],
            *[
                (name, value.bit_length() if isinstance(value, int) else None)
                for name, value in message.scalars.items()
            ],
        )
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = len(encode(message, arrays).head)
        return ObjectFrame(b"", [], message, arrays, head + body_bytes)


def _lengths(part: Part) -> Hashable:
    """Return all that makes the head of a coded part, or of one with an index, as long as it is.

    Of numbers how long they are: a codec may draw a seed for every message.
    """
    index = [v.bit_length() if isinstance(v, int) else None for v in part.index.values()]
    seed = None if part.seed is None else part.seed.bit_length()
    absent = (part.scale is None, part.zero is None, part.norm is None)
    sizes = (part.size.bit_length(), part.nbytes.bit_length())
    return (part.role, part.codec, part.bits, seed, *absent, *sizes, part.index["kind"], *index)


def open_frame(frame: Frame) -> tuple[Message, Body]:
    """Return what arrives of ``frame``: the message, and the body in memory of its own."""
    if isinstance(frame, ObjectFrame):
        return frame.message, [array.copy() for array in frame.arrays]
    return open_bytes(frame.tobytes())


def open_bytes(data: bytes) -> tuple[Message, Body]:
    """Return the message of a whole frame, and its body in memory of its own."""
    prefix = decode_prefix(data[:PREFIX_BYTES])
    end = PREFIX_BYTES + prefix.header_bytes
    message = decode_header(prefix, data[PREFIX_BYTES:end])
    return message, memoryview(bytearray(data[end:]))


def checksum_of(message: Message, body: Body) -> int:
    """Return the body's checksum: the header's, or the same computed from the objects."""
    if message.checksum is not None:
        return message.checksum[1]
    if not message.parts:
        return NOTHING
    assert not isinstance(body, memoryview), "a frame's header has it"
    if len(body) == 1:
        return xxhash.xxh3_64_intdigest(_memory(body[0]))
    state = xxhash.xxh3_64()
    for vector in body:
        state.update(_memory(vector))
    return state.intdigest()


def _memory(vector: Vector) -> memoryview:
    """Return the memory of ``vector``; bfloat16, which Python knows not, as bytes."""
    return vector.data if vector.dtype.isbuiltin == 1 else vector.view(np.uint8).data


async def deliver(node: Node, message: Message, body: Body) -> tuple[Receipt, str]:
    """Hand a message to ``node`` as its server would; return the answer and the outcome's word.

    The header is admitted first. The node owns ``body``.
    """
    try:
        delivery = await node.deliver(node.admit(message), body)
    except PeerError as error:
        return Receipt(reply=node.refuse(error, message.sender)), error.code
    outcome: str = delivery.reply.status if message.control is None else message.control
    if delivery.frame is None:
        return Receipt(reply=delivery.reply), outcome
    return answered(delivery.frame), outcome


def answered(frame: Frame) -> Receipt:
    """Return what the client makes of an exchange's frame: decoded, in memory of its own."""
    if isinstance(frame, ObjectFrame):
        return Receipt(message=frame.message, arrays=[array.copy() for array in frame.arrays])
    message, vectors = decode(bytearray(frame.tobytes()))
    return Receipt(message=message, arrays=vectors)
