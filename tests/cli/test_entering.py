"""How a starting node finds its swarm: by URLs, by names that stand for many, by its book."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gossipnode.cli.entering import Entry, find_swarm, own_options
from gossipnode.cli.join import join_any
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network import HttpNode
from gossipnode.node.membership.book import FILE, Contact, Page, page_bytes

GOSSIP = {
    "algorithm": {"name": "gossip", "period_s": 86_400.0},
    "topology": {"graph": "random"},
    "checkpoint": {"enabled": False},
}


@pytest.fixture
async def donor() -> AsyncIterator[HttpNode]:
    config = Config.model_validate(
        {**GOSSIP, "node": {"id": "donor"}, "network": {"port": 0}, "swarm": {"name": "digits"}}
    )
    async with HttpNode(config) as node:
        node.replica.age = 77
        yield node


def port_of(node: HttpNode) -> int:
    return int(node.url.rpartition(":")[2])


def resolver(**names: Sequence[str]) -> Callable[[str, int], Any]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in names:
            raise OSError("no such name")
        return names[host]

    return resolve


@contextlib.asynccontextmanager
async def half_dead(donor: HttpNode, dies_at: str) -> AsyncIterator[str]:
    """A node that answers like ``donor`` until it is asked for ``dies_at``, and crashes there."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        if path != dies_at:
            upstream, to = await asyncio.open_connection("127.0.0.1", port_of(donor))
            to.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            writer.write(await upstream.read())
            to.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_of_several_urls_the_first_that_answers_counts(donor: HttpNode) -> None:
    joined = await join_any(["http://127.0.0.1:1", donor.url, "http://127.0.0.1:2"])
    assert (joined.donor, joined.age) == ("donor", 77)
    assert joined.options["swarm"]["name"] == "digits"


async def test_a_name_is_asked_at_every_address_that_it_stands_for(donor: HttpNode) -> None:
    names = resolver(gossipnode=["127.0.0.9", "::1", "127.0.0.1"])
    joined = await join_any([f"http://gossipnode:{port_of(donor)}"], resolver=names)
    assert joined.url == donor.url
    with pytest.raises(NetworkError, match="nothing:7946: the name does not resolve"):
        await join_any(["http://nothing:7946"], resolver=names)


async def test_localhost_is_a_name_for_two_addresses_of_which_one_answers(donor: HttpNode) -> None:
    joined = await join_any([f"http://localhost:{port_of(donor)}"])
    assert joined.donor == "donor"


@pytest.mark.parametrize("path", ["/v1/swarm", "/v1/status", "/v1/model"])
async def test_a_donor_that_dies_between_two_answers_is_harmless(
    donor: HttpNode, path: str
) -> None:
    async with half_dead(donor, path) as url:
        with pytest.raises(NetworkError):
            await join_any([url])
        joined = await join_any([url, donor.url])
    assert joined.url == donor.url  # all of one node, nothing of the one that died
    assert joined.params.shape == donor.params.shape


async def test_a_fixed_graph_ends_the_search() -> None:
    config = Config.model_validate(
        {"node": {"id": "a"}, "network": {"port": 0}, "checkpoint": {"enabled": False}}
    )
    async with HttpNode(config, peers=[PeerEntry(id="a", address="http://127.0.0.1:1")]) as node:
        with pytest.raises(ConfigError, match="is fixed"):
            await join_any([node.url, "http://127.0.0.1:1"])


# -- the first of all ------------------------------------------------------------------------------


def own(folder: Path, port: int = 7946, **sections: dict[str, Any]) -> Config:
    tree = {"node": {"id": "me", "data_dir": str(folder)}, "network": {"port": port}}
    return Config.model_validate({**tree, **sections})


async def test_whoever_finds_only_itself_behind_a_name_begins(tmp_path: Path) -> None:
    names = resolver(node=["127.0.0.8", "127.0.0.1"], others=["192.0.2.9"])
    entry = await find_swarm(["http://node:1"], own(tmp_path, port=1), names)
    assert entry == Entry(("http://node:1",))
    assert not entry.has_options
    for url, port in (("http://node:1", 2), ("http://127.0.0.1:1", 1)):
        with pytest.raises(NetworkError, match="connection refused"):
            await find_swarm([url], own(tmp_path, port=port), names)


async def test_whoever_finds_another_behind_its_name_joins_it(
    donor: HttpNode, tmp_path: Path
) -> None:
    port = port_of(donor)
    names = resolver(node=["127.0.0.8", "127.0.0.1"])
    entry = await find_swarm([f"http://node:{port}"], own(tmp_path, port=port), names)
    assert entry is not None
    assert entry.joined is not None
    assert entry.joined.age == 77


# -- the book --------------------------------------------------------------------------------------


def write_book(folder: Path, *addresses: str, joined: bool = True, through: str = "") -> Page:
    folder.mkdir(parents=True, exist_ok=True)
    page = Page(
        options={
            "swarm": {"name": "digits"},
            "algorithm": {"name": "gossip"},
            "topology": {"graph": "random"},
            "data": {"source": "digits", "share": "2/5"},
            "node": {"id": "me"},
        },
        joined=joined,
        through=(through,) if through else (),
        contacts=tuple(Contact(id=f"n{i}", address=a) for i, a in enumerate(addresses)),
    )
    (folder / FILE).write_bytes(page_bytes(page))
    return page


async def test_with_a_dead_url_the_contacts_are_asked(donor: HttpNode, tmp_path: Path) -> None:
    page = write_book(tmp_path, "http://127.0.0.1:1", donor.url)
    entry = await find_swarm(["http://127.0.0.1:2"], own(tmp_path))
    assert entry is not None
    assert entry.joined is not None
    assert (entry.joined.url, entry.page) == (donor.url, page)
    options = entry.options
    assert options is not None
    assert options["node"] == {"id": "me"}
    assert options["data"]["share"] == "2/5"  # its own, whatever the donor has
    assert options["swarm"]["name"] == "digits"
    assert json.dumps(options)


async def test_without_a_url_it_goes_where_it_was_and_begins_alone_if_need_be(
    tmp_path: Path,
) -> None:
    page = write_book(tmp_path, "http://127.0.0.1:1", through="http://127.0.0.1:2")
    entry = await find_swarm([], own(tmp_path))
    assert entry == Entry(("http://127.0.0.1:2",), None, page)
    assert entry.options == page.options


@pytest.mark.parametrize(
    "sections",
    [
        {"checkpoint": {"fresh": True}},
        {"swarm": {"peers": "p.toml"}},
        {"checkpoint": {"enabled": False}},
    ],
)
async def test_a_book_is_left_aside_where_something_else_was_asked_for(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    write_book(tmp_path, "http://127.0.0.1:1")
    assert await find_swarm([], own(tmp_path, **sections)) is None


async def test_whoever_began_a_swarm_begins_by_its_own_options_again(tmp_path: Path) -> None:
    write_book(tmp_path, "http://127.0.0.1:1", joined=False)
    assert await find_swarm([], own(tmp_path)) is None


async def test_the_book_of_the_swarm_that_was_joined_by_a_url_is_found_without_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    url = "http://127.0.0.1:2"
    write_book(
        tmp_path / "gossipnode" / "others" / "me", "http://127.0.0.1:1", through="http://x:1"
    )
    page = write_book(tmp_path / "gossipnode" / "digits" / "me", through=url)
    config = Config.model_validate({"node": {"id": "me"}})
    entry = await find_swarm([url], config)
    assert entry == Entry((url,), None, page)


def test_options_of_its_own_are_read_without_those_that_only_the_swarm_makes_valid(
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[algorithm]\nperiod_s = 1.0\n[node]\nid = "a"\n[trust]\nbundle = "a.bundle"\n')
    config = own_options(file, ["network.port=5", "algorithm.period_s=2"], {"node.data_dir": "d"})
    assert (config.node.id, config.node.data_dir, config.network.port) == ("a", "d", 5)
    assert config.trust.bundle == str(tmp_path / "a.bundle")


def test_options_of_its_own_are_read_and_refused_as_all_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = tmp_path / "node.toml"
    file.write_text('[trust]\nbundle = "~/a.bundle"\n')
    assert own_options(file, [], {}).trust.bundle == str(tmp_path / "home" / "a.bundle")
    for text in ("[network]\nport = 99999\n", "[trust]\nbundle = 3\n", "swarm = 3\n"):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            own_options(file, [], {})
        assert caught.value.file == str(file)
