"""Measure a round of D-PSGD on a ring of eight processes against the floor and against gloo.

``python -m benchmarks.ring [--quick] [--json FILE] [--torch-python FILE]``. Three contenders take
turns, a block of rounds each, with the same local step on the same data (``gradients``):

- ours: eight nodes as ``gossipnode start`` would run them, over lanes on loopback;
- gloo: eight processes of torch.distributed, which exchange with both neighbours, or all-reduce;
- the floor: the eight steps one after the other in one process, then the bytes of the sixteen
  models through one raw blocking socket.

Invariant: a ratio is the median over the turns of one contender's time by the other's, so that
whatever else the machine does falls on both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import Figure, median_ratio, present, standard_options
from benchmarks.gradients import learner_of
from benchmarks.teams import Gate, Team, TeamError, environment
from gossipnode.config import Config, PeerEntry
from gossipnode.learning.learner import NumpyLearner, TrainResult

NODES = 8
# Params -> rounds a block, turns (quick, full).
BLOCKS = {7_850: (40, (5, 30)), 1_000_000: (8, (3, 20))}
BARS = {7_850: 0.5, 1_000_000: 0.6}
WARM_UP = 2
# Nobody is given up on: a round without a model would be cheaper than it should be.
DEADLINE_S = 300.0


class GatedLearner(NumpyLearner):
    """A learner that waits at the gate before the first step of each block."""

    gate: Gate
    block: int
    over: Any

    @classmethod
    def of(cls, size: int, index: int, block: int) -> GatedLearner:
        """Return node ``index``'s learner."""
        learner = cls.__new__(cls)
        learner.__dict__ |= learner_of(size, index).__dict__
        learner.gate, learner.block = Gate(), block
        return learner

    def is_brief(self, steps: int) -> bool:
        """Whether a step is, and does not wait."""
        return self.steps_done % self.block != 0 and super().is_brief(steps)

    def train(self, params: Any, steps: int) -> TrainResult:
        """Wait if a block is done, then train; at the end call ``over`` and train no more."""
        if self.steps_done % self.block == 0 and not self.gate.arrive():
            self.over()
            return TrainResult(0.0, 0, self.samples)
        return super().train(params, steps)


# -- the workers ----------------------------------------------------------------------------------


def config_of(index: int) -> Config:
    """Return the config of node ``index``: one local step a round, nothing measured or kept."""
    return Config.model_validate(
        {
            "node": {"id": f"node-{index}"},
            "network": {"bind": "127.0.0.1", "port": 0},
            "algorithm": {
                "name": "dpsgd",
                "deadline_s": DEADLINE_S,
                "start_deadline_s": DEADLINE_S,
            },
            "training": {"local_steps": 1},
            "topology": {"graph": "ring"},
            "run": {"evaluate_every": 0},
            "checkpoint": {"enabled": False},
            "log": {"level": "warning"},
        }
    )


async def be_node(size: int, block: int, index: int, ports: list[int], descriptor: int) -> None:
    """Be a node until the parent closes the gate, then tell what was sent and what was missing."""
    from gossipnode.network import HttpNode

    learner = GatedLearner.of(size, index, block)
    peers = [
        PeerEntry(id=f"node-{i}", address=f"http://127.0.0.1:{p}") for i, p in enumerate(ports)
    ]
    listener = socket.socket(fileno=descriptor)
    async with HttpNode(config_of(index), peers=peers, learner=learner, listener=listener) as node:
        loop = asyncio.get_running_loop()
        learner.over = lambda: loop.call_soon_threadsafe(node.request_stop)
        await node.run()
        told = {
            "rounds": learner.steps_done,
            "bytes": node.counters.get("bytes_sent"),
            # The last round is cut short by the stop.
            "missing": node.counters.get("missing_models"),
            "by_post": node.counters.get("lane_fallbacks"),
        }
    learner.gate.tell(json.dumps(told) + "\n")


def be_floor(size: int, block: int) -> None:
    """Take the eight steps in turn and send sixteen models through a socket, with one answer."""
    learners = [learner_of(size, index) for index in range(NODES)]
    models = [learner.initial_params(0) for learner in learners]
    words = [sys.executable, "-c", RECEIVER, str(2 * NODES * models[0].nbytes)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        receiver = subprocess.Popen([*words, str(listener.getsockname()[1])], env=environment())
        connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    gate = Gate()
    while gate.arrive():
        for _ in range(block):
            for learner, model in zip(learners, models, strict=True):
                learner.train(model, 1)
            for model in models:
                connection.sendall(model.data)
                connection.sendall(model.data)
            connection.recv(1)
    connection.close()
    receiver.wait()


RECEIVER = """
import socket, sys
total = int(sys.argv[1])
connection = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
buffer = memoryview(bytearray(total // 16))
while True:
    left = total
    while left:
        got = connection.recv_into(buffer, min(left, len(buffer)))
        if not got:
            sys.exit()
        left -= got
    connection.sendall(b".")
"""


# -- measuring ------------------------------------------------------------------------------------


def ours(size: int, block: int, stack: contextlib.ExitStack) -> Team:
    """Start eight nodes."""
    listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(NODES)]
    ports = ",".join(str(one.getsockname()[1]) for one in listeners)
    words = ["-m", "benchmarks.ring", "--be", "node", str(size), str(block)]
    commands = [[*words, str(index), ports] for index in range(NODES)]
    return stack.enter_context(Team(commands, inherited=listeners))


def gloo(size: int, block: int, python: str, stack: contextlib.ExitStack) -> Team:
    """Start eight ranks; raises ``TeamError`` where there is no PyTorch."""
    probe = subprocess.run(
        [python, "-c", "import torch.distributed as d; d.is_gloo_available() or exit(1)"],
        capture_output=True,
        env=environment(),
        timeout=120,
        check=False,
    )
    if probe.returncode:
        raise TeamError("PyTorch is not installed")
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    words = ["-m", "benchmarks.gloo", f"{folder}/store", str(size), str(block)]
    commands = [[*words, str(rank), str(NODES)] for rank in range(NODES)]
    return stack.enter_context(Team(commands, python=python))


def measure(size: int, turns: int, python: str) -> Iterator[Figure]:
    """Yield the figures of swarms with ``size`` params."""
    block = BLOCKS[size][0]
    with contextlib.ExitStack() as stack:
        nodes = ours(size, block, stack)
        words = ["-m", "benchmarks.ring", "--be", "floor", str(size), str(block)]
        floor = stack.enter_context(Team([words]))
        ways: dict[str, tuple[Team, str]] = {"ours": (nodes, "g"), "floor": (floor, "g")}
        try:
            ranks = gloo(size, block, python, stack)
        except TeamError as error:
            print(f"gloo is left out: {error}", file=sys.stderr)
        else:
            ways |= {"gloo ring": (ranks, "r"), "gloo all-reduce": (ranks, "a")}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(WARM_UP + turns):
            for way, (team, command) in ways.items():
                taken = team.go(command) / block
                if turn >= WARM_UP:
                    times[way].append(taken)
        told = [json.loads(words) for words in nodes.last_words()]
    yield from figures(size, times, told)


def figures(
    size: int, times: dict[str, list[float]], told: list[dict[str, int]]
) -> Iterator[Figure]:
    """Yield what the times and the nodes' last words come to."""
    assert sum(one["missing"] for one in told) <= 2 * NODES, f"models were missing: {told}"
    assert sum(one["by_post"] for one in told) <= 2 * NODES, f"models went by POST: {told}"
    ring = f"ring of {NODES}, {size:,} params"
    for way, taken in times.items():
        key = f"ring_{size}_{way.replace(' ', '_').replace('-', '_')}"
        yield Figure(f"{key}_ms", f"{ring}: a round, {way}", statistics.median(taken) * 1e3, "ms")
    for way in times:
        if way != "ours":
            key = f"ring_{size}_to_{way.replace(' ', '_').replace('-', '_')}"
            bar = BARS[size] if way == "gloo ring" else None
            value = median_ratio(times["ours"], times[way])
            yield Figure(key, f"{ring}: ours / {way}", value, "", "less", bar)
    sent = statistics.median(one["bytes"] / one["rounds"] for one in told)
    what = f"{ring}: bytes a node sends a round / two models"
    yield Figure(f"ring_{size}_bytes", what, sent / (2 * 4 * size), "")


@click.command()
@standard_options
@click.option("--torch-python", default=sys.executable, help="An interpreter that has PyTorch.")
@click.option("--params", type=int, multiple=True, help="Only swarms with these params.")
@click.option("--be", "role", hidden=True)
@click.argument("words", nargs=-1)
def main(
    quick: bool,
    path: Path | None,
    torch_python: str,
    params: tuple[int, ...],
    role: str | None,
    words: tuple[str, ...],
) -> None:
    """Print what a round costs, beside gloo and the floor."""
    if role == "node":
        import uvloop

        size, block, index, ports, descriptor = words
        peers = [int(port) for port in ports.split(",")]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(be_node(int(size), int(block), int(index), peers, int(descriptor)))
    elif role == "floor":
        be_floor(int(words[0]), int(words[1]))
    else:
        chosen = {size: BLOCKS[size][1] for size in params or BLOCKS}
        found = (
            figure
            for size, (few, many) in chosen.items()
            for figure in measure(size, few if quick else many, torch_python)
        )
        present(found, path)


if __name__ == "__main__":
    main()
