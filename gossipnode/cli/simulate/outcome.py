"""What a simulation came to, in a few lines for people; and many seeds in one summary."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from gossipnode.cli.columns import count, decimal, quantity, raw
from gossipnode.cli.results import Summary, fact, learnt
from gossipnode.cli.simulate.plan import Plan

# What is compared over the seeds: name -> where it stands in the summary of one.
COMPARED: dict[str, tuple[str, ...]] = {
    "accuracy": ("accuracy", "mean"),
    "loss": ("loss", "mean"),
    "consensus_distance": ("consensus_distance",),
    "virtual_s": ("virtual_s",),
    "time_to_accuracy_s": ("time_to_accuracy_s",),
    "bytes_sent": ("bytes_sent",),
    "bytes_per_node": ("bytes_per_node", "mean"),
    "messages": ("messages",),
    "delivered": ("delivered",),
}


def text_of(summary: Summary) -> str:
    """Return the summary of one simulation for people."""
    lines = _of_matrix(summary) if summary["engine"] == "matrix" else _of_events(summary)
    return "\n".join([*lines, fact("kept in", summary["out"])])


def _of_events(summary: Summary) -> list[str]:
    lines = [
        f"{count(summary['nodes'], 'node')}, {summary['algorithm']} on {summary['topology']}, "
        f"seed {summary['seed']}: {summary['rounds']} rounds in {summary['virtual_s']:.1f} s of "
        f"virtual time ({summary['wall_s']:.1f} s here)",
        *learnt(summary),
    ]
    if summary["target_accuracy"] is not None:
        reached = summary["time_to_accuracy_s"]
        lines.append(
            fact(
                f"accuracy {summary['target_accuracy']:g}",
                "not reached" if reached is None else f"after {quantity(reached, 's')}",
            )
        )
    lines += [
        fact("a round", quantity(summary["round_s"], "s")),
        _sent(summary),
        fact("messages", f"{summary['messages']}, of which {summary['delivered']} were delivered"),
    ]
    if summary["control_bytes_sent"]:
        asking = quantity(summary["control_bytes_sent"] / summary["nodes"], "B")
        times = count(summary["peers_down"], "time")
        lines.append(fact("who is there", f"{asking} a node; {times} a peer was found down"))
    if summary["faults"]:
        lines.append(fact("faults", ", ".join(f"{k} {n}" for k, n in summary["faults"].items())))
    if summary["down"]:
        lines.append(fact("down at the end", str(len(summary["down"]))))
    return [*lines, fact("trace", summary["trace_hash"])]


def _of_matrix(summary: Summary) -> list[str]:
    lines = [
        f"{count(summary['nodes'], 'node')}, {summary['algorithm']} on {summary['topology']} as a "
        f"matrix: {summary['rounds']} rounds in {summary['wall_s']:.1f} s here",
        *learnt(summary),
    ]
    if summary["measured_nodes"] < summary["nodes"]:
        lines.append(fact("measured", count(summary["measured_nodes"], "node")))
    of_mean = summary["mean_model"]
    known = [f"{key} {decimal(value)}" for key, value in of_mean.items() if value is not None]
    if known:
        lines.append(fact("mean model", ", ".join(known)))
    return [*lines, _sent(summary), fact("messages", str(summary["messages"]))]


def _sent(summary: Summary) -> str:
    each = {key: quantity(value, "B") for key, value in summary["bytes_per_node"].items()}
    nodes, sent = summary["nodes"], summary["bytes_sent"]
    without = raw(sent / nodes, summary.get("bytes_saved", 0) / nodes)
    return fact("a node sent", f"{each['mean']} ({each['min']} to {each['max']}){without}")


def over_seeds(plan: Plan, runs: Sequence[Summary], failed: Sequence[dict[str, Any]]) -> Summary:
    """Return the summary of several: mean and spread over the seeds, and each one's own."""
    return {
        **plan.facts,
        "seeds": [run["seed"] for run in runs],
        "rounds": min((run["rounds"] for run in runs), default=0),
        "target_accuracy": plan.target_accuracy,
        "reached_target": sum(run.get("time_to_accuracy_s") is not None for run in runs),
        **{
            name: mean_and_spread([_at(run, path) for run in runs])
            for name, path in COMPARED.items()
        },
        "runs": list(runs),
        "failed_seeds": list(failed),
        "out": str(plan.out),
    }


def mean_and_spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Return mean, standard deviation (of the sample), least and greatest; None of nothing.

    >>> mean_and_spread([1.0, 3.0, None])
    {'mean': 2.0, 'std': 1.4142135623730951, 'min': 1.0, 'max': 3.0}
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {
        "mean": statistics.fmean(known),
        "std": statistics.stdev(known) if len(known) > 1 else None,
        "min": min(known),
        "max": max(known),
    }


def text_over_seeds(summary: Summary) -> str:
    """Return the summary of several for people."""
    seeds = len(summary["seeds"])
    lines = [
        f"{count(summary['nodes'], 'node')}, {summary['algorithm']} on {summary['topology']}: "
        f"{seeds} seeds, {summary['rounds']} rounds in {summary['wall_s']:.1f} s here",
        fact("", "mean ± standard deviation over the seeds (least to greatest)"),
    ]
    for name, unit in (
        ("accuracy", ""), ("loss", ""), ("consensus_distance", ""), ("virtual_s", "s"),
        ("time_to_accuracy_s", "s"), ("bytes_per_node", "B"),
    ):  # fmt: skip
        spread = summary[name]
        if spread is not None:
            mean, std, low, high = (
                quantity(spread[key], unit) if unit else decimal(spread[key])
                for key in ("mean", "std", "min", "max")
            )
            words = name.removesuffix("_s").replace("_", " ")
            lines.append(fact(words, f"{mean} ± {std} ({low} to {high})"))
    if summary["target_accuracy"] is not None:
        lines.append(
            fact(
                f"accuracy {summary['target_accuracy']:g}",
                f"reached by {summary['reached_target']} of {seeds} seeds",
            )
        )
    lines += [
        fact("failed", f"seed {one['seed']}: {one['how']}") for one in summary["failed_seeds"]
    ]
    lines.append(fact("kept in", summary["out"]))
    return "\n".join(lines)


def _at(summary: Summary, path: tuple[str, ...]) -> float | None:
    found: Any = summary
    for key in path:
        found = None if found is None else found.get(key)
    value: float | None = found
    return value
