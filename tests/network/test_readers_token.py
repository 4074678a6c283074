"""A token for readers: what is closed without it, what stays open, and that nobody hears of it."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from loopback import Connection, StartNode, config_of, frame_for, get, push
from trusting import authority_in, bundle_of, context_of

from gossipnode.errors import ConfigError
from gossipnode.network import ROUTES, HttpClient, HttpNode
from gossipnode.network.server import OPEN
from gossipnode.network.trust.trust import Trust

TOKEN = "rosebud-0123456789-äöü".encode("ascii", "ignore").decode() + "-xyz"
PAGES = [route.path for route in ROUTES if route.method == "GET" and route.path not in OPEN]
SHOWN = {
    "bearer": {"Authorization": f"Bearer {TOKEN}"},
    "lower case": {"Authorization": f"bearer  {TOKEN}"},
    "password": {"Authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()},
}
NOT_SHOWN = {
    "nothing": {},
    "another": {"Authorization": "Bearer " + "x" * len(TOKEN)},
    "shorter": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "longer": {"Authorization": f"Bearer {TOKEN}x"},
    "empty": {"Authorization": "Bearer "},
    "no scheme": {"Authorization": TOKEN},
    "as a name": {"Authorization": "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode()},
    "no base64": {"Authorization": "Basic =====%%"},
    "not ASCII": {"Authorization": "Bearer \xe4\xf6\xfc"},
    "in the query": {},
}


def test_the_pages_are_what_they_should_be() -> None:
    assert set(PAGES) == {
        "/", "/metrics", "/v1/status", "/v1/peers", "/v1/history", "/v1/events", "/v1/model",
        "/v1/swarm", "/v1/openapi.json",
    }  # fmt: skip


def token_file(folder: Path, token: str = TOKEN) -> str:
    path = folder / "readers.token"
    path.write_text(token + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture(params=["plain", "pages"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HttpNode]:
    network = {"status_token_file": token_file(tmp_path), "status_port": 0}
    async with AsyncExitStack() as stack:
        if request.param == "plain":
            made = HttpNode(config_of(tmp_path / "a", network=network))
        else:
            bundle = bundle_of(authority_in(tmp_path / "ca"), "a")
            config = config_of(tmp_path / "a", node={"id": ""}, network=network)
            made = HttpNode(config, trust=Trust(bundle))
        yield await stack.enter_async_context(made)


@pytest.mark.parametrize("how", NOT_SHOWN)
async def test_without_it_no_page_is_read(how: str, node: HttpNode) -> None:
    for path in PAGES:
        query = f"?token={TOKEN}&access_token={TOKEN}" if how == "in the query" else ""
        answer = await get(node.status_url, path + query, **NOT_SHOWN[how])
        assert (answer.status, answer.json()["code"]) == (401, "unauthorized"), path
        assert answer.headers["www-authenticate"].startswith("Bearer, Basic")
        head = await head_of(node.status_url, path, **NOT_SHOWN[how])
        assert head == 401
    assert node.counters.by_label("requests_refused") == {"token": 2 * len(PAGES)}


async def head_of(url: str, path: str, **headers: str) -> int:
    async with Connection(url) as connection:
        lines = [f"HEAD {path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int((await connection.reader.readline()).split()[1])


@pytest.mark.parametrize("how", SHOWN)
async def test_with_it_they_are(how: str, node: HttpNode) -> None:
    for path in PAGES:
        if path != "/v1/events":  # which has no end
            assert (await get(node.status_url, path, **SHOWN[how])).status == 200, path
    assert await head_of(node.status_url, "/v1/events", **SHOWN[how]) == 200


async def test_probes_are_open(node: HttpNode) -> None:
    for path in ("/livez", "/readyz"):
        assert (await get(node.status_url, path)).status == 200


async def test_peers_need_none(tmp_path: Path, start_node: StartNode) -> None:
    network = {"status_token_file": token_file(tmp_path), "status_port": 0}
    plain = await start_node(network=network)
    assert (await push(plain.url, frame_for(plain))).status == 200
    authority = authority_in(tmp_path / "ca")
    config = config_of(tmp_path / "b", node={"id": ""}, network=network)
    async with HttpNode(config, trust=Trust(bundle_of(authority, "b"))) as node:
        tls = context_of(bundle_of(authority, "c"), serving=False)
        async with HttpClient(tls) as client:
            assert (await client.ask("GET", f"{node.url}/v1/status")).status == 200


async def test_it_is_in_no_log_and_no_answer(
    node: HttpNode, caplog: pytest.LogCaptureFixture
) -> None:
    told = b""
    with caplog.at_level(logging.DEBUG):
        for headers in (*SHOWN.values(), *NOT_SHOWN.values()):
            for path in ("/v1/status", "/v1/swarm", "/metrics", "/nowhere"):
                told += (await get(node.status_url, path, **headers)).body
    assert TOKEN not in repr([record.__dict__ for record in caplog.records])
    assert TOKEN.encode() not in told


async def test_a_reload_changes_it(node: HttpNode, tmp_path: Path) -> None:
    token_file(tmp_path, "another-one-of-16-characters")
    await node.reload()
    assert (await get(node.status_url, "/v1/status", **SHOWN["bearer"])).status == 401
    other = {"Authorization": "Bearer another-one-of-16-characters"}
    assert (await get(node.status_url, "/v1/status", **other)).status == 200
    token_file(tmp_path, "short")
    with pytest.raises(ConfigError, match=r"network\.status_token_file: is no token"):
        await node.reload()
    assert (await get(node.status_url, "/v1/status", **other)).status == 200


async def test_a_node_does_not_start_with_a_file_that_is_no_token(tmp_path: Path) -> None:
    network = {"status_token_file": token_file(tmp_path, "short")}
    with pytest.raises(ConfigError, match="is no token"):
        async with HttpNode(config_of(tmp_path / "a", network=network)):
            pass
