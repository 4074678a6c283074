"""Messages to bytes and back: prefix, msgpack header, raw body.

Invariant: bytes from a stranger become a ``Message`` or a ``PeerError``, nothing else, and cost
no more memory than they fill. Sockets and clocks may not enter.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from gossipnode.errors import PeerError
from gossipnode.wire.header import read_header
from gossipnode.wire.message import DTYPES, Kind, Message, Part

CONTENT_TYPE: Final = "application/vnd.gossipnode.frame"
MAGIC: Final = b"GN"
VERSION: Final = 1
PREFIX_BYTES: Final = 8
HEADER_BYTES_MAX: Final = 65536

Buffer = bytes | bytearray | memoryview
ChecksumKind = Literal["xxh3", "crc32"]

_PREFIX: Final = struct.Struct("<2sBBI")
# Looked up: asking the enumeration takes ten times as long.
_KINDS: Final = {kind.value: kind for kind in Kind}

# What is left out of a header where it has its default.
_OPTIONAL: Final[tuple[tuple[str, object], ...]] = (
    ("round", 0),
    ("phase", 0),
    ("topology_epoch", 0),
    ("graph", None),
    ("degree", None),
    ("weight_applied", False),
    ("origin", None),
    ("age", 0),
    ("version", 0),
    ("base_version", None),
    ("resync", False),
    ("address", None),
    ("scalars", {}),
    ("control", None),
    ("members", ()),
)
_PART_OPTIONAL: Final = ("bits", "scale", "zero", "norm", "seed", "base_version")


class Prefix(NamedTuple):
    """The first 8 bytes of a frame, understood."""

    kind: Kind
    header_bytes: int


@dataclass(slots=True)
class Frame:
    """A message ready to send: ``head`` (prefix and header), then ``body`` without a copy.

    The body's views share the memory of the arrays: leave those alone until it is sent.
    """

    head: bytes
    body: list[memoryview]
    nbytes: int = field(init=False)  # of the whole frame

    def __post_init__(self) -> None:
        """Add up, once for all who ask."""
        self.nbytes = len(self.head) + sum([view.nbytes for view in self.body])

    def tobytes(self) -> bytes:
        """Return the whole frame as one copy."""
        return b"".join((self.head, *self.body))


def encode(
    message: Message, arrays: Sequence[NDArray[Any]], checksum: ChecksumKind = "xxh3"
) -> Frame:
    """Return ``message`` as a frame whose parts are ``arrays``, in order.

    A raw part takes a C-contiguous array of the part's dtype, any other codec takes uint8;
    bfloat16 is taken as such and as the uint16 that ``arrays`` gives.
    ``message.checksum`` is ignored; a metric that is not finite is left out.
    """
    assert len(arrays) == len(message.parts), "as many arrays as parts"
    body = [_bytes_of(part, array) for part, array in zip(message.parts, arrays, strict=True)]
    header = _header(message)
    if body:
        header["checksum"] = (checksum, _checksum(checksum, body))
    packed: bytes = msgpack.packb(header)
    assert len(packed) <= HEADER_BYTES_MAX, f"a header of {len(packed)} bytes"
    return Frame(_PREFIX.pack(MAGIC, VERSION, message.kind, len(packed)) + packed, body)


def decode_prefix(data: Buffer) -> Prefix:
    """Read the first 8 bytes of ``data``.

    Raises ``PeerError``: ``malformed_frame`` (too short, no magic, header too long),
    ``unsupported_version``, or ``unsupported_message`` (unknown kind).
    """
    if len(data) < PREFIX_BYTES:
        raise PeerError("malformed_frame", f"prefix has fewer than {PREFIX_BYTES} bytes")
    magic, version, kind, header_bytes = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise PeerError("malformed_frame", "magic is not GN")
    if version != VERSION:
        raise PeerError("unsupported_version", f"version is {version}, known is {VERSION}")
    if not 0 < header_bytes <= HEADER_BYTES_MAX:
        raise PeerError("malformed_frame", f"header length is not 1 to {HEADER_BYTES_MAX}")
    known = _KINDS.get(kind)
    if known is None:
        raise PeerError("unsupported_message", f"kind {kind} is unknown")
    return Prefix(known, header_bytes)


def decode_header(prefix: Prefix, data: Buffer) -> Message:
    """Read the header, ``data`` of exactly ``prefix.header_bytes``.

    Raises ``PeerError``: ``malformed_frame`` naming the key, ``not_finite`` for a scalar, or
    ``unsupported_message`` (unknown role, dtype, codec, index or checksum kind).
    """
    if len(data) != prefix.header_bytes:
        raise PeerError("malformed_frame", "header is shorter or longer than its length says")
    return read_header(prefix.kind, data)


def verify_checksum(message: Message, body: Buffer) -> None:
    """Check the length of ``body`` and its checksum.

    Raises ``PeerError``: ``malformed_frame`` (length) or ``checksum_mismatch``.
    """
    _check_length(message, body)
    if message.checksum is not None:
        kind, value = message.checksum
        if _checksum(kind, (body,)) != value:
            raise PeerError("checksum_mismatch", f"the body's {kind} is not the header's checksum")


def arrays(message: Message, body: Buffer) -> list[NDArray[Any]]:
    """Return one view of ``body`` per part: a raw part in its dtype (size,), others uint8 bytes.

    Nothing is copied, so a view lives on the receiver's buffer and is writable where that is. A
    part that follows one of odd length may be unaligned: numpy computes with it, more slowly.
    bfloat16 comes as uint16. Raises ``PeerError("malformed_frame")`` on a wrong length.
    """
    _check_length(message, body)
    views: list[NDArray[Any]] = []
    offset = 0
    for part in message.parts:
        if part.codec == "raw":
            views.append(np.frombuffer(body, DTYPES[part.dtype], part.size, offset))
        else:
            views.append(np.frombuffer(body, np.uint8, part.nbytes, offset))
        offset += part.nbytes
    return views


def decode(data: Buffer) -> tuple[Message, list[NDArray[Any]]]:
    """Read one whole frame that fills ``data`` exactly; the arrays are views of it.

    Raises ``PeerError`` as ``decode_prefix``, ``decode_header`` and ``verify_checksum`` do.
    """
    view = memoryview(data)
    prefix = decode_prefix(view)
    end = PREFIX_BYTES + prefix.header_bytes
    message = decode_header(prefix, view[PREFIX_BYTES:end])
    body = view[end:]
    verify_checksum(message, body)
    return message, arrays(message, body)


class FrameReader:
    """Reads a frame that comes in chunks of any size, and leaves the body to its owner.

    Feed chunks; what ``feed`` returns belongs to the body, in order. As soon as ``message`` is
    set its ``body_bytes`` are known, so the owner can refuse or allocate before it copies::

        remainder = reader.feed(chunk)
        if reader.message is not None:
            ...  # allocate once, then copy every remainder behind the one before
    """

    __slots__ = ("_head", "_prefix", "body_seen", "message")

    def __init__(self) -> None:
        self.message: Message | None = None
        self.body_seen = 0
        self._prefix: Prefix | None = None
        self._head = bytearray()

    def feed(self, chunk: Buffer) -> memoryview:
        """Take the next chunk and return its bytes that belong to the body, maybe none.

        Raises ``PeerError`` as soon as the bytes seen cannot become a frame.
        """
        view = memoryview(chunk)
        if self.message is None:
            view = self._take_head(view)
        if self.message is not None:
            self.body_seen += len(view)
            if self.body_seen > self.message.body_bytes:
                raise PeerError("malformed_frame", "body is longer than its parts")
        return view

    def finish(self) -> None:
        """Say that no more comes; raises ``PeerError("malformed_frame")`` if bytes are missing."""
        if self.message is None:
            raise PeerError("malformed_frame", "the frame ends inside its header")
        if self.body_seen != self.message.body_bytes:
            raise PeerError("malformed_frame", "body is shorter than its parts")

    def _take_head(self, view: memoryview) -> memoryview:
        """Collect prefix and header, never more; return what follows them."""
        while self.message is None:
            prefix = self._prefix
            wanted = PREFIX_BYTES if prefix is None else prefix.header_bytes
            missing = wanted - len(self._head)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) < wanted:
                break
            if prefix is None:
                self._prefix = decode_prefix(self._head)
            else:
                self.message = decode_header(prefix, self._head)
            self._head = bytearray()
        return view


def _bytes_of(part: Part, array: NDArray[Any]) -> memoryview:
    """Return the little-endian memory of ``array`` after checking that it is what ``part`` says."""
    dtype = DTYPES[part.dtype] if part.codec == "raw" else DTYPES["uint8"]
    # Asked in this order: numpy takes longer to name a dtype than the rest of this together.
    is_bfloat16 = part.dtype == "bfloat16" and array.dtype.name == "bfloat16"
    assert array.dtype == dtype or (is_bfloat16 and part.codec == "raw"), (
        f"part {part.role} is {part.dtype}, its array {array.dtype}"
    )
    assert array.nbytes == part.nbytes, f"part {part.role} is not as long as its array"
    assert array.flags.c_contiguous, f"part {part.role}: the array is not contiguous"
    return array.reshape(-1).view(np.uint8).data


def _header(message: Message) -> dict[str, object]:
    """Return the header map without the checksum; what has its default is left out."""
    header: dict[str, object] = {
        "swarm": message.swarm,
        "schema": message.schema,
        "algorithm": message.algorithm,
        "sender": message.sender,
        "epoch": message.epoch,
        "seq": message.seq,
    }
    for key, default in _OPTIONAL:
        value = getattr(message, key)
        if value != default:
            header[key] = value
    if message.metrics:
        header["metrics"] = {k: v for k, v in message.metrics.items() if isfinite(v)}
    if message.parts:
        header["parts"] = [_part_header(part) for part in message.parts]
    return header


def _part_header(part: Part) -> dict[str, object]:
    """Return the map that describes one part; what has its default is left out."""
    found: dict[str, object] = {
        "role": part.role,
        "dtype": part.dtype,
        "size": part.size,
        "nbytes": part.nbytes,
    }
    if part.codec != "raw":
        found["codec"] = part.codec
    if not part.covers_all:
        found["index"] = dict(part.index)
    for key in _PART_OPTIONAL:
        value = getattr(part, key)
        if value is not None:
            found[key] = value
    return found


def _checksum(kind: str, body: Sequence[Buffer]) -> int:
    """Return the checksum over all of ``body``, streamed."""
    if kind == "crc32":
        value = 0
        for view in body:
            value = zlib.crc32(view, value)
        return value
    assert kind == "xxh3", f"checksum {kind}"
    if len(body) == 1:
        return xxhash.xxh3_64_intdigest(body[0])
    state = xxhash.xxh3_64()
    for view in body:
        state.update(view)
    return state.intdigest()


def _check_length(message: Message, body: Buffer) -> None:
    """Refuse a body that is not exactly as long as its parts."""
    if len(body) != message.body_bytes:
        raise PeerError("malformed_frame", "body is shorter or longer than its parts")
