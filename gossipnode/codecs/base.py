"""What every codec is: a vector to fewer bytes, and back.

Invariant: what the bytes decode to is a function of the bytes and of the layout alone, so the
sender, who decodes what it has encoded, holds the same bits as every receiver. Decoding trusts
nothing: ``check`` sees what a stranger claims before any memory is taken, ``decode`` the bytes.
No global randomness: a codec that draws numbers draws them from a Philox generator whose key is
handed in. ``wire`` may not enter; it knows a coded vector by the names of its attributes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

Vector = np.ndarray[tuple[int], np.dtype[Any]]
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


class Tensor(Protocol):
    """Where one tensor lies in the params: ``offset`` counts elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents; () for a scalar."""

    @property
    def offset(self) -> int:
        """Its first element's number."""

    @property
    def size(self) -> int:
        """How many elements it has."""


class Coding(Protocol):
    """What a part of a message tells of its bytes, which may be a stranger's claim.

    ``dtype`` names the type of the ``size`` elements after decoding, float32 or float64; ``nbytes``
    counts the bytes.
    The numbers are the codec's own; docs/wire.md says which it uses, and None stands for the rest.
    """

    @property
    def codec(self) -> str: ...  # noqa: D102 - told above
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def nbytes(self) -> int: ...  # noqa: D102
    @property
    def bits(self) -> int | None: ...  # noqa: D102
    @property
    def scale(self) -> float | None: ...  # noqa: D102
    @property
    def zero(self) -> float | None: ...  # noqa: D102
    @property
    def norm(self) -> float | None: ...  # noqa: D102
    @property
    def seed(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Coded:
    """A vector as a codec left it: ``data``, uint8 of shape (nbytes,), and how to read it."""

    codec: str
    dtype: str
    size: int
    data: Bytes
    bits: int | None = None
    scale: float | None = None
    zero: float | None = None
    norm: float | None = None
    seed: int | None = None

    @property
    def nbytes(self) -> int:
        """Return how many bytes there are."""
        return self.data.size

    @property
    def saved(self) -> int:
        """Return how many bytes more the vector has raw."""
        return self.size * np.dtype(self.dtype).itemsize - self.nbytes


class Codec(ABC):
    """One way to make a vector smaller; an instance holds its options.

    ``is_unbiased``: E decode(encode(x)) = x over the seeds. ``draws``: encoding needs a seed.
    ``adapts``: it wants to be told how fast this node and others are, see ``adaptive``.
    """

    name: ClassVar[str]
    is_unbiased: bool = False
    draws: bool = False
    adapts: bool = False

    @abstractmethod
    def encode(self, x: Vector, seed: int = 0) -> Coded:
        """Return ``x``, shape (d,) with d >= 1, finite, float32 or float64, made smaller.

        ``x`` stays as it is. ``seed`` in [0, 2⁶⁴) is the key of the generator, if one is needed;
        the same ``x`` and seed give the same bytes.
        """

    @abstractmethod
    def delta(self, d: int) -> float:
        """Return the δ that holds for every x of ``d`` elements, in [0, 1].

        E‖x − C(x)‖² ≤ (1 − δ)‖x‖²; 0 where the codec is no contraction.
        """

    @classmethod
    @abstractmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:
        """Raise ``PeerError`` (malformed_frame) where no bytes could be what ``coding`` claims.

        ``coding.size`` and ``coding.dtype`` are known to fit the layout, whose tensors are given;
        all else is a stranger's. Afterwards ``decode`` may allocate ``size`` elements and some
        multiple of ``nbytes``.
        """

    @classmethod
    @abstractmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:
        """Return the vector, shape (coding.size,), of ``coding.dtype``, new and writable.

        ``coding`` has passed ``check`` and ``data`` has ``coding.nbytes`` bytes. Raises
        ``PeerError`` (malformed_frame) where they are no encoding of anything. Values may come
        out infinite or NaN if the stranger sent such; who mixes looks for that.
        """
