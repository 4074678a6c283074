"""Measure a push against a raw blocking socket that does the same acknowledged exchange.

``python -m benchmarks.push [--quick] [--json FILE]``. Three processes on loopback: this one sends
every frame; one receives from a blocking socket, with one buffer for ever; one is a node. Each
repetition sends the same frame each way, one after the other, so that whatever else the machine
does falls on all of them; the ratio is the median over the repetitions of raw time / our time.

*carried*: the frame is in the receiver's memory and acknowledged. *merged*: the receiver also
verifies the checksum, looks for values that are not finite and merges, the raw one with the same
functions. Invariant: nothing is timed but the exchange; frames are made, checksums included,
before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gossipnode.config import Config
from gossipnode.errors import PeerError
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout, all_finite, merge_into
from gossipnode.learning.tasks import Evaluation
from gossipnode.network import HttpClient, HttpNode
from gossipnode.node.inbox import Admission
from gossipnode.node.passive import Delivery
from gossipnode.wire.frame import Frame, FrameReader, encode, verify_checksum
from gossipnode.wire.message import Kind, Message, Part
from gossipnode.wire.reply import Reply

# Params: 340 KB (a LeNet), 4 MB, 100 MB.
SIZES = (85_098, 1_000_000, 25_000_000)
REPETITIONS = {False: (400, 100, 25), True: (80, 25, 7)}
WARM_UP = 3
PATIENCE_S = 60.0
# What the raw exchange puts before a frame, and what it answers: as the lane does.
RECORD_BYTES = 16
BARS = {"lane": 0.9, "post": 0.4}


class Still:
    """A learner of one vector that never learns."""

    samples = 1

    def __init__(self, size: int) -> None:
        self.layout = Layout.of({"x": (size,)}, "float32", ())

    def initial_params(self, seed: int) -> Any:
        """Return zeros."""
        del seed
        return self.layout.zeros()

    def train(self, params: Any, steps: int) -> TrainResult:
        """Change nothing."""
        del params
        return TrainResult(0.0, steps, 1)

    def evaluate(self, params: Any) -> Evaluation:
        """Return nothing of interest."""
        del params
        return Evaluation(0.0, 0.0, 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing."""
        return {}, {}

    def restore(self, arrays: Any, meta: Any) -> None:
        """Take nothing."""

    def describe(self) -> dict[str, Any]:
        """Say nothing."""
        return {}


class Sink(HttpNode):
    """A node that takes a body in and thanks for it, without a look at it."""

    async def deliver(self, admission: Admission, body: memoryview) -> Delivery:
        """Acknowledge."""
        del body
        self.release(admission)
        return Delivery(Reply("merged", self.id))


def config_of(name: str, folder: str) -> Config:
    """Return the config of an idle gossip node on a free port."""
    return Config.model_validate(
        {
            "node": {"id": name, "data_dir": folder},
            "network": {"bind": "127.0.0.1", "port": 0},
            "algorithm": {"name": "gossip", "period_s": 86_400.0},
            "topology": {"graph": "random"},
            "checkpoint": {"enabled": False},
            "log": {"level": "warning"},
        }
    )


# -- the receivers, each a process of its own -----------------------------------------------------


def receive_raw(size: int, *, merging: bool) -> None:
    """Take frames from one connection and answer each; the body goes into the same buffer."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    own, spare = (np.zeros(size, np.float32) for _ in range(2))
    answer = Reply("merged", "raw").encode()
    while True:
        record = bytearray(RECORD_BYTES)
        if not fill(connection, memoryview(record)):
            return
        head = bytearray(int.from_bytes(record[:8], "little"))
        fill(connection, memoryview(head))
        body = spare.view(np.uint8).data
        fill(connection, body)
        if merging:
            reader = FrameReader()
            reader.feed(head)
            assert reader.message is not None
            verify_checksum(reader.message, body)
            assert all_finite(spare)
            merge_into(spare, own, 0.5)
            assert all_finite(spare)
            own, spare = spare, own
        connection.sendall(bytes(RECORD_BYTES) + answer)


def fill(connection: socket.socket, view: memoryview) -> bool:
    """Read until ``view`` is full; False at the end of the connection."""
    filled = 0
    while filled < len(view):
        got = connection.recv_into(view[filled:])
        if not got:
            return False
        filled += got
    return True


async def receive_as_node(size: int, *, merging: bool) -> None:
    """Be a node until standard input ends."""
    with tempfile.TemporaryDirectory() as folder:
        kind = HttpNode if merging else Sink
        async with kind(config_of("receiver", folder), learner=Still(size), peers=()) as node:
            print(node.url, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def receiver(kind: str, size: int, *, merging: bool) -> Iterator[str]:
    """Start a receiving process; yields the line that it says first."""
    words = [sys.executable, "-m", "benchmarks.push", "--receive", kind, str(size)]
    words += ["--merging"] if merging else []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        if kind == "raw":
            process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()


# -- the ways to send -----------------------------------------------------------------------------

Send = Callable[[Frame], Awaitable[None]]


class RawSender:
    """The yardstick: blocking ``sendall`` of the same bytes, then a blocking read."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = memoryview(bytearray(RECORD_BYTES + len(Reply("merged", "raw").encode())))

    async def send(self, frame: Frame) -> None:
        """Exchange one frame; blocks the loop, which has nothing else to do."""
        record = len(frame.head).to_bytes(8, "little") + bytes(8)
        self._socket.sendall(record + frame.head)
        for view in frame.body:
            self._socket.sendall(view)
        assert fill(self._socket, self._answer)

    def close(self) -> None:
        """End the receiver."""
        self._socket.close()


@contextlib.asynccontextmanager
async def lane_sender(url: str, size: int) -> AsyncIterator[Send]:
    """The fast lane, as a node uses it."""
    with tempfile.TemporaryDirectory() as folder:
        async with HttpNode(config_of("sender", folder), learner=Still(size), peers=()) as node:

            async def send(frame: Frame) -> None:
                receipt = await node.world.push(url, frame, PATIENCE_S)
                check(receipt.reply)

            yield send
            assert node.counters.get("lane_fallbacks") == 0, "a push went another way"


@contextlib.asynccontextmanager
async def post_sender(url: str) -> AsyncIterator[Send]:
    """``POST /v1/push``."""
    async with HttpClient() as client:

        async def send(frame: Frame) -> None:
            receipt = await client.push(url, frame, PATIENCE_S)
            check(receipt.reply)

        yield send


def check(reply: Reply | None) -> None:
    """Stop where a push was not taken: its time would mean nothing."""
    if reply is None or reply.status != "merged":
        raise PeerError("malformed_frame", f"the receiver answered {reply}")


def frames(size: int) -> Iterator[Frame]:
    """Yield frames that differ in their sequence number and share one vector."""
    vector = np.full(size, 0.25, np.float32)
    schema = Still(size).layout.schema
    parts = (Part.of("x", vector),)
    seq = 0
    while True:
        seq += 1
        yield encode(
            Message(Kind.MODEL, "swarm", schema, "gossip", "sender", 1, seq, age=0, parts=parts),
            [vector],
        )


# -- measuring ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What one way of sending took: medians, and the median of the ratios pair by pair."""

    what: str
    nbytes: int
    way: str
    median_ms: float
    gigabytes_per_s: float
    ratio: float


async def measure(size: int, repetitions: int, *, merging: bool) -> list[Row]:
    """Send ``repetitions`` frames of ``size`` params each way, in turns."""
    async with contextlib.AsyncExitStack() as stack:
        port = stack.enter_context(receiver("raw", size, merging=merging))
        url = stack.enter_context(receiver("node", size, merging=merging))
        raw = RawSender(int(port))
        stack.callback(raw.close)
        ways: dict[str, Send] = {
            "raw": raw.send,
            "lane": await stack.enter_async_context(lane_sender(url, size)),
            "post": await stack.enter_async_context(post_sender(url)),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        made = frames(size)
        for number in range(WARM_UP + repetitions):
            for way, send in ways.items():
                frame = next(made)
                began = time.perf_counter()
                await send(frame)
                if number >= WARM_UP:
                    times[way].append(time.perf_counter() - began)
    what = "merged" if merging else "carried"
    return [row(what, 4 * size, way, times[way], times["raw"]) for way in ways]


def row(what: str, nbytes: int, way: str, taken: list[float], raw: list[float]) -> Row:
    """Sum up one way's times beside the raw ones of the same repetitions."""
    median = statistics.median(taken)
    ratio = statistics.median(r / t for r, t in zip(raw, taken, strict=True))
    return Row(what, nbytes, way, median * 1e3, nbytes / median / 1e9, ratio)


async def measure_all(*, quick: bool) -> list[Row]:
    """Measure all sizes, carried and merged, printing each row as it comes."""
    rows: list[Row] = []
    print(f"{'':8} {'bytes':>11} {'way':5} {'ms':>9} {'GB/s':>6} {'ratio':>6}")
    for merging in (False, True):
        for size, repetitions in zip(SIZES, REPETITIONS[quick], strict=True):
            for one in await measure(size, repetitions, merging=merging):
                rows.append(one)
                bar = BARS.get(one.way)
                note = "" if bar is None or merging else f"  bar {bar}"
                print(
                    f"{one.what:8} {one.nbytes:>11,} {one.way:5} {one.median_ms:>9.3f} "
                    f"{one.gigabytes_per_s:>6.2f} {one.ratio:>6.2f}{note}",
                    flush=True,
                )
    return rows


def run(coroutine: Any) -> Any:
    """Run on the loop that the daemon uses."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def main() -> None:
    """Measure, or be one of the receivers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.push", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--receive", nargs=2, metavar=("KIND", "PARAMS"), help=argparse.SUPPRESS)
    parser.add_argument("--merging", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        kind, size = options.receive[0], int(options.receive[1])
        if kind == "raw":
            receive_raw(size, merging=options.merging)
        else:
            run(receive_as_node(size, merging=options.merging))
        return
    rows = run(measure_all(quick=options.quick))
    if options.json:
        Path(options.json).write_text(json.dumps([one._asdict() for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
