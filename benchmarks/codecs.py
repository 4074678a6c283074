"""Measure how fast vectors become small and come back, beside a copy of the same vector.

``python -m benchmarks.codecs [--quick] [--json FILE]``. GB/s count the bytes of the float32 vector
once, whatever the codec makes of it, so that all lines can be compared with each other, with the
copy and with a network. A repetition takes the copy and every codec's encoding and decoding once,
one after the other, so that whatever else the machine does falls on all of them; a time is what
the processor spent on it, pages of memory included, and a speed that of the median. A decoded
vector is new memory each time, as it is in a node, and each encoding draws anew: randomk keeps the
mask that it drew last, so one seed for all would measure no drawing at all. Contractive is what
choco sends.

Invariant: everything runs in the calling thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.figures import Figure, present, standard_options
from gossipnode.codecs import CODECS, Codec, codec_class, decode

# Elements -> repetitions.
SIZES = {100_000: 60, 1_000_000: 20, 25_000_000: 7}
QUICK_SIZES = {100_000: 20, 1_000_000: 5, 25_000_000: 3}
WARM_UP = 1
# At 25 M elements, both ways: 100 MB in a fifth of a second, or in half a one.
BARS_GBPS = {
    **dict.fromkeys(("sign", "qsgd", "uniform", "float16", "bfloat16"), 0.5),
    **dict.fromkeys(("topk", "randomk"), 0.2),
}
COLUMNS = 1000

Way = Callable[[], Any]

# What is measured, and with which options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sign": ("sign", {}),
    "qsgd, 7 levels, 4 bits": ("qsgd", {"levels": 7}),
    "qsgd, 16 levels, 6 bits": ("qsgd", {"levels": 16}),
    "qsgd, 127 levels, 8 bits": ("qsgd", {"levels": 127}),
    "qsgd, 7 levels, contractive": ("qsgd", {"levels": 7, "contractive": True}),
    "qsgd, 16 levels, contractive": ("qsgd", {"levels": 16, "contractive": True}),
    "qsgd, 127 levels, contractive": ("qsgd", {"levels": 127, "contractive": True}),
    "uniform, 4 bits": ("uniform", {"bits": 4}),
    "uniform, 8 bits": ("uniform", {"bits": 8}),
    "uniform, 4 bits, contractive": ("uniform", {"bits": 4, "contractive": True}),
    "uniform, 8 bits, contractive": ("uniform", {"bits": 8, "contractive": True}),
    "float16": ("float16", {}),
    "bfloat16": ("bfloat16", {}),
    "topk, 1 %": ("topk", {"fraction": 0.01}),
    "topk, 1 %, 8 bits": ("topk", {"fraction": 0.01, "bits": 8}),
    "randomk, 1 %": ("randomk", {"fraction": 0.01}),
    "lowrank, rank 2": ("lowrank", {"rank": 2}),
}


@dataclass(frozen=True)
class Matrix:
    """All params as one matrix, for the codec that looks at matrices."""

    shape: tuple[int, int]
    offset: int = 0

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.shape[0] * self.shape[1]


def ways_of(x: Any) -> Iterator[tuple[str, str, Way]]:
    """Yield (codec, what, way) for the copy and for both directions of every codec there is."""
    y = np.empty_like(x)
    yield "copy", "copy", lambda: np.copyto(y, x)
    tensors = (Matrix((x.size // COLUMNS, COLUMNS)),)
    for label, (name, options) in CASES.items():
        if find_spec(CODECS[name].partition(":")[0]) is None:
            continue
        given = {**options, "tensors": tensors} if name == "lowrank" else options
        make: Callable[..., Any] = codec_class(name)
        codec, seeds = make(**given), count(1)
        coded = codec.encode(x, next(seeds))
        yield name, f"{label}: encode", partial(_encode, codec, x, seeds)
        yield name, f"{label}: decode", partial(decode, coded, coded.data, tensors)


def _encode(codec: Codec, x: Any, seeds: Iterator[int]) -> Any:
    return codec.encode(x, next(seeds))


def measured(size: int, repetitions: int) -> Iterator[Figure]:
    """Measure every way on ``size`` Gaussian elements."""
    x = np.random.default_rng(size).standard_normal(size, np.float32)
    ways = list(ways_of(x))
    times: list[list[float]] = [[] for _ in ways]
    for number in range(WARM_UP + repetitions):
        for (_, _, way), taken in zip(ways, times, strict=True):
            began = time.thread_time()
            way()
            if number >= WARM_UP:
                taken.append(time.thread_time() - began)
    for (name, what, _), taken in zip(ways, times, strict=True):
        speed = x.nbytes / statistics.median(taken) / 1e9
        bar = BARS_GBPS.get(name) if size == max(SIZES) else None
        key = "_".join(f"{size} {what}".replace(",", "").replace(":", "").replace("%", "").split())
        yield Figure(key, f"{size:,} float32: {what}", speed, "GB/s", "more", bar)


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure small vectors first."""
    for size, repetitions in (QUICK_SIZES if quick else SIZES).items():
        yield from measured(size, repetitions)


@click.command()
@standard_options
def main(quick: bool, path: Path | None) -> None:
    """Print the speed of every codec."""
    present(figures(quick=quick), path)


if __name__ == "__main__":
    main()
