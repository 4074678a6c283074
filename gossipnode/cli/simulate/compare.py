"""Several variants of one config, over the same data, nodes and seeds, beside one another.

A file lists them below the tables that all have in common::

    [[compare]]
    name = "D-PSGD"

    [[compare]]
    name = "random peers"
    algorithm.name = "gossip"
    algorithm.period_s = 0.5

Invariant: two variants differ in nothing but what their tables, the environment and the command
line say; each is a run of its own that its folder repeats.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from gossipnode.cli import LAUNCHED
from gossipnode.cli.app import INTERRUPTED, OK, SOME_FAILED, say
from gossipnode.cli.columns import columns, count, decimal, quantity
from gossipnode.cli.results import Summary, draw_comparison, to_json, write
from gossipnode.cli.simulate.batch import run_all
from gossipnode.cli.simulate.outcome import mean_and_spread
from gossipnode.cli.simulate.plan import Plan
from gossipnode.cli.simulate.seeds import Answer
from gossipnode.config import Config
from gossipnode.configfile import COMPARE, read_toml
from gossipnode.errors import ConfigError, nearest_spelling

# What must be the same, or there is nothing to compare.
COMMON = ("node", "swarm", "data", "network", "log")


@dataclass(frozen=True, slots=True)
class Variant:
    """One table of ``[[compare]]``: its name, its options by section, and where it stands."""

    name: str
    changes: Mapping[str, Mapping[str, Any]]
    where: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is settled before it runs: a plan for each variant, and how many seeds."""

    path: Path
    variants: Sequence[Variant]
    plans: Sequence[Plan]
    out: Path
    seeds: int

    @property
    def target(self) -> float | None:
        """The accuracy to reach."""
        return self.plans[0].target_accuracy

    def of_all(self) -> Iterator[tuple[int, Plan]]:
        """Yield each plan that runs, with the place of its variant."""
        for place, (variant, plan) in enumerate(zip(self.variants, self.plans, strict=True)):
            folder = self.out / f"{place + 1}-{slug(variant.name)}"
            own = replace(plan, out=folder)
            for number in range(self.seeds):
                yield place, own.nth(number) if self.seeds > 1 else own


# -- reading --------------------------------------------------------------------------------------


def variants(path: Path) -> list[Variant]:
    """Return what a file lists to compare; nothing where it is a plain config.

    Raises ``ConfigError`` that names the table and the key.
    """
    tables = read_toml(path).get(COMPARE)
    if tables is None:
        return []
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("write [[compare]], in double brackets", file=str(path), key=COMPARE)
    found: list[Variant] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}, [[compare]] {number}"
        name = table.pop("name", None)
        if not isinstance(name, str) or not name.strip():
            raise ConfigError("each table needs a name, a text", file=where, key="name")
        if any(variant.name == name for variant in found):
            raise ConfigError(f"{name!r} is the name of a table above", file=where, key="name")
        where += f" {name!r}"
        for section, entries in table.items():
            _check_section(where, section, entries)
        found.append(Variant(name, table, where))
    return found


def _check_section(where: str, section: str, entries: Any) -> None:
    if section in COMMON:
        key = section
        if isinstance(entries, Mapping) and entries:
            key += f".{next(iter(entries))}"
        raise ConfigError("must be the same for all that is compared", file=where, key=key)
    if section not in Config.model_fields:
        raise ConfigError(
            "unknown key",
            file=where,
            key=section,
            allowed="name, and options as section.key = value",
            nearest=nearest_spelling(section, ["name", *Config.model_fields]),
        )
    if not isinstance(entries, Mapping):
        raise ConfigError("is a table: write section.key = value", file=where, key=section)


def planned(variant: Variant, plan: Callable[[Variant], Plan]) -> Plan:
    """Return the variant's plan; raises ``ConfigError`` that names its table."""
    try:
        return plan(variant)
    except ConfigError as error:
        raise error.found_in(variant.where) from error.__cause__


def slug(name: str) -> str:
    """Return a name as a part of a path.

    >>> slug("D-PSGD, ring of 16")
    'd-psgd-ring-of-16'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "variant"


# -- running --------------------------------------------------------------------------------------


def run(comparison: Comparison, *, as_json: bool, plotted: bool) -> int:
    """Run everything side by side, tell what came of it and keep it; return the exit code."""
    plans = list(comparison.of_all())
    write(comparison.out / "compare.toml", comparison.path.read_text(encoding="utf-8"))
    say(_title(comparison))
    labels = [f"{comparison.variants[place].name}, seed {plan.seed}: " for place, plan in plans]
    answers, interrupted = run_all([plan for _, plan in plans], labels)
    rows, curves = [], {}
    for place, variant in enumerate(comparison.variants):
        mine = {
            number: answer
            for number, answer in sorted(answers.items())
            if plans[number][0] == place
        }
        done = [plans[n][1] for n, answer in mine.items() if "error" not in answer]
        histories = [list(_moments(plan)) for plan in done]
        rows.append(_row(comparison, place, list(mine.values()), histories))
        if histories:
            curves[variant.name] = mean_curve(histories)
    summary = _summary(comparison, rows)
    write(comparison.out / "summary.json", to_json(summary) + "\n")
    click.echo(to_json(summary) if as_json else text_of(summary))
    if plotted and curves and not interrupted:
        draw_comparison(comparison.out, curves, _title(comparison))
    if interrupted:
        return INTERRUPTED
    codes = [int(answer["code"]) for answer in answers.values() if "error" in answer]
    return OK if not codes else SOME_FAILED if len(codes) < len(answers) else codes[0]


def _title(comparison: Comparison) -> str:
    plan = comparison.plans[0]
    words = [
        f"{len(comparison.variants)} variants",
        count(len(plan.names), "simulated node"),
        plan.config.data.source,
        count(comparison.seeds, "seed"),
    ]
    return ", ".join(words)


# -- what came of it ------------------------------------------------------------------------------


class Moment(NamedTuple):
    """The swarm when all nodes had measured ``round``: means over them.

    ``virtual_s`` is when the last of them did; None where there is no time.
    """

    round: int
    accuracy: float | None
    loss: float | None
    bytes_sent: float | None
    virtual_s: float | None


def _moments(plan: Plan) -> Iterator[Moment]:
    """Yield the moments at which a run was measured, from its history."""
    by_round: dict[int, dict[str, dict[str, Any]]] = {}
    for line in plan.history.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["node"] is not None:
            by_round.setdefault(row["round"], {})[row["node"]] = row
    for round_, rows in sorted(by_round.items()):
        found = list(rows.values())
        yield Moment(
            round_,
            _mean(row.get("accuracy") for row in found),
            _mean(row.get("loss") for row in found),
            _mean(row.get("bytes_sent") for row in found),
            max((row["virtual_s"] for row in found if "virtual_s" in row), default=None),
        )


def _mean(values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def mean_curve(histories: Sequence[Sequence[Moment]]) -> list[Moment]:
    """Return the mean over runs, at each round that every run measured."""
    common = set.intersection(*({moment.round for moment in moments} for moments in histories))
    curve = []
    for round_ in sorted(common):
        at = [next(m for m in moments if m.round == round_) for moments in histories]
        _, *measures = zip(*at, strict=True)
        curve.append(Moment(round_, *map(_mean, measures)))
    return curve


def _row(
    comparison: Comparison,
    place: int,
    answers: Sequence[Answer],
    histories: Sequence[Sequence[Moment]],
) -> Summary:
    """Return a variant's line of the comparison: means over nodes and seeds."""
    variant, plan = comparison.variants[place], comparison.plans[place]
    runs = [answer["summary"] for answer in answers if "error" not in answer]
    reached = [_reached(moments, comparison.target) for moments in histories]
    return {
        "name": variant.name,
        "algorithm": plan.config.algorithm.called,
        "topology": plan.config.topology.graph,
        "changes": variant.changes,
        **{name: _over(runs, name) for name in ("accuracy", "loss")},
        "rounds": min((run["rounds"] for run in runs), default=0),
        "bytes_per_node": mean_and_spread([run["bytes_per_node"]["mean"] for run in runs]),
        "virtual_s": mean_and_spread([run.get("virtual_s") for run in runs]),
        "reached_target": sum(moment is not None for moment in reached),
        "rounds_to_accuracy": mean_and_spread([m and m.round for m in reached]),
        "time_to_accuracy_s": mean_and_spread([m and m.virtual_s for m in reached]),
        "bytes_to_accuracy": mean_and_spread([m and m.bytes_sent for m in reached]),
        "runs": runs,
        "failed": [answer["error"] for answer in answers if "error" in answer],
    }


def _over(runs: Sequence[Summary], name: str) -> dict[str, float | None] | None:
    """Return mean and deviation over the seeds of the nodes' mean; least and greatest node."""
    known = [run[name] for run in runs if run[name] is not None]
    spread = mean_and_spread([one["mean"] for one in known])
    if spread is None:
        return None
    least, most = min(one["min"] for one in known), max(one["max"] for one in known)
    return {**spread, "min": least, "max": most}


def _reached(moments: Sequence[Moment], target: float | None) -> Moment | None:
    """Return the first moment at which the nodes' mean accuracy was the target."""
    if target is None:
        return None
    return next((m for m in moments if m.accuracy is not None and m.accuracy >= target), None)


def _summary(comparison: Comparison, rows: Sequence[Summary]) -> Summary:
    plan = comparison.plans[0]
    return {
        "engine": plan.engine,
        "nodes": len(plan.names),
        "data": plan.config.data.source,
        "seeds": [plan.seed + number for number in range(comparison.seeds)],
        "target_accuracy": comparison.target,
        "compare": list(rows),
        "wall_s": round(time.monotonic() - LAUNCHED, 3),
        "out": str(comparison.out),
    }


# -- for people -----------------------------------------------------------------------------------


def text_of(summary: Summary) -> str:
    """Return the comparison as a table for people."""
    rows, seeds, target = summary["compare"], summary["seeds"], summary["target_accuracy"]
    measure = "accuracy" if any(row["accuracy"] for row in rows) else "loss"
    head = ["", measure, "worst node", "rounds", "a node sent", "virtual time"]
    if target is not None:
        head += [f"{target:g} after", "in", "having sent"]
    lines = [
        f"{count(summary['nodes'], 'node')}, {summary['data']}: mean over the nodes"
        + (f" and {len(seeds)} seeds (± deviation)" if len(seeds) > 1 else ""),
        *columns(head, [_cells(row, measure, target, len(seeds)) for row in rows]),
    ]
    lines += [f"{row['name']} failed: {how}" for row in rows for how in row["failed"]]
    return "\n".join([*lines, f"kept in {summary['out']} ({summary['wall_s']:.1f} s here)"])


def _cells(row: Summary, measure: str, target: float | None, seeds: int) -> list[str]:
    spread = row[measure] or {"mean": None, "std": None, "min": None, "max": None}
    mean = decimal(spread["mean"])
    if spread["std"] is not None:
        mean += f" ± {decimal(spread['std'])}"
    worst = spread["min" if measure == "accuracy" else "max"]
    cells = [row["name"], mean, decimal(worst), str(row["rounds"])]
    cells += [_quantity(row["bytes_per_node"], "B"), _quantity(row["virtual_s"], "s")]
    if target is None:
        return cells
    if not row["reached_target"]:
        return [*cells, "never", "-", "-"]
    rounds = f"{row['rounds_to_accuracy']['mean']:.0f} rounds"
    if row["reached_target"] < seeds:
        rounds += f" ({row['reached_target']} of {seeds} seeds)"
    after, sent = row["time_to_accuracy_s"], row["bytes_to_accuracy"]
    return [*cells, rounds, _quantity(after, "s"), _quantity(sent, "B")]


def _quantity(spread: Mapping[str, float] | None, unit: str) -> str:
    return quantity(None if spread is None else spread["mean"], unit)
