"""Uneven data: what methods with correction or momentum gain over D-PSGD, for the same bytes.

Digits, 16 nodes on a ring, two shards of labels each, softmax regression, batches of 16, weight
decay 1e-4. Each method may send as much as D-PSGD does in 600 rounds: with two vectors a round it
gets 300. Its step is the best of a grid by the accuracy with seed 0; what is told is the mean over
other seeds. ``python -m benchmarks.heterogeneity`` prints the table, ``--page docs/comparison.md``
puts it there. Invariant: all methods choose among as many steps, on the same data.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.losses import put
from benchmarks.published import WIRE
from benchmarks.published_learning import DIGITS, NAMES
from gossipnode.cli import describe
from gossipnode.configfile import load_config
from gossipnode.learning.params import consensus_distance
from gossipnode.simulation import SimulatedSwarm

ROUNDS, CHOSEN_BY, SEEDS = 600, 0, (1, 2, 3)
# η/(1 − β): the step in the long run, so that momentum's are those of the others.
STEPS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
BETA = 0.9
PUBLISHED_STEP = 0.5


class Method(NamedTuple):
    """A form by its name in ``[algorithm]``, the vectors that it sends, and whether it has β."""

    name: str
    vectors: int = 1
    beta: bool = False
    options: Mapping[str, Any] = {}

    @property
    def label(self) -> str:
        """What the table calls it."""
        return " ".join([self.name, *map(str, self.options.values())])


METHODS = (
    Method("dpsgd"),
    Method("dpsgd", options={"form": "cta"}),
    Method("dpsgd", options={"form": "stale"}),
    Method("exact_diffusion"),
    Method("d2"),
    Method("extra"),
    Method("dsgt", 2),
    Method("diging", 2),
    Method("atc_gt", 2),
    Method("dmsgd", beta=True),
    Method("decentlam", beta=True),
    Method("qgm", beta=True),
    Method("edm", beta=True),
    Method("momentum_tracking", 2, beta=True),
)


class Result(NamedTuple):
    """What a run came to: accuracies of the nodes and of the mean model, Ξ, bytes a node sent."""

    mean: float
    least: float
    averaged: float
    spread: float
    bytes_sent: float


@cache
def run(place: int, step: float, seed: int) -> Result | None:
    """Run a method of ``METHODS``; None where it diverges."""
    from gossipnode.errors import TrainingError

    method = METHODS[place]
    flags = {
        **DIGITS, "data.partition": "shards:2", "topology.graph": "ring", "swarm.seed": seed,
        "run.rounds": ROUNDS // method.vectors, "algorithm.name": method.name,
        "training.learning_rate": step * (1 - BETA) if method.beta else step,
        **{f"algorithm.{key}": value for key, value in method.options.items()},
    }  # fmt: skip
    try:
        with SimulatedSwarm(
            load_config(flags=flags), names=NAMES, link=WIRE, objects=True
        ) as swarm:
            swarm.run_to_end()
            models, learner = swarm.models(), swarm.up[0].learner
            sent = statistics.fmean(node.counters.get("bytes_sent") for node in swarm.up)
    except TrainingError:
        return None
    accuracies = [learner.evaluate(x).accuracy or 0.0 for x in models]
    averaged = learner.evaluate(models.mean(0, dtype=float).astype(models.dtype)).accuracy or 0.0
    spread = consensus_distance(list(models))
    return Result(statistics.fmean(accuracies), min(accuracies), averaged, spread, sent)


def best_step(place: int, steps: Sequence[float]) -> float:
    """Return the step with the greatest accuracy, by a seed that is told of no further."""
    found = {step: run(place, step, CHOSEN_BY) for step in steps}
    return max(steps, key=lambda step: -1.0 if (one := found[step]) is None else one.mean)


HEAD = (
    "| method | rounds | sent a node | η/(1 − β) | accuracy | least node | averaged model | Ξ | "
    "above D-PSGD |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(place: int, step: float, baseline: Sequence[Result]) -> tuple[str, list[Result]]:
    """Return a line of the table, and the results behind it."""
    method = METHODS[place]
    results = [one for seed in SEEDS if (one := run(place, step, seed)) is not None]
    if len(results) < len(SEEDS):
        diverged = f"{len(SEEDS) - len(results)} of {len(SEEDS)} seeds diverged"
        return describe.cells([method.label, "", "", f"{step:g}", diverged, "", "", "", ""]), []
    mean, least, averaged, spread, sent = (
        statistics.fmean(values) for values in zip(*results, strict=True)
    )
    gains = [ours.mean - theirs.mean for ours, theirs in zip(results, baseline, strict=False)]
    gain = ""
    if gains:
        gain = f"{100 * statistics.fmean(gains):+.1f} ± {100 * statistics.stdev(gains):.1f} %"
    cells = [
        method.label, str(ROUNDS // method.vectors), f"{sent / 1e6:.1f} MB", f"{step:g}",
        f"{mean:.3f}", f"{least:.3f}", f"{averaged:.3f}", f"{spread:.2f}", gain,
    ]  # fmt: skip
    return describe.cells(cells), results


def table(steps: Sequence[float]) -> Iterator[str]:
    """Yield the table line by line: D-PSGD with the published step, then all with their best."""
    yield HEAD
    yield row(0, PUBLISHED_STEP, ())[0]
    baseline: list[Result] = []
    for place in range(len(METHODS)):
        step = best_step(place, steps)
        text, results = row(place, step, baseline)
        baseline = baseline or results
        yield text


@click.command()
@click.option("--page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="Two steps to choose from, not seven.")
def main(page: Path | None, quick: bool) -> None:
    """Compare methods on uneven data, for the same bytes."""
    lines = []
    for text in table(STEPS[3:5] if quick else STEPS):
        print(text, flush=True)
        lines.append(text)
    if page is not None:
        put(page, "heterogeneity", "\n".join(lines))


if __name__ == "__main__":
    main()
