"""Every stored frame is read or refused exactly as its vector says, in every way of reading."""

import json

import make_vectors
import numpy as np
import pytest

from gossipnode.errors import PeerError
from gossipnode.wire import FrameReader, Message, arrays, decode, encode, verify_checksum

GOOD = json.loads((make_vectors.FOLDER / "frames.json").read_text())
BAD = json.loads((make_vectors.FOLDER / "malformed.json").read_text())


def streamed(data: bytes) -> tuple[Message, list]:
    """Read a frame as the server does: one byte a chunk, body into a buffer of its own."""
    reader = FrameReader()
    body = bytearray()
    for byte in data:
        body += reader.feed(bytes([byte]))
    reader.finish()
    verify_checksum(reader.message, body)
    return reader.message, arrays(reader.message, body)


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def test_stored_vectors_are_what_the_generator_writes():
    for name, text in make_vectors.rendered().items():
        assert (make_vectors.FOLDER / name).read_text() == text


@pytest.mark.parametrize("read", [decode, streamed])
@by_name(GOOD)
def test_good_frame_is_read(case, read):
    message, views = read(bytes.fromhex(case["frame"]))
    assert message.kind == case["kind"]
    for key, expected in case["fields"].items():
        value = getattr(message, key)
        assert json.loads(json.dumps(value)) == expected, key
    assert len(views) == len(case["arrays"])
    for view, expected in zip(views, case["arrays"], strict=True):
        assert view.dtype == np.dtype(expected["dtype"])
        assert view.tolist() == expected["values"]


@pytest.mark.parametrize("read", [decode, streamed])
@by_name(BAD)
def test_malformed_frame_is_refused(case, read):
    with pytest.raises(PeerError) as refusal:
        read(bytes.fromhex(case["frame"]))
    assert refusal.value.code == case["code"]
    if read is decode:
        assert case["mentions"] in refusal.value.reason


@by_name([case for case in GOOD if case["name"] in {"smallest", "every key", "model xxh3", "ping"}])
def test_encoding_gives_the_same_header_and_body(case):
    data = bytes.fromhex(case["frame"])
    message, views = decode(data)
    checksum = message.checksum[0] if message.checksum else "xxh3"
    again, again_views = decode(encode(message, views, checksum).tobytes())
    assert again == message
    assert [view.tobytes() for view in again_views] == [view.tobytes() for view in views]
