"""Five processes: one stands still, one stops, one is killed, and the others say so."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import Process, free_ports, get, processes, until

NODES = 5


class Swarm:
    """Processes that gossip, by number; ``says(i, j)`` is how node i thinks that j is."""

    def __init__(self, folder: Path, start: Callable[..., Process]) -> None:
        self.ports = free_ports(NODES)
        peers = folder / "peers.toml"
        peers.write_text(
            "".join(
                f'[[peer]]\nid = "n{i}"\naddress = "http://127.0.0.1:{port}"\n'
                for i, port in enumerate(self.ports)
            )
        )
        self._folder, self._start, self._peers = folder, start, peers
        self.processes = [self.start(i) for i in range(NODES)]

    def start(self, i: int, *more: str) -> Process:
        return self._start(
            "start", "--id", f"n{i}", "--peers", str(self._peers), "--algorithm", "gossip",
            "--set", "algorithm.period_s=0.5", "--data-dir", str(self._folder / f"data{i}"), *more,
            log=f"n{i}.log",
        )  # fmt: skip

    def status(self, i: int) -> Any:
        return get(f"http://127.0.0.1:{self.ports[i]}/v1/status")

    def row(self, i: int, j: int) -> dict[str, Any] | None:
        status = self.status(i)
        rows = status["peers"] if status else []
        return next((row for row in rows if row["id"] == f"n{j}"), None)

    def others_say(self, j: int, state: str) -> bool:
        return all(
            (row := self.row(i, j)) is not None and row["state"] == state
            for i in range(NODES)
            if i != j
        )

    def wait_for(self, j: int, state: str, patience_s: float = 60.0) -> float:
        """Wait until the others say that node j is ``state``; return after how long."""
        began = time.monotonic()
        until(lambda: self.others_say(j, state), f"all say that n{j} is {state}", patience_s)
        return time.monotonic() - began


@contextmanager
def swarm_in(folder: Path) -> Iterator[Swarm]:
    with processes(folder) as start:
        swarm = Swarm(folder, start)
        for j in range(NODES):
            swarm.wait_for(j, "alive")
        yield swarm


@pytest.mark.timeout(240)
def test_killed_standing_still_back_again_and_gone_in_good_order(tmp_path: Path) -> None:
    with swarm_in(tmp_path) as swarm:
        swarm.processes[4].signal(signal.SIGSTOP)
        silent_s = swarm.wait_for(4, "down")
        assert swarm.row(0, 4)["reason"]
        swarm.processes[4].signal(signal.SIGCONT)
        swarm.wait_for(4, "alive")
        assert swarm.status(4)["peers_by_state"]["down"] == 0

        before = len(swarm.processes[0].said())  # that one was not up yet is told there, too
        swarm.processes[3].signal(signal.SIGTERM)
        swarm.wait_for(3, "left")
        assert swarm.processes[3].ended() == 0
        assert "peer.suspected peer=n3" not in swarm.processes[0].said()[before:]

        swarm.processes[2].signal(signal.SIGKILL)
        until(lambda: swarm.row(0, 2)["state"] == "down", "n0 says that n2 is down")
        swarm.processes[2] = swarm.start(2)
        until(lambda: swarm.row(0, 2)["state"] == "alive", "n0 says that n2 is back")
        until(lambda: swarm.row(1, 2)["state"] == "alive", "n1 says so")
        assert "peer.returned peer=n2" in swarm.processes[0].said()
        print(f"down after {silent_s:.2f} s of silence")


@pytest.mark.timeout(180)
def test_of_two_processes_with_one_id_the_earlier_ends_with_what_to_do(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    peers = tmp_path / "peers.toml"
    peers.write_text(f'[[peer]]\nid = "seed"\naddress = "http://127.0.0.1:{port}"\n')
    common = ["--peers", str(peers), "--algorithm", "gossip", "--set", "algorithm.period_s=0.2"]

    with processes(tmp_path) as start:

        def twin(name: str) -> Process:
            folder = str(tmp_path / name)
            return start(
                "start", "--id", "twin", "--port", "0", "--data-dir", folder, *common,
                log=f"{name}.log",
            )  # fmt: skip

        def met() -> bool:
            status = get(f"http://127.0.0.1:{port}/v1/status")
            return bool(status) and any(row["id"] == "twin" for row in status["peers"])

        start("start", "--id", "seed", "--data-dir", str(tmp_path / "seed"), *common)
        first = twin("first")
        until(met, "the seed has met the first twin")
        second = twin("second")
        assert first.ended() == 3
        assert "id.duplicate" in first.said()
        assert "Give each node an id of its own" in first.said()
        until(lambda: "id.claimed" in second.said(), "the second says so")
        assert second.popen.poll() is None
