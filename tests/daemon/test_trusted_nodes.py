"""Nodes with bundles as one starts them by hand: they train, one is revoked, the others go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes import GOSSIPNODE, Process, free_ports, get, processes, until

NAMES = ("alpha", "beta", "gamma")


def run(folder: Path, *arguments: str) -> Any:
    """Run a verb to its end in ``folder`` and return what it says."""
    done = subprocess.run(
        [*GOSSIPNODE, *arguments, "--json"], cwd=folder, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def peer(status: Any, name: str) -> Any:
    return next(row for row in status["peers"] if row["name"] == name)


def test_three_train_and_whoever_is_revoked_is_cut(tmp_path: Path) -> None:
    ports = free_ports(6)
    run(tmp_path, "ca", "create", "digits")
    issued = run(
        tmp_path, "ca", "issue",
        *(f"{name}=127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=False)),
    )["bundles"]  # fmt: skip
    ids = {row["name"]: row["id"] for row in issued}

    with processes(tmp_path) as start:

        def node(i: int) -> tuple[Process, Callable[[], Any]]:
            process = start(
                "start", "--bundle", str(tmp_path / f"{NAMES[i]}.bundle"),
                "--set", f"network.status_port={ports[3 + i]}",
                "--set", "algorithm.deadline_s=0.5",
                log=f"{NAMES[i]}.log",
            )  # fmt: skip
            return process, lambda: get(f"http://127.0.0.1:{ports[3 + i]}/v1/status")

        nodes = [node(i) for i in range(3)]
        alpha, beta, gamma = (status for _, status in nodes)
        until(lambda: all((s := each()) and s["round"] > 20 for each in (alpha, beta, gamma)),
              "all three train")  # fmt: skip
        assert (alpha()["node_id"], alpha()["name"], alpha()["swarm"]) == (
            ids["alpha"], "alpha", "digits",
        )  # fmt: skip
        assert {row["id"] for row in alpha()["peers"]} == {ids["beta"], ids["gamma"]}
        assert alpha()["network"]["connections_refused"] == {}
        # The peers' port has nothing to say to whoever comes without a certificate.
        assert get(f"http://127.0.0.1:{ports[0]}/v1/status") is None

        # One of the three is told; the others hear it from there.
        run(tmp_path, "ca", "revoke", "gamma", "--tell", f"https://127.0.0.1:{ports[1]}")
        until(lambda: alpha()["network"]["revocations"] == 1, "alpha knows of it")
        # A deadline may have come first; the next try tells what is behind it.
        until(lambda: "revoked" in peer(alpha(), "gamma")["reason"], "alpha says why")
        assert peer(alpha(), "gamma")["state"] == "suspect"
        # What had arrived before is merged, and nothing after.
        received = peer(alpha(), "gamma")["pushes_received"]
        before = alpha()["round"], beta()["round"]
        until(lambda: alpha()["round"] > before[0] + 20 and beta()["round"] > before[1] + 20,
              "alpha and beta go on")  # fmt: skip
        assert peer(alpha(), "gamma")["pushes_received"] <= received + 1
        assert peer(alpha(), "beta")["state"] == "alive"
        words = f"the certificate of {ids['gamma']} was revoked"
        until(lambda: words in nodes[2][0].said(), "gamma is told why nobody hears it")

        for process, _ in nodes:
            process.signal(signal.SIGTERM)
        assert [process.ended() for process, _ in nodes] == [0, 0, 0]
        said = "".join(process.said() for process, _ in nodes)
    assert "Traceback" not in said
    assert "trust.revocations" in said


def test_a_newcomer_joins_with_a_bundle_that_nobody_knew_of(tmp_path: Path) -> None:
    ports = free_ports(4)
    run(tmp_path, "ca", "create", "digits")
    (first,) = run(tmp_path, "ca", "issue", f"first=127.0.0.1:{ports[0]}")["bundles"]
    (late,) = run(tmp_path, "ca", "issue", "late")["bundles"]
    with processes(tmp_path) as start:
        start(
            "start", "--bundle", str(tmp_path / "first.bundle"), "--algorithm", "gossip",
            "--period-s", "0.1", "--status-port", str(ports[2]), log="first.log",
        )  # fmt: skip
        pages = [f"http://127.0.0.1:{port}/v1/status" for port in ports[2:]]
        until(lambda: (get(pages[0]) or {}).get("age", 0) > 50, "the first has learnt something")
        start(
            "start", "--bundle", str(tmp_path / "late.bundle"),
            "--join", f"https://127.0.0.1:{ports[0]}", "--port", str(ports[1]),
            "--status-port", str(ports[3]), log="late.log",
        )  # fmt: skip
        until(lambda: (get(pages[1]) or {}).get("pushes", {}).get("merged", 0) > 3, "it hears")
        until(lambda: get(pages[0])["pushes"]["merged"] > 3, "it is heard")
        assert get(pages[1])["node_id"] == late["id"]
        assert get(pages[1])["age"] > 50  # it began with the first one's model
        assert {row["id"] for row in get(pages[0])["peers"]} == {late["id"]}
        assert {row["id"] for row in get(pages[1])["peers"]} == {first["id"]}
        assert get(pages[0])["network"]["connections_refused"] == {}


def test_a_plain_node_and_one_with_a_bundle_say_why_they_cannot(tmp_path: Path) -> None:
    ports = free_ports(3)
    run(tmp_path, "ca", "create", "digits")
    (issued,) = run(tmp_path, "ca", "issue", f"alpha=127.0.0.1:{ports[0]}")["bundles"]
    gossip = ("--algorithm", "gossip", "--period-s", "0.2", "--topology", "random")
    (tmp_path / "peers.toml").write_text(
        f'[[peer]]\nid = "{issued["id"]}"\naddress = "http://127.0.0.1:{ports[0]}"\n'
        f'[[peer]]\nid = "plain"\naddress = "http://127.0.0.1:{ports[2]}"\n'
    )
    with processes(tmp_path) as start:
        alpha = start(
            "start", "--bundle", str(tmp_path / "alpha.bundle"), "--status-port", str(ports[1]),
            *gossip, log="alpha.log",
        )  # fmt: skip
        url = f"http://127.0.0.1:{ports[1]}/v1/status"
        until(lambda: get(url), "alpha is there")
        plain = start(
            "start", "--id", "plain", "--swarm", "digits",
            "--peers", str(tmp_path / "peers.toml"), *gossip, log="plain.log",
        )  # fmt: skip
        until(lambda: "it speaks TLS alone" in plain.said(), "plain says why")
        until(lambda: "connection.refused" in alpha.said(), "alpha says why")
        assert "it does not speak TLS" in alpha.said()
        assert get(url)["network"]["connections_refused"]["not_tls"] >= 1
        assert get(url)["pushes"]["received"] == 0


def test_a_bundle_that_cannot_be_used_is_told_before_anything_listens(tmp_path: Path) -> None:
    run(tmp_path, "ca", "create", "digits")
    run(tmp_path, "ca", "issue", "alpha=127.0.0.1:1")
    path = tmp_path / "alpha.bundle"
    path.chmod(0o644)
    done = subprocess.run(
        [sys.executable, "-m", "gossipnode.cli", "start", "--bundle", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "chmod 600" in done.stderr.splitlines()[-1]
    assert not done.stdout
