"""Measure a push against a raw blocking socket that does the same acknowledged exchange.

``python -m benchmarks.push [--quick] [--tls] [--size 1GB] [--json FILE]``. Unless it is quick, all
sizes up to 1 GB, and all of it again over TLS. Three processes on
loopback: this one sends every frame; one receives from a blocking socket, with one buffer for ever;
one is a node. Each repetition sends the same frame each way, one after the other, so that whatever
else the machine does falls on all of them; the ratio is the median over the repetitions of raw
time / our time.

*carried*: the frame is in the receiver's memory and acknowledged. *merged*: the receiver also
verifies the checksum, looks for values that are not finite and merges, the raw one with the same
functions. Invariant: nothing is timed but the exchange; frames are made, checksums included,
before. With ``--tls`` all of them speak TLS 1.3, both ends verified. From 500 MB on, memory and the
loop's lag are told too, that of an idle loop beside it with them; what is posted comes after that.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from pathlib import Path
from ssl import SSLContext
from typing import Any

import numpy as np

from benchmarks import certificates
from benchmarks.control import Control
from benchmarks.push_rows import Row, Watched, row, show, tell_control, watched
from benchmarks.still import Sink, Still, config_of
from benchmarks.watching import Watch
from gossipnode.errors import PeerError
from gossipnode.learning.params import all_finite, merge_into
from gossipnode.network import HttpClient, HttpNode
from gossipnode.node.world import Posted, result
from gossipnode.wire.frame import Frame, FrameReader, encode, verify_checksum
from gossipnode.wire.message import Kind, Message, Part
from gossipnode.wire.reply import Reply

# Params: 340 KB (a LeNet), 4 MB, 100 MB; and 1 GB.
SIZES = (85_098, 1_000_000, 25_000_000)
HUGE = 250_000_000
# Bytes up to which so many repetitions are made; quick ones are a quarter.
REPETITIONS = {10**6: 400, 10**7: 100, 5 * 10**8: 25, 10**12: 5}
HUGE_BYTES = 5 * 10**8
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
WARM_UP = 3
PATIENCE_S = 60.0
# What the raw exchange puts before a frame, and what it answers: as the lane does.
RECORD_BYTES = 16

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


async def measure(
    size: int, repetitions: int, chosen: Collection[str], *, merging: bool, chain: Path | None
) -> list[Row | Watched]:
    """Send ``repetitions`` frames of ``size`` params by ``chosen`` and the yardstick, in turns."""
    tls = None if chain is None else certificates.contexts(chain)
    is_watched = 4 * size >= HUGE_BYTES and "lane" in chosen
    async with contextlib.AsyncExitStack() as stack:
        started = functools.partial(receiver, size=size, merging=merging, chain=chain)
        port, _ = stack.enter_context(started("raw"))
        url, process = stack.enter_context(started("node"))
        raw = RawSender(int(port), tls)
        stack.callback(raw.close)
        ways: dict[str, Send] = {"raw": raw.send}
        if "lane" in chosen:
            ways["lane"] = await stack.enter_async_context(lane_sender(url, size, tls))
        if "post" in chosen:
            ways["post"] = await stack.enter_async_context(post_sender(url, tls))
        control = stack.enter_context(Control()) if is_watched else None
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
        told: dict[str, dict[str, float]] = {}
        if control is not None:
            told = {"sender": watch.summary(), "receiver": finished(process)}
            tell_control(control.summary())
    what, is_tls = "merged" if merging else "carried", chain is not None
    rows = [row(what, 4 * size, way, times[way], times["raw"], is_tls) for way in ways]
    return rows + [watched(what, 4 * size, who, one, is_tls) for who, one in told.items()]


def finished(process: subprocess.Popen[str]) -> dict[str, float]:
    """End a receiving node and return what it has watched."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    found: dict[str, float] = json.loads(process.stdout.readline())
    return found


def repetitions_of(nbytes: int, *, quick: bool) -> int:
    """Return how often frames of ``nbytes`` are sent."""
    many = next(count for limit, count in REPETITIONS.items() if nbytes <= limit)
    return max(many // 4, 3) if quick else many


async def measure_all(
    sizes: Sequence[int], *, quick: bool, chain: Path | None
) -> list[Row | Watched]:
    """Measure all sizes, carried and merged, printing each row as it comes."""
    rows: list[Row | Watched] = []
    print(f"{'':8} {'bytes':>11} {'way':5} {'ms':>9} {'GB/s':>6} {'ratio':>6}")
    for merging in (False, True):
        for size in sizes:
            repetitions = repetitions_of(4 * size, quick=quick)
            # What is posted would count to the memory and the lag of the lane.
            plans = (("lane",), ("post",)) if 4 * size >= HUGE_BYTES else (("lane", "post"),)
            for chosen in plans:
                found = await measure(size, repetitions, chosen, merging=merging, chain=chain)
                rows += [one for one in found if one.way != "raw" or chosen == plans[0]]
                for one in found:
                    if isinstance(one, Row):
                        show(one)
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
    sizes = options.size or (SIZES if options.quick else (*SIZES, HUGE))
    rows: list[Row | Watched] = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "chain.pem"
        certificates.make(made)
        for chain in [made] if options.tls else [None] if options.quick else [None, made]:
            print("over TLS" if chain else "plain")
            rows += run(measure_all(sizes, quick=options.quick, chain=chain))
    if options.json:
        Path(options.json).write_text(json.dumps([one._asdict() for one in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
