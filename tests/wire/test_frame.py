"""Frames: what goes in comes out, and nothing that a stranger sends does more than be refused."""

import dataclasses
import struct
import tracemalloc

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from gossipnode.errors import REFUSALS, PeerError
from gossipnode.wire import (
    HEADER_BYTES_MAX,
    PREFIX_BYTES,
    FrameReader,
    Kind,
    Member,
    Message,
    Part,
    arrays,
    decode,
    decode_header,
    decode_prefix,
    encode,
    verify_checksum,
)
from gossipnode.wire.members import STATES
from gossipnode.wire.message import DTYPES, ROLES

u63 = st.integers(0, 2**63 - 1)
u64 = st.integers(0, 2**64 - 1)
ids = st.text(
    st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=128
).filter(str.isprintable)  # fmt: skip
numbers = st.dictionaries(
    st.from_regex(r"[a-z_][a-z0-9_]{0,31}", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False),
    max_size=32,
)
members = st.lists(
    st.builds(
        Member,
        id=ids,
        address=st.just("") | ids,
        state=st.sampled_from(sorted(STATES)),
        epoch=u64,
        incarnation=st.integers(0, 2**32 - 1),
    ),
    max_size=32,
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def indexes(draw, size):
    kind = draw(st.sampled_from(["all", "range", "part", "chunk", "seeded", "block"]))
    start = draw(st.integers(0, 2**40))
    of = draw(st.integers(1, 2**32 - 1))
    return {
        "all": {"kind": "all"},
        "range": {"kind": "range", "start": start, "stop": start + size},
        "part": {"kind": "part", "part": of - 1, "parts": of},
        "chunk": {"kind": "chunk", "chunk": of // 2, "chunks": of, "seed": draw(u64)},
        "seeded": {"kind": "seeded", "seed": draw(u64), "fraction": draw(st.floats(1e-9, 1))},
        "block": {"kind": "block", "tensor": 3, "rows": size, "columns": 1},
    }[kind]


@st.composite
def parts_with_arrays(draw):
    role = draw(st.sampled_from(sorted(ROLES)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    size = draw(st.integers(1, 9))
    if draw(st.booleans()):
        codec, nbytes = "topk", draw(st.integers(0, 20))
        array = np.frombuffer(draw(st.binary(min_size=nbytes, max_size=nbytes)), np.uint8)
    else:
        codec, nbytes = "raw", size * DTYPES[dtype].itemsize
        data = draw(st.binary(min_size=nbytes, max_size=nbytes))
        array = np.frombuffer(data, DTYPES[dtype])
    numbers = {name: draw(st.none() | finite) for name in ("scale", "zero", "norm")}
    return Part(
        role=role,
        dtype=dtype,
        size=size,
        nbytes=nbytes,
        codec=codec,
        index=draw(indexes(size)),
        bits=draw(st.none() | st.integers(1, 64)),
        seed=draw(st.none() | u64),
        base_version=draw(st.none() | u63),
        **numbers,
    ), array


@st.composite
def bundles(draw):
    pairs = draw(st.lists(parts_with_arrays(), max_size=4))
    message = Message(
        kind=draw(st.sampled_from(Kind)),
        swarm=draw(ids),
        schema=draw(ids),
        algorithm=draw(ids),
        sender=draw(ids),
        epoch=draw(u64),
        seq=draw(u64),
        round=draw(u63),
        phase=draw(st.integers(0, 255)),
        topology_epoch=draw(u63),
        graph=draw(st.none() | st.from_regex(r"[0-9a-f]{16}", fullmatch=True)),
        degree=draw(st.none() | st.integers(0, 2**32 - 1)),
        weight_applied=draw(st.booleans()),
        origin=draw(st.none() | ids),
        age=draw(u63 | st.lists(u63, min_size=1, max_size=256).map(tuple)),
        version=draw(u63),
        base_version=draw(st.none() | u63),
        resync=draw(st.booleans()),
        address=draw(st.none() | ids),
        scalars=draw(numbers),
        metrics=draw(numbers),
        control=draw(st.none() | st.from_regex(r"[a-z_][a-z0-9_]{0,31}", fullmatch=True)),
        members=tuple(draw(members)),
        parts=tuple(part for part, _ in pairs),
    )
    return message, [array for _, array in pairs]


def rich(checksum="xxh3"):
    """A frame of some 700 bytes that uses every key."""
    values = np.linspace(-1, 1, 7, dtype=np.float32)
    half = np.arange(7, dtype=np.float16)
    where = np.arange(7, dtype=np.uint32)
    message = Message(
        kind=Kind.DELTA, swarm="digits", schema="5d1c0ffee5d1c0ff", algorithm="choco",
        sender="node-00", epoch=2**63 + 1, seq=2, round=300, phase=1, topology_epoch=1,
        graph="0123456789abcdef", degree=3, weight_applied=True, origin="node-07",
        age=(1, 70000, 3), version=9, base_version=8, resync=True, address="[::1]:7946",
        scalars={"mass": 0.5, "count": 3}, metrics={"loss": 1.5, "duration_s": 0.1},
        control="ping", members=(Member("b", "http://b:1", "suspect", 7, 2),),
        parts=(
            dataclasses.replace(Part.of("q", values), bits=32, scale=1.5, zero=0.5, norm=2.0,
                                seed=5, base_version=4,
                                index={"kind": "explicit", "positions": 2}),
            dataclasses.replace(Part.of("y", half),
                                index={"kind": "seeded", "seed": 3, "fraction": 0.25}),
            Part.of("index", where),
        ),
    )  # fmt: skip
    return message, [values, half, where], encode(message, [values, half, where], checksum)


@examples(120, 400)
@given(bundles(), st.sampled_from(["xxh3", "crc32"]))
def test_round_trip(bundle, checksum):
    message, sent = bundle
    frame = encode(message, sent, checksum)
    data = frame.tobytes()
    assert len(data) == frame.nbytes
    assert len(frame.head) + message.body_bytes == len(data)
    got, views = decode(data)
    assert (got.checksum is not None) == bool(sent)
    assert dataclasses.replace(got, checksum=None) == message
    for part, view, array in zip(got.parts, views, sent, strict=True):
        assert view.tobytes() == array.tobytes()
        assert view.dtype == (DTYPES[part.dtype] if part.codec == "raw" else np.uint8)


@examples(100, 300)
@given(st.data())
def test_any_split_into_chunks_reads_the_same(data):
    message, _, frame = rich()
    whole = frame.tobytes()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    reader = FrameReader()
    body = bytearray()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        body += reader.feed(whole[start:end])
        assert (reader.message is not None) == (end >= len(frame.head))
    reader.finish()
    assert reader.body_seen == message.body_bytes
    assert dataclasses.replace(reader.message, checksum=None) == message
    assert bytes(body) == whole[len(frame.head) :]


def test_truncation_at_every_byte_is_refused():
    data = rich()[2].tobytes()
    for end in range(len(data)):
        with pytest.raises(PeerError) as refusal:
            decode(data[:end])
        assert refusal.value.code == "malformed_frame"
        reader = FrameReader()
        reader.feed(data[:end])
        with pytest.raises(PeerError):
            reader.finish()


@pytest.mark.parametrize("checksum", ["xxh3", "crc32"])
def test_flipped_bytes_are_read_or_refused_and_never_crash(checksum):
    _, _, frame = rich(checksum)
    data = frame.tobytes()
    rng = np.random.default_rng(7)
    refusals = []
    for _ in range(3000):
        mutant = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            mutant[place] = rng.integers(256)
        try:
            decode(bytes(mutant))
        except PeerError as error:
            refusals.append(error)
    assert all(error.reason.isprintable() for error in refusals)
    codes = {error.code for error in refusals}
    assert {"malformed_frame", "unsupported_message", "checksum_mismatch"} <= codes <= set(REFUSALS)


def test_every_single_bit_of_the_body_is_guarded():
    for checksum in ("xxh3", "crc32"):
        frame = rich(checksum)[2]
        data = bytearray(frame.tobytes())
        for bit in range(8 * len(frame.head), 8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            with pytest.raises(PeerError) as refusal:
                decode(data)
            assert refusal.value.code == "checksum_mismatch"
            data[bit // 8] ^= 1 << bit % 8


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9)
    | st.binary(max_size=9) | st.sampled_from(["all", "range", "x", "raw", "explicit", "float32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)  # fmt: skip
HEADER_KEYS = [f.name for f in dataclasses.fields(Message) if f.name != "kind"]
PART_KEYS = [f.name for f in dataclasses.fields(Part)]


@examples(400, 1500)
@given(
    st.sampled_from(HEADER_KEYS), values,
    st.sampled_from(PART_KEYS), values,
    st.sampled_from(["kind", "start", "stop", "positions", "rows", "fraction"]), values,
)  # fmt: skip
def test_any_value_under_any_key_is_read_or_refused(key, value, part_key, part_value, index_key, i):
    head = rich()[2].head
    header = msgpack.unpackb(head[PREFIX_BYTES:])
    header["parts"][0]["index"][index_key] = i
    header["parts"][1][part_key] = part_value
    header[key] = value
    data = msgpack.packb(header)
    refusal = None
    try:
        message = decode_header(decode_prefix(head)._replace(header_bytes=len(data)), data)
    except PeerError as error:
        refusal = error
    if refusal:
        assert refusal.code in {"malformed_frame", "unsupported_message", "not_finite"}
        assert refusal.reason.isprintable()
    else:
        assert isinstance(message.age, int | tuple)
        assert all(part.size >= 1 for part in message.parts)


@examples(300, 1000)
@given(st.binary(max_size=64))
def test_random_headers_are_refused(data):
    prefix = struct.pack("<2sBBI", b"GN", 1, 1, len(data))
    with pytest.raises(PeerError):
        decode(prefix + data)


def test_a_promise_costs_no_memory():
    """Nested arrays that promise 500 MB, or the most that is legal, cost less than 3 MB."""
    nested = b"\x81\xa1a" + b"\xdd\x00\x00\xea\x60" * 13000
    legal = b"\x81\xa1a" + b"\xdd\x00\x00\x01\x00" * 13000
    part = {"role": "x", "dtype": "float32", "size": 2**60, "nbytes": 2**62}
    base = dict(swarm="s", schema="s", algorithm="a", sender="n", epoch=1, seq=1)  # noqa: C408
    huge = msgpack.packb({**base, "parts": [part], "checksum": ["crc32", 0]})
    tracemalloc.start()
    try:
        for header in (nested, legal, huge):
            data = struct.pack("<2sBBI", b"GN", 1, 1, len(header)) + header
            with pytest.raises(PeerError, match="malformed_frame"):
                decode(data)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_parts_may_not_add_beyond_63_bits():
    part = {"role": "x", "dtype": "uint8", "size": 2**62, "nbytes": 2**62}
    base = dict(swarm="s", schema="s", algorithm="a", sender="n", epoch=1, seq=1)  # noqa: C408
    header = msgpack.packb({**base, "parts": [part, part], "checksum": ["crc32", 0]})
    prefix = decode_prefix(struct.pack("<2sBBI", b"GN", 1, 1, len(header)))
    with pytest.raises(PeerError, match="parts have more than"):
        decode_header(prefix, header)


def test_parts_of_all_coordinates_are_one_object():
    """However all of them are written: telling such parts apart would cost every message."""
    x = np.zeros(3, np.float32)
    assert Part.of("x", x, {"kind": "all"}) is Part.of("x", x)
    piece = {"kind": "range", "start": 0, "stop": 3}
    assert Part.of("x", x, piece).index == piece


def test_encoding_copies_no_array():
    x = np.ones(1000, np.float32)
    frame = encode(message_of(Part.of("x", x)), [x])
    x[0] = 7
    assert np.frombuffer(frame.body[0], np.float32)[0] == 7
    assert not np.shares_memory(np.frombuffer(frame.tobytes(), np.uint8), x)


def test_decoded_arrays_are_views_of_the_body():
    x = np.ones(10, np.float32)
    frame = encode(message_of(Part.of("x", x)), [x])
    message = decode(frame.tobytes())[0]
    body = bytearray(frame.body[0])
    (view,) = arrays(message, body)
    view[3] = 5
    assert struct.unpack_from("<f", body, 12) == (5.0,)


def test_unaligned_part_is_read():
    one, x = np.array([3], np.uint8), np.array([1.5, 2.5])
    frame = encode(message_of(Part.of("c", one), Part.of("x", x)), [one, x])
    views = decode(frame.tobytes())[1]
    assert views[1].tolist() == [1.5, 2.5]
    assert views[1].sum() == 4.0


def test_two_dimensional_array_is_sent_row_by_row():
    x = np.arange(6, dtype=np.float64).reshape(2, 3)
    (view,) = decode(encode(message_of(Part.of("x", x)), [x]).tobytes())[1]
    assert view.tolist() == [0, 1, 2, 3, 4, 5]


def test_bfloat16_travels_as_its_16_bits():
    bits = np.array([0x3F80, 0xC000], np.uint16)
    part = Part("x", "bfloat16", 2, 4)
    (view,) = decode(encode(message_of(part), [bits]).tobytes())[1]
    assert view.dtype == np.uint16
    assert view.tolist() == bits.tolist()


def test_metric_that_is_not_finite_is_left_out_and_a_scalar_is_refused():
    message = message_of()
    message.metrics = {"loss": float("nan"), "accuracy": 0.5}
    assert decode(encode(message, []).tobytes())[0].metrics == {"accuracy": 0.5}
    message.scalars = {"mass": float("inf")}
    with pytest.raises(PeerError) as refusal:
        decode(encode(message, []).tobytes())
    assert refusal.value.code == "not_finite"


@pytest.mark.parametrize(
    "array",
    [np.ones(3), np.ones(4, np.float32), np.ones((3, 2), np.float32)[:, 0], np.ones(3, ">f4")],
    ids=["dtype", "size", "stride", "byte order"],
)
def test_an_array_that_is_not_what_its_part_says_is_our_bug(array):
    with pytest.raises(AssertionError):
        encode(message_of(Part("x", "float32", 3, 12)), [array])


def test_a_header_beyond_64_kib_is_our_bug():
    parts = [dataclasses.replace(Part("x", "uint8", 1, 1), codec="c" * 2000)] * 64
    with pytest.raises(AssertionError, match="header"):
        encode(message_of(*parts), [np.zeros(1, np.uint8)] * 64)
    assert HEADER_BYTES_MAX == 65536


def test_the_largest_legal_header_fits():
    message = message_of(*[
        Part("half", "bfloat16", 1, 2, "raw", {"kind": "chunk", "chunk": 2**32 - 2,
             "chunks": 2**32 - 1, "seed": 2**64 - 1}, 64, 1e300, 1e300, 1e300, 2**64 - 1, 2**63 - 1)
    ] * 64)  # fmt: skip
    message.age = (2**63 - 1,) * 256
    message.scalars = {f"a_name_of_32_characters_in_it_{n:02d}": 0.1 for n in range(32)}
    message.metrics = dict(message.scalars)
    for name in ("swarm", "schema", "algorithm", "sender", "origin"):
        setattr(message, name, "😀" * 128)
    message.address = "😀" * 255
    frame = encode(message, [np.zeros(1, np.uint16)] * 64)
    assert dataclasses.replace(decode(frame.tobytes())[0], checksum=None) == message


def test_checksum_is_over_all_parts_in_order():
    _, sent, frame = rich()
    body = b"".join(array.tobytes() for array in sent)
    got = decode(frame.tobytes())[0]
    assert got.checksum == ("xxh3", xxhash.xxh3_64_intdigest(body))
    got.checksum = ("xxh3", got.checksum[1] ^ 1)
    with pytest.raises(PeerError) as refusal:
        verify_checksum(got, body)
    assert refusal.value.code == "checksum_mismatch"


def test_published_values_of_the_checksums():
    """XXH3_64bits of nothing, and the CRC-32 check value of "123456789"."""
    nine = np.frombuffer(b"123456789", np.uint8)
    frame = encode(message_of(Part.of("x", nine)), [nine], "crc32")
    assert decode(frame.tobytes())[0].checksum == ("crc32", 0xCBF43926)
    empty = message_of()
    empty.checksum = ("xxh3", 0x2D06800538D394C2)
    verify_checksum(empty, b"")


def test_unknown_codec_is_refused():
    data = encode(message_of(Part("x", "float32", 100, 3, codec="topk")), [np.zeros(3, np.uint8)])
    assert decode(data.tobytes())[0].parts[0].codec == "topk"
    with pytest.raises(PeerError) as refusal:
        decode(data.tobytes().replace(b"topk", b"topj"))
    assert refusal.value.code == "unsupported_message"


def test_peer_text_in_a_reason_is_escaped_and_short():
    part = Part("x", "float\u202e32", 3, 12)  # a right-to-left override, not printable
    header = {"role": part.role, "dtype": "é" * 32, "size": 3, "nbytes": 12}
    packed = msgpack.packb({"parts": [header]})
    with pytest.raises(PeerError) as refusal:
        decode_header(decode_prefix(b"GN\1\1\1\0\0\0")._replace(header_bytes=len(packed)), packed)
    assert refusal.value.reason.isascii()
    assert len(refusal.value.reason) < 300


def test_reader_refuses_a_body_longer_than_its_parts_at_once():
    data = rich()[2].tobytes()
    reader = FrameReader()
    reader.feed(data)
    with pytest.raises(PeerError, match="longer"):
        reader.feed(b"\0")


def test_reader_leaves_the_body_where_it_is():
    data = rich()[2].tobytes()
    remainder = FrameReader().feed(data)
    assert np.shares_memory(np.frombuffer(remainder, np.uint8), np.frombuffer(data, np.uint8))


def message_of(*parts):
    """A message with the required keys and these parts."""
    return Message(Kind.MODEL, "digits", "schema", "gossip", "node-00", 1, 1, parts=parts)
