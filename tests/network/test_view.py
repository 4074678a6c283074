"""``POST /v1/view``: what it tells, and whom a node dials for it: never whom a stranger names."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from listening import full_listener, port_of, port_of_free
from loopback import Answer, Connection, StartNode, config_of, get, head
from trusting import authority_in, bundle_of

from gossipnode.config import PeerEntry
from gossipnode.network import HttpNode, view
from gossipnode.network.trust.trust import Trust


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(20)
        yield made


async def ask(url: str, query: str = "", **headers: str) -> Answer:
    async with Connection(url) as connection:
        return await connection.get(f"/v1/view{query}", "POST", **headers)


async def test_it_tells_who_it_is_what_time_it_is_and_where_one_comes_from(node: HttpNode) -> None:
    before = time.time()
    told = (await ask(node.url)).json()
    assert before <= told.pop("time") <= time.time()
    assert told == {
        "node_id": "a", "swarm": "swarm", "from": "127.0.0.1", "proven": None,
        "dialled": None, "outcome": None,
    }  # fmt: skip


async def test_it_dials_back_and_sends_nothing(node: HttpNode, listener: socket.socket) -> None:
    told = (await ask(node.url, f"?port={port_of(listener)}")).json()
    assert (told["dialled"], told["outcome"]) == (["127.0.0.1", port_of(listener)], "connected")
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(64) == b""


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_an_address_of_ipv4_is_told_as_such_by_a_node_that_listens_on_both(
    start_node: StartNode, listener: socket.socket
) -> None:
    """The doctor compares it with the address that peers are told."""
    network = {"bind": "::", "insecure": True, "advertise": "http://127.0.0.1:1"}
    node = await start_node(network=network)
    url = f"http://127.0.0.1:{node.url.rpartition(':')[2]}"
    told = (await ask(url, f"?port={port_of(listener)}")).json()
    assert told["from"] == "127.0.0.1"
    assert (told["dialled"], told["outcome"]) == (["127.0.0.1", port_of(listener)], "connected")


async def test_a_port_where_nobody_listens_refuses(node: HttpNode, listener: socket.socket) -> None:
    listener.close()
    told = (await ask(node.url, f"?port={port_of_free()}")).json()
    assert told["outcome"] == "refused"


async def test_a_host_that_is_named_is_not_dialled(node: HttpNode) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        other.setblocking(False)
        for name in ("host", "address", "url", "to"):
            query = f"?{name}=http://127.0.0.2:{port_of(other)}&port={port_of(other)}"
            told = (await ask(node.url, query)).json()
            assert told["dialled"] == ["127.0.0.1", port_of(other)]
            assert told["outcome"] == "refused"
        with pytest.raises(BlockingIOError):
            other.accept()


@pytest.mark.parametrize(
    "passed_on",
    [{"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}, {"Via": "1.1 proxy"}],
    ids=lambda headers: next(iter(headers)),
)
async def test_nothing_is_dialled_for_whoever_comes_through_a_proxy(
    passed_on: dict[str, str], node: HttpNode, listener: socket.socket
) -> None:
    told = (await ask(node.url, f"?port={port_of(listener)}", **passed_on)).json()
    assert told["dialled"] is None


async def test_a_node_on_a_network_does_not_dial_its_own_machine(
    start_node: StartNode, listener: socket.socket
) -> None:
    node = await start_node(network={"advertise": "http://192.0.2.9:7946"})
    told = (await ask(node.url, f"?port={port_of(listener)}")).json()
    assert (told["from"], told["dialled"]) == ("127.0.0.1", None)


@pytest.mark.parametrize(
    ("method", "query", "headers", "status", "code"),
    [
        ("POST", "?port=0", {}, 400, "bad_query"),
        ("POST", "?port=65536", {}, 400, "bad_query"),
        ("POST", "?port=-1", {}, 400, "bad_query"),
        ("POST", "?port=ssh", {}, 400, "bad_query"),
        ("POST", "?port=22", {"Origin": "http://page"}, 403, "not_a_neighbour"),
        ("GET", "?port=22", {}, 405, "method_not_allowed"),
    ],
)
async def test_what_is_wrong_is_refused(
    method: str, query: str, headers: dict[str, str], status: int, code: str, node: HttpNode
) -> None:
    answer = await get(node.url, f"/v1/view{query}", method, **headers)
    assert (answer.status, answer.json()["code"]) == (status, code)


async def test_few_are_dialled_at_a_time(node: HttpNode, monkeypatch: pytest.MonkeyPatch) -> None:
    go, under_way = asyncio.Event(), 0

    async def dial(*_: Any) -> str:
        nonlocal under_way
        under_way += 1
        await go.wait()
        return "connected"

    monkeypatch.setattr(view, "dial", dial)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(node.url, "?port=1")) for _ in range(view.DIALS_MAX)]
        while under_way < view.DIALS_MAX:  # noqa: ASYNC110 - it knows no event
            await asyncio.sleep(0.001)
        answer = await ask(node.url, "?port=1")
        assert (answer.status, answer.json()["code"]) == (503, "busy")
        assert (await ask(node.url)).status == 200  # which dials nobody
        go.set()
    assert [task.result().json()["outcome"] for task in asked] == ["connected"] * view.DIALS_MAX
    assert (await ask(node.url, "?port=1")).json()["outcome"] == "connected"


async def test_silence_is_no_refusal(node: HttpNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full lets a newcomer wait, as a firewall does that drops."""
    monkeypatch.setattr(view, "DIAL_S", 0.2)
    with full_listener() as port:
        told = (await ask(node.url, f"?port={port}")).json()
        assert told["outcome"] == "timeout"


async def test_a_member_is_dialled_where_it_is_listed_and_nowhere_else(tmp_path: Path) -> None:
    authority = authority_in(tmp_path / "ca")
    with socket.create_server(("127.0.0.2", 0)) as listed:
        listed.settimeout(20)
        address = f"https://127.0.0.2:{port_of(listed)}"
        b = bundle_of(authority, "b", address=address)
        a = bundle_of(authority, "a")
        peers = (PeerEntry(id=b.member.id, address=address),)
        config = config_of(tmp_path / "a", node={"id": ""})
        async with HttpNode(config, peers=peers, trust=Trust(a)) as node:
            from gossipnode.network import HttpClient

            async with HttpClient(Trust(b).dialling) as client:
                heard = await client.ask("POST", f"{node.url}/v1/view?port=22")
            assert heard.status == 200
            assert f'"proven": "{b.member.id}"'.encode() in heard.body
            assert f'"dialled": ["127.0.0.2", {port_of(listed)}]'.encode() in heard.body
            assert b'"outcome": "connected"' in heard.body
            listed.accept()[0].close()
            # The pages have no such route.
            async with Connection(node.status_url) as connection:
                await connection.send(head("POST", "/v1/view"))
                assert (await connection.answer()).status == 404
