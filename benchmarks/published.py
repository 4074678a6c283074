"""A figure that others computed or published, beside ours; and Q16 as nodes run it.

Invariant: ``ours`` comes out of the package, of its formulas, its matrices or its nodes in virtual
time, never out of a recursion written here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.laws import q16
from gossipnode import logs
from gossipnode.configfile import load_config
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm

# Long enough that messages overtake nothing, short enough that no deadline matters.
WIRE = Link(latency_s=0.001)
NODES = 16


class Row(NamedTuple):
    """One figure. ``tolerance`` is absolute; None: told for comparison, and not to be met."""

    what: str
    ours: float | None
    reference: float
    tolerance: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether ours is within the tolerance; None where nothing could be measured or asked."""
        if self.ours is None or self.tolerance is None:
            return None
        return bool(abs(self.ours - self.reference) <= self.tolerance)


@cache
def _q16_source() -> str:
    A, b, _ = q16()
    folder = Path(tempfile.mkdtemp(prefix="q16-"))
    np.savez(folder / "q16.npz", A=A, b=b)
    return f"npz:{folder / 'q16.npz'}"


def q16_rounds(
    rounds: int, eta: float, *, loss: float = 0.0, seed: int = 0, **flags: Any
) -> NDArray[np.float64]:
    """Return the models after each of ``rounds`` rounds, shape (rounds + 1, 16, 10).

    ``flags`` are options with ``__`` for the dot; the graph is the ring with weights 1/3, unless
    they say another. ``loss`` is the share of pushes that are lost, drawn from ``seed``.
    """
    common = {
        "task.kind": "quadratic", "task.dtype": "float64", "data.source": _q16_source(),
        "training.local_steps": 1, "training.learning_rate": eta, "topology.graph": "ring",
        "run.rounds": rounds, "run.evaluate_every": 1, "run.history_max": 2,
        "checkpoint.enabled": False,
    }  # fmt: skip
    given = {key.replace("__", "."): value for key, value in flags.items()}
    config = load_config(flags=common | given)
    found = np.full((rounds + 1, NODES, len(q16()[2])), np.nan)
    names = [f"n{i:02d}" for i in range(NODES)]
    logs.configure("error", "text")
    link = replace(WIRE, loss=loss)
    with SimulatedSwarm(config, names=names, seed=seed, link=link, objects=True) as swarm:
        for i, node in enumerate(swarm.up):
            node.on_measurement = partial(_note, found, i, node)
            found[0, i] = node.params
        swarm.run_to_end()
        found[-1] = swarm.models()
    return found


def _note(found: NDArray[np.float64], i: int, node: Node, row: dict[str, Any]) -> None:
    found[row["round"], i] = node.params


def distances(models: Iterable[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Return ‖x̄ − x*‖, the consensus distance and f(x̄) − f(x*) of the last of ``models``."""
    A, _, best = q16()
    *_, X = models
    mean = X.mean(0)
    away = mean - best
    spread = float(np.sqrt(((X - mean) ** 2).sum(1).mean()))
    return float(np.linalg.norm(away)), spread, float(away @ A.mean(0) @ away) / 2


def rounds_to(models: NDArray[np.float64], rms: float) -> int | None:
    """Return the first round with sqrt(1/n Σ‖x_i − x*‖²) below ``rms``; None if there is none."""
    errors = np.sqrt(((models - q16()[2]) ** 2).sum(2).mean(1))
    below = np.flatnonzero(errors < rms)
    return int(below[0]) if len(below) else None
