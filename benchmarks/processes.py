"""Measure nodes as processes: start-up, memory, the loop's lag, and swarms of 64 and 128.

``python -m benchmarks.processes [--quick] [--json FILE]``. Everything is measured from outside, on
the commands that people run. Invariant: no data is needed but what is drawn here, a dataset of
MNIST's shape; and every process ends with the measurement that started it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import numpy as np

from benchmarks.figures import Figure, present, standard_options
from benchmarks.teams import environment

GOSSIPNODE = (sys.executable, "-m", "gossipnode.cli")
START_BAR_S, RESIDENT_BAR_MB = 0.7, 64.0
# A swarm of 128 on two cores; proportional set size in one of 64.
READY_BAR_S, PSS_BAR_MB = 30.0, 25.0
SWARMS = (64, 128)
ROUNDS = 5
# The loop's, the trainer's, the worker's, libuv's, the lifeline's: one more would be BLAS's.
THREADS_BAR = 5
# Rounds after which every one of them has been needed.
WORKED = 10
# Quick, or not.
REPETITIONS = {True: 3, False: 15}
IDLE_S = {True: 3.0, False: 10.0}
LAG_S = {True: 2.0, False: 15.0}
PATIENCE_S = 120.0


# -- processes ------------------------------------------------------------------------------------


def until(condition: Callable[[], Any], what: str, every_s: float = 0.02) -> Any:
    """Return the first true value of ``condition``; raises ``TimeoutError``."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(every_s)
    raise TimeoutError(f"waited {PATIENCE_S:.0f} s for {what}")


@contextlib.contextmanager
def command(
    folder: str,
    *words: str,
    output: IO[str] | int = subprocess.DEVNULL,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Any]:
    """Run ``gossipnode words`` in ``folder``; what is left of it is ended at the end."""
    process = subprocess.Popen(
        [*GOSSIPNODE, *words],
        cwd=folder,
        env={**environment(), **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def asked(port: int, path: str) -> bytes:
    """GET ``path``; empty where nobody answers with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200") else b""


class Held(NamedTuple):
    """What a process holds (bytes, threads) and has done (wakes, bytes read and written)."""

    rss: int
    pss: int
    threads: int
    wakes: int
    moved: int


def held(pid: int) -> Held:
    """Read ``/proc``."""

    def numbers(name: str) -> dict[str, int]:
        text = Path(f"/proc/{pid}/{name}").read_text(encoding="ascii", errors="replace")
        found = re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE)
        return {key: int(value) for key, value in found}

    memory, status, io = numbers("smaps_rollup"), numbers("status"), numbers("io")
    wakes = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)
        wakes += int(found.group(1)) if found else 0
    return Held(
        memory["Rss"] * 1024,
        memory["Pss"] * 1024,
        status["Threads"],
        wakes,
        io["rchar"] + io["wchar"],
    )


# -- one node -------------------------------------------------------------------------------------


def one_start(cache: str) -> tuple[float, int]:
    """Return how long a node took until /readyz answered, and its memory a second later.

    ``cache`` is a folder for bytecode, which pip leaves with a package and a source tree may lack.
    """
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        words = ["start", "--port", str(port), "--data-dir", folder, "--algorithm", "gossip"]
        words += ["--topology", "random", "--period-s", "3600"]
        began = time.perf_counter()
        with command(folder, *words, variables=compiled) as process:
            until(partial(asked, port, "/readyz"), "/readyz", 0.005)
            start_s = time.perf_counter() - began
            time.sleep(1.0)  # first-use pages come, start-up pages go
            return start_s, held(process.pid).rss


def one_node(repetitions: int) -> Iterator[Figure]:
    """Start ``gossipnode start`` again and again until /readyz answers; then look at its memory.

    The first start is not counted: it leaves bytecode for the others.
    """
    started, memory = [], []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(1 + repetitions):
            start_s, resident = one_start(cache)
            started.append(start_s)
            memory.append(resident)
    what = "gossipnode start, digits"
    value = statistics.median(started[1:])
    yield Figure("start_s", f"{what}: to the first /readyz", value, "s", "less", START_BAR_S)
    value = statistics.median(memory[1:]) / 1e6
    yield Figure("idle_rss_mb", f"{what}: resident when idle", value, "MB", "less", RESIDENT_BAR_MB)


def lag(seconds: float) -> Iterator[Figure]:
    """Ask /livez of one of two nodes that train without a pause and push 4 MB all the time."""
    with tempfile.TemporaryDirectory() as folder:
        # 1,000,000 params: 99,999 features and a bias, for each of ten classes.
        save_noise(Path(folder) / "wide.npz", 64, 99_999)
        ports = free_port(), free_port()
        peers = Path(folder) / "peers.toml"
        peers.write_text(
            "".join(
                f'[[peer]]\nid = "n{i}"\naddress = "http://127.0.0.1:{port}"\n'
                for i, port in enumerate(ports)
            )
        )
        with contextlib.ExitStack() as stack:
            for i in range(2):
                words = ["start", "--id", f"n{i}", "--peers", str(peers)]
                words += ["--data", "npz:wide.npz", "--algorithm", "gossip", "--topology", "random"]
                words += ["--period-s", "0.001", "--local-steps", "1", "--batch-size", "4"]
                words += ["--evaluate-every", "0", "--data-dir", f"{folder}/n{i}"]
                stack.enter_context(command(folder, *words, "--set", "checkpoint.enabled=false"))
            for port in ports:
                until(partial(asked, port, "/readyz"), "/readyz")
            before = json.loads(asked(ports[0], "/v1/status"))["pushes"]["merged"]
            began, taken = time.perf_counter(), []
            while time.perf_counter() - began < seconds:
                at = time.perf_counter()
                assert asked(ports[0], "/livez"), "the node did not answer"
                taken.append(time.perf_counter() - at)
                time.sleep(0.005)
            pushes = json.loads(asked(ports[0], "/v1/status"))["pushes"]
            merged = pushes["merged"] - before
    what = f"a node that trains and merges {merged / seconds:.0f} models of 4 MB a second: /livez"
    for name, value in (
        ("median", statistics.median(taken)),
        ("p99", percentile(taken, 0.99)),
        ("longest", max(taken)),
    ):
        yield Figure(f"lag_{name}_ms", f"{what}, {name}", value * 1e3, "ms")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that ``share`` of ``values`` do not exceed.

    >>> percentile([3.0, 1.0, 2.0, 4.0], 0.5)
    2.0
    """
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


# -- swarms ---------------------------------------------------------------------------------------


def save_noise(path: Path, samples: int, features: int) -> None:
    """Keep a dataset of ten classes that are hard to tell apart, drawn from a fixed seed."""
    rng = np.random.default_rng(3)
    y = np.arange(samples) % 10
    centres = rng.random((10, features), np.float32)
    x = centres[y] + rng.standard_normal((samples, features), np.float32)
    np.savez(path, x=x, y=y)


def swarm(nodes: int, folder: str) -> Iterator[Figure]:
    """Run five rounds of D-PSGD on data of MNIST's shape, to the end."""
    words = ["swarm", "-n", str(nodes), "--rounds", str(ROUNDS), "--data", "npz:mnist.npz"]
    words += ["--out", f"run-{nodes}", "--no-plot", "--json"]
    with command(folder, *words, output=subprocess.PIPE) as process:
        told, _ = process.communicate(timeout=PATIENCE_S)
    summary = json.loads(told)
    assert summary["rounds"] == ROUNDS, f"it did not come to its end: {summary}"
    assert not summary["failed_nodes"], summary["failed_nodes"]
    what, key = f"swarm of {nodes}, 7,850 params", f"swarm_{nodes}"
    bar = READY_BAR_S if nodes == 128 else None
    yield Figure(f"{key}_ready_s", f"{what}: all ready", summary["start_s"], "s", "less", bar)
    yield Figure(
        f"{key}_wall_s", f"{what}: {ROUNDS} rounds, launch to summary", summary["wall_s"], "s"
    )
    pss = summary["pss_bytes_mean"] / 1e6
    bar = PSS_BAR_MB if nodes == 64 else None
    yield Figure(f"{key}_pss_mb", f"{what}: proportional set size a node", pss, "MB", "less", bar)


def idle_swarm(nodes: int, folder: str, seconds: float) -> Iterator[Figure]:
    """Look at the nodes of a swarm that has nothing to do for ``seconds``."""
    words = ["swarm", "-n", str(nodes), "--rounds", "0", "--data", "npz:mnist.npz", "--no-plot"]
    words += ["--algorithm", "gossip", "--topology", "random", "--period-s", "3600"]
    out = Path(folder) / f"idle-{nodes}"
    with command(folder, *words, "--out", str(out)) as process:
        until(lambda: ready(out) == nodes, f"{nodes} nodes to be ready")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = [int(word) for word in children.read_text().split()]
        time.sleep(1.0)
        before = [held(pid) for pid in pids]
        time.sleep(seconds)
        after = [held(pid) for pid in pids]
    what, key = f"swarm of {nodes}, idle", f"idle_{nodes}"
    pss = statistics.fmean(one.pss for one in after) / 1e6
    yield Figure(f"{key}_pss_mb", f"{what}: proportional set size a node", pss, "MB")
    for name, unit, field in (("wakes", "1/s", "wakes"), ("moved", "kB/s", "moved")):
        growth = [getattr(b, field) - getattr(a, field) for a, b in zip(before, after, strict=True)]
        value = statistics.median(growth) / seconds / (1e3 if unit == "kB/s" else 1)
        text = "times a node wakes" if name == "wakes" else "bytes a node reads and writes"
        yield Figure(f"{key}_{name}", f"{what}: {text}", value, unit)


def working_swarm(nodes: int, folder: str) -> Iterator[Figure]:
    """Look at the nodes of a swarm in the midst of D-PSGD."""
    words = ["swarm", "-n", str(nodes), "--rounds", "0", "--data", "npz:mnist.npz", "--no-plot"]
    words += ["--evaluate-every", str(WORKED)]
    out = Path(folder) / f"working-{nodes}"
    with command(folder, *words, "--out", str(out)) as process:
        until(lambda: far(out, nodes), f"{nodes} nodes to do {WORKED} rounds")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        found = [held(int(word)) for word in children.read_text().split()]
    what, key = f"swarm of {nodes}, at work", f"working_{nodes}"
    threads = max(one.threads for one in found)
    yield Figure(
        f"{key}_threads", f"{what}: threads a node, at most", threads, "", "less", THREADS_BAR
    )
    pss = statistics.fmean(one.pss for one in found) / 1e6
    yield Figure(f"{key}_pss_mb", f"{what}: proportional set size a node", pss, "MB")


def far(out: Path, nodes: int) -> bool:
    """Return whether every node has measured itself after ``WORKED`` rounds."""
    history = out / "history.jsonl"
    text = history.read_text() if history.exists() else ""
    return text.count(f'"round": {WORKED},') == nodes


def ready(out: Path) -> int:
    """Return how many logs in the run's folder say that their node runs."""
    return sum("node.running" in log.read_text() for log in out.glob("node-*.log"))


def measurements(*, quick: bool) -> Iterator[Figure]:
    """Yield all figures."""
    yield from one_node(REPETITIONS[quick])
    yield from lag(LAG_S[quick])
    with tempfile.TemporaryDirectory() as folder:
        save_noise(Path(folder) / "mnist.npz", 10_000, 784)
        for nodes in SWARMS:
            yield from swarm(nodes, folder)
        yield from working_swarm(SWARMS[0], folder)
        for nodes in (8, SWARMS[-1]) if quick else (8, *SWARMS):
            yield from idle_swarm(nodes, folder, IDLE_S[quick])


@click.command()
@standard_options
def main(quick: bool, path: Path | None) -> None:
    """Print what nodes cost as processes."""
    present(measurements(quick=quick), path)


if __name__ == "__main__":
    main()
