"""What a lane carries: records, each a head of 16 bytes and what it announces. Sans I/O.

``RecordReader`` is the framing as a state machine: it says where the next bytes go
(``get_buffer``) and is told how many came (``buffer_updated``). Heads are collected in a scratch
buffer that all readers share; the body of a frame is never there, but for what happened to come
along with its head: it goes straight into the buffer that the owner has given for it.

Invariant: whatever the chunks, the same records come out; nothing is allocated for what a head
announces before the owner has agreed; what is refused is read and forgotten. Sockets, tasks and
clocks may not enter.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

import numpy as np

from gossipnode.errors import PeerError
from gossipnode.logs import bounded
from gossipnode.wire.frame import (
    HEADER_BYTES_MAX,
    PREFIX_BYTES,
    Prefix,
    decode_header,
    decode_prefix,
)
from gossipnode.wire.message import Message
from gossipnode.wire.reply import REPLY_BYTES_MAX

HEAD_BYTES: Final = 16
REASON_BYTES_MAX: Final = 512
OFFSET_BYTES: Final = 8
_HEAD: Final = struct.Struct("<BBHIQ")

# One read of a body: 0.1 ms, but 5 where the kernel has to find fresh pages for it.
READ_BYTES: Final = 2**19
# One read where a head is expected: a head has some 300 bytes, a frame of digits 2.6 kB, one of
# MNIST's softmax 32 kB. What is read of a body along with it is copied once more, which for 64 KiB
# takes 3 us; a second read takes longer.
HEAD_READ_BYTES: Final = 2**16
_SCRATCH_BYTES: Final = 2**18
# Shared by all readers of the process: between get_buffer and buffer_updated nothing else runs.
_scratch = np.empty(_SCRATCH_BYTES, np.uint8).data


class Type(IntEnum):
    """What a record is."""

    FRAME = 1  # a push; answered under its number by a REPLY, or a FRAME of an exchange
    REPLY = 2
    ANSWER = 3  # a frame: of an exchange, or of who is there
    PING = 4
    PONG = 5
    CLOSE = 6
    ASK = 7  # the head of a frame: how much of its body is there?
    HAVE = 8
    REST = 9  # a FRAME from a byte of its body on


# The longest payload of the records that are no frames, and the least.
_SMALL: Final = {
    Type.REPLY: (1, REPLY_BYTES_MAX),
    Type.PING: (0, 8),
    Type.PONG: (0, 8),
    Type.CLOSE: (0, REASON_BYTES_MAX),
    Type.ASK: (PREFIX_BYTES + 1, PREFIX_BYTES + HEADER_BYTES_MAX),
    Type.HAVE: (OFFSET_BYTES, OFFSET_BYTES),
}
# By the number in the head: the type, the least and the longest payload.
_TYPES: Final = {
    kind.value: (
        kind,
        *_SMALL.get(
            kind, (PREFIX_BYTES + 1 + (OFFSET_BYTES if kind is Type.REST else 0), 2**63 - 1)
        ),
    )
    for kind in Type
}


def record_head(kind: Type, number: int, length: int) -> bytes:
    """Return the 16 bytes that announce ``length`` bytes."""
    return _HEAD.pack(kind, 0, 0, number, length)


def close_record(reason: str) -> bytes:
    """Return a CLOSE that says why, in printable ASCII."""
    payload = bounded(reason).encode("ascii", "replace")
    return record_head(Type.CLOSE, 0, len(payload)) + payload


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node says of itself when a lane is opened. Without trust it is only a claim."""

    swarm: str
    id: str
    address: str | None = None


@dataclass(slots=True)
class Record:
    """A record whose head has come: ``length`` bytes follow it.

    ``offset`` is where in the frame's body a REST begins, ``seen`` how many bytes were understood.
    """

    kind: Type
    number: int
    length: int
    offset: int = 0
    seen: int = 0


class Owner(Protocol):
    """What a reader asks of who owns it. A ``PeerError`` out of any of these ends the reading."""

    def frame_announced(self, record: Record) -> None:
        """Take note that a frame or an answer of ``record.length`` bytes has begun."""

    def frame_head(self, record: Record, message: Message) -> memoryview | None:
        """Return a buffer of ``message.body_bytes`` bytes, or None to have the body forgotten.

        It is filled from ``record.offset`` on.
        """

    def frame_refused(self, record: Record, error: PeerError) -> None:
        """Take note that the frame's head is wrong; what is left of it will be forgotten."""

    def frame_arrived(self, record: Record, message: Message, body: memoryview) -> None:
        """Take the whole frame; ``body`` is what ``frame_head`` returned."""

    def small_arrived(self, record: Record, payload: bytes) -> None:
        """Take a record that is no frame."""


class RecordReader:
    """Reads the records of one direction of one lane.

    A record comes in steps: its head, then a small one's payload, or a frame's prefix and header
    (of a REST, its offset before them) and body. ``_step`` is the one that is next, ``_wanted``
    how many bytes it takes.
    """

    __slots__ = (
        "_body",
        "_filled",
        "_forget",
        "_message",
        "_owner",
        "_partial",
        "_prefix",
        "_record",
        "_step",
        "_wanted",
        "bytes_read",
        "is_deaf",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._partial = bytearray()  # of a head, or of a small record
        self._record: Record | None = None
        self._prefix: Prefix | None = None
        self._message: Message | None = None
        self._body: memoryview | None = None
        self._filled = 0
        self._forget = 0  # bytes of a refused frame that are still to come
        self._wanted = HEAD_BYTES
        self._step: Callable[[RecordReader, memoryview], None] = RecordReader._read_head
        self.bytes_read = 0
        self.is_deaf = False

    @property
    def is_between(self) -> bool:
        """Whether nothing has come of the next record yet, so that silence is no stalling."""
        return self._record is None and not self._partial and not self._forget

    @property
    def body_filled(self) -> tuple[int, int]:
        """Bytes of the body that is arriving: those that are there, and all; (0, 0) if none is."""
        return (0, 0) if self._body is None else (self._filled, len(self._body))

    def get_buffer(self) -> memoryview:
        """Return where the next bytes go, never empty; fill it and call ``buffer_updated``."""
        if self._body is not None:
            return self._body[self._filled : self._filled + READ_BYTES]
        if self._forget or self.is_deaf:
            return _scratch
        return _scratch[:HEAD_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Take the first ``nbytes`` of the last ``get_buffer``. Raises ``PeerError``.

        After that the stream has no meaning any more: ``malformed_frame`` where a record is none.
        """
        self.bytes_read += nbytes
        if self.is_deaf:
            return
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                self._finish()
        elif self._partial:
            self._partial += _scratch[:nbytes]
            data, self._partial = self._partial, bytearray()
            self._take(memoryview(data))
        else:
            self._take(_scratch[:nbytes])

    def forget_all(self) -> None:
        """Read on, but understand nothing any more: the stream is broken."""
        self._record = self._prefix = self._message = self._body = None
        self._partial = bytearray()
        self.is_deaf = True

    def _take(self, view: memoryview) -> None:
        """Read whatever is whole in ``view``; keep what is left of it for the next time."""
        while view and not self.is_deaf:
            if self._body is not None:
                view = self._fill(view)
            elif self._forget:
                count = min(self._forget, len(view))
                self._forget -= count
                view = view[count:]
            elif len(view) < self._wanted:
                self._partial += view
                return
            else:
                piece, view = view[: self._wanted], view[self._wanted :]
                self._step(self, piece)

    def _await_head(self) -> None:
        self._record = self._prefix = None
        self._wanted, self._step = HEAD_BYTES, RecordReader._read_head

    def _read_head(self, piece: memoryview) -> None:
        kind, flags, reserved, number, length = _HEAD.unpack(piece)
        if kind not in _TYPES:
            raise PeerError("malformed_frame", f"record type {kind} is unknown")
        if flags or reserved:
            raise PeerError("malformed_frame", "flags are set that mean nothing yet")
        known, least, most = _TYPES[kind]
        if not least <= length <= most:
            raise PeerError("malformed_frame", f"a {known.name} of {length} bytes")
        record = Record(known, number, length)
        if known not in _SMALL:
            self._record = record
            self._wanted, self._step = PREFIX_BYTES, RecordReader._read_prefix
            if known is Type.REST:
                self._wanted, self._step = OFFSET_BYTES, RecordReader._read_offset
            self._owner.frame_announced(record)
        elif length:
            self._record = record
            self._wanted, self._step = length, RecordReader._read_small
        else:
            self._owner.small_arrived(record, b"")

    def _read_small(self, piece: memoryview) -> None:
        record = self._record
        assert record is not None
        self._await_head()
        self._owner.small_arrived(record, bytes(piece))

    def _read_offset(self, piece: memoryview) -> None:
        record = self._record
        assert record is not None
        record.seen = OFFSET_BYTES
        record.offset = int.from_bytes(piece, "little")
        self._wanted, self._step = PREFIX_BYTES, RecordReader._read_prefix

    def _read_prefix(self, piece: memoryview) -> None:
        record = self._record
        assert record is not None
        record.seen += PREFIX_BYTES
        try:
            self._prefix = prefix = decode_prefix(piece)
            if record.seen + prefix.header_bytes > record.length:
                raise PeerError("malformed_frame", "the frame is longer than its record")
        except PeerError as error:
            self._refuse(record, error)
            return
        self._wanted, self._step = prefix.header_bytes, RecordReader._read_header

    def _read_header(self, piece: memoryview) -> None:
        record, prefix = self._record, self._prefix
        assert record is not None
        assert prefix is not None
        record.seen += prefix.header_bytes
        try:
            message = decode_header(prefix, piece)
            body_bytes = message.body_bytes
            if record.seen + body_bytes - record.offset != record.length:
                raise PeerError("malformed_frame", "the record is not as long as its frame")
            if record.kind is Type.REST and not 0 < record.offset < body_bytes:
                raise PeerError("malformed_frame", "the rest begins where it cannot")
        except PeerError as error:
            self._refuse(record, error)
            return
        body = self._owner.frame_head(record, message)
        if body is None:
            self._forget = body_bytes - record.offset
            self._await_head()
            return
        assert len(body) == body_bytes, "a buffer of the body's size"
        self._message, self._body, self._filled = message, body, record.offset
        if record.offset == body_bytes:
            self._finish()

    def _refuse(self, record: Record, error: PeerError) -> None:
        """Refuse a frame that is wrong; the lane goes on."""
        self._forget = record.length - record.seen
        self._await_head()
        self._owner.frame_refused(record, error)

    def _fill(self, view: memoryview) -> memoryview:
        """Copy what came along with the head into the body; return what is behind it."""
        assert self._body is not None
        count = min(len(self._body) - self._filled, len(view))
        self._body[self._filled : self._filled + count] = view[:count]
        self._filled += count
        if self._filled == len(self._body):
            self._finish()
        return view[count:]

    def _finish(self) -> None:
        """Hand on the body that is full."""
        record, message, body = self._record, self._message, self._body
        assert record is not None
        assert message is not None
        assert body is not None
        self._message = self._body = None
        self._await_head()
        self._owner.frame_arrived(record, message, body)


def frame_bytes_max(body_bytes_max: int) -> int:
    """Return the length of the longest frame with such a body."""
    return PREFIX_BYTES + HEADER_BYTES_MAX + body_bytes_max


def frame_record(number: int, frame_bytes: int, offset: int) -> bytes:
    """Return what comes before the head of a frame whose body is sent from ``offset`` on."""
    if not offset:
        return _HEAD.pack(Type.FRAME, 0, 0, number, frame_bytes)
    length = OFFSET_BYTES + frame_bytes - offset
    return record_head(Type.REST, number, length) + have_of(offset)


def have_of(offset: int) -> bytes:
    """Return an offset as a HAVE carries it."""
    return offset.to_bytes(OFFSET_BYTES, "little")


def asked_for(payload: bytes) -> Message:
    """Return the message whose head an ASK carries; raises ``PeerError`` where it is none."""
    prefix = decode_prefix(payload)
    return decode_header(prefix, memoryview(payload)[PREFIX_BYTES:])
