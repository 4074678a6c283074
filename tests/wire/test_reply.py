"""The answer to a push."""

import dataclasses
import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import REFUSALS, PeerError
from gossipnode.wire.reply import REASON_CHARS_MAX, REPLY_BYTES_MAX, STATUSES, Reply

texts = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=128).filter(
    str.isprintable
)
replies = st.builds(
    Reply,
    status=st.sampled_from(STATUSES),
    sender=texts,
    round=st.integers(0, 2**63 - 1),
    age=st.integers(0, 2**63 - 1),
    code=st.sampled_from(sorted(REFUSALS)),
    reason=st.none() | texts,
    retry_after_s=st.none() | st.floats(0, 1e9),
)
GOOD = {"status": "merged", "sender": "node-01", "round": 3, "age": 4}


@given(replies)
def test_round_trip(reply):
    assert Reply.decode(reply.encode()) == reply
    assert Reply(**json.loads(reply.to_json())) == reply


def test_bytes_by_hand():
    expected = {**GOOD, "code": None, "reason": None, "retry_after_s": None}
    reply = Reply(**GOOD)
    assert msgpack.unpackb(reply.encode()) == expected
    assert json.loads(reply.to_json()) == expected
    assert Reply.decode(msgpack.packb(GOOD)) == reply


@pytest.mark.parametrize(
    ("changes", "code", "mentions"),
    [
        ({"status": None}, "malformed_frame", "status"),
        ({"status": "eaten"}, "unsupported_message", "status"),
        ({"sender": None}, "malformed_frame", "sender"),
        ({"sender": ""}, "malformed_frame", "sender"),
        ({"round": -1}, "malformed_frame", "round"),
        ({"age": True}, "malformed_frame", "age"),
        ({"status": "refused"}, "malformed_frame", "code"),
        ({"code": "a\x1b[31m"}, "malformed_frame", "code"),
        ({"reason": "r" * (REASON_CHARS_MAX + 1)}, "malformed_frame", "reason"),
        ({"retry_after_s": -0.5}, "malformed_frame", "retry_after_s"),
        ({"retry_after_s": float("inf")}, "not_finite", "retry_after_s"),
        ({"more": "m" * REPLY_BYTES_MAX}, "malformed_frame", "bytes"),
    ],
)
def test_wrong_reply_is_refused(changes, code, mentions):
    with pytest.raises(PeerError) as refusal:
        Reply.decode(msgpack.packb({**GOOD, **changes}))
    assert refusal.value.code == code
    assert mentions in refusal.value.reason


def is_text(value, most=128):
    return type(value) is str and 0 < len(value) <= most and value.isprintable()


def is_count(value):
    return value is None or (type(value) is int and 0 <= value < 2**63)


SOUND = {
    "status": lambda value: value in STATUSES,
    "sender": is_text,
    "round": is_count,
    "age": is_count,
    "code": lambda value: value is None or is_text(value),
    "reason": lambda value: value is None or is_text(value, REASON_CHARS_MAX),
    "retry_after_s": lambda value: value is None or (type(value) in (int, float) and value >= 0),
    "new": lambda _value: True,
}


@pytest.mark.parametrize(
    "value",
    [None, True, 1.0, -1.5, -1, 0, 2**63 - 1, 2**63, "", "b", "a\nb", "n" * 129, "n" * 513, [], {}],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("key", SOUND)
@pytest.mark.parametrize("base", [GOOD, {**GOOD, "status": "refused", "code": "busy"}])
def test_each_entry_keeps_its_range_whatever_comes_with_it(base, key, value):
    told = {**base, key: value}
    is_sound = SOUND[key](value) and not (told["status"] == "refused" and told.get("code") is None)
    if is_sound:
        said = {name: it for name, it in told.items() if it is not None and name != "new"}
        if "retry_after_s" in said:
            said["retry_after_s"] = float(said["retry_after_s"])
        assert Reply.decode(msgpack.packb(told)) == Reply(**said)
        return
    with pytest.raises(PeerError, match=rf"reply\.{key} "):
        Reply.decode(msgpack.packb(told))


def test_truncated_reply_is_refused_at_every_byte():
    data = Reply("refused", "node-01", code="busy", reason="4 merges wait").encode()
    for end in range(len(data)):
        with pytest.raises(PeerError):
            Reply.decode(data[:end])


def test_newer_code_and_unknown_key_are_read():
    reply = Reply.decode(msgpack.packb({**GOOD, "status": "refused", "code": "new", "key": 1}))
    assert reply.code == "new"


def test_long_reason_is_cut_and_the_largest_reply_fits():
    reply = Reply(
        "refused", "😀" * 128, 2**63 - 1, 2**63 - 1, "😀" * 128, "😀" * 9999, 1e300
    )  # fmt: skip
    data = reply.encode()
    assert len(data) <= REPLY_BYTES_MAX
    got = Reply.decode(data)
    assert got == dataclasses.replace(reply, reason="😀" * REASON_CHARS_MAX)
