"""The examples that train: they run as they stand, and what they learn is right."""

from __future__ import annotations

import asyncio
import csv
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gossipnode import Node, load_config, load_peers
from gossipnode.config import PeerEntry

EXAMPLES = Path(__file__).parents[1] / "examples"
UAV = EXAMPLES / "uav_regression"
DRONES = [f"drone-{number}" for number in range(4)]


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


async def test_the_python_api_example_learns_what_no_node_could_alone():
    example = module(EXAMPLES / "train_in_process.py")
    statuses = await example.train(nodes=3, rounds=60)
    assert [status.round for status in statuses] == [60, 60, 60]
    assert [status.pushes.missing_models for status in statuses] == [0, 0, 0]
    # Four classes a node: alone, none could be right about much more than four digits in ten.
    assert min(status.accuracy for status in statuses) > 0.9


def test_the_python_api_example_runs_as_a_script():
    path = EXAMPLES / "train_in_process.py"
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=60, check=True
    )
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "node-0",
        "node-1",
        "node-2",
    ]


def flights() -> list[np.ndarray]:
    tables = []
    for drone in DRONES:
        text = (UAV / f"{drone}.csv").read_text(encoding="utf-8")
        tables.append(np.array(list(csv.reader(text.splitlines()))[1:], dtype=float))
    return tables


def least_squares(table: np.ndarray) -> tuple[np.ndarray, int]:
    """Return weights and bias, and the rank of what was known."""
    wide = np.column_stack([table[:, :-1], np.ones(len(table))])
    solution, _, rank, _ = np.linalg.lstsq(wide, table[:, -1])
    return solution, int(rank)


async def fly(tmp_path: Path) -> list[np.ndarray]:
    """Run the four drones with the example's own config, and return their params."""
    # The example's own ports may be taken here: same ids in the same order, free ports.
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in DRONES]
    entries = []
    for entry, listener in zip(load_peers(UAV / "peers.toml"), listeners, strict=True):
        listener.setblocking(False)
        port = listener.getsockname()[1]
        entries.append(PeerEntry(id=entry.id, address=f"http://127.0.0.1:{port}"))

    async def one(drone: str, listener: socket.socket) -> np.ndarray:
        flags = {
            "node.id": drone,
            "data.source": f"csv:{UAV / drone}.csv",
            "node.data_dir": str(tmp_path / drone),
        }
        config = load_config(UAV / "node.toml", flags=flags)
        async with Node(config, peers=entries, listener=listener) as node:
            await node.run()
            return node.params

    async with asyncio.TaskGroup() as group:
        running = [
            group.create_task(one(drone, listener))
            for drone, listener in zip(DRONES, listeners, strict=True)
        ]
    return [task.result() for task in running]


async def test_the_drones_agree_on_the_least_squares_of_all_flights(tmp_path):
    expected, rank = least_squares(np.vstack(flights()))
    assert rank == 6
    for params in await fly(tmp_path):
        np.testing.assert_allclose(params, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("table", flights(), ids=DRONES)
def test_no_flight_alone_determines_the_model(table):
    assert least_squares(table)[1] == 5


def test_the_flights_are_those_that_the_script_writes(tmp_path):
    script = tmp_path / "make_data.py"
    script.write_text((UAV / "make_data.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, script], timeout=60, check=True)
    for drone in DRONES:
        written = (tmp_path / f"{drone}.csv").read_bytes()
        assert written == (UAV / f"{drone}.csv").read_bytes()
