"""The exception hierarchy: an exception's name says who must act.

``ConfigError`` and ``DataError``: the person who wrote the file. ``TrainingError``: the person
who chose the options. ``PeerError``: the machine that sent us something. ``NetworkError`` and
``StorageError``: the world. A broken invariant of our own is an ``AssertionError``, never one of
these.

Nothing may enter this module but the standard library: every room imports it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final


class GossipNodeError(Exception):
    """Base of every error that gossipnode raises on purpose."""


class ConfigError(GossipNodeError):
    """An option is wrong: tells which file and key, what is allowed and what was likely meant.

    ``file`` is a path, ``environment`` or ``command line``; ``key`` is dotted, for example
    ``training.batch_size``; ``nearest`` is the closest right spelling, if any is close.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        key: str | None = None,
        allowed: str | None = None,
        nearest: str | None = None,
    ) -> None:
        self.file, self.key, self.allowed, self.nearest = file, key, allowed, nearest
        where = ": ".join(part for part in (file, key) if part)
        text = f"{where}: {message}" if where else message
        if allowed:
            text += f"; allowed: {allowed}"
        if nearest:
            text += f"; did you mean {nearest!r}?"
        self.message = message
        super().__init__(text)

    def found_in(self, file: str | None) -> ConfigError:
        """Return the same error with the file, where that was not known when it was raised."""
        return ConfigError(
            self.message, file=self.file or file, key=self.key,
            allowed=self.allowed, nearest=self.nearest,
        )  # fmt: skip


class DataError(GossipNodeError):
    """A data file is wrong: tells file, row (1-based, as an editor counts lines) and column."""

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        row: int | None = None,
        column: str | int | None = None,
    ) -> None:
        self.file, self.row, self.column = file, row, column
        where = [str(file)] if file else []
        if row is not None:
            where.append(f"row {row}")
        if column is not None:
            where.append(f"column {column!r}" if isinstance(column, str) else f"column {column}")
        super().__init__(f"{', '.join(where)}: {message}" if where else message)


# Refusal code -> HTTP status. The codes are part of the wire contract (docs/wire.md) and are
# the label of the refusal counter in /metrics, so they are a closed set.
REFUSALS: Final[dict[str, int]] = {
    "malformed_frame": 400,
    "unsupported_version": 400,
    "checksum_mismatch": 400,
    "wrong_swarm": 403,
    "not_a_neighbour": 403,
    "body_timeout": 408,
    "wrong_schema": 409,
    "wrong_algorithm": 409,
    "wrong_graph": 409,
    "stale_epoch": 409,
    "missing_base": 409,
    "length_required": 411,
    "too_large": 413,
    "unsupported_encoding": 415,
    "not_finite": 422,
    "out_of_range": 422,
    "unsupported_message": 422,
    "busy": 503,
    "draining": 503,
}


class PeerError(GossipNodeError):
    """The peer's fault: what it sent is refused, with a code of ``REFUSALS`` and a reason.

    ``http_status`` is what the peer is answered. The reason is ours and safe to log; text that
    the peer supplied must be escaped before it is put in (``logs.bounded``).
    """

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.http_status = REFUSALS[code]
        self.reason = reason
        super().__init__(f"{code}: {reason}")


class NetworkError(GossipNodeError):
    """The network's fault: nobody listens, the connection broke, or time ran out."""


class TrainingError(GossipNodeError):
    """Training diverged: the options must change, most likely ``training.learning_rate``."""


class StorageError(GossipNodeError):
    """The disk's fault: a checkpoint cannot be written, or none that exists can be trusted."""


def nearest_spelling(word: str, choices: Iterable[str]) -> str | None:
    """Return the entry of ``choices`` closest to ``word``, or None where none is close.

    >>> nearest_spelling("batchsize", ["batch_size", "momentum"])
    'batch_size'
    """
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return close[0] if close else None
