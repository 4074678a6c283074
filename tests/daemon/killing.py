"""Kill a node with SIGKILL at random moments, over and over: what was durable is there again.

``python tests/daemon/killing.py --cycles 1000 --seed 0``: each cycle forks a process that has all
modules loaded, so that it runs a node of 0.3 MB within milliseconds. The node trains, gossips with
nobody, writes one checkpoint after the other, and says each age that it calls durable; its params
are all equal to its age. Exit code 1 where an age was lost or a state is not whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import select
import signal
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from gossipnode.config import Config
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.learning.tasks import Evaluation
from gossipnode.network import HttpNode

SIZE = 75_000  # float32: 0.3 MB
# How long a node lives on once it is ready, a checkpoint taking some 5 ms; or, for one in four,
# how long the process lives at all, so that starts are cut too.
LIFE_S_MAX = 0.12
# A node that says nothing in this time hangs.
PATIENCE_S = 60.0
TORN, ERROR = 3, 4


class Counting:
    """A learner that adds 1 to every param in each step."""

    samples = 1

    def __init__(self) -> None:
        self.layout = Layout.of({"x": (SIZE,)}, "float32")
        self.steps_done = 0

    def initial_params(self, seed: int) -> Any:
        return np.zeros(SIZE, np.float32)

    def train(self, params: Any, steps: int) -> TrainResult:
        params += steps
        self.steps_done += steps
        return TrainResult(0.0, steps, 1)

    def evaluate(self, params: Any) -> Evaluation:
        return Evaluation(0.0, None, 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"steps_done": self.steps_done}

    def restore(self, arrays: Any, meta: Any) -> None:
        self.steps_done = meta["steps_done"]

    def describe(self) -> dict[str, Any]:
        return {}


def config_of(folder: Path) -> Config:
    return Config.model_validate(
        {
            "node": {"id": "a", "data_dir": str(folder)},
            "network": {"port": 0},
            "algorithm": {"name": "gossip", "period_s": 0.0005},
            "topology": {"graph": "random"},
            "training": {"local_steps": 1},
            "run": {"evaluate_every": 0},
            "checkpoint": {"every_s": 0.0001},
        }
    )


async def live(folder: Path, pipe: int) -> int:
    """Run a node until killed; first say its epoch and the age that it begins with."""
    learner = Counting()
    async with HttpNode(config_of(folder), peers=(), learner=learner) as node:
        whole = np.all(node.params == node.age) and learner.steps_done == node.age
        os.write(pipe, struct.pack("<QQ", node.epoch, node.durable_age))
        if not whole or node.durable_age != node.age or node.memory.on_snapshot is not None:
            return TORN
        said = node.durable_age
        running = asyncio.create_task(node.run())
        while not running.done():
            await asyncio.sleep(0)
            if node.durable_age != said:
                said = node.durable_age
                os.write(pipe, struct.pack("<Q", said))
        await running
    return 0


def child(folder: Path, pipe: int) -> None:
    code = ERROR
    try:
        code = asyncio.run(live(folder, pipe))
    except BaseException as error:  # noqa: BLE001 - told, and the process ends
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def cycle(folder: Path, delay_s: float, *, from_ready: bool) -> tuple[bytes, int]:
    """Run one life and kill it; return what it said and how it ended."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        child(folder, writing)
    os.close(writing)
    said = b""
    if from_ready and select.select([reading], [], [], PATIENCE_S)[0]:
        said = os.read(reading, 2**16)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    while piece := os.read(reading, 2**16):
        said += piece
    os.close(reading)
    return said, status


def kill(folder: Path, cycles: int, seed: int) -> dict[str, int]:
    """Return what became of ``cycles`` lives: counts by name."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter(cycles=cycles)
    durable = epoch = 0
    for _ in range(cycles):
        delay_s, from_ready = rng.uniform(0.0, LIFE_S_MAX), rng.random() < 0.75
        said, status = cycle(folder, delay_s, from_ready=from_ready)
        if os.WIFEXITED(status):
            counts["torn" if os.WEXITSTATUS(status) == TORN else "errors"] += 1
        numbers = struct.unpack(f"<{len(said) // 8}Q", said[: len(said) // 8 * 8])
        if len(numbers) >= 2:
            counts["started"] += 1
            counts["epochs_again"] += numbers[0] <= epoch
            # What was found again must be what was durable, or newer.
            counts["lost"] += numbers[1] < durable
            epoch, durable = numbers[0], max(durable, *numbers[1:])
            counts["checkpoints"] += len(numbers) - 2
        counts["cut_in_a_write"] += any(folder.glob(".*.new"))
    counts["durable_age"] = durable
    for name in ("torn", "errors", "lost", "epochs_again", "cut_in_a_write"):
        counts.setdefault(name, 0)
    counts["damaged"] = len(list(folder.glob("*.broken")))
    return dict(counts)


def load_modules() -> None:
    """Live once, here: what is imported when first needed is there before the forks."""

    async def once(folder: Path) -> None:
        for _ in range(2):
            async with HttpNode(config_of(folder), peers=(), learner=Counting()):
                pass

    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(once(Path(scratch)))
    while threading.active_count() > 1:  # a thread would hold its locks in the children for ever
        time.sleep(0.001)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    load_modules()
    with tempfile.TemporaryDirectory() as scratch:
        counts = kill(options.folder or Path(scratch), options.cycles, options.seed)
    print(json.dumps(counts))
    bad = ("torn", "errors", "lost", "epochs_again", "damaged")
    sys.exit(any(counts[name] for name in bad))


if __name__ == "__main__":
    main()
