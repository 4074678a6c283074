"""What a member may say in an exchange of views, and how little it can do with that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from loopback import AtWork, StartNode, config_of, message_for, push, until

from gossipnode.config import PeerEntry
from gossipnode.network import HttpNode
from gossipnode.node.membership import shuffle as module
from gossipnode.node.membership.shuffle import Shuffle
from gossipnode.wire import Kind, Member, Message, decode, encode

SHORT = {"membership": {"view": 5, "shuffle_size": 3, "shuffle_period_s": 3600}}


def shuffle_of(node: HttpNode) -> Shuffle:
    assert node.membership is not None
    assert node.membership.shuffle is not None
    return node.membership.shuffle


def row(name: str, address: str = "", state: str = "alive") -> Member:
    return Member(name, address or f"http://127.0.0.1:{9000 + ord(name[0])}", state, 1, 0)  # type: ignore[arg-type]


async def told(
    node: HttpNode, rows: Sequence[Member], sender: str = "liar", address: str | None = None
) -> Message:
    """Send ``rows``, all of age 0, and return the answer."""
    message = dataclasses.replace(
        message_for(node, node.params, kind=Kind.VIEW, parts=(), control="shuffle", age=0),
        sender=sender, members=tuple(rows), age=(0,) * len(rows) or 0, address=address,
    )  # fmt: skip
    answer = await push(node.url, encode(message, []).tobytes())
    assert answer.status == 200, answer.body
    return decode(answer.body)[0]


def known(node: HttpNode) -> dict[str, str]:
    found = {peer.id: peer.address for peer in node.peers.learnt}
    assert found == {entry.id: entry.address for entry in shuffle_of(node).view}
    return found


async def test_no_more_entries_are_taken_than_are_exchanged(start_node: StartNode) -> None:
    node = await start_node(**SHORT)
    await told(node, [row(name) for name in "bcdefghij"])
    assert known(node).keys() == set("bcd")
    for number in range(40):
        rows = [row(f"n{number}-{i}", f"http://10.0.0.{number}:{i + 1}") for i in range(32)]
        answer = await told(node, rows)
        assert len(answer.members) <= 3
        assert len(known(node)) <= 5
        assert len(node.peers.known) <= 5


@pytest.mark.parametrize(
    "bad",
    [
        row("b", "http://169.254.169.254:80"),
        row("b", "http://127.0.0.1:80/x"),
        row("b", "file:///etc/passwd"),
        row("b", "http://224.0.0.1:80"),
        row("bé"),
        row("b b"),
        row("-"),
        row("a"),  # the node itself
        row("listed"),
        row("b", state="down"),
    ],
)
async def test_an_entry_that_no_peer_can_have_is_not_taken(
    start_node: StartNode, bad: Member
) -> None:
    listed = PeerEntry(id="listed", address="http://127.0.0.1:2")
    node = await start_node(peers=(listed,), **SHORT)
    await told(node, [bad, row("c")])
    assert known(node).keys() == {"c"}
    assert node.peers["listed"].address == "http://127.0.0.1:2"


async def test_hearsay_neither_moves_a_peer_nor_takes_its_address(start_node: StartNode) -> None:
    node = await start_node(**SHORT)
    await told(node, [row("b")])
    before = known(node)
    await told(node, [row("b", "http://127.0.0.1:1"), row("x", before["b"])])
    assert known(node) == before


async def test_whoever_claims_the_address_of_another_is_found_out(
    start_node: StartNode, start_b: StartNode
) -> None:
    node = await start_node(**SHORT)
    b = await start_b("b")
    view = shuffle_of(node).view
    await told(node, [row("b", b.url)])
    await told(node, [], sender="liar", address=b.url)
    assert known(node).keys() == {"b", "liar"}
    assert view.sample(9) == []  # neither is handed on until it is looked at
    for entry in list(view):
        await shuffle_of(node)._look_at(entry)
    assert known(node) == {"b": b.url}
    assert [entry.id for entry in view.sample(9)] == ["b"]


async def test_an_entry_is_dropped_when_another_node_answers_there(
    start_node: StartNode, start_b: StartNode
) -> None:
    """A liar fills a view with ids that it made up: each is gone when it is asked."""
    node = await start_node(**SHORT)
    b = await start_b("b")
    await told(node, [row("made-up", b.url)])
    receipt = await node.world.push(b.url, shuffle_of(node)._frame([]), 5.0)
    shuffle = shuffle_of(node)
    shuffle.membership.ask = lambda *arguments: arguments[-1](receipt)  # type: ignore[method-assign]
    shuffle._ask_oldest()
    assert known(node) == {}


async def test_whoever_is_gone_is_dropped_while_somebody_is_there(start_node: StartNode) -> None:
    node = await start_node(**SHORT)
    await told(node, [row("b"), row("c")])
    shuffle = shuffle_of(node)
    node.peers.mark(node.peers["b"], "left")
    shuffle._drop_gone()
    shuffle._keep_learnt()
    assert known(node).keys() == {"c"}
    node.peers.mark(node.peers["c"], "down")
    shuffle._drop_gone()
    shuffle._keep_learnt()
    assert known(node).keys() == {"c"}  # better than nobody


async def test_who_takes_over_an_address_is_believed_though_another_was_found_there(
    start_b: StartNode, tmp_path: Path
) -> None:
    """As where pods come and go: what was found once holds until somebody else says he is there."""
    b = await start_b("b")
    async with AtWork() as stack:
        node = await stack.begin(HttpNode(config_of(tmp_path / "a", **SHORT)))
        await until(lambda: node.state == "running")
        shuffle = shuffle_of(node)
        b.id = "before"
        await told(node, [], sender="before", address=b.url)
        await until(lambda: [entry.id for entry in shuffle.told(9)] == ["before"])
        b.id = "b"
        await told(node, [], sender="b", address=b.url)
        await until(lambda: [entry.id for entry in shuffle.told(9)] == ["b"])
        assert known(node) == {"b": b.url}


async def test_whoever_answers_with_this_nodes_id_everywhere_fills_no_table(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(**SHORT)
    shuffle = shuffle_of(node)
    monkeypatch.setattr(module, "VOUCHED_KEPT", 10)
    addresses = iter(range(1, 10**6))

    async def always_me(address: str, timeout_s: float) -> str:
        return node.id

    async def seeds() -> list[str]:
        return [f"http://10.0.0.1:{next(addresses)}" for _ in range(6)]

    monkeypatch.setattr(node.world, "id_at", always_me)
    monkeypatch.setattr(node.world, "seeds", seeds)
    for _ in range(5):
        await shuffle._ask_outside()
    assert next(addresses) > 30
    assert len(shuffle._own) == 10
