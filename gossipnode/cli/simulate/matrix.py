"""One simulation as a matrix, round by round: for synchronous algorithms on perfect wires.

Invariant: what is told of few nodes is what the event-driven engine tells of them, to rounding;
what has no meaning without time and messages is not told at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click
import numpy as np

from gossipnode import __version__
from gossipnode.algorithms.dpsgd import DpsgdOptions
from gossipnode.cli.columns import count
from gossipnode.cli.results import Summary, keep_mean, least_to_greatest, progress_words
from gossipnode.cli.results.history import History
from gossipnode.cli.results.spread import Spread
from gossipnode.cli.simulate.plan import Plan, Run, Show
from gossipnode.errors import ConfigError
from gossipnode.learning.tasks import Evaluation
from gossipnode.node.measuring import finite_or_none
from gossipnode.simulation.vectorised import VectorisedSwarm

# 8 ms on digits, a tenth of a round of 10,000 nodes; all of these would take eight rounds.
MEASURED_MAX = 100
DTYPES = ("float32", "float64")


def check(plan: Plan) -> None:
    """Refuse what the matrix cannot honour: all that is about time, faults or messages."""
    config, events = plan.config, "or --engine events, which runs all"
    if not isinstance(config.algorithm, DpsgdOptions):
        synchronous = config.algorithm.needs().rounds
        why = "does more than W(X − ηG)" if synchronous else "is asynchronous, no matrix a round"
        raise ConfigError(
            f"{config.algorithm.called} {why}",
            key="--engine",
            allowed="--algorithm dpsgd, " + events,
        )
    if config.algorithm.form == "stale":
        raise ConfigError(
            "stale mixes half-steps of two rounds, which no matrix does",
            key="algorithm.form",
            allowed="atc, cta, " + events,
        )
    if config.task.dtype not in DTYPES:
        raise ConfigError(
            f"one matrix of all nodes cannot be {config.task.dtype}",
            key="task.dtype",
            allowed=f"{' or '.join(DTYPES)}, {events}",
        )
    if config.codec.name != "none":
        raise ConfigError(
            f"no message is made here that {config.codec.name} could make smaller",
            key="codec.name",
            allowed="none, " + events,
        )
    flags = [word for word in plan.conditions.flags() if word.startswith("--")]
    flags += ["--seed"] * bool(plan.seed)
    flags += ["--target-accuracy"] * (plan.target_accuracy is not None)
    if flags:
        raise click.UsageError(
            f"--engine matrix knows no time, network or faults: leave out {', '.join(flags)} "
            f"{events}" + ("; --set swarm.seed=N is the model's and the graph's" * bool(plan.seed))
        )
    if config.run.duration_s or not config.run.rounds:
        raise ConfigError(
            "the matrix has no time, its run ends by rounds alone",
            key="run.duration_s" if config.run.duration_s else "run.rounds",
            allowed="--rounds without --duration-s, " + events,
        )


class MatrixRun(Run):
    """Runs a plan as X ← W(X − ηG).

    Measures ``measured`` nodes (all, or ``MEASURED_MAX`` evenly spread ones) and the mean model.
    """

    def __init__(self, plan: Plan, show: Show) -> None:
        super().__init__(plan, show)
        nodes = len(plan.names)
        self.measured = np.linspace(0, nodes - 1, min(nodes, MEASURED_MAX)).astype(int).tolist()
        self._rows: list[dict[str, Any]] = []
        self._round = 0

    def line(self) -> str:
        """Return how far it is, and what has been learnt."""
        distance = self.distances[-1][1] if self.distances else None
        words = progress_words(self._round, self.plan.config.run.rounds, self._rows, distance)
        return "  ".join([*words, count(len(self.plan.names), "node")])

    def _simulate(self, history: History, close: Show) -> Summary:
        plan = self.plan
        swarm = VectorisedSwarm(plan.config, names=plan.names)
        every, rounds = plan.config.run.evaluate_every, plan.config.run.rounds
        mean = self._measure(swarm, history)
        with self._stopping_on_signals(lambda: None):
            while swarm.round < rounds and not self.interrupted:
                swarm.run(1)
                self._round = swarm.round
                if every and swarm.round % every == 0:
                    mean = self._measure(swarm, history)
                self._show(self)
        if self._rows[-1]["round"] < swarm.round:
            mean = self._measure(swarm, history)
        close(self)
        return self._sum_up(swarm, mean)

    def _measure(self, swarm: VectorisedSwarm, history: History) -> Evaluation:
        """Write a row for each measured node, and one without a node for the mean model."""
        steps, losses = self.plan.config.training.local_steps, swarm.losses
        self._rows = []
        for i in self.measured:
            found = swarm.evaluate(i)
            self._rows.append(
                {
                    "node": swarm.names[i],
                    "round": swarm.round,
                    "age": swarm.round * steps,
                    "loss": finite_or_none(found.loss),
                    "accuracy": found.accuracy,
                    "train_loss": None if losses is None else finite_or_none(float(losses[i])),
                }
            )
        mean, distance = swarm.evaluate_mean(), swarm.consensus_distance()
        of_mean = {
            "node": None,
            "round": swarm.round,
            "mean_model_loss": finite_or_none(mean.loss),
            "mean_model_accuracy": mean.accuracy,
            "consensus_distance": distance,
        }
        for row in (*self._rows, of_mean):
            history.keep(row)
        history.require_whole()
        if swarm.round:
            self.distances.append((swarm.round, distance))
        return mean

    def _sum_up(self, swarm: VectorisedSwarm, mean: Evaluation) -> Summary:
        """Keep the mean model, and tell of the nodes as they were last measured."""
        plan, spread = self.plan, Spread()
        for row in swarm.models:
            spread.add(row)
        keep_mean(plan.out, spread, swarm.learner.layout, self._facts(swarm))
        sent = swarm.traffic.bytes_sent.tolist()
        return {
            **plan.facts,
            **plan.seeds,
            "measured_nodes": len(self.measured),
            "accuracy": least_to_greatest(_known(row["accuracy"] for row in self._rows)),
            "loss": least_to_greatest(_known(row["loss"] for row in self._rows)),
            "mean_model": {"accuracy": mean.accuracy, "loss": finite_or_none(mean.loss)},
            "consensus_distance": spread.distance,
            "rounds": swarm.round,
            "bytes_sent": sum(sent),
            "bytes_saved": 0,  # this engine takes no codec
            "bytes_per_node": least_to_greatest(sent),
            "messages": swarm.traffic.messages,
            "out": str(plan.out),
        }

    def _facts(self, swarm: VectorisedSwarm) -> dict[str, str]:
        """Return the metadata of the mean model's file."""
        return {
            "swarm": swarm.config.swarm.name,
            "algorithm": swarm.config.algorithm.called,
            "round": str(swarm.round),
            "age": str(swarm.round * swarm.config.training.local_steps),
            "gossipnode": __version__,
            "task": json.dumps(swarm.learner.describe()),
        }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
