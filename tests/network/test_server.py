"""The read-only endpoints, the probes, events, and what the server refuses to bind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import socket
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from aiohttp import http_parser
from loopback import Connection, StartNode, config_of, frame_for, get, head, push, until
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import load

from gossipnode.config import NetworkOptions, PeerEntry
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network import ROUTES, HttpNode
from gossipnode.network import events as events_module
from gossipnode.network.ports import bind
from gossipnode.network.server import Server
from gossipnode.node.status import Status

NO_PAGES = {"/v1/events", "/v1/lane"}
PAGES = [route.path for route in ROUTES if route.method == "GET" and route.path not in NO_PAGES]


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_answers(node: HttpNode, path: str) -> None:
    answer = await get(node.url, path)
    assert answer.status == 200
    # Nobody was shut out.
    assert answer.body or path == "/v1/revocations"
    if answer.headers["content-type"] == "application/json":
        answer.json()


@pytest.mark.parametrize("path", PAGES)
async def test_head_is_get_without_the_body(node: HttpNode, path: str) -> None:
    async with Connection(node.url) as connection:
        await connection.send(head("HEAD", path), head("GET", "/livez"))
        first = await connection.reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in first.splitlines()[0]
        assert (await connection.answer()).json() == {"live": True, "id": node.id}


async def test_an_unknown_path_and_a_wrong_method_are_answered_in_json(node: HttpNode) -> None:
    answer = await get(node.url, "/v1/nothing")
    assert (answer.status, answer.json()["code"]) == (404, "not_found")
    assert "/v1/nothing" in answer.json()["reason"]
    answer = await get(node.url, "/v1/push")
    assert (answer.status, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = await get(node.url, "/v1/status", "DELETE")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


async def test_the_status_is_the_dataclass_in_json_and_in_msgpack(node: HttpNode) -> None:
    names = {field.name for field in fields(Status)}
    as_json = (await get(node.url, "/v1/status")).json()
    answer = await get(node.url, "/v1/status", accept="application/msgpack")
    assert answer.headers["content-type"] == "application/msgpack"
    as_msgpack = answer.msgpack()
    assert as_json.keys() == as_msgpack.keys() == names
    assert as_json["schema"] == as_msgpack["schema"] == node.layout.schema


async def test_of_many_peers_the_status_shows_some_and_the_pages_all(start_node: StartNode) -> None:
    entries = [PeerEntry(id=f"n{i}", address=f"http://127.0.0.1:{i + 1}") for i in range(1000)]
    node = await start_node(peers=(*entries, PeerEntry(id="a", address="http://127.0.0.1:2000")))
    node.peers.mark(node.peers["n900"], "suspect")
    node.peers.heard(node.peers["n800"], node.time())
    status = (await get(node.url, "/v1/status")).json()
    assert len(status["peers"]) == 64
    assert {"n800", "n900"} < {row["id"] for row in status["peers"]}
    assert status["peers_total"] == 1000
    states = {"alive": 1, "suspect": 1, "down": 0, "left": 0, "unknown": 998}
    assert status["peers_by_state"] == states
    metrics = (await get(node.url, "/metrics")).body.decode()
    for state, count in status["peers_by_state"].items():
        assert f'gossipnode_peers{{state="{state}"}} {float(count)}' in metrics
    rows, after, sizes = [], "", []
    while after is not None:
        page = (await get(node.url, f"/v1/peers?limit=256&after={after}")).json()
        rows += page["peers"]
        sizes.append(len(page["peers"]))
        assert page["peers_total"] == 1000
        after = page["next"]
    assert sizes == [256, 256, 256, 232]
    assert [row["id"] for row in rows] == [entry.id for entry in entries]
    first = (await get(node.url, "/v1/peers")).json()
    assert (len(first["peers"]), first["next"]) == (64, "n63")
    alone = (await get(node.url, "/v1/peers?after=n998")).json()
    assert ([row["id"] for row in alone["peers"]], alone["next"]) == (["n999"], None)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=257", "limit=x", "limit=-1", "limit=00000000064", "after=nobody"]
)
async def test_a_page_of_peers_that_cannot_be_is_refused(node: HttpNode, query: str) -> None:
    answer = await get(node.url, f"/v1/peers?{query}")
    assert (answer.status, answer.json()["code"]) == (400, "bad_query")


async def test_the_openapi_document_tells_of_the_pages(node: HttpNode) -> None:
    told = (await get(node.url, "/v1/openapi.json")).json()
    page = told["paths"]["/v1/peers"]["get"]
    assert [one["name"] for one in page["parameters"]] == ["after", "limit"]
    schema = page["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    (found,) = [told["components"]["schemas"][schema.rpartition("/")[2]]]
    assert found["properties"].keys() == {"peers", "peers_total", "next"}
    assert found["properties"]["peers"]["items"]["$ref"].endswith("/PeerStatus")


async def test_history_starts_at_since_and_says_what_since_is(node: HttpNode) -> None:
    await node.measure()
    assert len((await get(node.url, "/v1/history")).json()["history"]) == 1
    assert (await get(node.url, "/v1/history?since=1")).json() == {"history": []}
    for wrong in ("-1", "x", "1e3", "²", "9" * 19):
        answer = await get(node.url, f"/v1/history?since={wrong.encode('unicode_escape').decode()}")
        assert (answer.status, answer.json()["code"]) == (400, "bad_query")


async def test_numbers_that_are_not_finite_become_null(node: HttpNode) -> None:
    await node.measure()
    assert node.measurements.last is not None
    node.measurements.last["loss"] = float("nan")
    assert (await get(node.url, "/v1/history")).json()["history"][0]["loss"] is None


async def test_the_model_is_safetensors_with_an_etag_of_its_content(node: HttpNode) -> None:
    answer = await get(node.url, "/v1/model")
    assert answer.headers["content-disposition"] == 'attachment; filename="a.safetensors"'
    assert (answer.headers["gossipnode-round"], answer.headers["gossipnode-age"]) == ("0", "0")
    found = np.concatenate([tensor.ravel() for tensor in load(answer.body).values()])
    assert sorted(found) == sorted(node.params)
    etag = answer.headers["etag"]
    async with Connection(node.url) as connection:
        await connection.send(head("GET", "/v1/model", if_none_match=etag))
        assert b" 304 " in await connection.reader.readuntil(b"\r\n\r\n")
    await push(node.url, frame_for(node))
    answer = await get(node.url, "/v1/model", if_none_match=etag)
    assert (answer.status, answer.headers["gossipnode-age"]) == (200, "7")


async def test_metrics_are_prometheus_text_and_count_refusals_by_reason(node: HttpNode) -> None:
    await push(node.url, frame_for(node))
    await push(node.url, frame_for(node, swarm="another"))
    answer = await get(node.url, "/metrics")
    families = {f.name: f for f in text_string_to_metric_families(answer.body.decode())}
    refusals = {s.labels["code"]: s.value for s in families["gossipnode_pushes_refused"].samples}
    assert refusals == {"wrong_swarm": 1}
    values = {s.name: s.value for family in families.values() for s in family.samples}
    assert values["gossipnode_pushes_received_total"] == 1
    assert values["gossipnode_age"] == 7
    assert values["gossipnode_ready"] == 1
    assert all(family.documentation for family in families.values())


async def test_openapi_lists_every_route_and_resolves_its_references(node: HttpNode) -> None:
    document = (await get(node.url, "/v1/openapi.json")).json()
    listed = {(m.upper(), path) for path, item in document["paths"].items() for m in item}
    assert listed == {(route.method, route.path) for route in ROUTES}
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in schemas
    assert schemas["Status"]["properties"].keys() == {field.name for field in fields(Status)}


async def test_the_dashboard_may_run_its_own_script_and_nothing_else(node: HttpNode) -> None:
    answer = await get(node.url, "/")
    policy = answer.headers["content-security-policy"]
    page = answer.body.decode()
    for tag in ("script", "style"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "innerHTML" not in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)


async def test_probes_follow_the_life_of_the_node(node: HttpNode) -> None:
    assert (await get(node.url, "/readyz")).json() == {"ready": True}
    await node.drain()
    answer = await get(node.url, "/readyz")
    assert (answer.status, answer.json()["reason"]) == (503, "this node is draining")
    assert (await get(node.url, "/livez")).status == 200


async def test_a_node_that_has_not_started_is_alive_but_not_ready(tmp_path: Path) -> None:
    node = HttpNode(config_of(tmp_path))
    server = Server(node)
    listener = await bind(node.config.network)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await server.start(listener)
    try:
        assert (await get(url, "/livez")).status == 200
        assert (await get(url, "/readyz")).status == 503
        assert (await get(url, "/v1/status")).json()["state"] == "created"
        assert (await get(url, "/v1/model")).json()["code"] == "not_ready"
        answer = await push(url, b"anything")
        assert (answer.status, answer.msgpack()["code"]) == (503, "busy")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        await server.close()
        await server.close()


# -- events ---------------------------------------------------------------------------------------


async def read_event(connection: Connection) -> bytes:
    """Return the next part of a chunked stream that is an event or a comment."""
    async with asyncio.timeout(20):
        size = int(await connection.reader.readline(), 16)
        return (await connection.reader.readexactly(size + 2))[:-2]


async def listen(connection: Connection) -> None:
    await connection.send(head("GET", "/v1/events"))
    answer = await connection.reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in answer
    assert await read_event(connection) == b": connected\n\n"


async def test_events_tell_what_happens(node: HttpNode) -> None:
    async with Connection(node.url) as connection:
        await listen(connection)
        await node.measure()
        name, data, *rest = (await read_event(connection)).decode().split("\n")
        assert (name, rest) == ("event: measured", ["", ""])
        assert json.loads(data.removeprefix("data: "))["round"] == 0


async def test_a_silent_stream_has_a_heartbeat(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module.Streams.__init__, "__defaults__", (0.01,))
    node = await start_node()
    async with Connection(node.url) as connection:
        await listen(connection)
        assert await read_event(connection) == b": heartbeat\n\n"


async def test_a_client_that_falls_behind_is_dropped(node: HttpNode) -> None:
    async with Connection(node.url) as connection:
        await listen(connection)
        # All at once, so that the stream has no moment to forward any.
        for number in range(200):
            node.measurements.publish({"event": "state", "number": number})
        assert (await read_event(connection)).startswith(b": dropped")
        assert await read_event(connection) == b""


async def test_streams_are_bounded_and_end_with_their_client(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "STREAMS_MAX", 1)
    streams = node._server._streams
    async with Connection(node.url) as connection:
        await listen(connection)
        answer = await get(node.url, "/v1/events")
        assert (answer.status, answer.json()["code"]) == (503, "busy")

    def is_over() -> bool:
        node.measurements.publish({"event": "state"})  # a write finds that the client has left
        return not len(streams)

    await until(is_over)


# -- binding --------------------------------------------------------------------------------------


async def test_a_port_in_use_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(NetworkError, match=rf"127\.0\.0\.1:{port} is in use.*--port"):
            await bind(NetworkOptions(port=port))


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
async def test_only_loopback_is_bound_unless_insecure(address: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.bind.*--insecure"):
        await bind(NetworkOptions(bind=address, port=0))


async def test_insecure_binds_every_address_and_wants_one_to_advertise(tmp_path: Path) -> None:
    open_ = {"bind": "0.0.0.0", "insecure": True}
    with pytest.raises(ConfigError, match=r"network\.advertise"):
        async with HttpNode(config_of(tmp_path, network=open_)):
            raise AssertionError("unreachable")
    named = {**open_, "advertise": "http://node-a.example:7946/"}
    async with HttpNode(config_of(tmp_path, network=named)) as node:
        assert node.address == "http://node-a.example:7946"


async def test_an_unknown_bind_address_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"network\.bind"):
        await bind(NetworkOptions(bind="no.such.host.invalid", port=0))


async def test_a_listener_handed_in_is_held_to_the_same_rule(tmp_path: Path) -> None:
    listener = socket.create_server(("0.0.0.0", 0))
    with pytest.raises(ConfigError, match="--insecure"):
        async with HttpNode(config_of(tmp_path), listener=listener):
            raise AssertionError("unreachable")
    assert listener.fileno() == -1


async def test_the_server_refuses_to_start_without_the_c_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(http_parser, "HttpRequestParserC")
    with pytest.raises(NetworkError, match="C parser"):
        async with HttpNode(config_of(tmp_path)):
            raise AssertionError("unreachable")


async def test_broken_http_is_answered_and_fills_no_log(
    node: HttpNode, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "gossipnode"):
        async with Connection(node.url) as connection:
            await connection.send(b"NONSENSE\r\n\r\n")
            assert (await connection.answer()).status == 400
    assert not caplog.records
