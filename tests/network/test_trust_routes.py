"""Every route against everybody who does not belong: nothing is told, and both sides know why."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from loopback import PATIENCE_S, config_of, frame_for, head, until
from trusting import DAY, authority_in, bundle_of, context_of, now

from gossipnode.network import ROUTES, HttpNode
from gossipnode.network.admin import PATHS
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.identity import certificate_for, member_of, new_key
from gossipnode.network.trust.trust import Trust

# Who it is -> what the node counts, and what the refused client gets: an alert of TLS, or words.
STRANGERS = {
    "no certificate": ("no_certificate", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    "foreign CA": ("unknown_authority", "TLSV1_ALERT_UNKNOWN_CA"),
    "expired": ("expired", "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
    "not yet valid": ("not_yet_valid", "SSLV3_ALERT_BAD_CERTIFICATE"),
    "revoked": ("revoked", "was revoked"),
    "other swarm": ("other_swarm", "is of another swarm"),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
async def node(tmp_path: Path, authority: Authority) -> AsyncIterator[HttpNode]:
    async with AsyncExitStack() as stack:
        bundle = bundle_of(authority, "a")
        config = config_of(tmp_path / "a", node={"id": ""})
        yield await stack.enter_async_context(HttpNode(config, peers=(), trust=Trust(bundle)))


def stranger(who: str, node: HttpNode, authority: Authority, folder: Path) -> ssl.SSLContext:
    """What a client of that kind dials with; it trusts the node, so that only the node refuses."""
    if who == "no certificate":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(authority.folder / "ca.crt")
        return context
    if who == "foreign CA":
        bundle = bundle_of(authority_in(folder / "foreign"), "b")
    elif who == "expired":
        bundle = bundle_of(authority, "b", expired=True)
    elif who == "not yet valid":
        bundle = bundle_of(authority, "b", at=now() + DAY)
    elif who == "revoked":
        bundle = bundle_of(authority, "b")
        assert node.trust is not None
        assert node.trust.adopt(authority.revoke(bundle.member.id)[1].text)
    else:
        bundle = of_another_swarm(authority)
    context = context_of(bundle, serving=False)
    context.load_verify_locations(authority.folder / "ca.crt")
    return context


def of_another_swarm(authority: Authority) -> Bundle:
    """A certificate that the same authority signed for another swarm."""
    key, ttl = new_key(), datetime.timedelta(days=1)
    signed = certificate_for(
        "elsewhere", "b", key.public_key(), ttl, now(), authority._key, authority.certificate
    )
    return Bundle("authority", member_of(signed), key, signed, (authority.certificate,))


async def ask(url: str, context: ssl.SSLContext, request: bytes) -> bytes:
    """Send ``request`` over TLS and return all that comes until the end; raises ``SSLError``."""
    parts = urlsplit(url)
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.transport.abort()


def request_for(route: str, node: HttpNode) -> bytes:
    method, path = route.split()
    if path == "/v1/lane":
        return head(
            "GET", path, Connection="Upgrade", Upgrade="gossipnode/1", Gossipnode_Swarm="swarm",
            Gossipnode_Id="b",
        )  # fmt: skip
    body = frame_for(node) if method == "POST" else b""
    return head(method, path, Connection="close", Content_Length=str(len(body))) + body


ENDLESS = ("GET /v1/events", "GET /v1/lane")
ALL = [f"{route.method} {route.path}" for route in ROUTES]


@pytest.mark.parametrize("who", STRANGERS)
@pytest.mark.parametrize("route", [*ALL, "GET /nowhere"])
async def test_nobody_else_gets_an_answer(
    route: str, who: str, node: HttpNode, authority: Authority, tmp_path: Path
) -> None:
    reason, told = STRANGERS[who]
    context = stranger(who, node, authority, tmp_path)
    age, revocations = node.age, node.trust.revocations.counter
    if told.isupper():
        with pytest.raises(ssl.SSLError) as caught:
            await ask(node.url, context, request_for(route, node))
        assert caught.value.reason == told
    else:
        answer = await ask(node.url, context, request_for(route, node))
        first, _, rest = answer.partition(b"\r\n")
        assert first == b"HTTP/1.1 403 Forbidden"
        assert told.encode() in rest
        assert b"onnection: close" in rest
        for secret in (b"accuracy", b"params", b"graph", b"<html"):
            assert secret not in rest
    await until(lambda: node.status().network.connections_refused == {reason: 1})
    assert (node.age, node.trust.revocations.counter) == (age, revocations)
    assert not len(node.lanes)
    assert node.counters.get("pushes_received") == 0


@pytest.mark.parametrize("route", [route for route in ALL if route not in ENDLESS])
async def test_a_member_gets_one(route: str, node: HttpNode, authority: Authority) -> None:
    """So that the test above refuses for the reason that it says."""
    context = context_of(bundle_of(authority, "b"), serving=False)
    answer = await ask(node.url, context, request_for(route, node))
    status = int(answer.split()[1])
    # The frame is of "b", which is not the id of this certificate.
    wanted = {"POST /v1/push": 403, "POST /v1/revocations": 400}
    wanted |= {f"POST {path}": 404 for path in PATHS}  # which are on the plain port alone
    assert status == wanted.get(route, 200)
    assert node.status().network.connections_refused == {}


@pytest.mark.parametrize("mode", ["plain HTTP", "garbage", "TLS 1.2", "nothing"])
async def test_what_is_no_tls_is_counted_as_what_it_is(
    mode: str, tmp_path: Path, authority: Authority
) -> None:
    config = config_of(tmp_path / "a", node={"id": ""}, network={"handshake_timeout_s": 0.2})
    async with HttpNode(config, peers=(), trust=Trust(bundle_of(authority, "a"))) as node:
        parts = urlsplit(node.url)
        reason = {"TLS 1.2": "old_tls", "nothing": "timeout"}.get(mode, "not_tls")
        if mode == "TLS 1.2":
            context = stranger("no certificate", node, authority, tmp_path)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
                await ask(node.url, context, b"")
        else:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            sent = {"plain HTTP": head("GET", "/livez"), "garbage": b"\0\1\2\3" * 9, "nothing": b""}
            writer.write(sent[mode])
            async with asyncio.timeout(PATIENCE_S):
                assert await reader.read() == b""
            writer.close()
        await until(lambda: node.status().network.connections_refused == {reason: 1})


async def test_the_log_tells_a_stranger_once(
    node: HttpNode, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = stranger("expired", node, authority, tmp_path)
    with caplog.at_level("WARNING", "gossipnode"):
        for _ in range(3):
            with pytest.raises(ssl.SSLError):
                await ask(node.url, context, b"")
        await until(lambda: node.status().network.connections_refused == {"expired": 3})
    told = [record for record in caplog.records if record.getMessage() == "connection.refused"]
    assert len(told) == 1
    assert told[0].fields["address"] == "127.0.0.1"
    assert "has expired" in told[0].fields["reason"]


async def test_a_pinned_node_knows_its_friends_alone(tmp_path: Path) -> None:
    from gossipnode.network.trust.authority import self_signed

    a, b, c = (self_signed("swarm", name, "", now()) for name in "abc")
    a = a.with_friend(b.certificate, None)
    config = config_of(tmp_path / "a", node={"id": ""})
    async with HttpNode(config, peers=(), trust=Trust(a)) as node:
        for friend, known in ((b, True), (c, False)):
            context = context_of(friend.with_friend(a.certificate, None), serving=False)
            if known:
                answer = await ask(node.url, context, request_for("GET /livez", node))
                assert answer.startswith(b"HTTP/1.1 200")
            else:
                with pytest.raises(ssl.SSLError) as caught:
                    await ask(node.url, context, request_for("GET /livez", node))
                assert caught.value.reason == "TLSV1_ALERT_UNKNOWN_CA"
        await until(lambda: node.status().network.connections_refused == {"unknown_authority": 1})
