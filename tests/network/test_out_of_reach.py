"""A node that nobody can dial takes part over lanes that it opens; its address is not spread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import AtWork, config_of, until

from gossipnode.errors import NetworkError
from gossipnode.network import HttpNode
from gossipnode.network.sources import Sources

QUICK = {
    "algorithm": {"name": "gossip", "period_s": 0.05},
    "membership": {"shuffle_period_s": 0.3, "probes": False},
    "run": {"evaluate_every": 0},
    "checkpoint": {"enabled": False},
}
# Nobody listens there.
NOWHERE = "http://127.0.0.1:1"
Running = Callable[..., Awaitable[HttpNode]]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Starts nodes that train and push, each of which knows the ``seeds`` alone."""
    async with AtWork() as stack:

        async def start(name: str, *seeds: str, **network: Any) -> HttpNode:
            sections = {**QUICK, "node": {"id": name}}
            config = config_of(tmp_path / name, **sections, network=network)
            node = HttpNode(config)
            node.sources = Sources(seeds)
            return await stack.begin(node)

        yield start


def shown(node: HttpNode, peer: str) -> dict[str, Any]:
    found = [one for one in node.status().peers if one.id == peer]
    return {} if not found else {"reached": found[0].reached, "state": found[0].state}


def told(node: HttpNode) -> dict[str, str]:
    """Whom the node would hand on."""
    assert node.membership is not None
    assert node.membership.shuffle is not None
    return {entry.id: entry.address for entry in node.membership.shuffle.told(32)}


async def test_who_cannot_be_dialled_is_pushed_to_over_its_own_lanes(running: Running) -> None:
    a = await running("a")
    b = await running("b", a.url)
    hidden = await running("hidden", a.url, advertise=NOWHERE)
    for other in (a, b):
        await until(lambda other=other: shown(other, "hidden").get("reached") == "its lane")
        sent = other.peers["hidden"].pushes_sent
        await until(
            lambda other=other, sent=sent: (
                "hidden" in other.peers
                and other.peers["hidden"].pushes_sent > sent + 3
                and other.peers["hidden"].state == "alive"
            )
        )
    await until(lambda: hidden.counters.get("pushes_received") > 10)
    # It knows both; they know each other; and they would tell nobody of it.
    await until(lambda: told(hidden).keys() == {"a", "b"})
    await until(lambda: told(a) == {"b": b.url} and told(b) == {"a": a.url})
    assert hidden.shared_config()["peers"][-1]["address"] == NOWHERE
    for other in (a, b):
        rows = other.shared_config()["peers"]
        assert {row["id"] for row in rows} == {"a", "b"}
        assert other.peer_page("", 9).peers[0].reached


async def test_a_newcomer_is_handed_on_only_once_it_was_found_where_it_says(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await running("a")
    asked: list[str] = []

    async def nobody(address: str, timeout_s: float) -> str | None:
        asked.append(address)
        return "somebody-else"

    monkeypatch.setattr(a.world, "id_at", nobody)
    b = await running("b", a.url)
    await until(lambda: b.url in asked)
    assert "b" in a.peers
    assert told(a) == {}
    monkeypatch.undo()
    await until(lambda: told(a) == {"b": b.url})


async def test_a_node_that_dials_itself_finds_out_and_looks_further(running: Running) -> None:
    """The name stands for both nodes; each finds itself there, and the other one."""
    seeds: list[str] = []
    resolved: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        resolved.append(host)
        return [url.rpartition("//")[2].rpartition(":")[0] for url in seeds]

    port = 0
    nodes: list[HttpNode] = []
    for number in (1, 2, 3):
        bind = f"127.0.0.{number}"
        node = await running(f"n{number}", bind=bind, port=port)
        port = int(node.url.rpartition(":")[2])
        nodes.append(node)
        seeds.append(node.url)
    for node in nodes:
        node.sources = Sources([f"http://gossipnode:{port}"], resolver=resolver)
    for node in nodes:
        await until(lambda node=node: told(node).keys() == {f"n{i}" for i in (1, 2, 3)} - {node.id})
    assert set(resolved) == {"gossipnode"}
    assert all(not node.counters.by_label("pushes_refused") for node in nodes)


async def test_an_address_that_is_this_nodes_by_another_name_is_asked_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await running("a")
    other_name = a.url.replace("127.0.0.1", "localhost")
    asked: list[str] = []
    look = a.world.id_at

    async def noted(address: str, timeout_s: float) -> str | None:
        asked.append(address)
        return await look(address, timeout_s)

    monkeypatch.setattr(a.world, "id_at", noted)
    a.address = other_name  # behind a load balancer, say
    b = await running("b", bind="127.0.0.2")
    port = int(a.url.rpartition(":")[2])
    a.sources = Sources([f"http://127.0.0.1:{port}"])
    await until(lambda: asked == [a.url])
    a.sources = Sources([a.url, b.url])
    await until(lambda: told(a).keys() == {"b"})
    assert asked.count(a.url) == 1
    assert a.counters.by_label("pushes_refused") == {}


async def test_whoever_knows_nobody_any_more_resolves_the_name_again(running: Running) -> None:
    numbers = ["127.0.0.1"]

    async def resolver(host: str, port: int) -> list[str]:
        return numbers

    b = await running("b", bind="127.0.0.2")
    port = int(b.url.rpartition(":")[2])
    a = await running("a")
    a.sources = Sources([f"http://gossipnode:{port}"], resolver=resolver)
    await until(lambda: a.counters.get("controls_sent") == 0 and a.round > 3)
    assert len(a.peers) == 0
    numbers[:] = ["127.0.0.2"]  # the pod has moved
    await until(lambda: "b" in a.peers and "a" in b.peers)


async def test_the_last_peer_is_kept_though_it_is_gone_and_others_are_looked_for(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await running("b")
    a = await running("a", b.url)
    await until(lambda: told(a).keys() == {"b"})
    c = await running("c", bind="127.0.0.2")
    a.sources = Sources([c.url])

    async def refused(address: str, *_: Any) -> Any:
        if address == b.url:
            raise NetworkError("connection refused")
        return await push(address, *_)

    push = a.world.push
    monkeypatch.setattr(a.world, "push", refused)
    monkeypatch.setattr(a.world, "post", lambda *_: None)
    await until(lambda: "c" in a.peers)
    assert a.membership is not None
