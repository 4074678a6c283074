"""POST /v1/push over real sockets: what is merged, what is refused, and that nothing else moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from loopback import (
    CHAIN,
    CHAIN_PEERS,
    Answer,
    Connection,
    StartNode,
    frame_for,
    head,
    message_for,
    push,
    until,
    vector_for,
)

from gossipnode.errors import REFUSALS
from gossipnode.network import HttpNode
from gossipnode.wire import CONTENT_TYPE, Kind, Part, decode, encode

LARGE = {"task": {"kind": "mlp", "hidden": [256]}}  # 19,210 params, 77 kB: above what is joined


def refused(node: HttpNode, code: str) -> int:
    return node.counters.get("pushes_refused", label=("code", code))


# -- one way into each refusal: returns the answer of the refused push ---------------------------


async def malformed(node: HttpNode) -> Answer:
    return await push(node.url, b"XX" + frame_for(node)[2:])


async def version(node: HttpNode) -> Answer:
    frame = bytearray(frame_for(node))
    frame[2] = 9
    return await push(node.url, bytes(frame))


async def checksum(node: HttpNode) -> Answer:
    frame = bytearray(frame_for(node))
    frame[-1] ^= 1
    return await push(node.url, bytes(frame))


async def swarm(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, swarm="another"))


async def stranger(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, sender="c"))


async def slow_body(node: HttpNode) -> Answer:
    frame = frame_for(node)
    async with Connection(node.url) as connection:
        await connection.send(head("POST", "/v1/push", content_length=str(len(frame))))
        await connection.send(frame[:-1])
        return await connection.answer()


async def schema(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, schema="0" * 16))


async def algorithm(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, algorithm="another"))


async def graph(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, graph="0" * 16))


async def old_epoch(node: HttpNode) -> Answer:
    before = np.array(node.params)  # merged into itself: the params stay as they are
    assert (await push(node.url, frame_for(node, before, epoch=5, age=0))).status == 200
    return await push(node.url, frame_for(node, epoch=4, seq=1))


async def chunked(node: HttpNode) -> Answer:
    async with Connection(node.url) as connection:
        await connection.send(
            head("POST", "/v1/push", transfer_encoding="chunked"), b"3\r\nGN\1\r\n0\r\n\r\n"
        )
        return await connection.answer()


async def too_large(node: HttpNode) -> Answer:
    vector = np.ones(2 * node.layout.size, node.params.dtype)
    return await push(node.url, frame_for(node, vector))


async def compressed(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node), content_encoding="gzip")


async def not_finite(node: HttpNode) -> Answer:
    vector = vector_for(node)
    vector[-1] = np.nan
    return await push(node.url, frame_for(node, vector))


async def out_of_range(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, vector_for(node, 1e30)))


async def unsupported(node: HttpNode) -> Answer:
    return await push(node.url, frame_for(node, kind=Kind.DELTA))


async def missing_base(node: HttpNode) -> Answer:
    """A difference to the sender's third x̂, of which nothing has come."""
    difference = vector_for(node)
    facts: dict[str, Any] = {"version": 4, "base_version": 3, "scalars": {"gamma": 1.0}}
    parts = (Part.of("q", difference),)
    return await push(node.url, frame_for(node, difference, parts=parts, round=0, **facts))


async def busy(node: HttpNode) -> Answer:
    frame = frame_for(node, sender="c")
    async with Connection(node.url) as first:
        await first.send(head("POST", "/v1/push", content_length=str(len(frame))), frame[:-1])
        await until(lambda: node.inbox.inflight_bytes)
        return await push(node.url, frame_for(node))


async def draining(node: HttpNode) -> Answer:
    await node.drain()
    return await push(node.url, frame_for(node))


Way = Callable[[HttpNode], Awaitable[Answer]]
OF_CHAIN: dict[str, Any] = {**CHAIN, "peers": CHAIN_PEERS}
WAYS: dict[str, tuple[Way, dict[str, Any]]] = {
    "malformed_frame": (malformed, {}),
    "unsupported_version": (version, {}),
    "checksum_mismatch": (checksum, {}),
    "wrong_swarm": (swarm, {}),
    "not_a_neighbour": (stranger, OF_CHAIN),
    "body_timeout": (slow_body, {"network": {"body_timeout_s": 0.05}}),
    "wrong_schema": (schema, {}),
    "wrong_algorithm": (algorithm, {}),
    "wrong_graph": (graph, OF_CHAIN),
    "stale_epoch": (old_epoch, {}),
    "length_required": (chunked, {}),
    "too_large": (too_large, {}),
    "unsupported_encoding": (compressed, {}),
    "not_finite": (not_finite, {}),
    "out_of_range": (out_of_range, {}),
    "unsupported_message": (unsupported, {}),
    "missing_base": (missing_base, {**OF_CHAIN, "algorithm": {"name": "choco"}}),
    "busy": (busy, {"network": {"inflight_bytes_max": 0}}),
    "draining": (draining, {}),
}


def test_every_refusal_code_has_a_way_in() -> None:
    assert WAYS.keys() == REFUSALS.keys()


@pytest.mark.parametrize("code", WAYS)
async def test_a_refusal_is_typed_counted_and_changes_nothing(
    code: str, start_node: StartNode
) -> None:
    way, sections = WAYS[code]
    node = await start_node(**sections)
    before, age = node.params.tobytes(), node.age
    answer = await way(node)
    assert answer.status == REFUSALS[code]
    reply = answer.msgpack()
    assert (reply["status"], reply["code"], reply["sender"]) == ("refused", code, "a")
    assert reply["reason"]
    assert ("retry-after" in answer.headers) == (answer.status == 503)
    assert refused(node, code) == 1
    await until(lambda: node.inbox.inflight_bytes == 0)
    assert (node.params.tobytes(), node.age) == (before, age)


async def test_a_push_is_merged_and_answered_in_msgpack(node: HttpNode) -> None:
    answer = await push(node.url, frame_for(node, vector_for(node, 3.0)))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/msgpack")
    assert answer.msgpack()["status"] == "merged"
    assert answer.msgpack()["age"] == node.age == 7
    # Age 7 against 0: all of the weight is the sender's.
    np.testing.assert_array_equal(node.params, vector_for(node, 3.0))


async def test_the_answer_is_json_where_the_client_asks_for_it(node: HttpNode) -> None:
    answer = await push(node.url, frame_for(node), accept="application/json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["status"] == "merged"
    answer = await push(node.url, b"nonsense", accept="application/json")
    assert (answer.status, answer.json()["code"]) == (400, "malformed_frame")


async def test_a_duplicate_is_acknowledged_once_and_the_connection_stays(node: HttpNode) -> None:
    async with Connection(node.url) as connection:
        assert (await connection.push(frame_for(node))).msgpack()["status"] == "merged"
        merged = node.params.tobytes()
        again = frame_for(node, vector_for(node, 9.0))
        assert (await connection.push(again)).msgpack()["status"] == "duplicate"
        assert node.params.tobytes() == merged
        assert (await connection.push(frame_for(node, seq=1))).msgpack()["status"] == "merged"


@pytest.mark.parametrize("step", [1, 7, 64, 1021])
async def test_a_frame_in_pieces_of_any_size_is_the_same_frame(node: HttpNode, step: int) -> None:
    vector = np.linspace(0, 1, node.layout.size, dtype=node.params.dtype)
    frame = frame_for(node, vector)
    async with Connection(node.url) as connection:
        await connection.send(head("POST", "/v1/push", content_length=str(len(frame))))
        await connection.send(*(frame[at : at + step] for at in range(0, len(frame), step)))
        assert (await connection.answer()).msgpack()["status"] == "merged"
    np.testing.assert_array_equal(node.params, vector)


async def test_a_body_above_aiohttps_own_limit_is_streamed(start_node: StartNode) -> None:
    node = await start_node(task={"kind": "mlp", "hidden": [8192]})  # 614,410 params, 2.5 MB
    vector = np.linspace(0, 1, node.layout.size, dtype=node.params.dtype)
    answer = await push(node.url, frame_for(node, vector))
    assert answer.msgpack()["status"] == "merged"
    np.testing.assert_array_equal(node.params, vector)


async def test_a_truncated_body_leaves_nothing_behind(node: HttpNode) -> None:
    before, frame = node.params.tobytes(), frame_for(node)
    async with Connection(node.url) as connection:
        await connection.send(head("POST", "/v1/push", content_length=str(len(frame))))
        await connection.send(frame[:-100])
        await until(lambda: node.inbox.inflight_bytes)
    await until(lambda: refused(node, "malformed_frame"))
    assert node.inbox.inflight_bytes == 0
    assert node.params.tobytes() == before
    # The same push once more, whole: it was not entered as seen.
    assert (await push(node.url, frame)).msgpack()["status"] == "merged"


@pytest.mark.parametrize("difference", [-1, 1])
async def test_content_length_must_be_that_of_the_frame(node: HttpNode, difference: int) -> None:
    frame = frame_for(node) + b"\0"
    length = len(frame) - 1 + difference
    answer = await push(node.url, frame[:length], content_length=str(length))
    assert (answer.status, answer.msgpack()["code"]) == (400, "malformed_frame")
    assert node.inbox.inflight_bytes == 0


async def test_an_empty_push_is_malformed(node: HttpNode) -> None:
    assert (await push(node.url, b"")).msgpack()["code"] == "malformed_frame"


async def test_a_small_refused_body_is_dropped_and_the_connection_goes_on(node: HttpNode) -> None:
    async with Connection(node.url) as connection:
        refusal = await connection.push(frame_for(node, swarm="another"))
        assert refusal.msgpack()["code"] == "wrong_swarm"
        assert "connection" not in refusal.headers
        assert (await connection.push(frame_for(node))).msgpack()["status"] == "merged"


async def test_a_large_body_is_refused_before_it_is_sent(node: HttpNode) -> None:
    vector = np.ones(1_000_000, node.params.dtype)
    frame = frame_for(node, vector)
    async with Connection(node.url) as connection:
        await connection.send(head("POST", "/v1/push", content_length=str(len(frame))))
        await connection.send(frame[:1000])
        answer = await connection.answer()
        assert (answer.status, answer.msgpack()["code"]) == (413, "too_large")
        assert answer.headers["connection"] == "close"
        # Whoever sends all of it all the same does not run into a reset either.
        await connection.send(frame[1000:])
        assert await connection.is_closed()


async def test_expect_100_continue_is_answered(node: HttpNode) -> None:
    frame = frame_for(node)
    async with Connection(node.url) as connection:
        await connection.send(
            head("POST", "/v1/push", content_length=str(len(frame)), expect="100-continue")
        )
        assert (await connection.answer()).status == 100
        await connection.send(frame)
        assert (await connection.answer()).msgpack()["status"] == "merged"


async def test_expect_100_continue_of_too_much_is_refused_at_once(node: HttpNode) -> None:
    async with Connection(node.url) as connection:
        await connection.send(
            head("POST", "/v1/push", content_length="10000000", expect="100-continue")
        )
        answer = await connection.answer()
    assert (answer.status, answer.msgpack()["code"]) == (413, "too_large")


async def test_web_pages_may_not_push(node: HttpNode) -> None:
    answer = await push(node.url, frame_for(node), origin="http://evil.example")
    assert (answer.status, answer.msgpack()["code"]) == (403, "not_a_neighbour")
    assert node.age == 0


@pytest.mark.parametrize("sections", [{}, LARGE], ids=["joined", "streamed"])
async def test_an_exchange_is_answered_with_the_values_from_before(
    start_node: StartNode, sections: dict[str, Any]
) -> None:
    exchange = {"name": "gossip", "period_s": 86_400.0, "exchange": "push_pull"}
    node = await start_node(algorithm=exchange, **sections)
    before = np.array(node.params)
    vector = np.linspace(0, 1, node.layout.size, dtype=node.params.dtype)
    answer = await push(node.url, frame_for(node, vector, kind=Kind.EXCHANGE_REQUEST))
    assert (answer.status, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    message, (back,) = decode(answer.body)
    assert (message.kind, message.sender) == (Kind.EXCHANGE_REPLY, "a")
    np.testing.assert_array_equal(back, before)
    assert not np.array_equal(node.params, before)


async def test_a_message_of_two_parts_of_one_role_is_refused_without_its_body(
    node: HttpNode,
) -> None:
    half = np.ones(node.layout.size // 2, node.params.dtype)
    message = message_for(node, half, parts=(Part.of("x", half), Part.of("x", half)))
    answer = await push(node.url, encode(message, [half, half]).tobytes())
    assert answer.msgpack()["code"] == "unsupported_message"
