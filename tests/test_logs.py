"""One line an event, whatever a peer has sent."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.logs import (
    FIELD_CHARS_MAX,
    VALUE_CHARS_MAX,
    JsonFormatter,
    TextFormatter,
    bounded,
    configure,
    event,
)


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("gossipnode.x", logging.INFO, "f.py", 1, message, (), None)
    made.fields = fields
    made.created = 1_700_000_000.25
    return made


@given(st.text(max_size=600), st.integers(1, 300))
def test_bounded_text_is_printable_ascii_within_its_limit(text: str, limit: int) -> None:
    safe = bounded(text, limit)
    assert len(safe) <= limit
    assert safe.removesuffix("…").isascii()
    assert safe.removesuffix("…").isprintable()


@given(st.text("abc ._-:/", max_size=50))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert bounded(text) == text


def test_what_was_cut_shows() -> None:
    assert bounded("x" * VALUE_CHARS_MAX) == "x" * VALUE_CHARS_MAX
    assert bounded("x" * (VALUE_CHARS_MAX + 1)) == "x" * (VALUE_CHARS_MAX - 1) + "…"
    newlines = "\n" * (VALUE_CHARS_MAX - 1)
    assert bounded(newlines).endswith("…")
    assert len(bounded(newlines)) == VALUE_CHARS_MAX


NASTY = st.text(max_size=300) | st.sampled_from(
    ["\n2026 ERROR forged", "\x1b[31m", '" x=1', "\u2028"]
)


@given(NASTY, NASTY)
def test_no_value_breaks_a_line_or_forges_a_field(one: str, other: str) -> None:
    text = TextFormatter().format(record("a.b", one=one, other=other))
    assert len(text.splitlines()) == 1
    assert text.replace("…", "").isprintable()
    assert len(text) < 100 + 2 * 2 * FIELD_CHARS_MAX
    line = JsonFormatter().format(record("a.b", one=one, other=other))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["one"] == bounded(one, FIELD_CHARS_MAX)


def test_text_lines() -> None:
    line = TextFormatter().format(record("node.ready", id="a", n=3, x=0.1234567, empty="", s="a b"))
    assert line == (
        '2023-11-14T22:13:20.250Z INFO    node.ready id=a n=3 x=0.123457 empty="" s="a b"'
    )


def test_json_lines_keep_types() -> None:
    line = JsonFormatter().format(record("node.ready", id="a", n=3, x=0.5, yes=True, none=None))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "event": "node.ready",
        "id": "a",
        "n": 3,
        "x": 0.5,
        "yes": True,
        "none": None,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_lines_are_json_whatever_the_number(value: float) -> None:
    def no_constant(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(JsonFormatter().format(record("a", x=value)), parse_constant=no_constant)


def test_a_field_cannot_take_the_place_of_the_events_own() -> None:
    line = json.loads(JsonFormatter().format(record("a.b", level="forged", event="forged")))
    assert (line["level"], line["event"]) == ("info", "a.b")


@pytest.mark.parametrize("format_", ["text", "json"])
def test_an_exception_stays_on_the_line(format_: str) -> None:
    stream = io.StringIO()
    configure("info", format_, stream)
    try:
        raise ValueError("what\nis this")
    except ValueError:
        logging.getLogger("gossipnode.x").exception("node.bug")
    assert len(stream.getvalue().splitlines()) == 1
    assert "what" in stream.getvalue()
    assert "Traceback" in stream.getvalue()


def test_levels_and_one_handler_only() -> None:
    stream = io.StringIO()
    configure("debug", "text", io.StringIO())
    configure("warning", "text", stream)
    log = logging.getLogger("gossipnode.x")
    event(log, logging.INFO, "quiet")
    event(log, logging.WARNING, "loud", n=1)
    assert [line.split()[2:] for line in stream.getvalue().splitlines()] == [["loud", "n=1"]]
