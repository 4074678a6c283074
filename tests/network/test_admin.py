"""Stopping and reloading over HTTP: who may, who may not and why, and what then happens."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from loopback import PATIENCE_S, Answer, Connection, StartNode, config_of, get, until
from trusting import DAY, authority_in, bundle_of, context_of, now

from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError
from gossipnode.network import HttpClient, HttpNode
from gossipnode.network.admin import PATHS, RELOAD, STOP
from gossipnode.network.tokens import ADMIN_FILE, kept_token, read_token
from gossipnode.network.trust.authority import Authority, self_signed
from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.identity import Member, member_of


def token_of(node: HttpNode) -> str:
    return (Path(node.config.node.data_dir) / ADMIN_FILE).read_text().strip()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def post(url: str, path: str, host: str = "127.0.0.1", **headers: str) -> Answer:
    """POST without a body, to ``host`` by its header."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    async with Connection(url) as connection:
        await connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return await connection.answer()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_in(tmp_path / "ca")


async def trusted(stack: AsyncExitStack, folder: Path, bundle: Bundle, **trust: str) -> HttpNode:
    """A node whose bundle is in a file, as that of a user."""
    path = folder / "a.bundle"
    bundle.write(path)
    config = config_of(
        folder / "data", node={"id": ""}, trust={"bundle": str(path), **trust},
        network={"status_port": 0},
    )  # fmt: skip
    return await stack.enter_async_context(HttpNode(config))


@pytest.fixture(params=["plain", "pages"])
async def node(
    request: pytest.FixtureRequest, tmp_path: Path, authority: Authority
) -> AsyncIterator[HttpNode]:
    """One without trust, on its one port; and one with, on that of its pages."""
    async with AsyncExitStack() as stack:
        if request.param == "plain":
            yield await stack.enter_async_context(HttpNode(config_of(tmp_path / "data")))
        else:
            yield await trusted(stack, tmp_path, bundle_of(authority, "a"))


# -- who may --------------------------------------------------------------------------------------


async def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    async with HttpNode(config_of(tmp_path / "data")) as node:
        token = token_of(node)
    assert len(token) >= 43  # 256 bits
    assert stat.S_IMODE((tmp_path / "data" / ADMIN_FILE).stat().st_mode) == 0o600
    async with HttpNode(config_of(tmp_path / "data")) as node:
        assert token_of(node) == token
    async with HttpNode(config_of(tmp_path / "other")) as node:
        assert token_of(node) != token


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("who", "status", "label"),
    [
        ("no token", 401, "token"),
        ("a wrong token", 401, "token"),
        ("half of the token", 401, "token"),
        ("the token as a password", 401, "token"),
        ("the token in the query", 401, "token"),
        ("another host", 421, "host"),
        ("the address of the network", 421, "host"),
        ("no host", 421, "host"),
        ("a web page", 403, "origin"),
    ],
)
async def test_nobody_else_may(
    path: str, who: str, status: int, label: str, node: HttpNode
) -> None:
    token = token_of(node)
    good, host, query = bearer(token), "localhost", ""
    if who == "no token":
        good = {}
    elif who == "a wrong token":
        good = bearer("x" * len(token))
    elif who == "half of the token":
        good = bearer(token[: len(token) // 2])
    elif who == "the token as a password":
        good = {"Authorization": "Basic " + base64.b64encode(f"a:{token}".encode()).decode()}
    elif who == "the token in the query":
        good, query = {}, f"?token={token}"
    elif who == "a web page":
        good["Origin"] = "http://127.0.0.1"
    else:
        host = {"another host": "page.example", "no host": ""}.get(who, "192.0.2.2")
    answer = await post(node.status_url, path + query, host, **good)
    assert (answer.status, token.encode() in answer.body) == (status, False)
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert node.counters.by_label("requests_refused") == {label: 1}
    assert node.ready


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7947", "[::1]:80", "LocalHost."])
async def test_the_owner_may(host: str, node: HttpNode) -> None:
    answer = await post(node.status_url, RELOAD, host, **bearer(token_of(node)))
    assert answer.status == 200
    assert set(answer.json()) == {"certificate_ends", "revocations"}
    answer = await get(node.status_url, STOP, "OPTIONS")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def own_number() -> str:
    """Return an address of this machine that is not loopback; empty where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


@pytest.mark.skipif(not own_number(), reason="this machine is on no network")
@pytest.mark.parametrize("path", PATHS)
async def test_nobody_may_over_the_network(path: str, start_node: StartNode) -> None:
    number = own_number()
    network = {"bind": "0.0.0.0", "insecure": True, "advertise": f"http://{number}:1"}
    node = await start_node(network=network)
    port = urlsplit(node.url).port
    token = bearer(token_of(node))
    answer = await post(f"http://{number}:{port}", path, "localhost", **token)
    assert (answer.status, answer.json()["code"]) == (403, "not_local")
    assert node.counters.by_label("requests_refused") == {"remote": 1}
    assert (await post(f"http://127.0.0.1:{port}", RELOAD, "localhost", **token)).status == 200


async def test_the_port_of_the_peers_has_no_such_thing(
    authority: Authority, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        node = await trusted(stack, tmp_path, bundle_of(authority, "a"))
        tls = context_of(bundle_of(authority, "b"), serving=False)
        async with HttpClient(tls, token=token_of(node)) as client:
            for path in PATHS:
                assert (await client.ask("POST", node.url + path)).status == 404
        assert node.ready


async def test_a_node_without_a_folder_has_no_owner(start_node: StartNode, tmp_path: Path) -> None:
    node = await start_node(checkpoint={"enabled": False})
    assert (await post(node.url, STOP, **bearer("x" * 43))).status == 404
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("short", 0o600, "is no token"),
        ("", 0o600, "is no token"),
        ("with a space " * 4, 0o600, "is no token"),
        ("x" * 513, 0o600, "is no token"),
        ("x" * 43, 0o644, "chmod 600"),
    ],
)
def test_a_file_that_is_no_token_is_refused(
    text: str, mode: int, told: str, tmp_path: Path
) -> None:
    path = tmp_path / ADMIN_FILE
    path.write_text(text)
    path.chmod(mode)
    for read in (lambda: read_token(path), lambda: kept_token(tmp_path)):
        with pytest.raises(ConfigError, match=told) as caught:
            read()
        assert not text or text not in str(caught.value)


async def test_the_token_is_in_no_log(node: HttpNode, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await post(node.status_url, RELOAD, **bearer(token_of(node)))
        await post(node.status_url, STOP, "page", **bearer(token_of(node)))
    said = repr([record.__dict__ for record in caplog.records])
    assert "node.reloaded" in said
    assert token_of(node) not in said


# -- what then happens ----------------------------------------------------------------------------


async def test_stop_ends_the_run_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    gossip = {"name": "gossip", "period_s": 0.01}
    async with HttpNode(config_of(tmp_path / "data", algorithm=gossip)) as node:
        run = asyncio.create_task(node.run())
        await until(lambda: node.age > 0)
        answer = await post(node.url, STOP, **bearer(token_of(node)))
        assert (answer.status, answer.json()) == (202, {"stopping": True})
        async with asyncio.timeout(PATIENCE_S):
            await run
    assert node.state == "stopped"
    assert node.durable_age == node.age > 0
    assert list((tmp_path / "data").glob("*.safetensors"))


async def shown_by(url: str, bundle: Bundle) -> Member:
    """Return whose certificate a new handshake at ``url`` is shown."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=context_of(bundle, serving=False)
    )
    try:
        secure: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return member_of(secure.getpeercert(binary_form=True) or b"")
    finally:
        writer.transport.abort()
        del reader


async def reload(node: HttpNode) -> Answer:
    return await post(node.status_url, RELOAD, **bearer(token_of(node)))


async def test_a_renewed_bundle_is_shown_and_dialled_with_from_the_next_handshake_on(
    authority: Authority, tmp_path: Path
) -> None:
    old, b = bundle_of(authority, "a"), bundle_of(authority, "b")
    async with AsyncExitStack() as stack:
        node = await trusted(stack, tmp_path, old)
        async with HttpClient(context_of(b, serving=False)) as kept:
            assert (await kept.ask("GET", f"{node.url}/livez")).status == 200
            new = authority.renew(old, now(), 30 * DAY)
            new.write(tmp_path / "a.bundle")
            assert await shown_by(node.url, b) == old.member  # nobody has told it yet
            answer = await reload(node)
            ends = new.member.not_after
            assert answer.json()["certificate_ends"] == node.status().network.certificate_ends
            assert answer.json()["certificate_ends"].startswith(f"{ends:%Y-%m-%dT%H:%M:%S}")
            assert await shown_by(node.url, b) == new.member
            metrics = (await get(node.status_url, "/metrics")).body.decode()
            (gauge,) = re.findall(r"^gossipnode_certificate_ends\w+ (\S+)$", metrics, re.MULTILINE)
            assert float(gauge) == ends.timestamp()
            # A connection that was open goes on.
            assert (await kept.ask("GET", f"{node.url}/livez")).status == 200
        seen = asyncio.get_running_loop().create_future()

        async def see(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            seen.set_result(member_of(der))
            writer.close()

        server = await asyncio.start_server(see, "127.0.0.1", 0, ssl=context_of(b, serving=True))
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Exception, match=r"closed|reset"):
                await node.world.client.ask("GET", f"https://127.0.0.1:{port}/")  # type: ignore[attr-defined]
        assert await seen == new.member


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("another node", "is now of the node"),
        ("another authority", "another authority"),
        ("expired", "has expired"),
        ("readable", "chmod 600"),
        ("gone", "no such file"),
        ("nonsense", "not valid TOML"),
    ],
)
async def test_a_bundle_that_cannot_be_used_changes_nothing(
    what: str, told: str, authority: Authority, tmp_path: Path
) -> None:
    a, b = bundle_of(authority, "a"), bundle_of(authority, "b")
    path = tmp_path / "a.bundle"
    async with AsyncExitStack() as stack:
        node = await trusted(stack, tmp_path, a)
        if what == "another node":
            b.write(path)
        elif what == "another authority":
            renewed_elsewhere(authority_in(tmp_path / "other"), a).write(path)
        elif what == "expired":
            authority.renew(a, now() - 3 * DAY, DAY).write(path)
        elif what == "readable":
            path.chmod(0o644)
        elif what == "gone":
            path.unlink()
        else:
            path.write_text("}")
        answer = await reload(node)
        assert (answer.status, answer.json()["code"]) == (409, "not_reloaded")
        assert told in answer.json()["reason"]
        assert await shown_by(node.url, b) == a.member
        assert node.ready


def renewed_elsewhere(other: Authority, bundle: Bundle) -> Bundle:
    """The same key with a certificate of another authority of the same name."""
    from gossipnode.network.trust.authority import NODE_TTL
    from gossipnode.network.trust.identity import certificate_for

    signed = certificate_for(
        "swarm", "a", bundle.key.public_key(), NODE_TTL, now(), other._key, other.certificate
    )
    return Bundle("authority", member_of(signed), bundle.key, signed, (other.certificate,))


async def test_a_list_of_revocations_is_read_and_one_that_is_none_is_told(
    authority: Authority, tmp_path: Path
) -> None:
    a, b = bundle_of(authority, "a"), bundle_of(authority, "b")
    watched = tmp_path / "watched.txt"
    watched.write_text(authority.revocations().text)
    async with AsyncExitStack() as stack:
        node = await trusted(stack, tmp_path, a, revocations=str(watched))
        watched.write_text(authority.revoke(b.member.id)[1].text)
        assert (await reload(node)).json()["revocations"] == 1
        watched.write_text("nonsense")
        answer = await reload(node)
        assert (answer.status, "no signature" in answer.json()["reason"]) == (409, True)
        assert node.status().network.revocations == 1


async def test_friends_come_and_go_by_a_reload(tmp_path: Path) -> None:
    a, b = (self_signed("swarm", name, "", now()) for name in "ab")
    b = b.with_friend(a.certificate, None)
    async with AsyncExitStack() as stack:
        node = await trusted(stack, tmp_path, a)
        client = await stack.enter_async_context(HttpClient(context_of(b, serving=False)))
        with pytest.raises(Exception, match="unknown authority"):
            await client.ask("GET", f"{node.url}/livez")
        a.with_friend(b.certificate, None).write(tmp_path / "a.bundle")
        assert (await reload(node)).status == 200
        assert (await client.ask("GET", f"{node.url}/livez")).status == 200
        a.write(tmp_path / "a.bundle")
        assert (await reload(node)).status == 200
        # The connection is open still, and counts no longer.
        heard = await client.ask("GET", f"{node.url}/livez")
        assert (heard.status, b"nor pinned here" in heard.body) == (403, True)
        with pytest.raises(Exception, match="unknown authority"):
            await client.ask("GET", f"{node.url}/livez")


async def test_friends_that_trust_each_other_while_both_run_find_each_other(tmp_path: Path) -> None:
    a, b = (self_signed("swarm", name, "", now()) for name in "ab")
    async with AsyncExitStack() as stack:
        nodes = []
        for name, bundle in (("a", a), ("b", b)):
            (tmp_path / name).mkdir()
            nodes.append(await trusted(stack, tmp_path / name, bundle))
        entries = [PeerEntry(id=node.id, address=node.url) for node in nodes]
        for name, bundle, friend, seed in (("a", a, b, entries[1]), ("b", b, a, entries[0])):
            bundle.with_friend(friend.certificate, seed).write(tmp_path / name / "a.bundle")
        for node in nodes:
            assert (await reload(node)).status == 200
        runs = [asyncio.create_task(node.run()) for node in nodes]
        for node, friend in zip(nodes, [nodes[1].id, nodes[0].id], strict=True):
            await until(lambda n=node, f=friend: (p := n.peers.get(f)) and p.state == "alive")
        for node in nodes:
            node.request_stop()
        await asyncio.gather(*runs)


async def test_both_ways_are_in_the_description_for_programs(node: HttpNode) -> None:
    told: dict[str, Any] = (await get(node.status_url, "/v1/openapi.json")).json()
    for path in PATHS:
        operation = told["paths"][path]["post"]
        assert operation["security"] == [{"owner": []}]
        assert {"401", "403", "421"} <= set(operation["responses"])
    assert told["components"]["securitySchemes"]["owner"]["scheme"] == "bearer"
    assert told["paths"]["/v1/status"]["get"]["security"][0] == {}
    assert "security" not in told["paths"]["/livez"]["get"]
