"""One line an event, for people (text) or machines (JSON).

Invariant: what a peer sent can neither break the line nor fill the disk: control characters
are escaped and every value is bounded. No secret is ever passed in.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from typing import Any, TextIO

VALUE_CHARS_MAX = 200
# In a line of the log: a reason for a refusal has up to 512 characters.
FIELD_CHARS_MAX = 512
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:/+@%")


def bounded(text: object, limit: int = VALUE_CHARS_MAX) -> str:
    r"""Return printable ASCII-safe text of at most ``limit`` characters.

    >>> bounded("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    try:
        raw = str(text)
    except RecursionError:  # a value of a stranger's, as deep as its parser lets through
        raw = type(text).__name__
    # Escapes lengthen: cut before as well, so that a megabyte is never escaped whole.
    safe = raw[: limit + 1].encode("unicode_escape").decode("ascii").replace("\\\\", "\\")
    return safe if len(safe) <= limit and len(raw) <= limit else safe[: limit - 1] + "…"


def event(logger: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Write one event: ``name`` in dotted words, ``fields`` as facts with their units in the name.

    Costs nothing where the level is off.
    """
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={"fields": fields})


class _Bounded(logging.Formatter):
    """A formatter whose values have at most ``limit`` characters each."""

    def __init__(self, limit: int = FIELD_CHARS_MAX) -> None:
        super().__init__()
        self.limit = limit


class TextFormatter(_Bounded):
    """``2026-11-21T08:00:00.123Z INFO node.ready id=a url=http://…``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        words = [_utc(record.created), f"{record.levelname:<7}", record.getMessage()]
        words += [f"{key}={_quoted(value, self.limit)}" for key, value in fields.items()]
        line = " ".join(words)
        if record.exc_info:
            line += f" exception={_quoted(self.formatException(record.exc_info), 4000)}"
        return line


class JsonFormatter(_Bounded):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        entry: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for key, value in getattr(record, "fields", {}).items():
            # JSON has no NaN and no infinity: they are told as text.
            plain = value is None or isinstance(value, bool | int) or _is_finite(value)
            told = value if plain else bounded(value, self.limit)
            entry[f"{key}_" if key in entry else key] = told
        if record.exc_info:
            entry["exception"] = bounded(self.formatException(record.exc_info), 4000)
        return json.dumps(entry)


def configure(
    level: str,
    format_: str,
    stream: TextIO | None = None,
    value_chars_max: int = FIELD_CHARS_MAX,
) -> None:
    """Send the ``gossipnode`` loggers to ``stream`` (standard error) in the given format."""
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter = JsonFormatter if format_ == "json" else TextFormatter
    handler.setFormatter(formatter(value_chars_max))
    logger = logging.getLogger("gossipnode")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _quoted(value: object, limit: int) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = bounded(value, limit)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
