"""Three nodes in one process learn digits together: the Python API in one page.

    python examples/train_in_process.py

The digits are dealt out by class, so that no node sees all ten: alone, none of them could tell
more than the digits that it holds. Each node is the one that ``gossipnode start`` runs, with a
port of its own on loopback; only where they live is special here.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gossipnode import Config, Node
from gossipnode.config import PeerEntry
from gossipnode.node.status import Status


def config_of(node_id: str, data_dir: Path, rounds: int) -> Config:
    """Return the options of one node; what is not named here keeps its default."""
    return Config.model_validate(
        {
            "node": {"id": node_id, "data_dir": str(data_dir / node_id)},
            "data": {"source": "digits", "partition": "classes:4"},
            "training": {"local_steps": 5, "batch_size": 32, "learning_rate": 0.1},
            "algorithm": {"name": "dpsgd"},
            "topology": {"graph": "ring"},
            "run": {"rounds": rounds, "evaluate_every": 0},
        }
    )


async def run_node(config: Config, peers: Sequence[PeerEntry], listener: socket.socket) -> Status:
    """Run one node until its rounds are done, and return its last status."""
    async with Node(config, peers=peers, listener=listener) as node:
        await node.run()
        return node.status()


async def train(nodes: int = 3, rounds: int = 60) -> list[Status]:
    """Run a swarm of ``nodes`` in this process and return how each of them ended."""
    # Bound before any node starts: every node must know all addresses, and a port that is only
    # looked up could be taken by somebody else meanwhile.
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(nodes)]
    peers = []
    for number, listener in enumerate(listeners):
        listener.setblocking(False)
        port = listener.getsockname()[1]
        peers.append(PeerEntry(id=f"node-{number}", address=f"http://127.0.0.1:{port}"))
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(
                    run_node(config_of(peer.id, Path(folder), rounds), peers, listener)
                )
                for peer, listener in zip(peers, listeners, strict=True)
            ]
    return [task.result() for task in running]


def main() -> None:
    """Train, and say what came of it."""
    for status in asyncio.run(train()):
        print(
            f"{status.node_id}: accuracy {status.accuracy:.3f} after {status.round} rounds, "
            f"{status.samples} samples of its own, {status.pushes.merged} models merged"
        )


if __name__ == "__main__":
    main()
