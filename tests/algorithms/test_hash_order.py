"""No order of a set decides anything: another seed of Python's hashes leaves a run as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from q16_swarms import HASTY, settings, simulated

from gossipnode.simulation import Link

FORMS: dict[str, dict[str, Any]] = {
    "allreduce": {},
    "gossip_pga": {"algorithm__every": 3},
    "aga": {"algorithm__every": 2, "algorithm__warm_up": 1},
    "powersgd": {},
    "choco": {"codec__name": "topk", "codec__fraction": 0.2},
    "power_gossip": {},
    "fedprox": {"algorithm__fraction": 0.5},
    "fedavg": {"algorithm__fraction": 0.5, "codec__name": "topk", "codec__fraction": 0.2},
    "scaffold": {"algorithm__fraction": 0.5},
    "fedbuff": {"algorithm__buffer": 5},
}


def digests(source: str) -> dict[str, str]:
    """Return the digest of a run of each form, in which messages and a node are lost."""
    found, link = {}, Link(latency_s=0.001, jitter_s=0.002, loss=0.1, duplicate=0.05)
    for name, more in FORMS.items():
        config = settings(
            source, name, 0.1, run__rounds=8, checkpoint__every_s=0.05, **{**HASTY, **more}
        )
        with simulated(config, seed=7, link=link, stores=True, step_s=0.005) as swarm:
            swarm.run(0.1)
            swarm.kill("n03")
            swarm.run(0.1)
            swarm.restart("n03")
            swarm.run_to_end(within=1000)
            found[name] = swarm.trace_hash
    return found


@pytest.mark.timeout(120)
def test_processes_whose_hashes_differ_run_alike(source: str) -> None:
    here = Path(__file__).parent
    script = "import sys, json, test_hash_order as t; print(json.dumps(t.digests(sys.argv[1])))"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, source],
            stdout=subprocess.PIPE,
            text=True,
            cwd=here,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{here}:{here.parent}"},
        )
        for seed in ("1", "2")
    ]
    one, other = (json.loads(child.communicate(timeout=100)[0]) for child in children)
    assert one.keys() == FORMS.keys()
    assert len(set(one.values())) == len(FORMS)
    assert one == other
