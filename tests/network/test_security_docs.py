"""docs/security.md names tests that exist, and every reason for which a connection is refused."""

from __future__ import annotations

import re
from pathlib import Path

from gossipnode.network.trust.words import REASONS

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "security.md").read_text()


def test_every_test_of_the_threat_model_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOC))
    written = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"def (test_\w+)", path.read_text()))
    assert len(named) > 10
    assert named <= written
    for path in re.findall(r"`(tests/[\w/]+\.py)`", DOC):
        assert (ROOT / path).exists()


def test_every_reason_is_explained() -> None:
    table = DOC.split("## What a refused peer is told")[1].split("## Threat model")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row)} == set(REASONS)
