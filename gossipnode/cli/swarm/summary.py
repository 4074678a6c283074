"""The result of a swarm: as JSON for programs, in a few lines for people.

Invariant: loss and accuracy are those of the very models whose mean is kept and whose distance
is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gossipnode.cli import LAUNCHED
from gossipnode.cli.columns import count, quantity, raw
from gossipnode.cli.results import Summary, fact, learnt, least_to_greatest
from gossipnode.cli.swarm.models import Models
from gossipnode.cli.swarm.oversee import View
from gossipnode.config import Config


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
    interrupted: bool,
    out: Path,
) -> Summary:
    """Return the summary of this moment; times are counted from the launch of the process."""
    answered = [view for view in views if view.child.id in models.evaluations]
    evaluations = models.evaluations.values()
    accuracies = [e.accuracy for e in evaluations if e.accuracy is not None]
    round_times = [view.round_s for view in answered if view.round_s is not None]
    return {
        "nodes": len(views),
        "topology": config.topology.graph,
        "algorithm": config.algorithm.called,
        "seed": config.swarm.seed,
        "accuracy": least_to_greatest(accuracies),
        "loss": least_to_greatest([e.loss for e in evaluations]),
        "consensus_distance": models.spread.distance,
        "rounds": models.least_round,
        "interrupted": interrupted,
        "bytes_sent": sum(view.bytes_sent for view in answered),
        "bytes_saved": sum(view.bytes_saved for view in answered),
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
    nodes, rounds = count(summary["nodes"], "node"), count(summary["rounds"], "round")
    if summary["interrupted"]:
        rounds = f"interrupted; the least round of a node is {summary['rounds']}, reached"
    lines = [
        f"{nodes}, {summary['algorithm']} on {summary['topology']}, seed {summary['seed']}: "
        f"{rounds} in {summary['wall_s']:.1f} s "
        f"(all ready after {quantity(summary['start_s'], 's')})"
    ]
    lines += learnt(summary)
    if summary["round_s"] is not None:
        lines.append(fact("a round", quantity(summary["round_s"], "s")))
    sent, saved = summary["bytes_sent"], summary["bytes_saved"]
    lines.append(fact("sent", quantity(sent, "B") + raw(sent, saved)))
    if summary["rss_bytes_max"] is not None:
        rss, pss = (quantity(summary[key], "B") for key in ("rss_bytes_max", "pss_bytes_mean"))
        text = f"{rss} at most; {pss} where shared pages count once"
        lines.append(fact("memory of a node", text))
    lines += [fact("failed", f"{node['id']}: {node['how']}") for node in summary["failed_nodes"]]
    lines.append(fact("kept in", summary["out"]))
    return "\n".join(lines)
