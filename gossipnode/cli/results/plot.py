"""plot.png of a run: loss, accuracy and consensus distance by round.

Invariant: matplotlib is imported in here and nowhere else, and draws to a file without a display.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
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


def draw_comparison(curves: Mapping[str, Sequence[Any]], title: str, target: Path) -> None:
    """Draw what each variant had learnt, by rounds, bytes and virtual time, into ``target``.

    ``curves`` holds moments with ``round``, ``accuracy``, ``loss``, ``bytes_sent`` and
    ``virtual_s``, each of which may be None. Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    every = [moment for moments in curves.values() for moment in moments]
    measure = "accuracy" if any(m.accuracy is not None for m in every) else "loss"
    across = {"round": "round", "bytes_sent": "MB that a node sent", "virtual_s": "virtual time, s"}
    shown = [name for name in across if any(getattr(m, name) for m in every)] or ["round"]
    figure = Figure(figsize=(4.5 * len(shown), 4.0), layout="constrained")
    figure.suptitle(f"{title} (mean over nodes and seeds)", fontsize=10)
    for place, name in enumerate(shown, 1):
        axes = figure.add_subplot(1, len(shown), place)
        scale = 1e6 if name == "bytes_sent" else 1.0
        for variant, moments in curves.items():
            points = [
                (getattr(m, name) / scale, getattr(m, measure))
                for m in moments
                if getattr(m, name) is not None and getattr(m, measure) is not None
            ]
            axes.plot(*zip(*points, strict=True), label=variant) if points else None
        axes.set_xlabel(across[name])
        axes.set_ylabel(measure)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(target, dpi=110)
