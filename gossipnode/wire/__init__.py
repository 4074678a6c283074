"""Messages to bytes and back, sans I/O; docs/wire.md is its specification.

Invariant: it knows ``errors`` and numpy alone. Sockets, clocks, files and other rooms may not
enter.
"""

from gossipnode.wire.frame import (
    CONTENT_TYPE,
    HEADER_BYTES_MAX,
    PREFIX_BYTES,
    Frame,
    FrameReader,
    Prefix,
    arrays,
    decode,
    decode_header,
    decode_prefix,
    encode,
    verify_checksum,
)
from gossipnode.wire.members import Member
from gossipnode.wire.message import Kind, Message, Part
from gossipnode.wire.reply import Reply

__all__ = [
    "CONTENT_TYPE",
    "HEADER_BYTES_MAX",
    "PREFIX_BYTES",
    "Frame",
    "FrameReader",
    "Kind",
    "Member",
    "Message",
    "Part",
    "Prefix",
    "Reply",
    "arrays",
    "decode",
    "decode_header",
    "decode_prefix",
    "encode",
    "verify_checksum",
]
