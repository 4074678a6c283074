"""Names that stand for several addresses, of which some lead nowhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from laning import frame_to
from listening import full_listener, port_of_free
from loopback import PATIENCE_S, StartNode, until

from gossipnode.config import PeerEntry
from gossipnode.network import HttpNode, sockets, upgrade, view

NAME = "many.example"


def stand_for(patch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let ``NAME`` stand for these ports of loopback, in this order."""
    found = socket.getaddrinfo

    def resolve(host: str, *arguments: Any, **options: Any) -> Any:
        if host != NAME:
            return found(host, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", p)) for p in ports]

    patch.setattr(socket, "getaddrinfo", resolve)


def port_of(node: HttpNode) -> int:
    return int(node.url.rpartition(":")[2])


async def test_a_push_passes_by_an_address_that_swallows_packets(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv6 that is announced and leads nowhere: the next address is not kept waiting for it."""
    address = f"http://{NAME}:{port_of(node)}"
    b = await start_b(peers=(PeerEntry(id="a", address=address),))
    with full_listener() as silent:
        stand_for(monkeypatch, silent, silent, port_of(node))
        async with asyncio.timeout(sockets.CONNECT_S):
            receipt = await b.world.push(address, frame_to(node), PATIENCE_S)
    assert receipt.reply is not None
    assert receipt.reply.status == "merged"
    assert b.counters.get("lanes_opened") == 1


async def test_addresses_that_refuse_cost_no_time_and_the_last_reason_is_told(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_for(monkeypatch, *[port_of_free()] * 40, port_of(node))
    async with asyncio.timeout(20 * upgrade.NEXT_S):
        connection = await upgrade.connect(NAME, 1)
    with connection:
        assert connection.getpeername() == ("127.0.0.1", port_of(node))
    stand_for(monkeypatch, *[port_of_free()] * 3)
    with pytest.raises(ConnectionRefusedError):
        await upgrade.connect(NAME, 1)


async def test_what_is_tried_in_vain_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unclosed sockets would be warnings, which fail a test."""
    with full_listener() as silent:
        stand_for(monkeypatch, silent, silent)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * upgrade.NEXT_S):
                await upgrade.connect(NAME, 1)
        await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_who_is_asked_to_dial_back_passes_by_it_as_well(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor blamed a firewall for a peer that pushes reach."""
    with full_listener() as silent:
        stand_for(monkeypatch, silent, port_of(node))
        async with asyncio.timeout(view.DIAL_S):
            assert await view.dial(NAME, 1) == "connected"
        stand_for(monkeypatch, silent, port_of_free())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * upgrade.NEXT_S):
                await view.dial(NAME, 1)
    stand_for(monkeypatch, port_of_free(), port_of_free())
    assert await view.dial(NAME, 1) == "refused"
    stand_for(monkeypatch)
    assert await view.dial(NAME, 1) == "no_address"
