"""What is kept and printed of a benchmark of pushes. Nothing is measured here."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from benchmarks.suite import PUSH_BARS


class Row(NamedTuple):
    """What one way of sending took: medians, and the median of the ratios pair by pair."""

    what: str
    nbytes: int
    way: str
    median_ms: float
    gigabytes_per_s: float
    ratio: float
    tls: bool


class Watched(NamedTuple):
    """What an end of a lane took of its process: memory in models, the loop's lag."""

    what: str
    nbytes: int
    way: str
    who: str
    models: float
    lag_ms: float
    tls: bool


def row(
    what: str, nbytes: int, way: str, taken: list[float], raw: list[float], is_tls: bool
) -> Row | Watched:
    """Sum up one way's times beside the raw ones of the same repetitions."""
    median = statistics.median(taken)
    ratio = statistics.median(r / t for r, t in zip(raw, taken, strict=True))
    return Row(what, nbytes, way, median * 1e3, nbytes / median / 1e9, ratio, is_tls)


def show(one: Row) -> None:
    """Print a row of the table."""
    bar = PUSH_BARS.get((one.what, f"{one.nbytes:,} B", one.way, *(["tls"] * one.tls)))
    print(
        f"{one.what:8} {one.nbytes:>11,} {one.way:5} {one.median_ms:>9.3f} "
        f"{one.gigabytes_per_s:>6.2f} {one.ratio:>6.2f}" + ("" if bar is None else f"  bar {bar}"),
        flush=True,
    )


def watched(what: str, nbytes: int, who: str, found: dict[str, float], is_tls: bool) -> Watched:
    """Print the peak of memory and the loop's lag of one process, and return what is kept of it."""
    models = (found["peak"] - found["base"]) / nbytes
    print(
        f"  {who}: base {found['base'] / 1e6:.0f} MB + {models:.2f} models at most (bar 4); loop "
        f"lag {found['lag_ms']:.1f} ms at 99.9 % (bar 20), {found['lag_ms_max']:.1f} ms at "
        f"most, {found['samples']} samples",
        flush=True,
    )
    return Watched(what, nbytes, "lane", who, models, found["lag_ms"], is_tls)


def tell_control(found: dict[str, dict[str, float]]) -> None:
    """Print how late an idle loop was in another process meanwhile."""
    for way, one in found.items():
        print(
            f"  an idle loop beside {way}: lag {one['lag_ms']:.1f} ms at 99.9 %, "
            f"{one['lag_ms_max']:.1f} ms at most, {one['samples']} samples",
            flush=True,
        )
