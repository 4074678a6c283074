"""Swarms of real processes between which there are bad lines: on loopback, or in a lab.

Invariant: all that a test knows of a node it has from the node's own pages, its log and its files.
Every process ends with the block that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from chaos.namespaces import Lab
from chaos.proxy import FaultProxy
from daemon.processes import PATIENCE_S, Process, free_ports, get, processes, until

PORT = 7946
COMMON = """
[swarm]
peers = "peers.toml"
[run]
evaluate_every = 0
linger = true
"""
DPSGD = """
[algorithm]
name = "dpsgd"
deadline_s = {deadline_s}
[topology]
graph = "ring"
[training]
local_steps = 50
"""
GOSSIP = """
[algorithm]
name = "gossip"
period_s = {period_s}
[topology]
graph = "random"
"""


class Place(Protocol):
    """Where nodes listen."""

    def address(self, i: int) -> str:
        """Return where node ``i`` is, without any line between."""

    def arguments(self, i: int) -> list[str]:
        """Return the flags that make it listen there."""

    def inside(self, i: int) -> list[str]:
        """Return the words before its command."""

    def get(self, i: int, path: str) -> Any:
        """Return the JSON that it has at ``path``; None while it does not answer."""


class OnLoopback:
    def __init__(self, count: int) -> None:
        self.ports = free_ports(count)

    def address(self, i: int) -> str:
        return f"http://127.0.0.1:{self.ports[i]}"

    def arguments(self, i: int) -> list[str]:
        return ["--port", str(self.ports[i])]

    def inside(self, i: int) -> list[str]:
        return []

    def get(self, i: int, path: str) -> Any:
        return get(self.address(i) + path)


class InLab:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def address(self, i: int) -> str:
        return f"http://{self.lab.addresses[i]}:{PORT}"

    def arguments(self, i: int) -> list[str]:
        return ["--insecure", "--bind", self.lab.addresses[i], "--port", str(PORT)]

    def inside(self, i: int) -> list[str]:
        return self.lab.inside(i)

    def get(self, i: int, path: str) -> Any:
        return self.lab.get(i, PORT, path)


class Nodes:
    """``count`` processes, n0 to n…; ``dialled(i, j)`` is the address under which i knows j.

    ``toml`` is added to what all have in common; ``listed`` are those in the peer lists.
    """

    def __init__(
        self,
        folder: Path,
        start: Callable[..., Process],
        place: Place,
        count: int,
        toml: str,
        dialled: Callable[[int, int], str] | None = None,
        listed: Iterable[int] | None = None,
    ) -> None:
        self.folder, self.start, self.place, self.toml = folder, start, place, toml
        self.names = [f"n{i}" for i in range(count)]
        self.dialled = dialled or (lambda _, j: place.address(j))
        self.listed = range(count) if listed is None else list(listed)
        self.running: dict[int, Process] = {}

    def launch(self, *which: int, arguments: Iterable[str] = ()) -> None:
        """Start nodes, all of them by default; wait for none."""
        for i in which or range(len(self.names)):
            folder = self.folder / self.names[i]
            folder.mkdir(parents=True, exist_ok=True)
            lines = [
                f'[[peer]]\nid = "{self.names[j]}"\n'
                f'address = "{self.place.address(j) if i == j else self.dialled(i, j)}"\n'
                for j in self.listed
            ]
            (folder / "peers.toml").write_text("\n".join(lines))
            (folder / "node.toml").write_text(COMMON + self.toml)
            self.running[i] = self.start(
                "start", "--config", str(folder / "node.toml"), "--id", self.names[i],
                "--data-dir", str(folder), *self.place.arguments(i), *arguments,
                log=f"{self.names[i]}.log", inside=self.place.inside(i),
            )  # fmt: skip

    def stop(self, i: int, number: signal.Signals = signal.SIGKILL) -> int:
        """End a node by a signal and return its exit code."""
        process = self.running.pop(i)
        process.signal(number)
        return process.ended()

    def status(self, i: int) -> dict[str, Any]:
        """Return its status; empty while it does not answer."""
        return self.place.get(i, "/v1/status") or {}

    def round(self, i: int) -> int:
        return int(self.status(i).get("round", 0))

    def is_ready(self, i: int) -> bool:
        return (self.place.get(i, "/readyz") or {}).get("ready") is True

    def received(self, i: int, j: int) -> int:
        """Return how many pushes i has had from j."""
        rows = self.status(i).get("peers", [])
        return sum(row["pushes_received"] for row in rows if row["id"] == self.names[j])

    def all_at(self, round_: int) -> bool:
        return all(self.round(i) >= round_ for i in self.running)

    def wait_for_round(self, round_: int, patience_s: float = PATIENCE_S) -> None:
        until(lambda: self.all_at(round_), f"all are in round {round_}", patience_s)

    def go_on(self, rounds: int, *which: int, patience_s: float = PATIENCE_S) -> None:
        """Wait until each of ``which``, by default of all, has done so many rounds more."""
        before = {i: self.round(i) for i in which or self.running}
        until(
            lambda: all(self.round(i) >= was + rounds for i, was in before.items()),
            f"{[self.names[i] for i in before]} do {rounds} rounds more",
            patience_s,
        )

    def calm(self) -> None:
        """Fail if a node has met an error of its own."""
        for name in self.names:
            log = self.folder / f"{name}.log"
            said = log.read_text(errors="replace") if log.exists() else ""
            assert "Traceback" not in said, said[-3000:]
            assert "node.bug" not in said, said[-3000:]


@contextlib.contextmanager
def nodes(folder: Path, place: Place, count: int, toml: str, **more: Any) -> Iterator[Nodes]:
    """Make nodes, of which none runs yet; on the way out they end, and must have met no bug."""
    with processes(folder) as start:
        made = Nodes(folder, start, place, count, toml, **more)
        yield made
        made.calm()


Lines = Mapping[tuple[int, int], FaultProxy]


@contextlib.asynccontextmanager
async def lines(place: OnLoopback, pairs: Iterable[tuple[int, int]]) -> AsyncIterator[Lines]:
    """Yield a proxy for each (i, j), which is how i reaches j; the seed is the pair's number."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            (i, j): await stack.enter_async_context(FaultProxy(place.ports[j], seed))
            for seed, (i, j) in enumerate(pairs)
        }


def through(place: OnLoopback, proxies: Lines) -> Callable[[int, int], str]:
    """Return under which address i knows j: that of the proxy between, if there is one."""
    return lambda i, j: proxies[i, j].address if (i, j) in proxies else place.address(j)


async def aside(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do what blocks, while the proxies go on."""
    return await asyncio.to_thread(work, *arguments)


def metric(url: str, name: str) -> int:
    """Return the sum of a counter's series."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as response:
            text = response.read().decode()
    except (urllib.error.URLError, OSError):
        return 0
    found = [line.split() for line in text.splitlines() if line.startswith(f"gossipnode_{name}")]
    return sum(int(float(words[-1])) for words in found)
