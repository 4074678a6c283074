"""Every stored coding is made and read as its vector says."""

import json

import codec_vectors
import numpy as np
import pytest

from gossipnode.codecs import CODECS, check, decode
from gossipnode.errors import PeerError

STORED = json.loads(codec_vectors.FILE.read_text(encoding="utf-8"))


def name_of(case):
    options = ",".join(f"{key}={value}" for key, value in case["options"].items())
    return f"{case['codec']}({options})-{case['dtype']}"


each = pytest.mark.parametrize("case", STORED, ids=name_of)


def test_every_codec_has_vectors():
    assert {case["codec"] for case in STORED} == set(CODECS)


def test_stored_vectors_are_what_the_generator_writes():
    assert codec_vectors.FILE.read_text(encoding="utf-8") == codec_vectors.rendered()


@each
def test_the_numbers_give_the_bytes(case):
    coded = codec_vectors.coded_by(case)
    assert coded.data.tobytes().hex() == case["body"]
    for key in codec_vectors.KEYS:
        assert getattr(coded, key) == case["keys"].get(key)


def received(case):
    sent = codec_vectors.read(case)
    check(sent, codec_vectors.LAYOUT.tensors)
    return decode(sent, sent.data, codec_vectors.LAYOUT.tensors)


@each
def test_the_bytes_give_the_decoded_numbers(case):
    x = received(case)
    assert x.dtype == np.dtype(case["dtype"])
    assert x.tobytes().hex() == case["decoded"]


@each
def test_a_byte_less_is_refused(case):
    with pytest.raises(PeerError, match="malformed_frame"):
        received({**case, "body": case["body"][:-2]})
