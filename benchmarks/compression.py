"""What each codec and scheme sends until it is as accurate as D-PSGD, headers included.

16 nodes on a ring, even shares of the data, the same steps for all: softmax regression and a
perceptron of 101,770 params on the MNIST test file (``--mnist DIR``), softmax on digits without it;
two seeds, of the perceptron one. The target is the accuracy of D-PSGD after all its rounds, less
half a point; what is compared is what a node has sent when the nodes' mean accuracy is there.
``python -m benchmarks.compression`` prints the tables, ``--page docs/compression.md`` keeps them.
Invariant: all schemes have the same data, steps and seeds, and real frames are counted.
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
from gossipnode.cli import describe
from gossipnode.cli.columns import quantity
from gossipnode.configfile import load_config
from gossipnode.errors import TrainingError
from gossipnode.simulation import SimulatedSwarm

NODES = 16
NAMES = [f"n{i:02d}" for i in range(NODES)]
# Half a point below D-PSGD counts as its accuracy.
MARGIN = 0.005
COMMON = {
    "topology.graph": "ring", "data.partition": "iid", "task.l2": 1e-4,
    "training.local_steps": 1, "run.evaluate_every": 10,
}  # fmt: skip


class Problem(NamedTuple):
    """What is learnt, how many rounds D-PSGD gets, and how many the others get at most."""

    title: str
    flags: Mapping[str, Any]
    rounds: int
    rounds_max: int
    seeds: Sequence[int] = (1, 2)


class Scheme(NamedTuple):
    """A line of the table: options, and how many times fewer bits its values alone have."""

    label: str
    flags: Mapping[str, Any]
    values: float


def choco(label: str, values: float, **codec: Any) -> Scheme:
    """Return CHOCO-SGD with a codec."""
    options = {f"codec.{key}": value for key, value in codec.items()}
    return Scheme(f"CHOCO, {label}", {"algorithm.name": "choco", **options}, values)


SCHEMES = (
    Scheme("D-PSGD", {}, 1),
    Scheme("D-PSGD, float16", {"codec.name": "float16"}, 2),
    Scheme("D-PSGD, a shared tenth", {"codec.name": "randomk", "codec.fraction": 0.1}, 10),
    choco("top 1 %", 100, name="topk"),
    choco("top 1 %, 8 bits", 400, name="topk", bits=8),
    choco("top 1 %, signs", 3200, name="topk", bits=1),
    choco("top 5 %, signs", 640, name="topk", fraction=0.05, bits=1),
    choco("sign", 32, name="sign"),
    choco("uniform, 8 bits", 4, name="uniform", bits=8),
    choco("uniform, 4 bits", 8, name="uniform", bits=4),
    choco("uniform, 2 bits", 16, name="uniform", bits=2),
    choco("QSGD, 7 levels", 8, name="qsgd", levels=7),
    choco("random 1 %", 100, name="randomk"),
    choco("rank 2", 1, name="lowrank", rank=2),
    Scheme("PowerGossip, rank 2", {"algorithm.name": "power_gossip", "algorithm.rank": 2}, 1),
    Scheme("PowerGossip, rank 1", {"algorithm.name": "power_gossip", "algorithm.rank": 1}, 1),
)


class Outcome(NamedTuple):
    """What a run came to, by seed: the last accuracy, and where the target was reached."""

    accuracy: float
    message_bytes: float
    rounds: int | None
    sent: float | None


class Moment(NamedTuple):
    """The nodes' mean accuracy after a round, and what a node had sent."""

    round: int
    accuracy: float
    sent: float


@cache
def moments(problem: int, scheme: int, seed: int, mnist: Path | None) -> tuple[Moment, ...]:
    """Run a scheme; no moments where it diverges."""
    todo = problems(mnist)[problem]
    rounds = todo.rounds if scheme == 0 else todo.rounds_max
    flags = {**COMMON, **todo.flags, **SCHEMES[scheme].flags, "swarm.seed": seed}
    flags["run.rounds"] = rounds
    try:
        config = load_config(flags=flags)
        with SimulatedSwarm(config, names=NAMES, link=WIRE) as swarm:
            swarm.run_to_end()
            histories = [node.history() for node in swarm.up]
    except TrainingError:
        return ()
    return tuple(
        Moment(
            rows[0]["round"],
            statistics.fmean(row["accuracy"] for row in rows),
            statistics.fmean(row["bytes_sent"] for row in rows),
        )
        for rows in zip(*histories, strict=True)
    )


@cache
def problems(mnist: Path | None) -> tuple[Problem, ...]:
    """Return what is learnt."""
    if mnist is None:
        flags = {"data.source": "digits", "training.learning_rate": 0.5, "training.batch_size": 16}
        return (Problem("Digits, softmax, d = 650", flags, 300, 600),)
    flags = {
        "data.source": f"idx:{mnist}", "data.test_fraction": 0.2,
        "training.learning_rate": 0.1, "training.batch_size": 32,
    }  # fmt: skip
    wide = {**flags, "task.kind": "mlp", "task.hidden": (128,)}
    return (
        Problem("MNIST test file, softmax, d = 7,850", flags, 300, 600),
        Problem("MNIST test file, perceptron of 128, d = 101,770", wide, 300, 600, (1,)),
    )


def outcome(found: Sequence[Moment], target: float) -> Outcome:
    """Return what a run came to."""
    there = next((moment for moment in found if moment.accuracy >= target), None)
    last = found[-1]
    return Outcome(
        last.accuracy,
        last.sent / last.round / 2,
        there and there.round,
        there and there.sent,
    )


HEAD = (
    "| scheme | a message | values alone | accuracy at the end | rounds to the target | "
    "sent a node by then | times fewer bytes |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def line(problem: int, scheme: int, mnist: Path | None) -> str:
    """Return a line of a problem's table: means over the seeds."""
    one, pairs = SCHEMES[scheme], []
    for seed in problems(mnist)[problem].seeds:
        plain, found = moments(problem, 0, seed, mnist), moments(problem, scheme, seed, mnist)
        if not found:
            return describe.cells([one.label, "", "", "diverges", "", "", ""])
        target = plain[-1].accuracy - MARGIN
        pairs.append((outcome(plain, target), outcome(found, target)))
    theirs = [ours for _, ours in pairs]
    cells = [
        one.label,
        quantity(statistics.fmean(ours.message_bytes for ours in theirs), "B"),
        f"{one.values:g} ×" if one.values > 1 else "",
        f"{statistics.fmean(ours.accuracy for ours in theirs):.4f}",
    ]
    if any(ours.sent is None for ours in theirs):
        return describe.cells([*cells, "not reached", "", ""])
    rounds = statistics.fmean(ours.rounds or 0 for ours in theirs)
    sent = statistics.fmean(ours.sent or 0.0 for ours in theirs)
    factor = statistics.fmean((plain.sent or 0.0) / (ours.sent or 1.0) for plain, ours in pairs)
    cells += [f"{rounds:.0f}", quantity(sent, "B"), f"{factor:.3g} ×"]
    return describe.cells(cells)


def table(problem: int, mnist: Path | None, only: Sequence[str]) -> Iterator[str]:
    """Yield a problem's table line by line."""
    yield HEAD
    for place, scheme in enumerate(SCHEMES):
        if not only or place == 0 or any(word in scheme.label for word in only):
            yield line(problem, place, mnist)


@click.command()
@click.option(
    "--mnist",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the MNIST test set; without it, digits alone.",
)
@click.option("--problem", "number", type=click.IntRange(1, 2), help="One table alone.")
@click.option("--only", multiple=True, help="A part of a scheme's label; repeatable.")
@click.option("--page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(mnist: Path | None, number: int | None, only: Sequence[str], page: Path | None) -> None:
    """Measure what each codec sends until it is as accurate as D-PSGD."""
    for place, problem in enumerate(problems(mnist)):
        if number is not None and place != number - 1:
            continue
        print(f"\n{problem.title}\n", flush=True)
        lines = []
        for text in table(place, mnist, only):
            print(text, flush=True)
            lines.append(text)
        if page is not None:
            put(page, f"compression_{place + 1}", "\n".join(lines))


if __name__ == "__main__":
    main()
