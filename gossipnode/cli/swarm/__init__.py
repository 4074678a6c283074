"""``gossipnode swarm``: a whole swarm on this machine, one process a node, and what came of it.

Invariant: everything is imported and the data loaded once, before the nodes are forked, so that
they share that memory; and whatever happens, no node outlives this process.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gossipnode.cli.app import (
    DIVERGED,
    INTERRUPTED,
    NETWORK,
    OK,
    SOME_FAILED,
    STORAGE,
    UNEXPECTED,
    USAGE,
    notes,
    say,
)  # fmt: skip
from gossipnode.cli.columns import count
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
    keep_mean,
    new_folder,
    run_options,
    to_json,
    write,
)
from gossipnode.cli.results.history import History
from gossipnode.cli.swarm import summary
from gossipnode.cli.swarm.family import Family, listen
from gossipnode.cli.swarm.models import Models, collect
from gossipnode.cli.swarm.oversee import Overseer, View
from gossipnode.cli.swarm.progress import progress
from gossipnode.cli.swarm.seats import Seat, plain_seats, trusted_seats
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import Learner
from gossipnode.network import HttpClient

# Each node gets its own of these; --linger is how the nodes wait for the summary.
OWN = {
    "node.id", "node.data_dir", "swarm.peers", "data.share", "network.bind", "network.port",
    "network.advertise", "network.insecure", "network.status_bind", "network.status_port",
    "network.status_token_file", "run.linger", "checkpoint.fresh", "trust.bundle",
    "trust.revocations",
}  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {"run": {"rounds": 200}, "checkpoint": {"enabled": False}}
GOSSIP_PERIOD_S = 0.02
# After an interrupt: fetching what there is must not keep the user waiting.
SALVAGE_S = 5.0
# Beyond the nodes' own deadline for a clean stop.
STOP_SLACK_S = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is settled before the fork."""

    config: Config
    nodes: int
    tls: bool
    learner: Learner
    out: Path

    @property
    def title(self) -> str:
        """The run in a few words."""
        graph, algorithm = self.config.topology.graph, self.config.algorithm.called
        return f"{count(self.nodes, 'node')}, {algorithm} on {graph}, {self.config.data.source}"


@click.command(
    cls=OptionsCommand,
    epilog=notes(
        OK, UNEXPECTED, USAGE, NETWORK, STORAGE, DIVERGED, SOME_FAILED, INTERRUPTED,
        examples=[
            "gossipnode swarm",
            "gossipnode swarm -n 16 --topology torus --partition dirichlet:0.1 --rounds 500",
            "gossipnode swarm --tls",
            "gossipnode swarm --algorithm gossip --json | jq .accuracy.mean",
        ],
    ),
)  # fmt: skip
@click.option(
    "-n",
    "--nodes",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="Nodes to run.",
)
@click.option("--tls", is_flag=True, help="Make an authority, and have the nodes speak TLS alone.")
@run_options
@config_options(without=OWN)
def command(
    nodes: int,
    tls: bool,
    out: Path | None,
    as_json: bool,
    no_plot: bool,
    config_path: Path | None,
    settings: Sequence[str],
    **flags: Any,
) -> int:
    """Run a swarm of processes on this machine, on loopback, and sum up how it learnt.

    Other defaults than a lone node's: --rounds 200; --period-s 0.02 for gossip; no checkpoints
    (--set checkpoint.enabled=true keeps them in the run's folder). The folder gets config.toml,
    history.jsonl, summary.json, model.safetensors (the mean of the nodes' models), plot.png and
    the nodes' logs. Ctrl-C sums up what there is; twice ends at once.
    """
    config = read_config(config_path, settings, split_flags(flags), DEFAULTS)
    algorithm = config.algorithm
    if hasattr(algorithm, "period_s") and "period_s" not in algorithm.model_fields_set:
        config = with_options(config, {"algorithm.period_s": GOSSIP_PERIOD_S})
    entries = [PeerEntry(id=f"node-{i}", address=f"http://127.0.0.1:{i + 1}") for i in range(nodes)]
    if tls and config.topology.graph == "explicit":
        raise ConfigError(
            "names nodes by their ids, which --tls makes anew", key="topology.graph",
            allowed="all others, with --tls",
        )  # fmt: skip
    plan = Plan(config, nodes, tls, first_learner(config, entries), new_folder(out))
    say(f"starting {count(nodes, 'node')} …")
    secure = " --tls" if tls else ""
    again = f"gossipnode swarm --nodes {nodes}{secure} --config config.toml"
    write(plan.out / "config.toml", config_text(config, again))
    code, distances = _run(plan, as_json=as_json)
    if not no_plot and code != INTERRUPTED:
        draw(plan.out, [plan.out / "history.jsonl"], distances, plan.title)
    return code


def _run(plan: Plan, *, as_json: bool) -> tuple[int, list[tuple[int, float]]]:
    """Run the nodes and tell the result; return the exit code and the distances on the way."""
    seats = _seats(plan)
    configs = [
        with_options(
            plan.config,
            {
                "node.id": seat.entry.id,
                "node.data_dir": str(plan.out / "data" / seat.name),
                "trust.bundle": seat.bundle,
                "swarm.peers": "",
                "network.bind": "127.0.0.1",
                "network.port": seat.listener.getsockname()[1],
                "network.advertise": "",
                "run.linger": True,
            },
        )
        for seat in seats
    ]
    history = plan.out / "history.jsonl"
    # By lines, so that it can be followed.
    with Family() as family, history.open("w", buffering=1, encoding="utf-8") as file:
        family.launch(configs, seats, plan.out)
        return asyncio.run(_oversee(plan, family, History(file), as_json=as_json))


def _seats(plan: Plan) -> list[Seat]:
    """Return a place for each node, with sockets that listen."""
    listeners = listen(plan.nodes)
    if not plan.tls:
        return plain_seats(listeners)
    return trusted_seats(listeners, listen(plan.nodes), plan.config.swarm.name, plan.out)


async def _oversee(
    plan: Plan, family: Family, history: History, *, as_json: bool
) -> tuple[int, list[tuple[int, float]]]:
    display = progress(plan.title, plan.config.run.rounds)
    overseer = Overseer(
        family, history, show=display.show, died=display.died, interval_s=display.interval_s
    )
    try:
        overseer.attach()
        async with HttpClient() as client:
            await overseer.watch(client, plan.learner.layout)
            models = await _collected(plan, overseer, client)
        memory = [
            m for v in overseer.views if v.child.alive and (m := summary.memory_of(v.child.pid))
        ]
        if not overseer.interrupted:
            # What is shown last is what the summary tells. Nodes that were interrupted learn on
            # while their models are fetched, so for them it would be another moment.
            overseer.note_distance(models.least_round, models.spread.distance)
            display.show(overseer)
    finally:
        display.close()
    result = summary.summarize(
        plan.config,
        overseer.views,
        models,
        memory=memory,
        all_ready_at=overseer.all_ready_at,
        interrupted=overseer.interrupted,
        out=plan.out,
    )
    code = INTERRUPTED if overseer.interrupted else _exit_code(overseer.views)
    family.ask_to_stop()
    try:
        click.echo(to_json(result) if as_json else summary.text_of(result))
        sys.stdout.flush()
    finally:  # whoever read it may have gone: the run is kept all the same
        write(plan.out / "summary.json", to_json(result) + "\n")
        keep_mean(plan.out, models.spread, plan.learner.layout, models.facts)
        await overseer.stop(plan.config.run.drain_deadline_s + STOP_SLACK_S)
    history.require_whole()
    return code, overseer.distances


async def _collected(plan: Plan, overseer: Overseer, client: HttpClient) -> Models:
    """Fetch what the living nodes have learnt: all of it, or what a short time allows."""
    models = Models()
    nodes = {v.child.id: v.child.address for v in overseer.views if v.child.alive and v.was_ready}
    try:
        async with asyncio.timeout(SALVAGE_S if overseer.interrupted else None):
            await collect(client, nodes, plan.learner, models)
    except TimeoutError:
        say(f"{len(models.evaluations)} of {len(nodes)} models fetched in time")
    return models


def _exit_code(views: Sequence[View]) -> int:
    """0 if no node failed, 6 if some did; if all did, the first one's own code."""
    failed = [view.child for view in views if view.child.failure or view.state == "failed"]
    if not failed:
        return OK
    if len(failed) < len(views):
        return SOME_FAILED
    codes = (child.exit_code for child in failed)
    return next((code for code in codes if code), UNEXPECTED)
