"""CHOCO by four processes: one is killed and comes back, and all hold the right copies again."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

import pytest
from processes import Process, free_ports, get, processes, until

NAMES = ("alpha", "beta", "gamma", "delta")


def write_config(folder: Path, ports: list[int], codec: str) -> None:
    peers = "\n".join(
        f'[[peer]]\nid = "{name}"\naddress = "http://127.0.0.1:{port}"\n'
        for name, port in zip(NAMES, ports, strict=True)
    )
    (folder / "peers.toml").write_text(peers)
    (folder / "node.toml").write_text(
        '[swarm]\npeers = "peers.toml"\n'
        '[topology]\ngraph = "ring"\n'
        '[algorithm]\nname = "choco"\ndeadline_s = 20.0\n'
        f'[codec]\nname = "{codec}"\n'
        "[checkpoint]\nevery_s = 0.2\n"
        "[run]\nevaluate_every = 20\n"
    )


def resyncs(port: int) -> int:
    """Return how often a node sent x̂ whole."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    found = [line.split()[-1] for line in lines if line.startswith("gossipnode_resyncs")]
    return int(float(found[0]))


@pytest.mark.parametrize("codec", ["sign", "topk"])
def test_a_killed_node_comes_back_and_all_are_brought_up_to_date(
    tmp_path: Path, codec: str
) -> None:
    ports = free_ports(4)
    write_config(tmp_path, ports, codec)
    status = [lambda port=port: get(f"http://127.0.0.1:{port}/v1/status") for port in ports]

    with processes(tmp_path) as start:

        def node(name: str) -> Process:
            return start(
                "start", "--config", str(tmp_path / "node.toml"), "--id", name,
                "--data-dir", str(tmp_path / name), log=f"{name}.log",
            )  # fmt: skip

        _, _, gamma, _ = (node(name) for name in NAMES)
        until(lambda: all((s := each()) and s["round"] > 30 for each in status), "all train")
        until(lambda: (status[2]() or {}).get("durable_age", 0) > 0, "gamma has a checkpoint")
        gamma.signal(signal.SIGKILL)
        assert gamma.ended() == -signal.SIGKILL
        before = status[0]()["round"]
        until(lambda: status[0]()["round"] > before + 20, "alpha goes on without gamma", 15)

        gamma = node("gamma")
        until(lambda: (status[2]() or {}).get("state") == "running", "gamma runs again")
        assert "checkpoint.loaded" in gamma.said()
        # Its neighbours get its x̂ whole, and it gets theirs.
        until(lambda: all(resyncs(ports[i]) for i in (1, 2, 3)), "x̂ is sent whole")
        until(lambda: abs(status[2]()["round"] - status[0]()["round"]) <= 5, "gamma has caught up")
        there = status[0]()["round"]
        sent = [resyncs(port) for port in ports]
        until(lambda: all(each()["round"] > there + 50 for each in status), "all go on")
        assert [resyncs(port) for port in ports] == sent
        until(
            lambda: all((each()["accuracy"] or 0) > 0.85 for each in status),
            "all have learnt",
        )
