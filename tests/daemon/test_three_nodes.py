"""Three nodes as one starts them by hand: one is killed, the others go on, it comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import Process, free_ports, get, processes, until, write_peers

NAMES = ("alpha", "beta", "gamma")


def write_config(folder: Path, ports: list[int]) -> None:
    write_peers(folder, NAMES, ports)
    (folder / "node.toml").write_text(
        '[swarm]\npeers = "peers.toml"\n'
        "[algorithm]\ndeadline_s = 20.0\n"
        "[checkpoint]\nevery_s = 0.2\n"
        "[run]\nevaluate_every = 50\n"
    )


def test_a_killed_node_resumes_from_its_checkpoint_and_catches_up(tmp_path: Path) -> None:
    ports = free_ports(3)
    write_config(tmp_path, ports)
    status = [lambda port=port: get(f"http://127.0.0.1:{port}/v1/status") for port in ports]

    with processes(tmp_path) as start:

        def node(name: str) -> Process:
            return start(
                "start", "--config", str(tmp_path / "node.toml"), "--id", name,
                "--data-dir", str(tmp_path / name), log=f"{name}.log",
            )  # fmt: skip

        alpha, beta, gamma = (node(name) for name in NAMES)
        until(lambda: all((s := each()) and s["round"] > 30 for each in status), "all train")
        until(lambda: (status[2]() or {}).get("durable_age", 0) > 0, "gamma has a checkpoint")

        gamma.signal(signal.SIGKILL)
        assert gamma.ended() == -signal.SIGKILL
        before = status[0]()["round"]
        # Twenty rounds in far less than twenty deadlines: nobody waits for the dead.
        until(lambda: status[0]()["round"] > before + 20, "alpha goes on without gamma", 15)
        assert peer(status[0], "gamma")["state"] == "suspect"
        assert peer(status[0], "gamma")["reason"]

        gamma = node("gamma")
        until(lambda: (status[2]() or {}).get("state") == "running", "gamma runs again")
        assert status[2]()["durable_age"] > 0
        assert "checkpoint.loaded" in gamma.said()
        until(lambda: peer(status[0], "gamma")["state"] == "alive", "alpha hears of gamma")
        until(lambda: abs(status[2]()["round"] - status[0]()["round"]) <= 5, "gamma has caught up")
        assert status[2]()["rounds_skipped"] > 0
        until(lambda: (status[2]()["accuracy"] or 0) > 0.9, "gamma has a good model")

        for process in (alpha, beta, gamma):
            process.signal(signal.SIGTERM)
        assert [process.ended() for process in (alpha, beta, gamma)] == [0, 0, 0]
    assert "node.stopped" in alpha.said()
    assert "Traceback" not in alpha.said() + beta.said() + gamma.said()


def peer(status: Callable[[], Any], name: str) -> Any:
    return next(row for row in status()["peers"] if row["id"] == name)
