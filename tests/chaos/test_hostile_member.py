"""One node of 16 sends garbage, NaN and huge models all the time: the 15 others learn all the same.

The 15 are nodes on real loopback sockets, in this process. The sixteenth is a listed peer and a
script: it knows what the nodes check, claims high ages and the round of the day, and answers what
it is sent with noise.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from network.loopback import frame_for, head
from properties import longer

from gossipnode.config import Config, PeerEntry
from gossipnode.network import HttpNode

NODES, HOSTILE = 16, 15
ROUNDS = 60
EVERY_S = 0.002
PATIENCE_S = 60.0
ALGORITHMS: dict[str, dict[str, Any]] = {
    "dpsgd": {
        "algorithm": {"name": "dpsgd", "deadline_s": 0.5, "start_deadline_s": 0.5},
        "topology": {"graph": "torus"},
    },
    "gossip": {
        "algorithm": {"name": "gossip", "period_s": 0.05},
        "topology": {"graph": "random"},
    },
}


def options(folder: Path, i: int, algorithm: str, **sections: Any) -> Config:
    tree: dict[str, Any] = {
        "node": {"id": f"n{i}", "data_dir": str(folder / f"n{i}")},
        "run": {"rounds": ROUNDS, "evaluate_every": 0, "linger": True},
        "checkpoint": {"enabled": False},
        "network": {"push_timeout_s": 2.0, **sections.get("network", {})},
        **ALGORITHMS[algorithm],
    }
    return Config.model_validate(tree)


class Hostile:
    """Sends all sorts to ``victims``, each over a connection of its own, until cancelled."""

    def __init__(self, victims: list[HttpNode]) -> None:
        self.victims = victims
        self.sent: Counter[str] = Counter()
        self._seq = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer whatever comes with noise."""
        with contextlib.suppress(OSError):
            await reader.read(1000)
            writer.write(random.Random(self._seq).randbytes(500))
            await writer.drain()
        writer.close()

    def frames(self, node: HttpNode, rng: random.Random) -> Iterator[tuple[str, bytes]]:
        """Yield one after the other, for ever; each is of another kind, and new."""
        size, dtype = node.layout.size, node.params.dtype

        def model(value: float, count: int = size, **facts: Any) -> bytes:
            self._seq += 1
            claims = {"sender": f"n{HOSTILE}", "seq": self._seq, "age": 10**6, "round": node.round}
            return frame_for(node, np.full(count, value, dtype), **{**claims, **facts})

        while True:
            yield "noise", rng.randbytes(rng.randrange(1, 3000))
            yield "cut", model(1.0)[: rng.randrange(10, 500)]
            yield "wrong size", model(1.0, size - 1)
            yield "NaN", model(np.nan)
            yield "infinite", model(-np.inf)
            yield "huge", model(1e30)
            yield "huge", model(-1e30, round=node.round + 1)
            yield "largest", model(float(np.finfo(dtype).max))
            yield "huge, late", model(1e20, round=max(0, node.round - 1))

    async def harass(self, node: HttpNode) -> None:
        rng, port = random.Random(node.id), urlsplit(node.url).port
        for kind, frame in self.frames(node, rng):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    length = str(len(frame))
                    writer.write(head("POST", "/v1/push", content_length=length) + frame)
                    await reader.read(200)
                finally:
                    writer.close()
                self.sent[kind] += 1
            await asyncio.sleep(EVERY_S)


@dataclass
class Outcome:
    accuracy: float = 0.0
    magnitude: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def swarm(
    folder: Path, algorithm: str, count: int, **sections: Any
) -> AsyncIterator[tuple[list[HttpNode], Hostile]]:
    """Yield the first ``count`` of 16 nodes, none of which runs yet, and who may disturb them."""
    hostile = Hostile([])
    server = await asyncio.start_server(hostile.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        ports = await _ports(count)
        entries = [
            PeerEntry(id=f"n{i}", address=f"http://127.0.0.1:{p}")
            for i, p in enumerate([*ports, *[port] * (NODES - count)])
        ]
        nodes = []
        for i, own in enumerate(ports):
            network = {"port": own, **sections.get("network", {})}
            config = options(folder, i, algorithm, network=network)
            nodes.append(await stack.enter_async_context(HttpNode(config, peers=entries)))
        yield nodes, hostile
    server.close()


async def _ports(count: int) -> list[int]:
    servers = [await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) for _ in range(count)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


async def learn(folder: Path, algorithm: str, *, attacked: bool, **sections: Any) -> Outcome:
    """Return what came of the honest nodes, of which there are 16 where none is hostile."""
    count = HOSTILE if attacked else NODES
    async with swarm(folder, algorithm, count, **sections) as (nodes, hostile):
        running = [asyncio.create_task(node.run()) for node in nodes]
        # Its neighbours, where there is a graph; else everybody.
        near = [n for n in nodes if f"n{HOSTILE}" in n.neighbours] or nodes
        attack = [asyncio.create_task(hostile.harass(n)) for n in near] if attacked else []
        async with asyncio.timeout(PATIENCE_S):
            while not all(node.state in ("finished", "failed") for node in nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for task in attack:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*attack, return_exceptions=True)
        found = Outcome(sent=hostile.sent)
        honest = nodes[:HOSTILE]
        found.accuracy = fmean(node.status().accuracy or 0.0 for node in honest)
        found.magnitude = max(float(np.abs(node.params).max()) for node in honest)
        for node in honest:
            found.refused.update(node.counters.by_label("pushes_refused"))
        for node in nodes:
            node.request_stop()
        ends = await asyncio.gather(*running, return_exceptions=True)
        found.failed = [str(end) for end in ends if end is not None]
    return found


@pytest.mark.parametrize("algorithm", longer(ALGORITHMS, but=["dpsgd"]))
async def test_the_others_learn_as_if_it_were_honest(tmp_path: Path, algorithm: str) -> None:
    calm = await learn(tmp_path / "calm", algorithm, attacked=False)
    assert calm.accuracy > 0.85
    attacked = await learn(tmp_path / "attacked", algorithm, attacked=True)
    assert (calm.failed, attacked.failed) == ([], [])
    assert attacked.magnitude < 2 * calm.magnitude
    assert attacked.accuracy >= calm.accuracy - 0.01
    # It was at it all the time, in every way that it knows.
    assert len(attacked.sent) == 8
    assert min(attacked.sent.values()) >= 4
    for code in ("malformed_frame", "wrong_schema", "not_finite", "out_of_range"):
        assert attacked.refused[code] >= 4, attacked.refused


async def test_without_the_bound_they_end(tmp_path: Path) -> None:
    """So the attack is one, and it is the bound that holds it off: here training diverges."""
    sections = {"network": {"magnitude_ratio_max": 0.0}}
    spoiled = await learn(tmp_path, "gossip", attacked=True, **sections)
    assert spoiled.failed
    assert all("diverged" in words for words in spoiled.failed)
