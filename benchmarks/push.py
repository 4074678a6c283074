"""Measure a push against a raw blocking socket that does the same acknowledged exchange.

``python -m benchmarks.push [--quick] [--tls] [--size 1GB] [--json FILE]``. Three processes on
loopback: this one sends every frame; one receives from a blocking socket, with one buffer for ever;
one is a node. Each repetition sends the same frame each way, one after the other, so that whatever
else the machine does falls on all of them; the ratio is the median over the repetitions of raw
time / our time.

*carried*: the frame is in the receiver's memory and acknowledged. *merged*: the receiver also
verifies the checksum, looks for values that are not finite and merges, the raw one with the same
functions. Invariant: nothing is timed but the exchange; frames are made, checksums included,
before. With ``--tls`` all of them speak TLS 1.3, both ends verified. From 500 MB on, memory and the
loop's lag are told too, that of an idle loop beside it with them, and nothing is posted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from ssl import SSLContext
from typing import Any, NamedTuple

import numpy as np

from benchmarks import certificates
from benchmarks.control import Control
from benchmarks.still import Sink, Still, config_of
from benchmarks.suite import PUSH_BARS
from benchmarks.watching import Watch
from gossipnode.errors import PeerError
from gossipnode.learning.params import all_finite, merge_into
from gossipnode.network import HttpClient, HttpNode
from gossipnode.node.world import Posted, result
from gossipnode.wire.frame import Frame, FrameReader, encode, verify_checksum
from gossipnode.wire.message import Kind, Message, Part
from gossipnode.wire.reply import Reply

# Params: 340 KB (a LeNet), 4 MB, 100 MB.
SIZES = (85_098, 1_000_000, 25_000_000)
# Bytes up to which so many repetitions are made; quick ones are a quarter.
REPETITIONS = {10**6: 400, 10**7: 100, 5 * 10**8: 25, 10**12: 5}
HUGE_BYTES = 5 * 10**8
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
WARM_UP = 3
PATIENCE_S = 60.0
# What the raw exchange puts before a frame, and what it answers: as the lane does.
RECORD_BYTES = 16
TLS_BARS = {("carried", "100,000,000 B", "lane"): 0.7}

Tls = tuple[SSLContext, SSLContext]


# -- the receivers, each a process of its own -----------------------------------------------------


def receive_raw(size: int, *, merging: bool, tls: Tls | None) -> None:
    """Take frames from one connection and answer each; the body goes into the same buffer."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        connection = tls[0].wrap_socket(connection, server_side=True)
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


async def receive_as_node(size: int, *, merging: bool, tls: Tls | None) -> None:
    """Be a node until a line comes on standard input; then tell what was watched."""
    with tempfile.TemporaryDirectory() as folder:
        kind = HttpNode if merging else Sink
        config = config_of("receiver", folder)
        async with kind(config, learner=Still(size), peers=(), tls=tls) as node:
            watch = Watch(lambda: node.inbox.inflight_bytes > 0)
            watch.start()
            print(node.url, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            watch.stop()
            print(json.dumps(watch.summary()), flush=True)


@contextlib.contextmanager
def receiver(
    kind: str, size: int, *, merging: bool, chain: Path | None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a receiving process; yields the line that it says first, and the process."""
    words = [sys.executable, "-m", "benchmarks.push", "--receive", kind, str(size)]
    words += ["--merging"] if merging else []
    words += [] if chain is None else ["--chain", str(chain)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
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

    def __init__(self, port: int, tls: Tls | None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls[1].wrap_socket(self._socket, server_hostname="127.0.0.1")
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
async def lane_sender(url: str, size: int, tls: Tls | None) -> AsyncIterator[Send]:
    """The fast lane, as a node uses it."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of("sender", folder)
        async with HttpNode(config, learner=Still(size), peers=(), tls=tls) as node:

            async def send(frame: Frame) -> None:
                answered: asyncio.Future[Posted] = asyncio.get_running_loop().create_future()
                if node.world.post(url, frame, PATIENCE_S, answered.set_result) is None:
                    receipt = await node.world.push(url, frame, PATIENCE_S)
                else:
                    receipt = result(await answered)
                check(receipt.reply)

            yield send
            assert node.counters.get("lane_fallbacks") == 0, "a push went another way"


@contextlib.asynccontextmanager
async def post_sender(url: str, tls: Tls | None) -> AsyncIterator[Send]:
    """``POST /v1/push``."""
    async with HttpClient(tls[1] if tls is not None else None) as client:

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


async def measure(size: int, repetitions: int, *, merging: bool, chain: Path | None) -> list[Row]:
    """Send ``repetitions`` frames of ``size`` params each way, in turns."""
    tls = None if chain is None else certificates.contexts(chain)
    is_huge = 4 * size >= HUGE_BYTES
    async with contextlib.AsyncExitStack() as stack:
        started = functools.partial(receiver, size=size, merging=merging, chain=chain)
        port, _ = stack.enter_context(started("raw"))
        url, process = stack.enter_context(started("node"))
        raw = RawSender(int(port), tls)
        stack.callback(raw.close)
        ways: dict[str, Send] = {
            "raw": raw.send,
            "lane": await stack.enter_async_context(lane_sender(url, size, tls)),
        }
        if not is_huge:
            ways["post"] = await stack.enter_async_context(post_sender(url, tls))
        control = stack.enter_context(Control()) if is_huge else None
        current = ""
        watch = Watch(lambda: current == "lane")
        watch.start()
        times: dict[str, list[float]] = {way: [] for way in ways}
        made = frames(size)
        for number in range(WARM_UP + repetitions):
            for way, send in ways.items():
                frame = next(made)
                await asyncio.sleep(0)
                current = way
                with contextlib.nullcontext() if control is None else control.during(way):
                    began = time.perf_counter()
                    await send(frame)
                    taken = time.perf_counter() - began
                current = ""
                if number >= WARM_UP:
                    times[way].append(taken)
        watch.stop()
        if is_huge:
            tell("sender", 4 * size, watch.summary())
            tell("receiver", 4 * size, finished(process))
        if control is not None:
            tell_control(control.summary())
    what = "merged" if merging else "carried"
    return [row(what, 4 * size, way, times[way], times["raw"]) for way in ways]


def row(what: str, nbytes: int, way: str, taken: list[float], raw: list[float]) -> Row:
    """Sum up one way's times beside the raw ones of the same repetitions."""
    median = statistics.median(taken)
    ratio = statistics.median(r / t for r, t in zip(raw, taken, strict=True))
    return Row(what, nbytes, way, median * 1e3, nbytes / median / 1e9, ratio)


def finished(process: subprocess.Popen[str]) -> dict[str, float]:
    """End a receiving node and return what it has watched."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found


def tell(who: str, nbytes: int, watched: dict[str, float]) -> None:
    """Print the peak of memory and the loop's lag of one process."""
    models = (watched["peak"] - watched["base"]) / nbytes
    print(
        f"  {who}: base {watched['base'] / 1e6:.0f} MB + {models:.2f} models at most (bar 4); loop "
        f"lag {watched['lag_ms']:.1f} ms at 99.9 % (bar 20), {watched['lag_ms_max']:.1f} ms at "
        f"most, {watched['samples']} samples",
        flush=True,
    )


def tell_control(found: dict[str, dict[str, float]]) -> None:
    """Print how late an idle loop was in another process meanwhile."""
    for way, one in found.items():
        print(
            f"  an idle loop beside {way}: lag {one['lag_ms']:.1f} ms at 99.9 %, "
            f"{one['lag_ms_max']:.1f} ms at most, {one['samples']} samples",
            flush=True,
        )


def repetitions_of(nbytes: int, *, quick: bool) -> int:
    """Return how often frames of ``nbytes`` are sent."""
    many = next(count for limit, count in REPETITIONS.items() if nbytes <= limit)
    return max(many // 4, 3) if quick else many


async def measure_all(sizes: Sequence[int], *, quick: bool, chain: Path | None) -> list[Row]:
    """Measure all sizes, carried and merged, printing each row as it comes."""
    bars = PUSH_BARS if chain is None else TLS_BARS
    rows: list[Row] = []
    print(f"{'':8} {'bytes':>11} {'way':5} {'ms':>9} {'GB/s':>6} {'ratio':>6}")
    for merging in (False, True):
        for size in sizes:
            repetitions = repetitions_of(4 * size, quick=quick)
            for one in await measure(size, repetitions, merging=merging, chain=chain):
                rows.append(one)
                bar = bars.get((one.what, f"{one.nbytes:,} B", one.way))
                note = "" if bar is None else f"  bar {bar}"
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


def params_of(text: str) -> int:
    """Return the float32 params of a size such as 1GB.

    >>> params_of("340KB"), params_of("1GB")
    (85000, 250000000)
    """
    return int(float(text[:-2]) * UNITS[text[-2:].upper()] / 4)


def main() -> None:
    """Measure, or be one of the receivers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.push", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--tls", action="store_true", help="everything over TLS 1.3")
    parser.add_argument("--size", action="append", type=params_of, help="such as 340KB or 1GB")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--receive", nargs=2, metavar=("KIND", "PARAMS"), help=argparse.SUPPRESS)
    parser.add_argument("--merging", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--chain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        kind, size = options.receive[0], int(options.receive[1])
        tls = None if options.chain is None else certificates.contexts(options.chain)
        if kind == "raw":
            receive_raw(size, merging=options.merging, tls=tls)
        else:
            run(receive_as_node(size, merging=options.merging, tls=tls))
        return
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem" if options.tls else None
        if chain is not None:
            certificates.make(chain)
        rows = run(measure_all(options.size or SIZES, quick=options.quick, chain=chain))
    if options.json:
        Path(options.json).write_text(json.dumps([one._asdict() for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
