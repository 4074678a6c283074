"""One simulation from beginning to end: the faults on their way, Ctrl-C, and what came of it.

Invariant: everything but ``wall_s`` is decided by the plan: nothing here asks the clock, the
machine or the terminal what to do next.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossipnode.cli.flags import with_options
from gossipnode.cli.results import (
    Summary,
    config_text,
    keep_mean,
    least_to_greatest,
    to_json,
    write,
)
from gossipnode.cli.results.spread import Spread
from gossipnode.cli.simulate.conditions import Conditions
from gossipnode.cli.simulate.recorder import Recorder
from gossipnode.config import Config
from gossipnode.node.measuring import finite_or_none
from gossipnode.node.node import Node
from gossipnode.node.report import model_facts
from gossipnode.simulation import SimulatedSwarm

# Counters of a node's life that the summary adds up over all its lives.
SUMMED = ("bytes_sent", "pushes_sent")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is settled before virtual time begins; ``seed`` is the network's and the faults'."""

    config: Config
    names: tuple[str, ...]
    seed: int
    conditions: Conditions
    target_accuracy: float | None
    out: Path

    @property
    def title(self) -> str:
        """The run in a few words."""
        graph, algorithm = self.config.topology.graph, self.config.algorithm.name
        return (
            f"{len(self.names)} simulated nodes, {algorithm} on {graph}, {self.config.data.source}"
        )

    @property
    def history(self) -> Path:
        """The file that gets every measurement."""
        return self.out / "history.jsonl"

    def nth(self, number: int) -> Plan:
        """Return the plan with other chances: both seeds further by ``number``."""
        seed = self.seed + number
        config = with_options(self.config, {"swarm.seed": self.config.swarm.seed + number})
        return replace(self, config=config, seed=seed, out=self.out / f"seed-{seed}")

    def command(self, config: str | Path, seeds: int = 1) -> str:
        """Return the command that runs this plan, with ``config`` as its config."""
        words = ["gossipnode", "simulate", str(config), "--seed", str(self.seed)]
        if seeds > 1:
            words += ["--seeds", str(seeds)]
        if not self.config.swarm.peers:
            words += ["--nodes", str(len(self.names))]
        if self.target_accuracy is not None:
            words += ["--target-accuracy", str(self.target_accuracy)]
        return shlex.join([*words, *self.conditions.flags()])


class Simulation:
    """Runs a plan. ``show`` is called after each measurement; ``interrupted`` tells of Ctrl-C."""

    def __init__(self, plan: Plan, show: Callable[[Recorder], None]) -> None:
        self.plan = plan
        self.interrupted = False
        self.distances: list[tuple[int, float]] = []
        self._show = show
        self._lost: dict[str, Counter[str]] = {name: Counter() for name in plan.names}

    def run(self, close: Callable[[Recorder], None]) -> Summary:
        """Simulate, keep the results in the plan's folder and return the summary."""
        began, plan = time.monotonic(), self.plan
        config_file = plan.out / "config.toml"
        write(config_file, config_text(plan.config, plan.command("config.toml")))
        churns = plan.conditions.churn is not None
        swarm = SimulatedSwarm(
            # With churn a node that is done must keep what it has, and it may be killed again.
            with_options(plan.config, {"run.linger": churns}),
            names=plan.names,
            seed=plan.seed,
            link=plan.conditions.link,
            step_s=plan.conditions.step_s,
            stores=churns and plan.config.checkpoint.enabled,
            replay=plan.command(config_file),
        )
        with plan.history.open("w", buffering=1, encoding="utf-8") as history, swarm:
            recorder = Recorder(swarm, history, plan.target_accuracy, self._show)
            self._drive(swarm, recorder)
            close(recorder)
            summary = self._sum_up(swarm, recorder)
        summary["wall_s"] = round(time.monotonic() - began, 3)
        write(plan.out / "summary.json", to_json(summary) + "\n")
        return summary

    # -- time -----------------------------------------------------------------------------------

    def _drive(self, swarm: SimulatedSwarm, recorder: Recorder) -> None:
        slow = set(self.plan.conditions.slow(swarm.names, swarm.seed))
        for name, node in swarm.nodes.items():
            self._begin(swarm, recorder, node, slow=name in slow)
        with self._stopping_on_signals(swarm):
            if self.plan.conditions.churn is None:
                swarm.run_to_end()
            else:
                self._churn(swarm, recorder, slow)

    def _begin(self, swarm: SimulatedSwarm, recorder: Recorder, node: Node, *, slow: bool) -> None:
        recorder.watch(node)
        if slow:
            assert self.plan.conditions.stragglers is not None
            swarm.slow_down(node.id, self.plan.conditions.stragglers[1])

    def _churn(self, swarm: SimulatedSwarm, recorder: Recorder, slow: set[str]) -> None:
        """Kill and restart until every node has once used up its rounds, or time is up."""
        end_s = self.plan.config.run.duration_s
        for instant, name in self.plan.conditions.changes(swarm.names, swarm.seed):
            if end_s and instant >= end_s:
                swarm.run(end_s - swarm.time)
                return
            swarm.run(instant - swarm.time)
            if self.interrupted or len(recorder.finished) == len(swarm.names):
                return
            if name in swarm.down:
                self._begin(swarm, recorder, swarm.restart(name), slow=name in slow)
            else:
                counters = swarm.nodes[name].counters
                self._lost[name].update({key: counters.get(key) for key in SUMMED})
                swarm.kill(name)

    @contextlib.contextmanager
    def _stopping_on_signals(self, swarm: SimulatedSwarm) -> Iterator[None]:
        """End the nodes' active sides on the first signal, as a daemon does; a second is final."""

        def stop(*_: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            for node in swarm.up:
                node.request_stop()

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # -- result ---------------------------------------------------------------------------------

    def _sum_up(self, swarm: SimulatedSwarm, recorder: Recorder) -> Summary:
        """Measure the models of the nodes that are up, keep their mean, and count."""
        plan, spread, found = self.plan, Spread(), []
        for node in swarm.up:
            found.append(node.learner.evaluate(node.params))
            spread.add(node.params)
        losses = [loss for e in found if (loss := finite_or_none(e.loss)) is not None]
        if swarm.up:
            first = swarm.up[0]
            keep_mean(plan.out, spread, first.layout, model_facts(first))
        if spread.distance is not None:
            recorder.distances.append((recorder.round, spread.distance))
        self.distances = recorder.distances
        sent, pushes = (self._total(swarm, key) for key in SUMMED)
        round_times = [t for node in swarm.up for t in node.round_times]
        return {
            "nodes": len(swarm.names),
            "topology": plan.config.topology.graph,
            "algorithm": plan.config.algorithm.name,
            "seed": plan.seed,
            "swarm_seed": plan.config.swarm.seed,
            "accuracy": least_to_greatest([e.accuracy for e in found if e.accuracy is not None]),
            "loss": least_to_greatest(losses),
            "consensus_distance": spread.distance,
            "rounds": min((node.round for node in swarm.up), default=0),
            "virtual_s": round(swarm.time, 6),
            "time_to_accuracy_s": recorder.reached_s,
            "target_accuracy": plan.target_accuracy,
            "round_s": round(statistics.median(round_times), 6) if round_times else None,
            "bytes_sent": sum(sent),
            "bytes_per_node": least_to_greatest(sent),
            "messages": sum(pushes),
            "delivered": sum(swarm.frames.values()),
            "faults": {kind: n for kind, n in sorted(swarm.network.fired.items()) if n},
            "down": sorted(swarm.down, key=swarm.names.index),
            "trace_hash": swarm.trace_hash,
            "out": str(plan.out),
        }

    def _total(self, swarm: SimulatedSwarm, key: str) -> list[int]:
        """Return a counter of each node, over all its lives."""
        return [
            self._lost[name][key] + (0 if name in swarm.down else node.counters.get(key))
            for name, node in swarm.nodes.items()
        ]
