"""A part or a sender that has passed before is read again without a second look.

Never a look-alike.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from gossipnode.errors import PeerError
from gossipnode.wire import Kind, Message, Part
from gossipnode.wire.header import _SEEN_MAX, _seen, _sound, read_header

PLAIN = {"role": "x", "dtype": "uint8", "size": 1, "nbytes": 1}


def read(part: dict[str, Any], **changes: Any) -> Part:
    return read_all(part, **changes).parts[0]


def read_all(part: dict[str, Any], **changes: Any) -> Message:
    header = {
        "swarm": "s",
        "schema": "0",
        "algorithm": "gossip",
        "sender": "b",
        "epoch": 1,
        "seq": 1,
        "parts": [part],
        "checksum": ["xxh3", 1],
        **changes,
    }
    return read_header(Kind.MODEL, msgpack.packb(header))


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
    assert read({**PLAIN, "codec": "topk"}).codec == "topk"
    with pytest.raises(PeerError, match="codec"):
        read({**PLAIN, "codec": "topj"})


def test_no_more_is_remembered_than_a_node_needs() -> None:
    for size in range(1, 3 * _SEEN_MAX):
        assert read({**PLAIN, "size": size, "nbytes": size}).size == size
    assert len(_seen) <= _SEEN_MAX


def test_the_same_sender_is_the_same_again() -> None:
    facts = {"graph": "0123456789abcdef", "address": "http://h:1"}
    first, again = read_all(PLAIN, **facts), read_all(PLAIN, **facts, seq=2)
    assert (first.sender, first.graph, first.address) == ("b", *facts.values())
    assert (again.sender, again.graph, again.address) == ("b", *facts.values())
    assert read_all(PLAIN).graph is None


@pytest.mark.parametrize(
    "change",
    [
        {"swarm": None},
        {"schema": ["0"]},
        {"algorithm": {}},
        {"sender": b"b"},
        {"sender": ""},
        {"sender": "b" * 129},
        {"sender": "b\n"},
        {"graph": "0123456789ABCDEF"},
        {"graph": 1},
        {"address": "h" * 256},
        {"address": True},
    ],
    ids=str,
)
def test_a_sender_that_only_resembles_it_is_refused(change: dict[str, Any]) -> None:
    for _ in range(2):  # nor is it remembered
        read(PLAIN)
        with pytest.raises(PeerError) as caught:
            read(PLAIN, **change)
        assert (caught.value.code, next(iter(change)) in caught.value.reason) == (
            "malformed_frame",
            True,
        )


def test_no_more_senders_are_remembered_than_a_node_needs() -> None:
    for number in range(3 * _SEEN_MAX):
        assert read_all(PLAIN, sender=f"node-{number}").sender == f"node-{number}"
    assert len(_sound) <= _SEEN_MAX


LIMITS = {
    "epoch": 2**64 - 1,
    "seq": 2**64 - 1,
    "round": 2**63 - 1,
    "degree": 2**32 - 1,
    "age": 2**63 - 1,
}
REQUIRED = ("epoch", "seq")
ABSENT = {"round": 0, "degree": None, "age": 0}


@pytest.mark.parametrize("other", [{}, {"round": None}, {"age": [1, 2]}], ids=str)
@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1),
        *(None, True, False, 1.0, "1", b"1", [1], {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("key", LIMITS)
def test_numbers_are_integers_in_their_range_whatever_comes_with_them(
    key: str, value: Any, other: dict[str, Any]
) -> None:
    told = {"epoch": 1, "seq": 1, **other, key: value}
    if value is None:
        is_sound = key not in REQUIRED
    elif type(value) is int:
        is_sound = 0 <= value <= LIMITS[key]
    else:
        is_sound = key == "age" and value == [1]
    if is_sound:
        message = read_all(PLAIN, **told)
        for name in LIMITS:
            wanted = ABSENT.get(name) if told.get(name) is None else told[name]
            assert getattr(message, name) == (tuple(wanted) if type(wanted) is list else wanted)
        return
    with pytest.raises(PeerError, match=rf"malformed_frame: {key} "):
        read_all(PLAIN, **told)
