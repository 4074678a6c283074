"""A frame's header, from msgpack bytes to a ``Message``, every key checked.

Invariant: a ``Message`` that leaves here keeps every range that docs/wire.md states, so nobody
behind it checks again. Written by hand because it runs once per message received.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, Final, cast

from gossipnode.wire.fields import (
    ADDRESS_CHARS_MAX,
    ID_CHARS_MAX,
    NAME_CHARS_MAX,
    U32_MAX,
    U63_MAX,
    U64_MAX,
    Fields,
    is_name,
    unpack_map,
)
from gossipnode.wire.members import read_members
from gossipnode.wire.message import ALL, CODECS, DTYPES, ROLES, Kind, Message, Part, Role

PARTS_MAX: Final = 64
# Parts that have passed, of the four required keys alone; a node meets a handful.
_SEEN_MAX: Final = 256
_seen: dict[tuple[str, str, int, int], Part] = {}
PHASE_MAX: Final = 255
BITS_MAX: Final = 64
CHECKSUMS: Final[dict[str, int]] = {"xxh3": U64_MAX, "crc32": U32_MAX}

# What a sender says of itself, the same in each of its messages: texts that have passed.
_TEXTS: Final = ("swarm", "schema", "algorithm", "sender", "graph", "address")
_sound: set[tuple[object, ...]] = set()

_RARE: Final = frozenset(
    {
        "phase",
        "topology_epoch",
        "weight_applied",
        "origin",
        "version",
        "base_version",
        "resync",
        "scalars",
        "metrics",
        "control",
        "members",
    }
)
_HEX: Final = "0123456789abcdef"
_FINGERPRINT_CHARS: Final = 16


def read_header(kind: Kind, data: bytes | bytearray | memoryview) -> Message:
    """Return the message of ``kind`` that the header ``data`` describes; see ``decode_header``."""
    found = unpack_map(data, "header")
    fields = Fields(found)
    parts = _parts(fields)
    # Most headers have none of these: not asking for each saves 3 us of 11.
    rare = {} if _RARE.isdisjoint(found) else _rare(fields)
    swarm, schema, algorithm, sender, graph, address = _texts(fields, found)
    epoch, seq, round_, degree, age = _numbers(fields, found)
    message = Message(
        kind=kind,
        swarm=swarm,
        schema=schema,
        algorithm=algorithm,
        sender=sender,
        epoch=epoch,
        seq=seq,
        round=round_,
        graph=graph,
        degree=degree,
        age=age,
        address=address,
        parts=parts,
        checksum=_checksum(fields),
        **rare,
    )
    if parts and message.checksum is None:
        raise fields.fault("checksum", "is missing")
    return message


def _rare(fields: Fields) -> dict[str, Any]:
    """Return the keys of ``_RARE``, absent ones with what they stand for."""
    return {
        "phase": fields.integer("phase", PHASE_MAX, 0),
        "topology_epoch": fields.integer("topology_epoch", default=0),
        "weight_applied": fields.flag("weight_applied"),
        "origin": fields.optional_text("origin"),
        "version": fields.integer("version", default=0),
        "base_version": fields.optional_integer("base_version"),
        "resync": fields.flag("resync"),
        "scalars": fields.numbers("scalars"),
        "metrics": fields.numbers("metrics"),
        "control": _control(fields),
        "members": read_members(fields),
    }


def _control(fields: Fields) -> str | None:
    """Return the word of a CONTROL or VIEW message: a short lower-case identifier."""
    word = fields.optional_text("control", NAME_CHARS_MAX)
    if word is not None and not is_name(word):
        raise fields.fault("control", "is no lower-case identifier")
    return word


def _texts(fields: Fields, found: dict[str, object]) -> tuple[Any, ...]:
    """Return the entries of ``_TEXTS``, checked; nearly all have passed before."""
    texts = tuple(map(found.get, _TEXTS))
    try:
        if texts in _sound:  # only texts and None are equal to texts and None
            return texts
    except TypeError:
        pass  # one is a list or a map, as is said below
    for key in _TEXTS[:4]:
        fields.text(key)
    _graph(fields)
    fields.optional_text("address", ADDRESS_CHARS_MAX)
    if len(_sound) >= _SEEN_MAX:
        _sound.clear()
    _sound.add(texts)
    return texts


def _numbers(fields: Fields, found: dict[str, Any]) -> tuple[Any, ...]:
    """Return epoch, seq, round, degree and age, checked; nearly all are integers in their range."""
    numbers = epoch, seq, round_, degree, age = tuple(
        map(found.get, ("epoch", "seq", "round", "degree", "age"), (None, None, 0, None, 0))
    )
    if (
        type(epoch) is type(seq) is type(round_) is type(age) is int
        and 0 <= epoch <= U64_MAX
        and 0 <= seq <= U64_MAX
        and 0 <= round_ <= U63_MAX
        and 0 <= age <= U63_MAX
        and (degree is None or (type(degree) is int and 0 <= degree <= U32_MAX))
    ):
        return numbers
    return (
        fields.integer("epoch", U64_MAX),
        fields.integer("seq", U64_MAX),
        fields.integer("round", default=0),
        fields.optional_integer("degree", U32_MAX),
        fields.age("age"),
    )


def _graph(fields: Fields) -> str | None:
    """Return the graph's fingerprint: 16 lower-case hexadecimal digits."""
    graph = fields.optional_text("graph", ID_CHARS_MAX)
    if graph is not None and (len(graph) != _FINGERPRINT_CHARS or graph.strip(_HEX)):
        raise fields.fault("graph", f"is not {_FINGERPRINT_CHARS} lower-case hexadecimal digits")
    return graph


def _checksum(fields: Fields) -> tuple[str, int] | None:
    """Return (kind, value), or None where there is none."""
    pair = fields.array("checksum", 2)
    if not pair:
        return None
    if len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not int:
        raise fields.fault("checksum", "is no pair of a kind and an integer")
    kind: str = pair[0]
    value: int = pair[1]
    if kind not in CHECKSUMS:
        raise fields.fault("checksum", "is of an unknown kind", "unsupported_message")
    if not 0 <= value <= CHECKSUMS[kind]:
        raise fields.fault("checksum", f"is out of the range of {kind}")
    return kind, value


def _parts(fields: Fields) -> tuple[Part, ...]:
    """Return the parts; their bytes add to at most 2^63 - 1."""
    found: list[Part] = []
    body_bytes, explicit = 0, []
    for n, entry in enumerate(fields.array("parts", PARTS_MAX)):
        part = _part(fields, n, entry)
        body_bytes += part.nbytes
        if part.index["kind"] == "explicit":
            explicit.append(n)
        found.append(part)
    if body_bytes > U63_MAX:
        raise fields.fault("parts", f"have more than {U63_MAX} bytes together")
    parts = tuple(found)
    for n in explicit:
        _check_positions(fields, n, parts)
    return parts


def _part(fields: Fields, n: int, entry: object) -> Part:
    """Return part number ``n``."""
    if type(entry) is not dict:
        raise fields.fault(f"parts[{n}]", "is no map")
    if len(entry) == 4 and (part := _part_again(entry)) is not None:
        return part
    found = Fields(entry, f"parts[{n}].")
    role = cast("Role", _known(found, "role", ROLES))
    dtype = _known(found, "dtype", DTYPES)
    size = found.integer("size", low=1)
    nbytes = found.integer("nbytes")
    # Most parts have the four required keys alone: not asking for the others saves 2 us of 15.
    optional = _coding(found) if len(entry) > 4 else {}
    part = Part(role, dtype, size, nbytes, **optional)
    if part.codec == "raw" and nbytes != size * DTYPES[dtype].itemsize:
        raise found.fault("nbytes", "is not size times the bytes of dtype")
    if optional and _index_size(part.index) not in (None, size):
        raise found.fault("size", "is not what the index covers")
    if len(entry) == 4 and not optional:
        if len(_seen) >= _SEEN_MAX:
            _seen.clear()
        _seen[role, dtype, size, nbytes] = part
    return part


def _part_again(entry: dict[str, object]) -> Part | None:
    """Return the part if one of just these four keys has passed before: nearly all have."""
    role, dtype = entry.get("role"), entry.get("dtype")
    size, nbytes = entry.get("size"), entry.get("nbytes")
    # True and 1.0 are equal to 1, but no integers; and what cannot be hashed must not be looked up.
    if type(role) is str and type(dtype) is str and type(size) is int and type(nbytes) is int:
        return _seen.get((role, dtype, size, nbytes))
    return None


def _coding(found: Fields) -> dict[str, Any]:
    """Return the optional keys of a part: its codec, the codec's numbers and the index."""
    codec = found.optional_text("codec")
    if codec is not None:
        _known(found, "codec", CODECS)
    return {
        "codec": codec or "raw",
        "index": _index(found),
        "bits": found.optional_integer("bits", BITS_MAX, low=1),
        "scale": found.optional_number("scale"),
        "zero": found.optional_number("zero"),
        "norm": found.optional_number("norm"),
        "seed": found.optional_integer("seed", U64_MAX),
        "base_version": found.optional_integer("base_version"),
    }


def _known(fields: Fields, key: str, choices: Container[str]) -> str:
    """Return the text at ``key`` if it is one of ``choices``, else ``unsupported_message``."""
    value = fields.text(key, NAME_CHARS_MAX)
    if value not in choices:
        raise fields.fault(key, f"{value!a} is not known here", "unsupported_message")
    return value


def _index(fields: Fields) -> Any:
    """Return the index map with the keys of its kind alone; absent means all coordinates."""
    found = fields.optional_map("index")
    if found is None or found == ALL:
        return ALL
    index = Fields(found, "index.")
    kind = _known(index, "kind", _INDEX_READERS)
    return {"kind": kind, **_INDEX_READERS[kind](index)}


def _range(index: Fields) -> dict[str, int]:
    """Coordinates start to stop - 1."""
    stop = index.integer("stop", low=1)
    return {"start": index.integer("start", stop - 1), "stop": stop}


def _residue(index: Fields) -> dict[str, int]:
    """Coordinates whose number modulo ``parts`` is ``part``."""
    parts = index.integer("parts", U32_MAX, low=1)
    return {"part": index.integer("part", parts - 1), "parts": parts}


def _chunk(index: Fields) -> dict[str, int]:
    """Contiguous chunk ``chunk`` of ``chunks``, of the coordinates permuted by ``seed`` if any."""
    chunks = index.integer("chunks", U32_MAX, low=1)
    found = {"chunk": index.integer("chunk", chunks - 1), "chunks": chunks}
    seed = index.optional_integer("seed", U64_MAX)
    return found if seed is None else {**found, "seed": seed}


def _seeded(index: Fields) -> dict[str, int | float]:
    """A mask that both ends draw from ``seed``; ``fraction`` of the coordinates, above 0 to 1."""
    fraction = index.optional_number("fraction")
    if fraction is None or not 0 < fraction <= 1:
        raise index.fault("fraction", "is not above 0 and at most 1")
    return {"seed": index.integer("seed", U64_MAX), "fraction": fraction}


def _explicit(index: Fields) -> dict[str, int]:
    """Coordinates listed in part number ``positions`` of the same message."""
    return {"positions": index.integer("positions", PARTS_MAX - 1)}


def _block(index: Fields) -> dict[str, int]:
    """The leading ``rows`` x ``columns`` block of tensor number ``tensor`` of the layout."""
    return {
        "tensor": index.integer("tensor", U32_MAX),
        "rows": index.integer("rows", U32_MAX, low=1),
        "columns": index.integer("columns", U32_MAX, low=1),
    }


_INDEX_READERS: Final[dict[str, Callable[[Fields], dict[str, Any]]]] = {
    "all": lambda _index: {},
    "range": _range,
    "part": _residue,
    "chunk": _chunk,
    "seeded": _seeded,
    "explicit": _explicit,
    "block": _block,
}


def _index_size(index: Any) -> int | None:
    """Return how many coordinates ``index`` covers where it tells, else None."""
    if index["kind"] == "range":
        return int(index["stop"] - index["start"])
    if index["kind"] == "block":
        return int(index["rows"] * index["columns"])
    return None


def _check_positions(fields: Fields, n: int, parts: tuple[Part, ...]) -> None:
    """Refuse an explicit index whose positions are not an integer part of the same size."""
    number = int(parts[n].index["positions"])
    key = f"parts[{n}].index.positions"
    if number >= len(parts) or parts[number].role != "index":
        raise fields.fault(key, "is not the number of a part with role index")
    positions = parts[number]
    if "int" not in positions.dtype or positions.size != parts[n].size:
        raise fields.fault(key, "names a part that is not integers, one per element")
