"""A simulation's plan, and what every engine does around its run: the folder, Ctrl-C, the time.

Invariant: everything but ``wall_s`` is decided by the plan: nothing here asks the clock, the
machine or the terminal what to do next.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gossipnode.cli.columns import count
from gossipnode.cli.flags import with_options
from gossipnode.cli.results import Summary, config_text, to_json, write
from gossipnode.cli.results.history import History
from gossipnode.cli.simulate.conditions import Conditions
from gossipnode.config import Config


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is settled before it runs; ``seed`` is the network's and the faults'."""

    config: Config
    names: tuple[str, ...]
    seed: int
    conditions: Conditions
    target_accuracy: float | None
    out: Path
    engine: str = "events"

    @property
    def title(self) -> str:
        """The run in a few words."""
        graph, algorithm = self.config.topology.graph, self.config.algorithm.called
        nodes = count(len(self.names), "simulated node")
        return f"{nodes}, {algorithm} on {graph}, {self.config.data.source}"

    @property
    def facts(self) -> Summary:
        """What every summary of the plan begins with: its own, or that of several seeds."""
        return {
            "engine": self.engine,
            "nodes": len(self.names),
            "topology": self.config.topology.graph,
            "algorithm": self.config.algorithm.called,
        }

    @property
    def seeds(self) -> Summary:
        """What decides every chance."""
        return {"seed": self.seed, "swarm_seed": self.config.swarm.seed}

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
        words = ["gossipnode", "simulate", str(config)]
        if self.engine != "matrix":
            words += ["--seed", str(self.seed)]
        if self.engine != "events":
            words += ["--engine", self.engine]
        if seeds > 1:
            words += ["--seeds", str(seeds)]
        if not self.config.swarm.peers:
            words += ["--nodes", str(len(self.names))]
        if self.target_accuracy is not None:
            words += ["--target-accuracy", str(self.target_accuracy)]
        return shlex.join([*words, *self.conditions.flags()])


class Seen(Protocol):
    """What a run looks like at this moment."""

    def line(self) -> str:
        """Return it in a line."""
        ...


Show = Callable[[Seen], None]


class Run(ABC):
    """Runs a plan. ``show`` is called after each measurement; ``interrupted`` tells of Ctrl-C.

    ``distances`` holds (round, consensus distance) for the plot.
    """

    def __init__(self, plan: Plan, show: Show) -> None:
        self.plan = plan
        self.interrupted = False
        self.distances: list[tuple[int, float]] = []
        self._show = show

    def run(self, close: Show) -> Summary:
        """Simulate, keep the results in the plan's folder and return the summary."""
        began, plan = time.monotonic(), self.plan
        config_file = plan.out / "config.toml"
        write(config_file, config_text(plan.config, plan.command("config.toml")))
        with plan.history.open("w", buffering=1, encoding="utf-8") as file:
            summary = self._simulate(History(file), close)
        summary["wall_s"] = round(time.monotonic() - began, 3)
        write(plan.out / "summary.json", to_json(summary) + "\n")
        return summary

    @abstractmethod
    def _simulate(self, history: History, close: Show) -> Summary:
        """Run to the end, with every row in ``history``; return all of the summary but wall_s."""

    @contextlib.contextmanager
    def _stopping_on_signals(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call ``stop`` on the first signal, as a daemon does; a second is final."""

        def received(*_: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            stop()

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, received) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
