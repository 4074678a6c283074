"""Ports side by side: nodes with bundles on one machine, and what is said where one is taken."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import port_of, port_of_free
from loopback import config_of, get
from trusting import authority_in, bundle_of

from gossipnode.config import NetworkOptions, PeerEntry
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network import HttpNode
from gossipnode.network.ports import PortTakenError, bind, bind_pages, status_port
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.trust import Trust


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_in(tmp_path / "ca")


def free_in_a_row(count: int) -> int:
    """Return the first of ``count`` ports in a row that nobody has."""
    for first in range(20_000, 32_000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no ports in a row are free")


async def test_three_nodes_on_adjacent_ports_start_in_any_order(
    authority: Authority, tmp_path: Path
) -> None:
    first = free_in_a_row(6)
    bundles = [bundle_of(authority, name) for name in "abc"]
    entries = tuple(
        PeerEntry(id=bundle.member.id, address=f"https://127.0.0.1:{first + i}")
        for i, bundle in enumerate(bundles)
    )
    for order in ((0, 1, 2), (2, 1, 0)):
        async with contextlib.AsyncExitStack() as stack:
            for i in order:
                folder = tmp_path / f"{order[0]}{i}"
                config = config_of(folder, node={"id": ""}, network={"port": first + i})
                node = HttpNode(config, peers=entries, trust=Trust(bundles[i]))
                await stack.enter_async_context(node)
                # The same whoever starts first: monitoring may be told before.
                assert node.status_url == f"http://127.0.0.1:{first + 3 + i}"
                status = (await get(node.status_url, "/v1/status")).json()
                assert status["network"]["pages"] == node.status_url


@pytest.mark.parametrize(
    ("port", "beside", "due"),
    [
        (7946, (), 7947),
        (7946, (7946,), 7947),
        (7001, (7000, 7001, 7002), 7004),
        (7000, (7000, 7002, 7004), 7001),
        (7005, (7000, 7001), 7006),
        (0, (7000,), 0),
        (65_535, (), 0),
        (65_534, (65_535,), 0),
    ],
)
def test_the_port_that_is_due(port: int, beside: tuple[int, ...], due: int) -> None:
    assert status_port(NetworkOptions(port=port), beside) == due
    assert status_port(NetworkOptions(port=port, status_port=9), beside) == 9


async def test_where_the_port_that_is_due_is_taken_the_pages_move_and_say_so(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = free_in_a_row(2)
    config = config_of(tmp_path / "a", node={"id": ""}, network={"port": first})
    with socket.create_server(("127.0.0.1", first + 1)), caplog.at_level("WARNING", "gossipnode"):
        async with HttpNode(config, trust=Trust(bundle_of(authority, "a"))) as node:
            moved = int(node.status_url.rpartition(":")[2])
            assert moved != first + 1
            assert (await get(node.status_url, "/readyz")).status == 200
            assert node.status().network.pages == node.status_url
    (record,) = (r for r in caplog.records if r.getMessage() == "status.moved")
    assert record.levelno == logging.WARNING
    assert record.fields == {"taken": first + 1, "port": moved}  # type: ignore[attr-defined]


@contextlib.contextmanager
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield port_of(other)


async def test_a_port_that_was_asked_for_is_not_moved() -> None:
    with taken() as port, pytest.raises(PortTakenError, match=r"choose another port with --status"):
        await bind_pages(NetworkOptions(port=port_of_free(), status_port=port))


async def test_a_port_for_peers_that_pages_may_have_taken() -> None:
    with taken() as port:
        with pytest.raises(NetworkError, match=r"--port .*give that one --status-port"):
            await bind(NetworkOptions(port=port), is_secure=True)
        with pytest.raises(NetworkError) as caught:
            await bind(NetworkOptions(port=port))
        assert "--status-port" not in str(caught.value)


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "nowhere.invalid"])
async def test_what_is_no_address_of_this_machine_is_told_as_the_options_fault(host: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.bind: .* is no address of this machine"):
        await bind(NetworkOptions(bind=host, port=0))
