"""Nodes with bundles among themselves: who they are is proved, and whoever is shut out is cut.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from laning import frame_to, push_from
from loopback import (
    PATIENCE_S,
    Connection,
    config_of,
    frame_for,
    get,
    head,
    message_for,
    until,
    vector_for,
)
from trusting import DAY, authority_in, bundle_of, context_of, now

from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network import HttpNode
from gossipnode.network.trust import vigil
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.trust import Trust
from gossipnode.node.world import Posted, result
from gossipnode.wire import Kind, encode

Start = Callable[..., Awaitable[HttpNode]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_in(tmp_path / "ca")


@pytest.fixture
async def start(tmp_path: Path, authority: Authority) -> AsyncIterator[Start]:
    """Starts a node of the swarm, or with another bundle; ``peers`` are nodes that it lists."""
    async with AsyncExitStack() as stack:

        async def start_one(
            name: str,
            bundle: Bundle | None = None,
            peers: tuple[HttpNode, ...] = (),
            clock: Callable[[], float] | None = None,
            **sections: Any,
        ) -> HttpNode:
            made = bundle or bundle_of(authority, name)
            trust = Trust(made) if clock is None else Trust(made, clock)
            config = config_of(tmp_path / name, **{"node": {"id": ""}, **sections})
            listed = tuple(PeerEntry(id=peer.id, address=peer.url) for peer in peers)
            node = HttpNode(config, peers=listed, trust=trust)
            return await stack.enter_async_context(node)

        yield start_one


async def test_what_is_sent_is_of_whom_the_certificate_is(start: Start) -> None:
    a = await start("a")
    b = await start("b", peers=(a,))
    assert a.id == a.trust.member.id != b.id
    for seq in range(3):
        receipt = await push_from(b, a, frame_to(a, sender=b.id, seq=seq))
        assert receipt.reply.status == "merged"
    assert (await push_from(a, b, frame_to(b, sender=a.id))).reply.status == "merged"
    assert len(a.lanes) == len(b.lanes) == 1
    assert a.counters.get("lane_fallbacks") == b.counters.get("lane_fallbacks") == 0


@pytest.mark.parametrize("lanes", [True, False])
async def test_nobody_sends_in_anothers_name(lanes: bool, start: Start) -> None:
    c = await start("c")
    a = await start("a", peers=(c,), network={"lanes": lanes})
    b = await start("b", peers=(a,))
    before = a.params.tobytes()
    reply = (await push_from(b, a, frame_to(a, vector_for(a, 9.0), sender=c.id))).reply
    assert (reply.status, reply.code) == ("refused", "not_a_neighbour")
    assert c.id in reply.reason
    ping = encode(
        message_for(a, a.params, kind=Kind.CONTROL, control="ping", parts=(), sender=c.id), []
    )
    reply = (await push_from(b, a, ping)).reply
    assert (reply.status, reply.code) == ("refused", "not_a_neighbour")
    assert c.id in reply.reason
    assert b.id in reply.reason
    assert a.params.tobytes() == before
    # Nor is anything noted of c, who has done nothing.
    assert a.peers.get(c.id).refused_here == ""
    # The connection is as good as before: it was one frame that was wrong.
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"


async def test_nobody_posts_in_anothers_name(start: Start) -> None:
    """Many frames in one read, those of the certificate's node between those of another."""
    c = await start("c")
    a = await start("a", peers=(c,))
    b = await start("b", peers=(a,))
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"
    told: list[Posted] = []
    posts = [
        b.world.post(a.url, frame_to(a, sender=who.id, seq=seq), PATIENCE_S, told.append)
        for seq, who in enumerate((c, b, c, b, c), start=1)
    ]
    await until(lambda: len(told) == len(posts))
    replies = [result(post).reply for post in posts if post is not None]
    assert [reply.status for reply in replies] == ["refused", "merged"] * 2 + ["refused"]
    assert {reply.code for reply in replies[::2]} == {"not_a_neighbour"}
    assert a.peers.get(c.id).refused_here == ""
    assert a.counters.get("pushes_received") == 3
    assert len(a.lanes) == 1


async def test_nobody_opens_a_lane_in_anothers_name(start: Start, authority: Authority) -> None:
    a, c = await start("a"), await start("c")
    context = context_of(bundle_of(authority, "b"), serving=False)
    parts = urlsplit(a.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    writer.write(
        head(
            "GET", "/v1/lane", Connection="Upgrade", Upgrade="gossipnode/1",
            Gossipnode_Swarm="swarm", Gossipnode_Id=c.id,
        )
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.readuntil(b"}")
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"the certificate is of" in answer
    assert not len(a.lanes)


async def test_nobody_takes_the_address_of_another(start: Start) -> None:
    """A lane of b that says c's address is its own gets nothing that is meant for c."""
    c = await start("c")
    a = await start("a", peers=(c,))
    b = await start("b", peers=(a,))
    b.address = c.url
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"
    assert (await push_from(a, c, frame_to(c, sender=a.id))).reply.status == "merged"
    assert c.age > 0
    assert b.age == 0


async def test_an_address_that_two_learnt_peers_claim_is_nobodys(start: Start) -> None:
    """Whoever joined later names the address of one that joined before: it gets nothing of that."""
    a = await start("a")
    c = await start("c", peers=(a,))
    b = await start("b", peers=(a,))
    b.address = c.url
    for sender in (c, b):
        frame = frame_to(a, sender=sender.id, address=c.url)
        assert (await push_from(sender, a, frame)).reply.status == "merged"
    assert a.peers[b.id].address == a.peers[c.id].address == c.url
    for lane in tuple(a.lanes._lanes):
        lane.abort("a test")
    await until(lambda: not len(a.lanes) and not len(b.lanes) and not len(c.lanes))
    frame = frame_to(a, sender=b.id, address=c.url, seq=1)
    assert (await push_from(b, a, frame)).reply.status == "merged"
    assert (await push_from(a, c, frame_to(c, sender=a.id, age=2**20))).reply.status == "merged"
    assert c.age >= 2**20
    assert b.age == 0


async def test_who_only_looks_whether_somebody_listens_fills_no_log(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a")
    b = await start("b", peers=(a,))
    with caplog.at_level("INFO", "gossipnode"):
        assert await b.world.is_listening(a.url, PATIENCE_S)
        await until(lambda: a.status().network.connections_refused == {"broken": 1})
    assert "connection.refused" not in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("lanes", [True, False])
async def test_who_answers_must_be_who_is_listed_there(
    lanes: bool, start: Start, tmp_path: Path, authority: Authority
) -> None:
    a, c = await start("a"), await start("c")
    bundle = bundle_of(authority, "b")
    listed = (PeerEntry(id=c.id, address=a.url),)
    config = config_of(tmp_path / "b", node={"id": ""}, network={"lanes": lanes})
    async with HttpNode(config, peers=listed, trust=Trust(bundle)) as b:
        with pytest.raises(NetworkError, match=rf"at this address is {a.id} \(a\), not {c.id}"):
            await push_from(b, a, frame_to(a, sender=b.id))
    assert a.age == 0


# -- shut out -------------------------------------------------------------------------------------


async def test_a_revoked_peer_on_an_old_connection_is_cut(
    start: Start, authority: Authority
) -> None:
    a = await start("a")
    b = await start("b", peers=(a,))
    assert (await push_from(b, a, frame_to(a, sender=b.id, seq=0))).reply.status == "merged"
    context = context_of(b.trust.bundle, serving=False)
    parts = urlsplit(a.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    writer.write(head("GET", "/livez"))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")

    assert a._vigil.hear(authority.revoke(b.id)[1].text, "test")
    await until(lambda: not len(a.lanes) and not len(b.lanes))
    async with asyncio.timeout(PATIENCE_S):
        rest = await reader.read()  # the end, or a reset
    assert rest in (b"", f'{{"live": true, "id": "{a.id}"}}'.encode())
    writer.close()
    age = a.age
    reply = (await push_from(b, a, frame_to(a, sender=b.id, seq=1))).reply
    assert (reply.status, reply.code) == ("refused", "not_a_neighbour")
    assert reply.reason == f"the certificate of {b.id} was revoked"
    with pytest.raises(NetworkError, match="was revoked"):
        await a.world.push(b.url, frame_to(b, sender=a.id), PATIENCE_S)
    assert a.age == age
    assert b.age == 0


async def test_a_revoked_peer_has_no_old_lane_that_this_node_opened(
    start: Start, authority: Authority
) -> None:
    a = await start("a")
    b = await start("b", peers=(a,))
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"
    assert b._vigil.hear(authority.revoke(a.id)[1].text, "test")
    await until(lambda: not len(b.lanes))
    with pytest.raises(NetworkError, match="revoked"):
        await push_from(b, a, frame_to(a, sender=b.id, seq=1))


async def test_what_was_posted_to_a_peer_that_is_revoked_goes_no_other_way(
    start: Start, authority: Authority
) -> None:
    b = await start("b")
    a = await start("a", peers=(b,))
    assert (await push_from(a, b, frame_to(b, sender=a.id))).reply.status == "merged"
    told: list[Posted] = []
    post = a.world.post(b.url, frame_to(b, sender=a.id, seq=1), PATIENCE_S, told.append)
    assert post is not None
    assert a._vigil.hear(authority.revoke(b.id)[1].text, "test")
    await until(lambda: told == [post])
    assert str(post.outcome) == "this node refuses it: its certificate was revoked"
    assert a.world.post(b.url, frame_to(b, sender=a.id, seq=2), PATIENCE_S, told.append) is None


async def test_a_certificate_that_ends_ends_its_connections(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "TICK_S", 0.02)
    ahead = [0.0]
    a = await start("a", clock=lambda: now().timestamp() + ahead[0])
    b = await start("b", peers=(a,))
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"
    ahead[0] = 2 * DAY.total_seconds()
    await until(lambda: not len(a.lanes))
    reply = (await push_from(b, a, frame_to(a, sender=b.id, seq=1))).reply
    assert "expired" in reply.reason


async def test_revocations_go_from_node_to_node(start: Start, authority: Authority) -> None:
    """Handed on to those that are there; a is told, c knows b alone."""
    c = await start("c")
    b = await start("b", peers=(c,))
    a = await start("a", peers=(b,))
    gone = bundle_of(authority, "gone")
    a._vigil.hear(authority.revoke("gone")[1].text, "test")
    await until(lambda: c.trust.revocations.counter == 1)
    assert b.trust.revocations.ids == c.trust.revocations.ids == {gone.member.id}
    status = c.status().network
    assert status.revocations == 1


async def test_who_missed_revocations_asks_for_them(
    start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "ASK_S", 0.02)
    a = await start("a")
    bundle_of(authority, "gone")
    a._vigil.hear(authority.revoke("gone")[1].text, "test")
    b = await start("b", peers=(a,))
    await until(lambda: b.trust.revocations.counter == 1)


async def test_the_newest_list_survives_a_restart_and_no_older_one_comes_back(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    bundle = bundle_of(authority, "a")
    for name in ("x", "y"):
        bundle_of(authority, name)
    first, second = authority.revoke("x")[1], authority.revoke("y")[1]
    config = config_of(tmp_path / "a", node={"id": ""})
    async with HttpNode(config, peers=(), trust=Trust(bundle)) as a:
        assert a._vigil.hear(second.text, "test")
        await until((tmp_path / "a" / "revocations.txt").exists)
    async with HttpNode(config, peers=(), trust=Trust(bundle)) as a:
        assert a.trust.revocations.counter == 2
        assert not a._vigil.hear(first.text, "test")
        assert a.trust.revocations.ids == second.ids


async def test_a_list_in_a_file_is_read_again_when_it_changes(
    start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "TICK_S", 0.02)
    path = authority.folder / "revocations.txt"
    a = await start("a", trust={"revocations": str(path)})
    b = await start("b", peers=(a,))
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"
    authority.revoke(b.id)
    await until(lambda: a.trust.revocations.ids == {b.id} and not len(a.lanes))


async def test_a_list_that_is_none_is_told_before_the_node_starts(
    start: Start, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"trust\.revocations: there is no such file"):
        await start("a", trust={"revocations": str(tmp_path / "missing")})
    (tmp_path / "wrong").write_text("nobody")
    with pytest.raises(ConfigError, match="no signature"):
        await start("b", trust={"revocations": str(tmp_path / "wrong")})


async def test_a_kept_list_of_another_authority_says_that_it_was_kept_and_what_to_do(
    start: Start, tmp_path: Path
) -> None:
    other = authority_in(tmp_path / "other")
    bundle_of(other, "x")
    (tmp_path / "a").mkdir()
    kept = tmp_path / "a" / "revocations.txt"
    kept.write_text(other.revoke("x")[1].text)
    with pytest.raises(ConfigError, match="remove the file") as told:
        await start("a")
    assert str(kept) in str(told.value)
    assert "trust.revocations" not in str(told.value)  # an option that nobody has set
    kept.unlink()
    assert (await start("a")).ready


async def test_connections_are_counted_behind_tls_too(start: Start, authority: Authority) -> None:
    a = await start("a", network={"connections_per_address_max": 1})
    context = context_of(bundle_of(authority, "b"), serving=False)
    parts = urlsplit(a.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    writer.write(head("GET", "/livez"))
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    with pytest.raises(OSError):  # it is not even let in to its handshake
        await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    await until(lambda: a.counters.by_label("connections_cut") == {"address": 1})
    writer.transport.abort()


# -- in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("unknown authority", "this node refuses it: its certificate is not of this swarm's"),
        ("unknown here", "it refuses this node's certificate: unknown authority"),
        ("expired", "it refuses this node's certificate as expired. It holds from"),
        ("its clock is behind", "it refuses this node's certificate as not valid. It holds from"),
    ],
)
async def test_a_refused_node_is_told_why(
    who: str, words: str, lanes: bool, start: Start, authority: Authority, tmp_path: Path
) -> None:
    a = await start("a")
    if who == "expired":
        bundle = bundle_of(authority, "b", expired=True)
    elif who == "its clock is behind":
        bundle = bundle_of(authority, "b", at=now() + DAY)
    else:
        bundle = bundle_of(authority_in(tmp_path / "foreign"), "b")
    trust = Trust(bundle)
    if who == "unknown here":
        trust.dialling.load_verify_locations(authority.folder / "ca.crt")
    config = config_of(tmp_path / "b", node={"id": ""}, network={"lanes": lanes})
    peers = (PeerEntry(id=a.id, address=a.url),)
    async with HttpNode(config, peers=peers, trust=trust) as b:
        with pytest.raises(NetworkError) as caught:
            await push_from(b, a, frame_to(a, sender=b.id))
    assert words in str(caught.value)
    if "It holds from" in words:
        ends = trust.member.not_after
        assert f"to {ends:%Y-%m-%d %H:%M} UTC, and here it is {now():%Y-%m-%d}" in str(caught.value)
    assert a.age == 0


async def test_another_swarm_is_told_so(start: Start, authority: Authority, tmp_path: Path) -> None:
    from test_trust_routes import of_another_swarm

    a = await start("a")
    config = config_of(tmp_path / "b", node={"id": ""}, swarm={"name": "elsewhere"})
    async with HttpNode(config, peers=(), trust=Trust(of_another_swarm(authority))) as b:
        with pytest.raises(NetworkError, match=r"this node refuses it: .* is of another swarm"):
            await push_from(b, a, frame_to(a, sender=b.id))


async def test_a_plain_node_and_one_with_trust_say_why_they_cannot(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start("a")
    config = config_of(tmp_path / "plain", node={"id": "plain"})
    async with HttpNode(config, peers=()) as plain:
        address = a.url.replace("https", "http")
        with caplog.at_level("WARNING"), pytest.raises(NetworkError, match="it speaks TLS alone"):
            await plain.world.push(address, frame_to(a), PATIENCE_S)
        reasons = a.status().network.connections_refused
        assert reasons["not_tls"] >= 1
        told = [record.fields["code"] for record in caplog.records if "fields" in record.__dict__]
        assert "not_tls" in told
        with pytest.raises(NetworkError, match="it speaks plain HTTP, and this node TLS alone"):
            await a.world.push(plain.url.replace("http", "https"), frame_to(plain), PATIENCE_S)
    assert a.age == plain.age == 0


# -- the second listener --------------------------------------------------------------------------


async def test_the_pages_are_plain_and_change_nothing(start: Start, authority: Authority) -> None:
    a = await start("a")
    assert a.status_url.startswith("http://127.0.0.1:")
    assert a.status_url.rpartition(":")[2] != a.url.rpartition(":")[2]
    for path in ("/livez", "/readyz", "/metrics", "/v1/status", "/", "/v1/model", "/v1/swarm"):
        assert (await get(a.status_url, path)).status == 200
    bundle_of(authority, "gone")
    text = authority.revoke("gone")[1].text.encode()
    frame = frame_for(a)
    async with Connection(a.status_url) as connection:
        assert (await connection.push(frame)).status == 404
    async with Connection(a.status_url) as connection:
        await connection.send(head("POST", "/v1/revocations", content_length=str(len(text))), text)
        assert (await connection.answer()).status == 405
    lane = await get(a.status_url, "/v1/lane", Connection="Upgrade", Upgrade="gossipnode/1")
    assert lane.status == 404
    assert a.age == a.trust.revocations.counter == 0


async def test_pages_that_others_reach_show_no_model(start: Start) -> None:
    a = await start("a", network={"status_bind": "0.0.0.0"})
    here = a.status_url.replace("0.0.0.0", "127.0.0.1")
    assert (await get(here, "/v1/status")).status == 200
    for path in ("/v1/model", "/v1/swarm"):
        assert (await get(here, path)).status == 404


async def test_a_bundle_opens_every_address_and_an_empty_one_none(start: Start) -> None:
    a = await start("a", network={"bind": "0.0.0.0", "advertise": "https://10.0.0.1:1"})
    assert a.address == "https://10.0.0.1:1"


async def test_what_the_bundle_says_cannot_be_said_otherwise(
    start: Start, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "z.bundle"
    bundle_of(authority, "z").write(path)
    for section, name in (("swarm", "name"), ("node", "id")):
        config = config_of(tmp_path / "z", trust={"bundle": str(path)}, **{section: {name: "q"}})
        with pytest.raises(ConfigError, match=f"{section}.{name}: is q, but the bundle"):
            HttpNode(config)
    config = config_of(tmp_path / "z", trust={"bundle": str(path)}, node={"id": ""})
    with pytest.raises(ConfigError, match=r"https://10\.0\.0\.1:1"):
        HttpNode(config, peers=(PeerEntry(id="q", address="http://10.0.0.1:1"),))
    node = HttpNode(config)
    assert node.id == node.trust.member.id
    assert isinstance(node.trust.serving, ssl.SSLContext)
