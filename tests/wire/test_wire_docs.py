"""docs/wire.md lists every key, value, code and limit, and its example is a real frame."""

import dataclasses
import re
from pathlib import Path

import make_vectors
import pytest

from gossipnode.errors import REFUSALS
from gossipnode.wire import CONTENT_TYPE, HEADER_BYTES_MAX, Kind, Message, Part, Reply, decode
from gossipnode.wire.fields import NUMBERS_MAX, VECTOR_MAX
from gossipnode.wire.header import CHECKSUMS, PARTS_MAX
from gossipnode.wire.members import MEMBERS_MAX, STATES
from gossipnode.wire.message import DTYPES, INDEX_KINDS, ROLES
from gossipnode.wire.reply import REPLY_BYTES_MAX, STATUSES

DOC = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


def section(title):
    """Return the text under a heading, to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#+ |\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_column(title):
    """Return what stands in backticks at the start of the table rows under a heading."""
    return re.findall(r"^\| `([^`]+)` \|", section(title), re.MULTILINE)


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        ("The header", [f.name for f in dataclasses.fields(Message) if f.name != "kind"]),
        ("Parts", [f.name for f in dataclasses.fields(Part)]),
        ("Index", INDEX_KINDS),
        ("Checksum", CHECKSUMS),
        ("Reply", [f.name for f in dataclasses.fields(Reply)]),
        ("Refusal codes", REFUSALS),
    ],
)
def test_table_lists_every_key_and_no_other(title, keys):
    assert sorted(first_column(title)) == sorted(keys)


def test_every_closed_set_is_listed():
    for word in (*ROLES, *DTYPES):
        assert f"`{word}`" in section("Parts")
    for status in STATUSES:
        assert f"`{status}`" in section("Reply")
    for state in STATES:
        assert f"`{state}`" in section("Members")
    for kind in Kind:
        assert f"| {kind.value} | {kind.name} |" in section("Kinds")


def test_refusal_codes_have_their_http_status():
    for code, status in REFUSALS.items():
        assert f"| `{code}` | {status} |" in section("Refusal codes")


def test_limits_and_content_type_are_the_real_ones():
    limits = section("Limits")
    assert f"| header | {HEADER_BYTES_MAX} bytes |" in limits
    assert f"| reply | {REPLY_BYTES_MAX} bytes |" in limits
    assert f"| parts | {PARTS_MAX} |" in limits
    assert f"| entries in an array | {VECTOR_MAX} |" in limits
    assert f"| `scalars`, `metrics` | {NUMBERS_MAX} entries each |" in limits
    assert f"| `members` | {MEMBERS_MAX} entries |" in limits
    assert CONTENT_TYPE in section("Over HTTP")


def test_example_is_the_vector():
    rows = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} )+)", section("Example"), re.MULTILINE)
    data = bytes.fromhex("".join(rows))
    vector = next(case for case in make_vectors.frames() if case["name"] == "model crc32")
    assert data.hex() == vector["frame"]
    assert decode(data)[1][0].tolist() == [1.0, -2.5, 0.125]
