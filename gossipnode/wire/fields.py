"""Strict reading of a msgpack map that a stranger sent.

Invariant: whatever the bytes are, reading ends in plain Python values of the asked type and range
or in a ``PeerError`` that names the key; nothing larger than the bytes at hand is allocated.
No knowledge of particular keys may enter: those live in ``frame`` and ``reply``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

import msgpack

from gossipnode.errors import PeerError

U63_MAX: Final = 2**63 - 1  # fits a signed 64-bit integer, so numpy and JSON tools can hold it
U64_MAX: Final = 2**64 - 1
U32_MAX: Final = 2**32 - 1

ID_CHARS_MAX: Final = 128
ADDRESS_CHARS_MAX: Final = 255  # a DNS name has at most 253 characters
NAME_CHARS_MAX: Final = 32  # a scalar's or metric's name
NUMBERS_MAX: Final = 32  # scalars, or metrics, in one message
VECTOR_MAX: Final = 256  # entries of an age vector

# msgpack allocates a list of the promised length before it reads the entries, and nests 1024
# deep at most: 1024 * 256 * 8 bytes = 2 MB is the worst that a 64 KiB header can cause.
_ARRAY_MAX: Final = VECTOR_MAX
_MAP_MAX: Final = 64
_TEXT_BYTES_MAX: Final = 4096


def _unique(pairs: list[tuple[Any, object]]) -> dict[Any, object]:
    """Build a map of its pairs and refuse a key that comes twice or is no text."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    "".join(found)  # a TypeError where a key is bytes; 10x a loop
    return found


def _no_extension(_code: int, _data: bytes) -> NoReturn:
    """Refuse every msgpack extension type."""
    raise ValueError("an extension type")


def unpack_map(data: bytes | bytearray | memoryview, what: str) -> dict[str, object]:
    """Return the msgpack map that fills ``data`` exactly.

    Raises ``PeerError("malformed_frame")`` if ``data`` is anything else; ``what`` names it.
    """
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            ext_hook=_no_extension,
            max_str_len=_TEXT_BYTES_MAX,
            max_bin_len=_TEXT_BYTES_MAX,
            max_array_len=_ARRAY_MAX,
            max_map_len=_MAP_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError) as error:
        # The library's text may quote the peer's bytes, so only its kind is passed on.
        problem = f"{what} is no strict msgpack map ({type(error).__name__})"
        raise PeerError("malformed_frame", problem) from error
    if type(value) is not dict:
        raise PeerError("malformed_frame", f"{what} is no msgpack map")
    return value


class Fields:
    """A decoded map whose entries are asked for by key, type and range.

    A key that is absent and a key that is nil are the same. ``where`` comes before the key in
    every reason, for example ``parts[2].``.
    """

    __slots__ = ("_get", "_where")

    def __init__(self, found: dict[str, object], where: str = "") -> None:
        self._get: Callable[[str], object] = found.get
        self._where = where

    def fault(self, key: str, problem: str, code: str = "malformed_frame") -> PeerError:
        """Return (not raise) the error that says what is wrong with ``key``."""
        return PeerError(code, f"{self._where}{key} {problem}")

    def text(self, key: str, chars_max: int = ID_CHARS_MAX) -> str:
        """Return a printable text of 1 to ``chars_max`` characters."""
        value = self.optional_text(key, chars_max)
        if value is None:
            raise self.fault(key, "is missing")
        return value

    def optional_text(self, key: str, chars_max: int = ID_CHARS_MAX) -> str | None:
        """Return a printable text of 1 to ``chars_max`` characters, or None."""
        value = self._get(key)
        if value is None:
            return None
        if type(value) is not str:
            raise self.fault(key, "is no text")
        if not 0 < len(value) <= chars_max or not value.isprintable():
            raise self.fault(key, f"is not 1 to {chars_max} printable characters")
        return value

    def integer(
        self, key: str, high: int = U63_MAX, default: int | None = None, low: int = 0
    ) -> int:
        """Return an integer of ``low`` to ``high``; absent means ``default``, None: required."""
        value = self._get(key)
        if value is None:
            if default is None:
                raise self.fault(key, "is missing")
            return default
        if type(value) is not int or not low <= value <= high:
            raise self.fault(key, f"is no integer from {low} to {high}")
        return value

    def optional_integer(self, key: str, high: int = U63_MAX, low: int = 0) -> int | None:
        """Return an integer of ``low`` to ``high``, or None."""
        if self._get(key) is None:
            return None
        return self.integer(key, high, low=low)

    def optional_number(self, key: str) -> float | None:
        """Return a finite number as a float, or None; ``not_finite`` if it is inf or nan."""
        value = self._get(key)
        if value is None:
            return None
        if type(value) is not float and type(value) is not int:
            raise self.fault(key, "is no number")
        if not math.isfinite(value):
            raise self.fault(key, "is not finite", "not_finite")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return a boolean; absent means false."""
        value = self._get(key)
        if value is None:
            return False
        if type(value) is not bool:
            raise self.fault(key, "is no boolean")
        return value

    def optional_map(self, key: str) -> dict[str, object] | None:
        """Return a map with text keys, or None."""
        value = self._get(key)
        if value is None:
            return None
        if type(value) is not dict:
            raise self.fault(key, "is no map")
        return value

    def array(self, key: str, length_max: int) -> list[object]:
        """Return an array of 0 to ``length_max`` entries; absent means an empty one."""
        value = self._get(key)
        if value is None:
            return []
        if type(value) is not list:
            raise self.fault(key, "is no array")
        if len(value) > length_max:
            raise self.fault(key, f"has more than {length_max} entries")
        return value

    def numbers(self, key: str) -> dict[str, float | int]:
        """Return a map of names to finite numbers, at most ``NUMBERS_MAX``; absent: empty.

        A name is a lower-case ASCII identifier of at most ``NAME_CHARS_MAX`` characters.
        """
        found = self.optional_map(key)
        if not found:
            return {}
        if len(found) > NUMBERS_MAX:
            raise self.fault(key, f"has more than {NUMBERS_MAX} entries")
        for name, value in found.items():
            if not is_name(name):
                raise self.fault(key, "has a name that is no short lower-case identifier")
            if type(value) is not float and type(value) is not int:
                raise self.fault(f"{key}.{name}", "is no number")
            if not math.isfinite(value):
                raise self.fault(f"{key}.{name}", "is not finite", "not_finite")
        return cast("dict[str, float | int]", found)

    def age(self, key: str) -> int | tuple[int, ...]:
        """Return an integer, or a vector of 1 to ``VECTOR_MAX`` integers; absent means 0."""
        value = self._get(key)
        if type(value) is not list:
            return self.integer(key, default=0)
        if not value:  # unpack_map has refused one of more than VECTOR_MAX
            raise self.fault(key, "is an empty vector")
        for entry in value:
            if type(entry) is not int or not 0 <= entry <= U63_MAX:
                raise self.fault(key, f"has an entry that is no integer from 0 to {U63_MAX}")
        return tuple(value)


def is_name(name: str) -> bool:
    """Tell whether ``name`` may name a scalar or a metric.

    >>> is_name("loss"), is_name("Loss"), is_name("")
    (True, False, False)
    """
    return (
        len(name) <= NAME_CHARS_MAX
        and name.isascii()
        and name.isidentifier()
        and name == name.lower()
    )
