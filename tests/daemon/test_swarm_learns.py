"""Swarms of real processes reach what an independent numpy reference of the same run reached.

softmax, batch 32, η 0.1, τ 5, 200 rounds; mean test accuracy over the nodes. The bars leave room
for another shuffle, not for another algorithm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import processes

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist-t10k"
needs_mnist = pytest.mark.skipif(
    not MNIST.is_dir(), reason="the MNIST test set is not part of the repository"
)


def summary_of(folder: Path, *arguments: str) -> Any:
    """Run ``gossipnode swarm`` and return its summary; it must have ended well."""
    out = folder / "run"
    with processes(folder) as start:
        swarm = start("swarm", "--no-plot", "--out", str(out), *arguments, log="swarm.log")
        assert swarm.ended() == 0, swarm.said()
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize(
    ("reference", "bar", "arguments"),
    [
        pytest.param(0.945, 0.93, ["-n", "8"], id="digits-ring-iid"),
        pytest.param(
            0.90, 0.86, ["-n", "8", "--partition", "dirichlet:0.1"], id="digits-ring-dirichlet"
        ),
        pytest.param(
            0.904, 0.89, ["-n", "16", "--data", f"idx:{MNIST}"], id="mnist-ring-iid",
            marks=[needs_mnist, pytest.mark.long],
        ),
        pytest.param(
            0.893, 0.88,
            ["-n", "8", "--data", f"idx:{MNIST}", "--topology", "complete",
             "--partition", "dirichlet:0.1"],
            id="mnist-complete-dirichlet", marks=needs_mnist,
        ),
        # No reference: the same number of local steps as the first run.
        pytest.param(None, 0.93, ["-n", "8", "--algorithm", "gossip"], id="digits-gossip"),
    ],
)  # fmt: skip
def test_accuracy(
    tmp_path: Path, reference: float | None, bar: float, arguments: list[str]
) -> None:
    summary = summary_of(tmp_path, "--rounds", "200", *arguments)
    assert summary["failed_nodes"] == []
    assert summary["rounds"] == 200
    assert summary["accuracy"]["mean"] >= bar
    assert summary["accuracy"]["min"] <= summary["accuracy"]["mean"] <= summary["accuracy"]["max"]
    if reference is not None:
        # Far above the reference would be as suspicious as below the bar.
        assert summary["accuracy"]["mean"] <= reference + 0.03


@pytest.mark.timeout(300)
@pytest.mark.parametrize("nodes", [16, pytest.param(64, marks=pytest.mark.long)])
def test_many_processes_run_to_the_end(tmp_path: Path, nodes: int) -> None:
    words = ["-n", str(nodes), "--rounds", "10", "--set", "algorithm.deadline_s=60"]
    summary = summary_of(tmp_path, *words)
    assert (summary["nodes"], summary["rounds"], summary["failed_nodes"]) == (nodes, 10, [])
    # Every node pushed to both neighbours in every round, and nothing was given up.
    frame = 4 * 650 + 276
    assert summary["bytes_sent"] == pytest.approx(nodes * 2 * 10 * frame, rel=0.05)
    for log in sorted((tmp_path / "run").glob("node-*.log")):
        assert "peer.suspected" not in log.read_text(), log.name
