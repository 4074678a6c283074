"""``gossipnode simulate`` run here: its summary and what it keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_processes import Command

from gossipnode.cli import app

KEYS = {
    "engine", "nodes", "topology", "algorithm", "seed", "swarm_seed", "accuracy", "loss",
    "consensus_distance", "rounds", "virtual_s", "time_to_accuracy_s", "target_accuracy",
    "round_s", "bytes_sent", "bytes_saved", "bytes_per_node", "control_bytes_sent", "peers_down",
    "messages", "delivered", "faults",
    "down", "trace_hash", "out", "wall_s",
}  # fmt: skip


def simulated(capsys: pytest.CaptureFixture[str], *words: str, code: int = app.OK) -> Any:
    """Run the verb here and return the summary, which must be the kept one, too."""
    out = words[words.index("--out") + 1] if "--out" in words else "run"
    line = ["simulate", *words, "--json", "--no-plot"]
    assert app.run(line if "--out" in words else [*line, "--out", out]) == code
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert Path(out, "summary.json").read_text() == told
    return json.loads(told)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def without_time(summary: Any) -> Any:
    return {k: v for k, v in summary.items() if k not in ("wall_s", "out")}


def rounds_told(command: Command) -> bool:
    told = re.findall(r"round (\d+)/", command.err.read_text())
    return any(int(number) >= 10 for number in told)
