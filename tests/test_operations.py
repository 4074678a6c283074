"""docs/operations.md knows every alarm that is raised, and every limit with its default."""

from __future__ import annotations

import re
from pathlib import Path

from gossipnode.config import LogOptions, MembershipOptions, NetworkOptions, RunOptions
from gossipnode.node.counters import HELP

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
EVENT = re.compile(r'event\(\s*log,\s*([^"]*?),\s*"([^"]+)"')
BUG = re.compile(r'log\.(exception)\("([^"]+)"')
# Who listens where, and what is no limit.
NO_LIMITS = {
    "bind", "port", "advertise", "insecure", "lanes", "discover", "status_bind", "status_port",
    "status_token_file",
}  # fmt: skip


def alarms() -> set[str]:
    found = set()
    for path in (ROOT / "gossipnode").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for level, name in EVENT.findall(text) + BUG.findall(text):
            if level == "exception" or "WARNING" in level or "ERROR" in level:
                found.add(name)
    return found


def test_every_alarm_has_a_line() -> None:
    section = PAGE.split("## Alarms")[1]
    told = set(re.findall(r"\*\*([a-z_]+\.[a-z_]+)\*\*", section))
    found = alarms()
    assert len(found) > 15
    assert found <= told, found - told
    # node.failed is put together from the state; the rest of what is told must exist.
    assert told - found == {"node.failed", "checkpoint.recovered"}


def test_every_limit_is_told_with_its_default() -> None:
    rows = dict(re.findall(r"^\|[^|]*\| `([a-z.]+_?[a-z_]*)` \| ([^|]*) \|", PAGE, re.MULTILINE))
    limits = {f"network.{name}" for name in NetworkOptions.model_fields} - {
        f"network.{name}" for name in NO_LIMITS
    }
    assert limits <= rows.keys(), limits - rows.keys()
    network, told = NetworkOptions(), {key: text.replace(",", "") for key, text in rows.items()}
    assert told["network.connections_max"].startswith(f"{network.connections_max};")
    assert told["network.connections_per_address_max"] == str(network.connections_per_address_max)
    for name in ("header_timeout_s", "body_timeout_s", "lane_idle_s", "push_timeout_s"):
        assert told[f"network.{name}"] == f"{getattr(network, name):g} s"
    assert told["network.idle_timeout_s"].startswith(f"{network.idle_timeout_s:g} s")
    assert told["network.body_rate_min"].startswith(f"{network.body_rate_min / 1000:g} kB/s")
    kib = network.http_header_bytes_max // 1024
    assert told["network.http_header_bytes_max"].startswith(f"{kib} KiB")
    mib = network.inflight_bytes_max // 2**20
    assert told["network.inflight_bytes_max"].startswith(f"{mib} MiB")
    assert told["network.peers_max"].startswith(f"{network.peers_max};")
    membership = MembershipOptions()
    assert told["network.peers_max"].endswith(f"`membership.view` {membership.view}")
    assert told["membership.shuffle_size"].startswith(f"{membership.shuffle_size};")
    assert told["log.value_chars_max"] == f"{LogOptions().value_chars_max} characters"
    assert told["run.history_max"] == f"{RunOptions().history_max} rows"


def test_every_series_named_exists() -> None:
    named = set(re.findall(r"gossipnode_([a-z_]+)_total", PAGE))
    named |= set(re.findall(r"`([a-z_]+)\{", PAGE))
    assert named
    assert named <= HELP.keys()
