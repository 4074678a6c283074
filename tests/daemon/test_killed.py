"""A node is killed with SIGKILL 50 times at random moments; `make survive` does it 1,000 times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CYCLES = 50


@pytest.mark.timeout(300)
def test_no_durable_age_is_lost_and_no_torn_state_loaded(tmp_path: Path) -> None:
    words = [sys.executable, str(Path(__file__).with_name("killing.py"))]
    words += ["--cycles", str(CYCLES), "--folder", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    counts = json.loads(done.stdout)
    bad = ("lost", "torn", "errors", "epochs_again", "damaged")
    assert {name: counts[name] for name in bad} == dict.fromkeys(bad, 0), done.stderr
    # The moments were such as to be of interest.
    assert counts["started"] > CYCLES // 2
    assert counts["checkpoints"] > 0
    assert counts["cut_in_a_write"] > 0
