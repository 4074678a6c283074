"""docs/http-api.md has every route and every field of the status, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from gossipnode.network import ROUTES
from gossipnode.network.events import HEARTBEAT_S, STREAMS_MAX
from gossipnode.network.pages import PEERS_PAGE_MAX
from gossipnode.network.server import MODELS_MAX
from gossipnode.node.status import (
    PEERS_SHOWN,
    BytesStatus,
    PeerPage,
    PeerStatus,
    PushStatus,
    Status,
)

DOC = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()


def section(heading: str) -> str:
    """The text under a heading, to the next one."""
    found = re.search(rf"^### `{re.escape(heading)}`$(.*?)(?=^#|\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"{heading} is not documented"
    return found[1]


def test_every_route_has_a_section_with_a_curl_example() -> None:
    headings = set(re.findall(r"^### `(.+)`$", DOC, re.MULTILINE))
    assert headings == {f"{route.method} {route.path}" for route in ROUTES}
    for route in ROUTES:
        example = re.search(
            r"```\n(curl .*?)```", section(f"{route.method} {route.path}"), re.DOTALL
        )
        assert example
        assert f"http://127.0.0.1:7946{route.path}" in example[1]


def names_in(table: str) -> set[str]:
    """The words in backticks in the first column."""
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_field_is_explained() -> None:
    status, pushes = section("GET /v1/status").split("`pushes`:\n")
    assert names_in(status) == {field.name for field in fields(Status)}
    assert names_in(pushes) == {field.name for field in fields(PushStatus)}
    assert names_in(section("GET /v1/peers")) == {field.name for field in fields(PeerStatus)}
    for field in fields(BytesStatus):
        assert f"`{field.name}`" in status


def test_the_numbers_are_the_real_ones() -> None:
    events = section("GET /v1/events")
    assert f"every {HEARTBEAT_S:g} s" in events
    assert f"{STREAMS_MAX} may listen" in events
    peers = section("GET /v1/peers")
    assert f"`limit` ({PEERS_SHOWN} if not given, {PEERS_PAGE_MAX} at most)" in peers
    assert f"at most {PEERS_SHOWN} of them" in section("GET /v1/status")
    assert all(f'"{field.name}": ' in peers for field in fields(PeerPage))
    assert MODELS_MAX == 4
    assert "Four clients" in section("GET /v1/model")
