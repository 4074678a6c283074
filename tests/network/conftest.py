"""Nodes on real loopback sockets, each on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from loopback import StartNode, config_of

from gossipnode.config import PeerEntry
from gossipnode.network import HttpNode, partials, ways


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What lives on transports is tested on both loops, for asyncio's differ from uvloop's."""
    if item.path.name.startswith(("test_lane", "test_door", "test_unread")):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


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


@pytest.fixture
async def start_b(tmp_path: Path) -> AsyncIterator[StartNode]:
    """Starts nodes beside ``a``: node ``b``, unless called another."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            id_: str = "b", *, peers: tuple[PeerEntry, ...] = (), **sections: Any
        ) -> HttpNode:
            sections["node"] = {"id": id_, "data_dir": str(tmp_path / id_)}
            return await stack.enter_async_context(
                HttpNode(config_of(tmp_path / id_, **sections), peers=peers)
            )

        yield start


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte is large here."""
    for module in (partials, ways):
        monkeypatch.setattr(module, "RESUME_BYTES_MIN", 2**20)
