"""Params (one contiguous 1-D array), their layout, and the in-place vector operations on them.

Invariant: an operation writes only into the array that its docstring names as the result, and
works in one pass or in cache-sized pieces, so that no temporary of a model's size is ever
allocated. What is narrower than float32 is computed in float32 and rounded once, to nearest.
Only numpy, xxhash and the standard library may enter: ``algorithms/`` imports this module.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isfinite
from typing import Any, Final, TypeVar

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

from gossipnode.learning.dtypes import dtype_of
from gossipnode.learning.fused import Axpby, axpby, fits, shares

Array = NDArray[np.floating[Any]]
"""A 1-D float array of shape (d,) unless the docstring says otherwise."""

T = TypeVar("T")

# A block of each of two float32 arrays, 512 KiB apiece, fits a 1 MiB level-2 cache, so that of the
# three passes of a merge only the first touches memory. Merging 25 M parameters took 10.3 ms so,
# against 12.1 ms with blocks a quarter the size (more calls) and no less with larger ones.
BLOCK: Final = 131072
# The same where float32 copies of both are made: smaller, for all four have to fit.
COPIED: Final = 65536
# Up to here numpy's three calls (1.5 µs, and 0.2 a thousand elements) take no longer than one
# through ctypes (4.5 µs, and 0.1).
PLAIN: Final = 16384
# Up to here numpy's slow isfinite of 16-bit numbers takes less than three calls that are fast.
TINY: Final = 1024
# The bits of the exponent, all of them set in what is not finite and in nothing else.
EXPONENT_FLOAT16: Final = np.uint16(0x7C00)
EXPONENT_BFLOAT16: Final = np.uint16(0x7F80)
MAGNITUDE: Final = np.uint16(0x7FFF)
# Up to here ‖x‖ takes half the time of max |x_i|: 1.5 µs of 650 elements, not 3.2.
DOTTED: Final = 8192
# Squares below 1e-38 may count as 0: what is below 1e-19 goes unseen.
SQUARE_LOST: Final = 1e-18
LARGEST_BFLOAT16: Final = (2 - 2**-7) * 2.0**127


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one named tensor lies in params: ``offset`` and ``size`` count elements."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Return the number of elements (1 for a scalar, whose shape is ``()``)."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, shapes and offsets of the tensors inside params, and what they mean.

    ``size`` is d, ``nbytes`` the size of params in bytes. ``meaning`` holds what two nodes must
    also agree on although no shape shows it: class labels and feature names, in order.
    ``schema`` (32 hexadecimal digits) is equal exactly where all of that is equal.

    >>> layout = Layout.of({"weight": (64, 10), "bias": (10,)}, meaning=("class:0",))
    >>> layout.size, layout.tensors[1].offset, len(layout.schema)
    (650, 640, 32)
    """

    tensors: tuple[TensorSpec, ...]
    dtype: np.dtype[Any]
    meaning: tuple[str, ...] = ()
    size: int = field(init=False)
    nbytes: int = field(init=False)
    schema: str = field(init=False)

    def __post_init__(self) -> None:
        size = sum(spec.size for spec in self.tensors)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "nbytes", size * self.dtype.itemsize)
        object.__setattr__(self, "schema", _schema_of(self))

    @classmethod
    def of(
        cls,
        shapes: Mapping[str, Sequence[int]],
        dtype: DTypeLike = "float32",
        meaning: Sequence[str] = (),
    ) -> Layout:
        """Lay the tensors of ``shapes`` one behind the other, in the mapping's order.

        Raises ConfigError where ``dtype`` is none of ``DTYPES`` or cannot be had (``dtype_of``).
        """
        kind = dtype_of(dtype)
        tensors: list[TensorSpec] = []
        offset = 0
        for name, shape in shapes.items():
            spec = TensorSpec(name, tuple(int(extent) for extent in shape), offset)
            assert all(extent >= 0 for extent in spec.shape), f"negative extent in {spec}"
            tensors.append(spec)
            offset += spec.size
        return cls(tuple(tensors), kind, tuple(meaning))

    def in_dtype(self, dtype: DTypeLike) -> Layout:
        """Return this layout for params of ``dtype``; raises ConfigError as ``of`` does."""
        kind = dtype_of(dtype)
        return self if kind == self.dtype else replace(self, dtype=kind)

    def zeros(self) -> Array:
        """Return new params, shape (d,), all zero."""
        return np.zeros(self.size, self.dtype)

    def views(self, params: Array) -> dict[str, Array]:
        """Return each tensor as a view into ``params``, by name: writing to it writes params."""
        return {
            spec.name: params[spec.offset : spec.offset + spec.size].reshape(spec.shape)
            for spec in self.tensors
        }

    def check(self, params: Array) -> None:
        """Assert that ``params`` is a contiguous 1-D array of this layout's dtype and size."""
        assert params.ndim == 1, f"params have {params.ndim} dimensions, not 1"
        assert params.flags.c_contiguous, "params are not contiguous"
        assert params.dtype == self.dtype, f"params are {params.dtype}, not {self.dtype}"
        assert params.size == self.size, f"params have {params.size} elements, not {self.size}"

    def difference(self, other: Layout) -> str:
        """Tell the first difference to ``other`` in words, or ``""`` where there is none."""
        if self.dtype != other.dtype:
            return f"dtype is {self.dtype.name} here, {other.dtype.name} there"
        for index in range(max(len(self.tensors), len(other.tensors))):
            here, there = _entry(self.tensors, index), _entry(other.tensors, index)
            if here != there:
                return f"tensor {index} is {_spelled(here)} here, {_spelled(there)} there"
        for index in range(max(len(self.meaning), len(other.meaning))):
            label, label_there = _entry(self.meaning, index), _entry(other.meaning, index)
            if label != label_there:
                return (
                    f"meaning {index} is {label or 'absent'} here, {label_there or 'absent'} there"
                )
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return what the schema is computed from, as plain JSON values."""
        return {
            "dtype": self.dtype.name,
            "tensors": [[spec.name, list(spec.shape), spec.offset] for spec in self.tensors],
            "meaning": list(self.meaning),
        }


def _schema_of(layout: Layout) -> str:
    canonical = json.dumps(layout.to_json(), sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(canonical.encode())


def _entry(entries: Sequence[T], index: int) -> T | None:
    return entries[index] if index < len(entries) else None


def _spelled(spec: TensorSpec | None) -> str:
    return "absent" if spec is None else f"{spec.name} {spec.shape} at {spec.offset}"


def merge_into(incoming: Array, own: Array, weight: float) -> None:
    """Incoming ← own + weight·(incoming − own).

    ``own`` may be read-only and is left alone. Weight 0 gives ``own`` and weight 1 ``incoming``,
    to the bit; equal inputs give themselves. Both have shape (d,) and one dtype. A weight within
    [0, 1] counts to the nearest 2⁻²⁴ (float64: 2⁻⁵³), as ``fused.shares`` rounds it.
    """
    assert incoming.shape == own.shape
    if weight == 1:
        return
    if weight == 0:
        np.copyto(incoming, own)
        return
    weight = float(weight)
    if _are_plain(incoming, own):
        incoming -= own  # the same three steps, without what walking in pieces costs
        incoming *= weight
        incoming += own
        return
    fused = _fused(incoming, own) if 0 < weight < 1 else None
    if fused is not None:
        rest, weight = shares(weight, incoming.dtype.char)
        fused(rest, own, weight, incoming)
        return
    for piece, ours in _pieces(incoming, own):
        piece -= ours
        piece *= weight
        piece += ours


def add_scaled(acc: Array, x: Array, weight: float) -> None:
    """Acc ← acc + weight·x; ``x`` may be read-only and of a narrower dtype than ``acc``."""
    assert acc.shape == x.shape
    weight = float(weight)
    if _are_plain(acc, x):
        acc += x * weight
        return
    fused = _fused(acc, x)
    if fused is not None:
        fused(weight, x, 1.0, acc)
        return
    scaled = np.empty(min(BLOCK, acc.size), np.result_type(np.float32, acc, x))
    for piece, other in _pieces(acc, x):
        piece += np.multiply(other, weight, out=scaled[: other.size])


def weighted_sum_into(incoming: Array, acc: Array, weight: float) -> None:
    """Incoming ← acc + weight·incoming; ``acc`` may be read-only and is left alone."""
    assert incoming.shape == acc.shape
    weight = float(weight)
    if _are_plain(incoming, acc):
        incoming *= weight
        incoming += acc
        return
    fused = _fused(incoming, acc)
    if fused is not None:
        fused(1.0, acc, weight, incoming)
        return
    for piece, sum_ in _pieces(incoming, acc):
        piece *= weight
        piece += sum_


def scale(x: Array, weight: float) -> None:
    """X ← weight·x."""
    weight = float(weight)
    if x.dtype.char in "fd":
        x *= weight
        return
    for (piece,) in _pieces(x):
        piece *= weight


def add_difference_into(after: Array, before: Array, current: Array) -> None:
    """After ← current + (after − before): apply what a training changed to newer params.

    ``before`` and ``current`` may be read-only and are left alone. All have shape (d,).
    """
    assert after.shape == before.shape == current.shape
    for piece, old, new in _pieces(after, before, current):
        piece -= old
        piece += new


def all_finite(x: Array) -> bool:
    """Tell whether no element is infinite or NaN; exact also at the dtype's largest values.

    A NaN survives the maximum, infinities are one or the other end. Of the two passes the second
    is in the cache, and neither writes; ``isfinite`` writes a temporary. A dot product with zeros,
    by numpy's BLAS, took 20 % longer, and in several threads: 16 ms instead of 20 µs where others
    kept the processors busy. Numbers of 16 bits are told by their exponents.
    """
    if x.ndim != 1:
        x = x.reshape(-1)
    is_narrow = x.dtype.itemsize == 2
    # Up to here, less than the passes below and what they need around them.
    if x.size <= (TINY if is_narrow else PLAIN):
        # Truths are bytes of 0 and 1: to find a 0 takes half the time of counting them.
        return b"\0" not in np.isfinite(x).tobytes()
    if is_narrow:
        return _exponents_finite(x)
    return isfinite(_largest(x))


def extent(x: Array) -> float:
    """Return a bound on max |x_i|, shape (d,); infinity if an element is infinite or NaN.

    It is max |x_i| itself, or of few elements what takes less time: ‖x‖.
    """
    if x.size <= DOTTED and x.dtype.char in "fd":
        with np.errstate(over="ignore", invalid="ignore"):
            squares = float(x.dot(x))
        if isfinite(squares):
            # What rounding may take from the sum, and the squares that are too small to count.
            return 1.001 * math.sqrt(squares) + SQUARE_LOST
    return largest(x)


def largest(x: Array) -> float:
    """Return max |x_i|, shape (d,); infinity if an element is infinite or NaN."""
    return _largest_narrow(x) if x.dtype.itemsize == 2 else _largest(x.reshape(-1))


def stays_finite(bound: float, dtype: np.dtype[Any]) -> bool:
    """Tell whether no sum whose terms' magnitudes add up to ``bound`` leaves the dtype's range.

    Half the range is left to what rounding may add.
    """
    return bound < _limit(dtype) / 2


def _largest(x: Array) -> float:
    """Return max |x_i| of a 1-D ``x``; infinity if an element is infinite or NaN."""
    found = 0.0
    with np.errstate(invalid="ignore"):  # a signalling NaN
        for part in _parts(x.size, BLOCK):
            piece = x[part]
            high, low = float(np.maximum.reduce(piece)), float(np.minimum.reduce(piece))
            if not (isfinite(high) and isfinite(low)):
                return math.inf
            found = max(found, high, -low)
    return found


@lru_cache(maxsize=8)
def _limit(dtype: np.dtype[Any]) -> float:
    """Return the largest number of a float dtype."""
    return LARGEST_BFLOAT16 if dtype.name == "bfloat16" else float(np.finfo(dtype).max)


def consensus_distance(models: Sequence[Array]) -> float:
    """Return sqrt(1/n Σ‖x_i − x̄‖²) of ``models`` (n ≥ 1, each of shape (d,)), in float64."""
    total = 0.0
    for part in _parts(models[0].size, BLOCK):
        rows = [np.asarray(model[part], np.float64) for model in models]
        mean = np.zeros(rows[0].size)
        for row in rows:
            mean += row
        mean /= len(rows)
        for row in rows:
            away = row - mean
            total += float(np.dot(away, away))
    return math.sqrt(total / len(models))


def _largest_narrow(x: Array) -> float:
    """Return max |x_i| of 16-bit numbers: without the sign their bits are in the same order."""
    bits = x.reshape(-1).view(np.uint16)
    tops = [np.maximum.reduce(bits[part] & MAGNITUDE) for part in _parts(bits.size, BLOCK)]
    found = float(np.array([max(tops, default=0)], np.uint16).view(x.dtype)[0])
    return found if isfinite(found) else math.inf


def _exponents_finite(x: Array) -> bool:
    mask = EXPONENT_FLOAT16 if x.dtype.char == "e" else EXPONENT_BFLOAT16
    bits = x.view(np.uint16)
    return all(np.maximum.reduce(bits[part] & mask) != mask for part in _parts(x.size, BLOCK))


def _are_plain(result: Array, other: Array) -> bool:
    """Tell whether both are so small that neither pieces nor BLAS are worth their calls."""
    dtype = result.dtype
    return result.size <= PLAIN and dtype == other.dtype and dtype.char in "fd"


def _fused(result: Array, other: Array) -> Axpby | None:
    """Return what computes both in one pass, or None: of two dtypes, no such BLAS."""
    if result.dtype.char not in "fd" or not fits(other, result):
        return None
    return axpby(result.dtype.char)


def _parts(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _pieces(result: Array, *others: Array) -> Iterator[list[Array]]:
    """Yield the arrays piece by piece, in the dtype to compute in; the first is to be changed.

    That is float32 at the least. Where an array has that dtype its pieces are views of it, which
    saves a stream to memory; else they are copies, and the first is written back.
    """
    arrays = (result, *others)
    kind = np.result_type(np.float32, *arrays)
    if result.size <= COPIED:  # one piece
        pieces = [array.astype(kind, copy=False) for array in arrays]
        yield pieces
        if pieces[0] is not result:
            np.copyto(result, pieces[0], casting="unsafe")
        return
    step = BLOCK if all(array.dtype == kind for array in arrays) else COPIED
    copies = [
        None if array.dtype == kind else np.empty(min(step, result.size), kind) for array in arrays
    ]
    for part in _parts(result.size, step):
        pieces = []
        for array, copy in zip(arrays, copies, strict=True):
            piece = array[part]
            if copy is not None:
                narrow, piece = piece, copy[: part.stop - part.start]
                np.copyto(piece, narrow)
            pieces.append(piece)
        yield pieces
        if copies[0] is not None:
            np.copyto(result[part], pieces[0], casting="unsafe")
