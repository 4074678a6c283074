"""plot.png of a run: loss, accuracy and consensus distance by round.

Invariant: matplotlib is imported in here and nowhere else, and draws to a file without a display.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Curve = list[tuple[int, float, float, float]]


def curve(rows: Iterable[dict[str, Any]], key: str) -> Curve:
    """Return (round, mean, least, greatest) of ``key`` over the nodes, by round.

    >>> curve([{"round": 0, "loss": 1.0}, {"round": 0, "loss": 3.0}], "loss")
    [(0, 2.0, 1.0, 3.0)]
    """
    by_round: dict[int, list[float]] = {}
    for row in rows:
        if row.get(key) is not None:
            by_round.setdefault(row["round"], []).append(row[key])
    return [(r, statistics.fmean(v), min(v), max(v)) for r, v in sorted(by_round.items())]


def draw(
    histories: Iterable[Path],
    distances: Iterable[tuple[int, float]],
    title: str,
    target: Path,
) -> None:
    """Draw ``histories`` (JSON lines) and (round, consensus distance) points into ``target``.

    Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = [
        json.loads(line)
        for history in histories
        for line in history.read_text(encoding="utf-8").splitlines()
    ]
    curves = {key: curve(rows, key) for key in ("loss", "accuracy")}
    apart = [{"round": round_, "distance": distance} for round_, distance in distances]
    curves["consensus distance"] = curve(apart, "distance")
    shown = {key: points for key, points in curves.items() if len(points) > 1}
    figure = Figure(figsize=(4.5 * max(len(shown), 1), 4.0), layout="constrained")
    figure.suptitle(f"{title} (line: mean; band: least to greatest node)", fontsize=10)
    for place, (key, points) in enumerate(shown.items(), 1):
        rounds, mean, low, high = zip(*points, strict=True)
        axes = figure.add_subplot(1, len(shown), place)
        axes.fill_between(rounds, low, high, alpha=0.3, linewidth=0)
        axes.plot(rounds, mean, marker="." if len(points) < 30 else None)
        axes.set_xlabel("round")
        axes.set_ylabel(key)
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=110)
