"""The result of a swarm: as JSON for programs, in a few lines for people, as files to keep.

Invariant: ``summary.json`` holds exactly what ``--json`` prints, and loss and accuracy are those
of the very models whose mean is kept and whose distance is told.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossipnode.cli import LAUNCHED, describe
from gossipnode.cli.columns import decimal, quantity
from gossipnode.cli.swarm.models import Models
from gossipnode.cli.swarm.oversee import View
from gossipnode.config import Config
from gossipnode.errors import StorageError

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds, in bytes: ``pss`` counts a page that n processes share as 1/n."""

    rss: int
    pss: int


def memory_of(pid: int) -> Memory | None:
    """Return the memory of a living process; None where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    rss, pss = (int(fields[name].split()[0]) * 1024 for name in ("Rss", "Pss"))
    return Memory(rss, pss)


def summarize(
    config: Config,
    views: Sequence[View],
    models: Models,
    *,
    memory: Sequence[Memory],
    all_ready_at: float | None,
    out: Path,
) -> Summary:
    """Return the summary of this moment; times are counted from the launch of the process."""
    statuses = list(models.statuses.values())
    evaluations = models.evaluations.values()
    accuracies = [e.accuracy for e in evaluations if e.accuracy is not None]
    round_times = [s["round_s"] for s in statuses if s["round_s"] is not None]
    return {
        "nodes": len(views),
        "topology": config.topology.graph,
        "algorithm": config.algorithm.name,
        "seed": config.swarm.seed,
        "accuracy": _spread(accuracies),
        "loss": _spread([e.loss for e in evaluations]),
        "consensus_distance": models.spread.distance,
        "rounds": min((s["round"] for s in statuses), default=0),
        "bytes_sent": sum(s["bytes"]["sent"] for s in statuses),
        "wall_s": round(time.monotonic() - LAUNCHED, 3),
        "start_s": None if all_ready_at is None else round(all_ready_at - LAUNCHED, 3),
        "round_s": statistics.median(round_times) if round_times else None,
        "rss_bytes_max": max((m.rss for m in memory), default=None),
        "pss_bytes_mean": round(statistics.fmean(m.pss for m in memory)) if memory else None,
        "failed_nodes": [
            {"id": v.child.id, "how": v.child.failure} for v in views if v.child.failure
        ],
        "out": str(out),
    }


def text_of(summary: Summary) -> str:
    """Return the summary for people."""
    nodes, failed = summary["nodes"], summary["failed_nodes"]
    lines = [
        f"{nodes} nodes, {summary['algorithm']} on {summary['topology']}, seed {summary['seed']}: "
        f"{summary['rounds']} rounds in {summary['wall_s']:.1f} s "
        f"(all ready after {quantity(summary['start_s'], 's')})"
    ]
    for name in ("accuracy", "loss"):
        spread = summary[name]
        if spread is not None:
            low, high = decimal(spread["min"]), decimal(spread["max"])
            lines.append(f"{name:<20}{decimal(spread['mean'])} ({low} to {high})")
    if summary["consensus_distance"] is not None:
        lines.append(f"{'consensus distance':<20}{summary['consensus_distance']:.4g}")
    lines.append(f"{'a round':<20}{quantity(summary['round_s'], 's')}")
    lines.append(f"{'sent':<20}{quantity(summary['bytes_sent'], 'B')}")
    rss, pss = (quantity(summary[key], "B") for key in ("rss_bytes_max", "pss_bytes_mean"))
    lines.append(f"{'memory of a node':<20}{rss} at most; {pss} where shared pages count once")
    lines += [f"{'failed':<20}{node['id']}: {node['how']}" for node in failed]
    lines.append(f"{'kept in':<20}{summary['out']}")
    return "\n".join(lines)


def config_text(config: Config, nodes: int) -> str:
    """Return the swarm's options as TOML that ``gossipnode swarm --config`` reads again."""
    lines = [f"# gossipnode swarm --nodes {nodes} --config config.toml"]
    for section, entries in config.model_dump(mode="json").items():
        lines += ["", f"[{section}]"]
        lines += [f"{k} = {describe.toml(v)}" for k, v in entries.items() if v is not None]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text file; raises ``StorageError``."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def to_json(summary: Summary) -> str:
    """Return the summary as one line of JSON."""
    return json.dumps(summary, ensure_ascii=False)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
