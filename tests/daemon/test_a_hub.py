"""A hub that is killed: its clients wait, and go on with it when it is back, whatever it forgot."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from processes import Process, free_ports, get, processes, until, write_peers

NAMES = ("hub", "one", "two", "three")
DEADLINE_S = 60.0


def write_config(folder: Path, ports: list[int]) -> None:
    write_peers(folder, NAMES, ports)
    (folder / "node.toml").write_text(
        '[swarm]\npeers = "peers.toml"\n'
        f'[algorithm]\nname = "scaffold"\ndeadline_s = {DEADLINE_S}\n'
        "[checkpoint]\nevery_s = 0.2\n"
        "[run]\nevaluate_every = 50\n"
    )


def test_rounds_close_again_after_the_hub_was_killed_and_is_back(tmp_path: Path) -> None:
    ports = free_ports(4)
    write_config(tmp_path, ports)

    def status(i: int) -> Any:
        return get(f"http://127.0.0.1:{ports[i]}/v1/status") or {}

    def rounds() -> list[int]:
        return [status(i).get("round", 0) for i in range(4)]

    with processes(tmp_path) as start:

        def node(name: str) -> Process:
            return start(
                "start", "--config", str(tmp_path / "node.toml"), "--id", name,
                "--data-dir", str(tmp_path / name), log=f"{name}.log",
            )  # fmt: skip

        nodes = [node(name) for name in NAMES]
        until(lambda: status(0).get("durable_age", 0) > 0, "the hub has a checkpoint")
        behind = status(0)["round"]
        # Of the last rounds the hub knows nothing when it is back: its clients tell it.
        until(lambda: min(rounds()) > behind + 20, "all train")

        nodes[0].signal(signal.SIGKILL)
        assert nodes[0].ended() == -signal.SIGKILL
        before = max(rounds())
        nodes[0] = node(NAMES[0])
        # Far sooner than any deadline: what was lost with the hub is worked on anew.
        until(lambda: min(rounds()) > before + 20, "rounds close again", DEADLINE_S / 3)
        assert "checkpoint.loaded" in nodes[0].said()

        for process in nodes:
            process.signal(signal.SIGTERM)
        assert [process.ended() for process in nodes] == [0, 0, 0, 0]
    assert not any("Traceback" in process.said() for process in nodes)
