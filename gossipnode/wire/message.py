"""What nodes say to each other: a bundle of typed parts with clock, graph and scalars.

Invariant: a message is applied whole or not at all; each part tells by itself how to decode it.
Bytes may not enter: ``frame`` turns messages into bytes and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gossipnode.wire.members import Member


class Kind(IntEnum):
    """What a message asks of its receiver."""

    MODEL = 1  # merge this model
    DELTA = 2  # add this difference
    EXCHANGE_REQUEST = 3  # merge, and answer with the values held before the merge
    EXCHANGE_REPLY = 4
    PULL = 5  # answer with a model
    ACK = 6
    NACK = 7  # a difference is missing: send everything (resync)
    CONTROL = 8  # a word about who is there
    VIEW = 9  # peers known to the sender
    METRIC = 10  # scalars and metrics only


# x model · half half-step · u push-sum numerator · y tracker · v shared direction · q compressed
# difference · delta pseudo-gradient · phi slow or corrected model · p projection · c control
# variate · m momentum · g gradient · sketch · sum partial sum · index positions of another part
Role = Literal[
    "x", "half", "u", "y", "v", "q", "delta", "phi", "p", "c", "m", "g", "sketch", "sum", "index"
]
ROLES: Final[frozenset[str]] = frozenset(get_args(Role))

# numpy has no bfloat16: its 16 bits are handed on as uint16.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "int8": np.dtype("<i1"),
    "uint8": np.dtype("<u1"),
    "int16": np.dtype("<i2"),
    "uint16": np.dtype("<u2"),
    "int32": np.dtype("<i4"),
    "uint32": np.dtype("<u4"),
    "int64": np.dtype("<i8"),
    "uint64": np.dtype("<u8"),
}

# How the bytes of a part may be coded; docs/wire.md has the bytes of each.
CODECS: Final = frozenset(
    {"raw", "topk", "randomk", "sign", "qsgd", "uniform", "float16", "bfloat16", "lowrank"}
)

INDEX_KINDS: Final = ("all", "range", "part", "chunk", "seeded", "explicit", "block")
ALL: Final[Mapping[str, Any]] = MappingProxyType({"kind": "all"})


@dataclass(frozen=True, slots=True)
class Part:
    """One typed vector of a message.

    ``size`` counts elements after decoding, ``nbytes`` bytes in the body. ``index`` tells which
    coordinates of the params the elements are: ``{"kind": "all"}``, or one of ``INDEX_KINDS``
    with its own keys (docs/wire.md). The rest belongs to the codec.
    """

    role: Role
    dtype: str
    size: int
    nbytes: int
    codec: str = "raw"
    index: Mapping[str, Any] = field(default_factory=lambda: ALL)
    bits: int | None = None
    scale: float | None = None
    zero: float | None = None
    norm: float | None = None
    seed: int | None = None
    base_version: int | None = None

    @classmethod
    def of(cls, role: Role, array: NDArray[Any], index: Mapping[str, Any] = ALL) -> Part:
        """Describe ``array`` (any shape, a dtype of ``DTYPES``) sent raw; by default it is all."""
        part = _raw_part(role, array.dtype, array.size)
        # By its kind, not ``is ALL``: other rooms have an ALL of their own.
        return part if index["kind"] == "all" else replace(part, index=index)

    @property
    def covers_all(self) -> bool:
        """Whether the part holds every coordinate, in order."""
        return bool(self.index["kind"] == "all")


@lru_cache(maxsize=256)
def _raw_part(role: Role, dtype: np.dtype[Any], size: int) -> Part:
    # A node sends parts of the same few shapes over and over, and asking numpy for a dtype's
    # name takes as long as the rest of the header.
    return Part(role=role, dtype=dtype.name, size=size, nbytes=size * dtype.itemsize)


@dataclass(slots=True)
class Message:
    """One message: who, which clock and graph, what to do with it, and its parts.

    (``sender``, ``epoch``, ``seq``) identifies it for ever. ``age`` counts local SGD steps, one
    number or one per part of a partition. ``scalars`` take part in the algorithm (push-sum
    ``mass``, ``count``, ``samples``); ``metrics`` are only looked at. ``control`` is the word of a
    CONTROL or VIEW message, and ``members`` what it tells of other nodes. ``checksum`` is set by
    decoding; encoding computes its own.
    """

    kind: Kind
    swarm: str
    schema: str
    algorithm: str
    sender: str
    epoch: int
    seq: int
    round: int = 0
    phase: int = 0
    topology_epoch: int = 0
    graph: str | None = None
    degree: int | None = None
    weight_applied: bool = False
    origin: str | None = None
    age: int | tuple[int, ...] = 0
    version: int = 0
    base_version: int | None = None
    resync: bool = False
    address: str | None = None
    scalars: dict[str, float | int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    control: str | None = None
    members: tuple[Member, ...] = ()
    parts: tuple[Part, ...] = ()
    checksum: tuple[str, int] | None = None

    @property
    def body_bytes(self) -> int:
        """Bytes that follow the header: the sum over the parts."""
        total = 0
        for part in self.parts:
            total += part.nbytes
        return total
