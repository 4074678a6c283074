"""Attacks by what a message tells of others, and by bodies that claim to become more than they are.

One test an attack, as in test_attacks.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import msgpack
import pytest
from loopback import (
    CHAIN,
    CHAIN_PEERS,
    AtWork,
    StartNode,
    config_of,
    message_for,
    push,
    until,
)
from test_attacks import EVIL, LOOPBACK, NEVER, header_map, memory_below, origin, raw_frame
from test_client import http, peer

from gossipnode.network import HttpNode
from gossipnode.node.membership.shuffle import WORD
from gossipnode.wire import Kind, Member, decode, encode
from gossipnode.wire.frame import HEADER_BYTES_MAX
from gossipnode.wire.members import MEMBERS_MAX

WORDS = [(Kind.CONTROL, "ping"), (Kind.VIEW, WORD)]


def told(node: HttpNode, kind: Kind, word: str, **changes: Any) -> bytes:
    message = message_for(node, node.params, kind=kind, parts=(), control=word, age=0)
    return encode(dataclasses.replace(message, **changes), []).tobytes()


def known(node: HttpNode) -> set[str]:
    """All addresses that the node would dial, or tell somebody else."""
    membership = node.membership
    assert membership is not None
    shuffled = [entry.address for entry in membership.shuffle.view] if membership.shuffle else []
    return {*shuffled, *(peer.address for peer in node.peers)}


@pytest.mark.parametrize(("kind", "word"), WORDS)
async def test_ssrf_through_what_is_told_of_others(node: HttpNode, kind: Kind, word: str) -> None:
    """Hearsay is judged like an address that its owner names: neither dialled nor handed on."""
    node.address = "http://10.0.0.1:7946"
    before = known(node)
    for seq, number in enumerate((*NEVER, *LOOPBACK)):
        member = Member(f"m{seq}", origin(number), "alive", 1, 0)
        answer = await push(node.url, told(node, kind, word, seq=seq, members=(member,)))
        assert answer.status == 200, number
        message, _ = decode(answer.body)
        assert origin(number) not in {each.address for each in message.members}
        assert known(node) == before, number
    sound = Member("sound", "http://10.0.0.2:7946", "alive", 1, 0)
    await push(node.url, told(node, kind, word, seq=99, members=(sound,)))
    if kind is Kind.VIEW:  # so that the others were not refused for something else
        await until(lambda: "http://10.0.0.2:7946" in known(node))


@pytest.mark.parametrize(("kind", "word"), WORDS)
async def test_names_in_what_is_told_of_others(node: HttpNode, kind: Kind, word: str) -> None:
    """What could forge a line of the log, or leave a folder, is no name of a node."""
    before = known(node)
    row = [EVIL, "http://127.0.0.1:9", "alive", 1, 0]
    extra = {"control": word, "members": [row], "checksum": ["xxh3", 0]}
    frame = raw_frame(msgpack.packb(header_map(node) | extra))
    answer = await push(node.url, frame[:3] + bytes([kind.value]) + frame[4:])
    assert answer.msgpack()["code"] == "malformed_frame"
    for seq, name in enumerate(("../../etc/passwd", "a/b", ".hidden", "<img src=x>")):
        member = Member(name, "http://127.0.0.1:9", "alive", 1, 0)
        await push(node.url, told(node, kind, word, seq=seq, members=(member,)))
    assert known(node) == before


@pytest.mark.parametrize("rows", [b"\x90", b"\xc0", b"\x80", b"\x95\xa0\xa0\xa0\0\0"])
async def test_a_bomb_of_members(node: HttpNode, rows: bytes) -> None:
    """As many rows as a header has room for: 32 are taken, and no memory for more."""
    packed = msgpack.packb(header_map(node) | {"control": WORD, "checksum": ["xxh3", 0]})
    count = (HEADER_BYTES_MAX - len(packed) - 32) // len(rows)
    assert packed[0] & 0xF0 == 0x80, "a map of fewer than 16 keys"
    header = bytes([packed[0] + 1]) + packed[1:] + msgpack.packb("members")
    header += b"\xdd" + count.to_bytes(4, "big") + rows * count
    assert count > MEMBERS_MAX
    assert len(header) <= HEADER_BYTES_MAX
    for kind, _ in WORDS:
        frame = raw_frame(header)
        with memory_below(4 * 2**20):
            answer = await push(node.url, frame[:3] + bytes([kind.value]) + frame[4:])
        assert answer.msgpack()["code"] == "malformed_frame"


@pytest.mark.parametrize("size", [2**31, 2**40, 2**62])
@pytest.mark.parametrize("name", ["topk", "randomk", "sign", "qsgd", "uniform", "float16"])
async def test_a_codec_bomb(start_node: StartNode, name: str, size: int) -> None:
    """A few bytes that claim to be a long vector are refused before there is any memory for it."""
    chain = {**CHAIN, "algorithm": {"name": "choco"}}
    node = await start_node(**chain, peers=CHAIN_PEERS, codec={"name": name})
    facts = {"bits": 1, "scale": 1.0, "zero": 1.0, "norm": 1.0, "seed": 1}
    where = {"graph": node.place.graph, "round": 0, "phase": 0}
    for nbytes in (1, 4, 100):
        part = {"role": "q", "dtype": "float32", "size": size, "nbytes": nbytes, "codec": name}
        claimed = {"parts": [part | facts], "checksum": ["xxh3", 0], **where}
        frame = raw_frame(msgpack.packb(header_map(node) | claimed), bytes(nbytes))
        with memory_below(2**20):
            answer = await push(node.url, frame)
        assert answer.msgpack()["code"] == "wrong_schema"
    assert node.inbox.inflight_bytes == 0


NESTED = b"[" * 3000
BEFORE_ID = b'{"padding": "' + b"x" * 2**20 + b'", "id": "liar"}'


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
@pytest.mark.parametrize("body", [NESTED, BEFORE_ID], ids=["nested", "long"])
async def test_an_answer_to_who_is_there_that_is_a_bomb(
    tmp_path: Path, status: str, body: bytes
) -> None:
    """Whoever says where it is, is asked there who it is: the answer neither ends nor fills us."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http(body, "application/json", status))
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async with peer(serve) as address, AtWork() as stack:
        gossip = {"name": "gossip", "period_s": 0.01}
        node = await stack.begin(HttpNode(config_of(tmp_path, algorithm=gossip)))
        await until(lambda: node.round > 0)
        membership = node.membership
        assert membership is not None
        assert membership.shuffle is not None
        shuffle = membership.shuffle
        await push(node.url, told(node, Kind.VIEW, WORD, sender="liar", address=address))
        await until(lambda: asked and not shuffle._vouching)
        round_ = node.round
        await until(lambda: node.round > round_ + 3)
        assert not shuffle.told(9)
