"""Measure merging against what memory allows: x += w(y − x) beside a sum of the same bytes.

``python -m benchmarks.merge [--quick] [--json FILE]``. The limit is numpy's own pass over two
streams in and one out in a single thread, over the very arrays that are merged: ``np.add(x, y,
out=x)``, and for 16-bit numbers, which numpy adds slowly, ``np.minimum`` of them as integers. Up to
1 M params those arrays are in a cache, so the limit is the cache's. A repetition takes each way
once, one after the other, so that whatever else the machine does falls on all of them; a ratio is
the median over the repetitions of limit's time / ours. GB/s count each array as often as the
operation has to read or write it: 3 times for a merge, 2 for a copy, once for ``all_finite``.

Invariant: all ways run in the calling thread; ``threads`` says how many a merge kept busy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, median_ratio, present, standard_options
from gossipnode.learning.dtypes import DTYPES, dtype_of
from gossipnode.learning.params import add_scaled, all_finite, merge_into, weighted_sum_into

# Params -> repetitions. A softmax and a perceptron for digits, a LeNet (340 KB), 4 MB, 100 MB.
SIZES = {650: 400, 7_850: 400, 85_098: 400, 1_000_000: 100, 25_000_000: 30}
# Of the dtypes that are converted on the way, which takes up to twenty times as long.
CONVERTED_FEWER = 4
QUICK_FEWER = 5
REPETITIONS_MIN = 5
WARM_UP = 2
# Small arrays are taken several times in a row, so that reading the clock does not count.
ELEMENTS_A_TURN = 20_000
WEIGHT = 0.3
BARS = {("float32", 85_098): 0.5, ("float32", 25_000_000): 0.9}

Way = Callable[[], Any]
# What is measured, and how many arrays it reads or writes.
STREAMS = {
    "limit": 3,
    "copy": 2,
    "merge_into": 3,
    "add_scaled": 3,
    "weighted_sum_into": 3,
    "all_finite": 1,
}


def ways_of(x: NDArray[Any], y: NDArray[Any], dtype: str) -> dict[str, Way]:
    """Return what is measured on x and y, all of which leaves x within y's order of magnitude."""
    ways: dict[str, Way] = {
        "limit": lambda: np.add(x, y, out=x),
        "merge_into": lambda: merge_into(x, y, WEIGHT),
        "all_finite": lambda: all_finite(x),
    }
    if x.dtype.itemsize == 2:
        # Whatever comes out was in x or y, and so is a number.
        a, b = x.view(np.int16), y.view(np.int16)
        ways["limit"] = lambda: np.minimum(a, b, out=a)
    if dtype == "float32":
        ways["add_scaled"] = lambda: add_scaled(x, y, WEIGHT)
        ways["weighted_sum_into"] = lambda: weighted_sum_into(x, y, WEIGHT)
        ways["copy"] = lambda: np.copyto(x, y)
    return ways


def times_of(ways: Mapping[str, Way], repetitions: int, turns: int) -> dict[str, list[float]]:
    """Return the seconds that each way took in each repetition, ``turns`` calls each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + repetitions):
        for name, way in ways.items():
            began = time.perf_counter()
            for _ in range(turns):
                way()
            if number >= WARM_UP:
                times[name].append((time.perf_counter() - began) / turns)
    return times


def measured(dtype: str, size: int, repetitions: int) -> Iterator[Figure]:
    """Measure all ways on ``size`` params of ``dtype``."""
    rng = np.random.default_rng(size)
    x, y = (rng.standard_normal(size, np.float32).astype(dtype_of(dtype)) for _ in range(2))
    turns = max(1, ELEMENTS_A_TURN // size)
    times = times_of(ways_of(x, y, dtype), repetitions, turns)
    about, key = f"{size:,} {dtype}", f"{dtype}_{size}"
    ratio = median_ratio(times["limit"], times["merge_into"])
    bar = BARS.get((dtype, size))
    what = f"{about}: merge_into, of the limit's speed"
    yield Figure(f"{key}_ratio", what, ratio, "", "more", bar)
    for name, taken in times.items():
        speed = STREAMS[name] * x.nbytes / statistics.median(taken) / 1e9
        yield Figure(f"{key}_{name}", f"{about}: {name}", speed, "GB/s", "more")


def threads(size: int, repetitions: int) -> Figure:
    """Return the processor time over the time of merges."""
    x, y = np.ones(size, np.float32), np.zeros(size, np.float32)
    merge_into(x, y, WEIGHT)
    began, used = time.perf_counter(), time.process_time()
    for _ in range(repetitions):
        merge_into(x, y, WEIGHT)
    busy = (time.process_time() - used) / (time.perf_counter() - began)
    what = f"{size:,} float32: processor time over time of merge_into"
    return Figure("threads", what, busy, "")


def figures(*, quick: bool) -> Iterator[Figure]:
    """Measure float32 first, then the rest."""
    for dtype in sorted(DTYPES, key=lambda name: name != "float32"):
        for size, repetitions in SIZES.items():
            fewer = (QUICK_FEWER if quick else 1) * (CONVERTED_FEWER if "16" in dtype else 1)
            yield from measured(dtype, size, max(REPETITIONS_MIN, repetitions // fewer))
    yield threads(max(SIZES), REPETITIONS_MIN)


@click.command()
@standard_options
def main(quick: bool, path: Path | None) -> None:
    """Print how near merging comes to the memory's bandwidth."""
    present(figures(quick=quick), path)


if __name__ == "__main__":
    main()
