"""Nodes that find each other on a LAN: a made-up one, and the real one where multicast works."""

from __future__ import annotations

import asyncio
import builtins
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import PATIENCE_S, AtWork, config_of, until

from gossipnode.cli.entering import find_swarm
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network import HttpNode
from gossipnode.network import discovery as module
from gossipnode.network.discovery import FOUND_MAX, Announcement, Discovery, Heard
from gossipnode.network.zeroconf_lan import ZeroconfLan, announcement_of

OF_A = Announcement("digits", "a", "http://127.0.0.1:7946")
OF_B = Announcement("digits", "b", "http://127.0.0.1:7947")


class Air:
    """What is announced now, and who listens."""

    def __init__(self) -> None:
        self.said: dict[str, Announcement] = {}
        self.listeners: list[Heard] = []

    def lan(self) -> FakeLan:
        return FakeLan(self)

    def say(self, name: str, one: Announcement | None) -> None:
        if one is None:
            self.said.pop(name, None)
        else:
            self.said[name] = one
        for heard in self.listeners:
            heard(name, one)


class FakeLan:
    def __init__(self, air: Air) -> None:
        self.air, self.name = air, ""
        self.heard: Heard | None = None

    async def begin(self, own: Announcement | None, heard: Heard) -> None:
        self.heard = heard
        self.air.listeners.append(heard)
        for name, one in self.air.said.items():
            heard(name, one)
        if own is not None:
            self.name = f"{own.swarm} {own.id}"
            self.air.say(self.name, own)

    async def end(self) -> None:
        if self.heard in self.air.listeners:
            self.air.listeners.remove(self.heard)
        if self.name:
            self.air.say(self.name, None)


class DeadLan(FakeLan):
    async def begin(self, own: Announcement | None, heard: Heard) -> None:
        del own, heard
        raise NetworkError("no multicast here: operation not permitted")


def discovery(air: Air, own_id: str = "me", address: str = "") -> Discovery:
    return Discovery(air.lan(), "digits", own_id, address)


async def test_others_of_the_same_swarm_are_found_and_forgotten_when_they_go() -> None:
    air = Air()
    air.say("1", OF_A)
    air.say("2", Announcement("others", "x", "http://127.0.0.1:1"))
    air.say("3", Announcement("digits", "me", "http://127.0.0.1:2"))
    mine = discovery(air)
    await mine.begin()
    assert mine.found() == [OF_A.address]
    air.say("4", OF_B)
    assert mine.found() == [OF_A.address, OF_B.address]
    air.say("1", None)
    assert mine.found() == [OF_B.address]
    await mine.end()
    air.say("1", OF_A)
    assert mine.found() == [OF_B.address]


@pytest.mark.parametrize(
    "address",
    ["http://169.254.169.254:80", "http://127.0.0.1:7946", "file:///etc", "http://h", "x" * 300],
)
async def test_an_address_that_no_peer_of_this_node_has_is_not_found(address: str) -> None:
    air = Air()
    air.say("1", Announcement("digits", "a", address))
    mine = discovery(air, address="http://10.0.0.7:7946")
    await mine.begin()
    assert mine.found() == []


async def test_a_flood_of_announcements_is_bounded() -> None:
    air = Air()
    mine = discovery(air)
    await mine.begin()
    for number in range(3 * FOUND_MAX):
        one = Announcement("digits", f"n{number}", f"http://10.0.0.1:{number + 1}")
        air.say(str(number), one)
    assert len(mine.found()) == FOUND_MAX


async def test_looking_ends_with_the_first_or_in_vain() -> None:
    air = Air()
    assert await discovery(air).look(0.01) == []
    assert not air.listeners
    air.say("1", OF_A)
    assert await discovery(air).look(PATIENCE_S) == [OF_A.address]


async def test_a_lan_that_fails_is_told_of_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    mine = Discovery(DeadLan(Air()), "digits", "me", "http://127.0.0.1:1")
    await mine.begin()
    assert mine.found() == []
    assert [record.message for record in caplog.records] == ["discover.failed"]


# -- nodes --------------------------------------------------------------------------------------

Running = Callable[..., Awaitable[HttpNode]]
QUICK = {
    "swarm": {"name": "digits"},
    "membership": {"shuffle_period_s": 0.2, "probes": False},
    "algorithm": {"name": "gossip", "period_s": 0.1},
    "checkpoint": {"enabled": False},
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with AtWork() as stack:

        async def start(name: str, lan: Any) -> HttpNode:
            sections = {**QUICK, "node": {"id": name}, "network": {"discover": True}}
            node = HttpNode(config_of(tmp_path / name, **sections))
            node.lan = lan
            return await stack.begin(node)

        yield start


async def test_nodes_that_were_told_of_nobody_push_to_each_other(running: Running) -> None:
    air = Air()
    nodes = [await running(name, air.lan()) for name in "abc"]
    assert {one.id for one in air.said.values()} == set("abc")
    for node in nodes:
        await until(lambda node=node: {p.id for p in node.peers} == set("abc") - {node.id})
        await until(lambda node=node: node.counters.get("pushes_received") > 3)


async def test_a_newcomer_joins_whom_it_finds_with_the_current_model(
    running: Running, tmp_path: Path
) -> None:
    air = Air()
    a = await running("a", air.lan())
    await until(lambda: a.age > 10)
    own = config_of(tmp_path, **QUICK, node={"id": "me"}, network={"discover": True})
    entry = await find_swarm([], own, lan=air.lan())
    assert entry is not None
    assert entry.joined is not None
    assert entry.joined.donor == "a"
    assert entry.joined.age > 10
    assert entry.urls == ()


async def test_where_nobody_is_found_a_node_begins_by_itself(tmp_path: Path) -> None:
    air = Air()
    air.say("1", Announcement("digits", "gone", "http://127.0.0.1:1"))
    own = config_of(tmp_path, **QUICK, node={"id": "me"}, network={"discover": True})
    assert await find_swarm([], own, lan=air.lan()) is None


def test_without_the_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "zeroconf":
            raise ModuleNotFoundError(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'gossipnode\[discover\]'"):
        ZeroconfLan()


def test_the_library_is_not_loaded_by_those_who_do_not_ask_for_it() -> None:
    import subprocess

    code = "import sys, gossipnode.cli.start, gossipnode.network; print('zeroconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {b"swarm": b"s", b"id": b"a"},
        {b"swarm": b"s", b"id": b"a", b"address": None},
        {b"swarm": b"s", b"id": b"\xff", b"address": b"http://10.0.0.1:1"},
        {b"swarm": b"s", b"id": b"a\n", b"address": b"http://10.0.0.1:1"},
    ],
)
def test_what_is_no_announcement_is_dropped(properties: dict[bytes, bytes | None]) -> None:
    assert announcement_of(properties) is None


def multicast_on_loopback() -> bool:
    """Whether a datagram to the group of multicast DNS comes back over loopback."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        own = socket.inet_aton("127.0.0.1")
        try:
            receiver.bind(("", 0))
            group = socket.inet_aton("224.0.0.251") + own
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            receiver.settimeout(1.0)
            sender.sendto(b"?", ("224.0.0.251", receiver.getsockname()[1]))
            return receiver.recv(1) == b"?"
        except OSError:
            return False


async def test_two_nodes_find_each_other_by_real_multicast() -> None:
    pytest.importorskip("zeroconf", reason="needs zeroconf: gossipnode[discover]")
    if not multicast_on_loopback():
        pytest.skip("multicast does not work on this machine's loopback")
    name = f"test-{id(object())}"  # not the swarm of another run
    addresses = {"a": "http://127.0.0.1:7946", "b": "http://127.0.0.1:7947"}
    found = {
        own: Discovery(ZeroconfLan(["127.0.0.1"]), name, own, address)
        for own, address in addresses.items()
    }
    try:
        for one in found.values():
            await one.begin()
        await until(lambda: found["a"].found() == [addresses["b"]])
        await until(lambda: found["b"].found() == [addresses["a"]])
        await found["b"].end()
        await until(lambda: found["a"].found() == [])
    finally:
        for one in found.values():
            await one.end()


class StuckLan(FakeLan):
    """One that cannot be left: it fails, or never comes to an end."""

    def __init__(self, air: Air, error: Exception | None) -> None:
        super().__init__(air)
        self.error = error

    async def end(self) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "error",
    [OSError("network is down"), NetworkError("no multicast here any more"), None],
    ids=["system", "library", "hangs"],
)
async def test_a_lan_that_cannot_be_left_keeps_nothing_open(
    error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_S", 0.05)
    config = config_of(tmp_path, network={"discover": True})
    for _ in range(2):  # the folder is no longer locked the second time
        node = HttpNode(config)
        node.lan = StuckLan(Air(), error)
        async with node:
            port = int(node.url.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            pass
