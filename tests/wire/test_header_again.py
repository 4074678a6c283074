"""A part that has passed before is read again without a second look, but never a look-alike."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from gossipnode.errors import PeerError
from gossipnode.wire import Kind, Part
from gossipnode.wire.header import _SEEN_MAX, RAW_ONLY, _seen, read_header

PLAIN = {"role": "x", "dtype": "uint8", "size": 1, "nbytes": 1}


def read(part: dict[str, Any]) -> Part:
    header = {
        "swarm": "s",
        "schema": "0",
        "algorithm": "gossip",
        "sender": "b",
        "epoch": 1,
        "seq": 1,
        "parts": [part],
        "checksum": ["xxh3", 1],
    }
    return read_header(Kind.MODEL, msgpack.packb(header), RAW_ONLY).parts[0]


def test_the_same_part_is_the_same_again() -> None:
    assert read(PLAIN) == read(dict(reversed(PLAIN.items()))) == Part("x", "uint8", 1, 1)


@pytest.mark.parametrize(
    "change",
    [{"size": True}, {"size": 1.0}, {"nbytes": True}, {"role": ["x"]}, {"dtype": {}}, {"size": 2}],
    ids=str,
)
def test_what_only_equals_it_is_refused(change: dict[str, Any]) -> None:
    read(PLAIN)
    with pytest.raises(PeerError):
        read({**PLAIN, **change})


def test_a_key_more_is_looked_at() -> None:
    read(PLAIN)
    with pytest.raises(PeerError, match="codec"):
        read({**PLAIN, "codec": "topk"})


def test_no_more_is_remembered_than_a_node_needs() -> None:
    for size in range(1, 3 * _SEEN_MAX):
        assert read({**PLAIN, "size": size, "nbytes": size}).size == size
    assert len(_seen) <= _SEEN_MAX
