"""A frame from one simulated node to another: what the server and the client do with it."""

from __future__ import annotations

from gossipnode.errors import PeerError
from gossipnode.node.node import Node
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import PREFIX_BYTES, Frame, decode, decode_header, decode_prefix
from gossipnode.wire.message import Message


def read_head(data: bytes) -> tuple[Message, int]:
    """Return the message of a whole frame and where its body begins."""
    prefix = decode_prefix(data[:PREFIX_BYTES])
    end = PREFIX_BYTES + prefix.header_bytes
    return decode_header(prefix, data[PREFIX_BYTES:end]), end


async def deliver(node: Node, message: Message, data: bytes, body_at: int) -> tuple[Receipt, str]:
    """Hand a frame to ``node`` as its server would; return the answer and the outcome's word.

    The header is admitted first; the body goes into a buffer of its own, which the node owns.
    """
    try:
        admission = node.admit(message)
        delivery = await node.deliver(admission, memoryview(bytearray(data[body_at:])))
    except PeerError as error:
        return Receipt(reply=node.refuse(error, message.sender)), error.code
    outcome = delivery.reply.status
    if delivery.frame is None:
        return Receipt(reply=delivery.reply), outcome
    return answered(delivery.frame), outcome


def answered(frame: Frame) -> Receipt:
    """Return what the client makes of an exchange's frame: decoded, in memory of its own."""
    message, vectors = decode(bytearray(frame.tobytes()))
    return Receipt(message=message, arrays=vectors)
