"""The framing of a lane: the same records whatever the chunks, and nothing else out of garbage."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import PeerError
from gossipnode.network.records import (
    HEAD_BYTES,
    Record,
    RecordReader,
    Type,
    close_record,
    frame_record,
    record_head,
)
from gossipnode.wire import Kind, Message, Part, encode


@dataclass
class Notes:
    """An owner that writes down what it is told, and refuses bodies of ``unwanted`` bytes."""

    unwanted: int = -1
    told: list[tuple[object, ...]] = field(default_factory=list)

    def frame_announced(self, record: Record) -> None:
        self.told.append(("announced", record.kind, record.number, record.length))

    def frame_head(self, record: Record, message: Message) -> memoryview | None:
        self.told.append(("head", record.number, message.seq))
        if message.body_bytes == self.unwanted:
            return None
        return memoryview(bytearray(message.body_bytes))

    def frame_refused(self, record: Record, error: PeerError) -> None:
        self.told.append(("refused", record.number, error.code))

    def frame_arrived(self, record: Record, message: Message, body: memoryview) -> None:
        self.told.append(("arrived", record.kind, record.number, message.seq, bytes(body)))

    def small_arrived(self, record: Record, payload: bytes) -> None:
        self.told.append(("small", record.kind, record.number, payload))


def frame_of(seq: int, values: int) -> bytes:
    vector = np.arange(values, dtype=np.float32)
    parts = (Part.of("x", vector),) if values else ()
    message = Message(Kind.MODEL, "swarm", "0" * 16, "gossip", "b", 1, seq, parts=parts)
    return encode(message, [vector] if values else []).tobytes()


def body_of(values: int) -> bytes:
    return struct.pack(f"<{values}f", *range(values))


def write(reader: RecordReader, data: bytes, chunks: list[int]) -> None:
    """Give ``data`` to the reader as a transport would: at most what a buffer takes."""
    sizes = iter(chunks)
    while data:
        buffer = reader.get_buffer()
        assert len(buffer) > 0
        count = min(len(buffer), len(data), next(sizes, len(data)))
        buffer[:count] = data[:count]
        reader.buffer_updated(count)
        data = data[count:]


Told = list[tuple[object, ...]]


KINDS = ["frame", "answer", "rest", "bad rest", "bad frame", "reply", "ping", "close"]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, Told]:
    """Some records as bytes, and what their owner must be told; bodies of 12 bytes are unwanted."""
    data, told = b"", []
    for seq in range(draw(st.integers(1, 6))):
        number = draw(st.integers(0, 2**32 - 1))
        what = draw(
            st.sampled_from(
                ["frame", "answer", "rest", "bad rest", "bad frame", "reply", "ping", "close"]
            )
        )
        if what in ("frame", "answer"):
            kind = Type.FRAME if what == "frame" else Type.ANSWER
            values = draw(st.sampled_from([0, 1, 3, 700, 9000]))
            frame = frame_of(seq, values)
            data += record_head(kind, number, len(frame)) + frame
            told += [("announced", kind, number, len(frame)), ("head", number, seq)]
            if values != 3:
                told.append(("arrived", kind, number, seq, body_of(values)))
        elif what in ("rest", "bad rest"):
            values = draw(st.sampled_from([3, 700, 9000]))
            offset = draw(st.integers(1, 4 * values - 1))
            frame = frame_of(seq, values)
            cut = len(frame) - 4 * values
            length = 8 + len(frame) - offset
            told.append(("announced", Type.REST, number, length))
            if what == "rest":
                data += frame_record(number, len(frame), offset)
                told.append(("head", number, seq))
                if values != 3:
                    beginning = bytes(offset)
                    body = beginning + body_of(values)[offset:]
                    told.append(("arrived", Type.REST, number, seq, body))
            else:
                data += record_head(Type.REST, number, length) + bytes(8)
                told.append(("refused", number, "malformed_frame"))
            data += frame[:cut] + frame[cut + offset :]
        elif what == "bad frame":
            frame = b"XX" + frame_of(seq, draw(st.sampled_from([1, 9000])))[2:]
            data += record_head(Type.FRAME, number, len(frame)) + frame
            told += [("announced", Type.FRAME, number, len(frame))]
            told += [("refused", number, "malformed_frame")]
        else:
            kind = {"reply": Type.REPLY, "ping": Type.PING, "close": Type.CLOSE}[what]
            payload = draw(st.binary(min_size=1 if what == "reply" else 0, max_size=8))
            data += record_head(kind, number, len(payload)) + payload
            told.append(("small", kind, number, payload))
    return data, told


@given(stream=streams(), chunks=st.lists(st.sampled_from([1, 2, 7, 15, 16, 17, 64, 500, 20_000])))
def test_whatever_the_chunks_the_same_records_come_out(
    stream: tuple[bytes, Told], chunks: list[int]
) -> None:
    data, told = stream
    notes = Notes(unwanted=12)
    reader = RecordReader(notes)
    write(reader, data, chunks)
    assert notes.told == told
    assert reader.is_between
    assert reader.bytes_read == len(data)


@given(stream=streams(), cut=st.integers(0, 10**6))
def test_a_stream_that_ends_early_tells_no_more_than_its_beginning(
    stream: tuple[bytes, Told], cut: int
) -> None:
    data, told = stream
    cut %= len(data)
    notes = Notes(unwanted=12)
    reader = RecordReader(notes)
    write(reader, data[:cut], [])
    assert notes.told == told[: len(notes.told)]
    write(reader, data[cut:], [])
    assert notes.told == told


@given(data=st.binary(max_size=200), chunks=st.lists(st.integers(1, 40)))
def test_garbage_ends_in_records_or_in_a_typed_error(data: bytes, chunks: list[int]) -> None:
    notes = Notes()
    with contextlib.suppress(PeerError):
        write(RecordReader(notes), data, chunks)
    assert not any(what[0] == "arrived" for what in notes.told)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<BBHIQ", 0, 0, 0, 1, 0),
        struct.pack("<BBHIQ", 7, 0, 0, 1, 0),
        struct.pack("<BBHIQ", 1, 1, 0, 1, 100),
        struct.pack("<BBHIQ", 1, 0, 1, 1, 100),
        record_head(Type.FRAME, 1, 8),
        record_head(Type.FRAME, 1, 2**63),
        record_head(Type.ANSWER, 1, 0),
        record_head(Type.REPLY, 1, 0),
        record_head(Type.REPLY, 1, 4097),
        record_head(Type.PING, 1, 9),
        record_head(Type.CLOSE, 0, 513),
    ],
    ids=lambda head: head.hex(),
)
def test_a_head_that_is_none_is_refused_before_anything_follows(head: bytes) -> None:
    notes = Notes()
    assert len(head) == HEAD_BYTES
    with pytest.raises(PeerError) as caught:
        write(RecordReader(notes), head, [])
    assert caught.value.code == "malformed_frame"
    assert not notes.told


@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_a_record_that_is_not_as_long_as_its_frame_is_refused_and_the_lane_goes_on(
    difference: int,
) -> None:
    frame = frame_of(1, 10)
    length = len(frame) + difference
    data = record_head(Type.FRAME, 5, length) + (frame + bytes(1000))[:length]
    notes = Notes()
    reader = RecordReader(notes)
    write(reader, data + record_head(Type.PING, 6, 0), [3] * 10)
    assert notes.told[1:] == [("refused", 5, "malformed_frame"), ("small", Type.PING, 6, b"")]


def test_a_header_that_is_longer_than_its_record_does_not_eat_the_next_one() -> None:
    frame = frame_of(1, 0)
    short = frame[:20]
    notes = Notes()
    reader = RecordReader(notes)
    ping = record_head(Type.PING, 6, 0)
    write(reader, record_head(Type.FRAME, 5, len(short)) + short + ping, [])
    assert notes.told[1:] == [("refused", 5, "malformed_frame"), ("small", Type.PING, 6, b"")]


def test_a_large_body_goes_straight_into_its_buffer() -> None:
    notes = Notes()
    reader = RecordReader(notes)
    frame = frame_of(1, 100_000)
    write(reader, record_head(Type.FRAME, 1, len(frame)) + frame[: -4 * 100_000], [])
    first = reader.get_buffer()
    first[:4] = b"abcd"
    reader.buffer_updated(4)
    second = reader.get_buffer()
    # The same memory, four bytes further on.
    address = np.frombuffer(first, np.uint8).ctypes.data
    assert np.frombuffer(second, np.uint8).ctypes.data == address + 4


def test_a_reason_is_printable_and_bounded() -> None:
    record = close_record("a\nb" + "é" * 10_000)
    assert len(record) <= HEAD_BYTES + 512
    assert record[HEAD_BYTES:].decode("ascii").isprintable()
