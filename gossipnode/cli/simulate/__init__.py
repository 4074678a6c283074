"""``gossipnode simulate``: the config that deploys, in virtual time, and what comes of it.

Invariant: the same options give the same results but for ``wall_s``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from gossipnode import logs
from gossipnode.cli import LAUNCHED
from gossipnode.cli.app import (
    DIVERGED,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    STORAGE,
    UNEXPECTED,
    USAGE,
    notes,
    say,
)
from gossipnode.cli.columns import quantity
from gossipnode.cli.finite import FiniteFloat
from gossipnode.cli.flags import (
    OptionsCommand,
    config_options,
    read_config,
    split_flags,
    with_options,
)
from gossipnode.cli.results import (
    config_text,
    draw,
    first_learner,
    new_folder,
    run_options,
    to_json,
    write,
)
from gossipnode.cli.simulate import compare
from gossipnode.cli.simulate.batch import run_all, run_of
from gossipnode.cli.simulate.compare import Variant
from gossipnode.cli.simulate.conditions import Conditions, conditions_options
from gossipnode.cli.simulate.matrix import MEASURED_MAX
from gossipnode.cli.simulate.matrix import check as check_matrix
from gossipnode.cli.simulate.outcome import over_seeds, text_of, text_over_seeds
from gossipnode.cli.simulate.plan import Plan
from gossipnode.cli.simulate.progress import Progress
from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import load_peers
from gossipnode.errors import ConfigError

# What a simulated node has no use for, or the simulator gives it; --seed is the network's here.
OWN = {
    "node.id", "node.data_dir", "swarm.seed", "network.bind", "network.port",
    "network.advertise", "network.insecure", "run.linger", "checkpoint.fresh",
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {"run": {"rounds": 200}}
NODES = 8
# Where one takes a millisecond here, which is little, these take eleven days.
ROUNDS_MAX = 1e9


@click.command(
    cls=OptionsCommand,
    epilog=notes(
        OK, UNEXPECTED, USAGE, STORAGE, DIVERGED, SOME_FAILED, INTERRUPTED,
        examples=[
            "gossipnode simulate node.toml --latency 0.05 --bandwidth 10Mbit:100Mbit",
            "gossipnode simulate -n 1000 --algorithm gossip --rounds 50 --loss 0.1",
            "gossipnode simulate --seeds 8 --step-s 0.01 --stragglers 0.1:5 --target-accuracy 0.9",
            "gossipnode simulate --step-s 0.1 --churn 600:60 --checkpoint-every-s 30",
            "gossipnode simulate compare.toml -n 16 --seeds 3 --target-accuracy 0.9",
            "gossipnode simulate -n 10000 --engine matrix --partition sample:64 --rounds 1000",
        ],
    ),
)  # fmt: skip
@click.argument(
    "path", metavar="[CONFIG]", required=False, type=click.Path(dir_okay=False, path_type=Path)
)
@click.option(
    "-n",
    "--nodes",
    type=click.IntRange(1, 100_000),
    help=f"Nodes to simulate. Default: those of peers.toml where there is one, else {NODES}.",
)
@click.option(
    "--engine",
    type=click.Choice(["events", "objects", "matrix"]),
    default="events",
    show_default=True,
    help="events: every message, in virtual time. objects: the same, for large swarms, passing "
    "messages on without making bytes of them. matrix: a round at once, X ← W(X − ηG), for "
    "synchronous algorithms on perfect wires, without time and faults; of more than "
    f"{MEASURED_MAX} nodes it measures {MEASURED_MAX}, evenly spread, and the mean model.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**53),
    default=0,
    show_default=True,
    help="Seed of network and faults; --set swarm.seed=N is the model's and the graph's.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Simulate so many times, each with both seeds one further, on all cores.",
)
@conditions_options
@click.option(
    "--target-accuracy",
    type=FiniteFloat(0, 1),
    help="Tell when the nodes' mean accuracy was first as high, as measured every "
    "run.evaluate_every rounds.",
)
@run_options
@config_options(without=OWN)
def command(
    path: Path | None,
    config_path: Path | None,
    settings: Sequence[str],
    seeds: int,
    as_json: bool,
    no_plot: bool,
    **given: Any,
) -> int:
    """Run a swarm in virtual time, from the CONFIG that deploys it, and sum up how it learnt.

    The nodes are those of the daemon; network, computing and disks are modelled. Nothing takes
    time but what is said to: by default the wires are perfect and a step takes no time. Other
    defaults than a lone node's: --rounds 200. The folder gets config.toml, history.jsonl,
    summary.json, model.safetensors (the mean of the nodes' models) and plot.png. Ctrl-C ends the
    nodes' rounds and sums up what there is; twice ends at once. Where CONFIG has [[compare]]
    tables, each a name and options, it runs once with each of them and compares what they come to.
    """
    if path is not None and config_path is not None:
        raise click.UsageError("give the config once: as CONFIG or with --config")
    path = path or config_path

    def planned(variant: Variant | None = None) -> Plan:
        over = None if variant is None else (variant.where, variant.changes)
        config = read_config(path, settings, split_flags(given), DEFAULTS, over)
        # A node's log has its place in a deployment; here it would be that of thousands.
        level = config.log.level if "level" in config.log.model_fields_set else "error"
        logs.configure(level, config.log.format)
        return _plan(config, given)

    variants = compare.variants(path) if path is not None else []
    if variants and path is not None:
        plans = [compare.planned(variant, planned) for variant in variants]
        comparison = compare.Comparison(path, variants, plans, new_folder(given["out"]), seeds)
        return compare.run(comparison, as_json=as_json, plotted=not no_plot)
    plan = planned()
    plan = replace(plan, out=new_folder(given["out"]))
    if seeds > 1:
        return _many(plan, seeds, as_json=as_json, plotted=not no_plot)
    return _one(plan, as_json=as_json, plotted=not no_plot)


def _plan(config: Config, given: dict[str, Any]) -> Plan:
    """Settle everything but the folder; whatever is wrong with it is told now."""
    conditions = Conditions(**{name: given[name] for name in Conditions.__dataclass_fields__})
    config, names = _names(config, given["nodes"])
    plan = Plan(
        config, names, given["seed"], conditions, given["target_accuracy"],
        Path(), given["engine"],
    )  # fmt: skip
    if plan.engine == "matrix":
        check_matrix(plan)
    else:
        _check_events(plan)
    learner = first_learner(
        config, [PeerEntry(id=n, address=f"http://simulated:{i + 1}") for i, n in enumerate(names)]
    )
    if not config.run.rounds:
        _check_duration(plan, learner.layout.nbytes)
    return plan


def _check_events(plan: Plan) -> None:
    """Refuse a simulation without an end, and conditions that contradict one another."""
    run, conditions = plan.config.run, plan.conditions
    if not (run.rounds or run.duration_s):
        raise ConfigError(
            "a simulation needs an end", key="run.rounds", allowed="--rounds or --duration-s"
        )
    if conditions.stragglers and not conditions.step_s:
        raise click.UsageError("--stragglers needs --step-s: a step that takes no time is not slow")


def _check_duration(plan: Plan, model_bytes: int) -> None:
    """Refuse a time that comes to its end only after more rounds than anyone waits for."""
    config, conditions = plan.config, plan.conditions
    round_s = conditions.step_s * config.training.local_steps
    round_s += getattr(config.algorithm, "period_s", 0.0)
    if len(plan.names) > 1:
        round_s += conditions.travel_s(model_bytes)
    if config.run.duration_s > ROUNDS_MAX * round_s:
        raise ConfigError(
            f"rounds of {config.algorithm.called} take {quantity(round_s, 's')} here, "
            "so time never comes to its end",
            key="run.duration_s",
            allowed="with --rounds, or with what takes time: --step-s or --latency",
        )


def _names(config: Config, nodes: int | None) -> tuple[Config, tuple[str, ...]]:
    """Return the names, from peers.toml or as many as asked for, and the config beside them."""
    if config.swarm.peers:
        names = tuple(entry.id for entry in load_peers(config.swarm.peers))
        if nodes in (None, len(names)):
            return config, names
    named = tuple(f"node-{i}" for i in range(nodes or NODES))
    return with_options(config, {"swarm.peers": ""}), named


def _one(plan: Plan, *, as_json: bool, plotted: bool) -> int:
    say(plan.title)
    progress = Progress()
    simulation = run_of(plan, progress.show)
    summary = simulation.run(progress.close)
    click.echo(to_json(summary) if as_json else text_of(summary))
    sys.stdout.flush()
    if plotted and not simulation.interrupted:
        draw(plan.out, [plan.history], simulation.distances, plan.title)
    return INTERRUPTED if simulation.interrupted else OK


def _many(plan: Plan, seeds: int, *, as_json: bool, plotted: bool) -> int:
    write(plan.out / "config.toml", config_text(plan.config, plan.command("config.toml", seeds)))
    say(f"{plan.title}, {seeds} seeds")
    plans = [plan.nth(number) for number in range(seeds)]
    answers, interrupted = run_all(plans, [f"seed {one.seed}: " for one in plans])
    answered = sorted(answers.items())
    runs = {number: answer["summary"] for number, answer in answered if "error" not in answer}
    failed = {plans[n].seed: answer for n, answer in answered if "error" in answer}
    failures = [{"seed": seed, "how": answer["error"]} for seed, answer in failed.items()]
    summary = over_seeds(plan, list(runs.values()), failures)
    summary["wall_s"] = round(time.monotonic() - LAUNCHED, 3)
    write(plan.out / "summary.json", to_json(summary) + "\n")
    click.echo(to_json(summary) if as_json else text_over_seeds(summary))
    sys.stdout.flush()
    if plotted and runs and not interrupted:
        histories = [plans[number].history for number in runs]
        distances = [(r, d) for number in runs for r, d in answers[number]["distances"]]
        draw(plan.out, histories, distances, f"{plan.title}, {len(runs)} seeds")
    if interrupted:
        return INTERRUPTED
    if failed:
        return SOME_FAILED if runs else int(next(iter(failed.values()))["code"])
    return OK
