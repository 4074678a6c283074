"""Nodes on real loopback sockets, each on a port of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from loopback import StartNode, config_of

from gossipnode.config import PeerEntry
from gossipnode.network import HttpNode


@pytest.fixture
async def start_node(tmp_path: Path) -> AsyncIterator[StartNode]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, peers: tuple[PeerEntry, ...] = (), **sections: Any) -> HttpNode:
            node = HttpNode(config_of(tmp_path / "data", **sections), peers=peers)
            return await stack.enter_async_context(node)

        yield start


@pytest.fixture
async def node(start_node: StartNode) -> HttpNode:
    """Ready, and idle: it merges, but does not train or push."""
    return await start_node()
