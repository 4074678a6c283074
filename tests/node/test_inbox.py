"""The gate: each refusal by its code, each frame at most once, every reserved byte given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, entries
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.dpsgd import DPSGD, DpsgdOptions
from gossipnode.errors import PeerError
from gossipnode.learning.params import Layout
from gossipnode.node.inbox import CODED_EXTRA_BYTES, SENDERS_MAX, WINDOW, Inbox
from gossipnode.node.node import Node
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire.frame import decode, encode
from gossipnode.wire.message import Kind, Message, Part

LAYOUT = Layout.of({"x": (4,)}, "float64")
VECTOR = np.arange(4.0)
GRAPH, OTHER_GRAPH = "0123456789abcdef", "f" * 16


async def inline(work: Callable[..., Any], *vectors: Any, size: int = 0) -> Any:
    return work(*vectors)


def inbox(limit: int = 10**9, graph: str | None = GRAPH) -> Inbox:
    return Inbox(
        swarm="s",
        node_id="me",
        layout=LAYOUT,
        algorithm=DPSGD(DpsgdOptions(), 1),
        graph=graph,
        inflight_bytes_max=limit,
    )


def message(**changes: Any) -> Message:
    plain = Message(
        kind=Kind.MODEL,
        swarm="s",
        schema=LAYOUT.schema,
        algorithm="dpsgd",
        sender="you",
        epoch=7,
        seq=0,
        graph=GRAPH,
        parts=(Part.of("x", VECTOR),),
    )
    return replace(plain, **changes)


def merge(gate: Inbox, **changes: Any) -> bool:
    """Mark a message and settle it; False if it is in the ledger."""
    if not gate.mark(message(**changes)):
        return False
    gate.settle(message(**changes))
    return True


def part(**changes: Any) -> tuple[Part, ...]:
    return (replace(Part.of("x", VECTOR), **changes),)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("wrong_swarm", {"swarm": "other"}),
        ("not_a_neighbour", {"sender": "me"}),
        ("wrong_algorithm", {"algorithm": "gossip"}),
        ("wrong_algorithm", {"algorithm": "dpsgd/cta"}),
        ("unsupported_message", {"kind": Kind.EXCHANGE_REQUEST}),
        ("unsupported_message", {"kind": Kind.DELTA}),
        ("wrong_graph", {"graph": OTHER_GRAPH}),
        ("too_large", {"parts": part(nbytes=32 + CODED_EXTRA_BYTES + 1)}),
        ("wrong_schema", {"schema": "0" * 32}),
        ("wrong_schema", {"parts": part(size=3, nbytes=24)}),
        ("wrong_schema", {"parts": part(dtype="float32", nbytes=16)}),
        ("unsupported_message", {"parts": ()}),
        ("unsupported_message", {"parts": part(role="u")}),
        ("unsupported_message", {"parts": part(codec="sign")}),
        ("unsupported_message", {"parts": part(index={"kind": "range", "start": 0})}),
        ("unsupported_message", {"age": (1, 2)}),
    ],
)
def test_refuses_by_code_before_the_body(code: str, changes: dict[str, Any]) -> None:
    gate = inbox()
    with pytest.raises(PeerError) as caught:
        gate.admit(message(**changes))
    assert caught.value.code == code
    assert gate.inflight_bytes == 0
    assert gate.state() == {}


def test_two_parts_of_one_role_are_refused() -> None:
    gate, small = inbox(), Part.of("x", VECTOR[:2])
    with pytest.raises(PeerError) as caught:
        gate.admit(message(parts=(small, small)))
    assert caught.value.code == "unsupported_message"


def test_refuses_all_while_draining() -> None:
    gate = inbox()
    gate.draining = True
    with pytest.raises(PeerError) as caught:
        gate.admit(message())
    assert caught.value.code == "draining"
    assert caught.value.http_status == 503


def test_a_graph_that_one_side_does_not_tell_is_no_reason() -> None:
    inbox().admit(message(graph=None))
    inbox(graph=None).admit(message(graph=OTHER_GRAPH))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(bad: float) -> None:
    values = VECTOR.copy()
    values[2] = bad
    sent, _ = decode(bytearray(encode(message(), [values]).tobytes()))
    with pytest.raises(PeerError) as caught:
        asyncio.run(
            inbox().open(sent, memoryview(bytearray(values.tobytes())), values.nbytes, inline)
        )
    assert caught.value.code == "not_finite"


def test_refuses_a_body_that_was_changed_on_its_way() -> None:
    sent, _ = decode(bytearray(encode(message(), [VECTOR]).tobytes()))
    body = bytearray(VECTOR.tobytes())
    body[9] ^= 1
    with pytest.raises(PeerError) as caught:
        asyncio.run(inbox().open(sent, memoryview(body), len(body), inline))
    assert caught.value.code == "checksum_mismatch"


def test_a_sequence_number_is_entered_once() -> None:
    gate = inbox()
    assert gate.mark(message(seq=5))
    assert not gate.mark(message(seq=5))
    assert gate.admit(message(seq=5)).duplicate
    assert gate.mark(message(seq=4)), "a lower number may be new: frames overtake each other"
    assert gate.mark(message(seq=5, sender="another"))


def test_a_refused_frame_may_come_again() -> None:
    gate = inbox()
    gate.mark(message(seq=5))
    gate.unmark(message(seq=5))
    assert gate.mark(message(seq=5))


def test_what_is_older_than_the_window_counts_as_known() -> None:
    gate = inbox()
    merge(gate, seq=5000)
    assert not merge(gate, seq=5000 - WINDOW)
    assert merge(gate, seq=5001 - WINDOW)


def test_memory_of_a_sender_is_bounded_and_loses_nothing_in_the_window() -> None:
    gate, n = inbox(), 5 * WINDOW
    assert all(merge(gate, seq=seq) for seq in range(n))
    assert not any(merge(gate, seq=seq) for seq in range(n))
    assert len(gate.state()["you"][2]) <= WINDOW
    restored = inbox()
    restored.restore(gate.state())
    assert not any(restored.mark(message(seq=seq)) for seq in range(n))
    assert restored.mark(message(seq=n))


def test_a_later_life_begins_anew_and_an_earlier_one_is_stale() -> None:
    gate = inbox()
    assert gate.mark(message(epoch=7, seq=100))
    assert gate.mark(message(epoch=8, seq=0))
    with pytest.raises(PeerError) as caught:
        gate.admit(message(epoch=7, seq=101))
    assert caught.value.code == "stale_epoch"


def test_senders_are_bounded_and_the_one_silent_longest_goes() -> None:
    gate = inbox()
    for number in range(SENDERS_MAX):
        gate.mark(message(sender=f"s{number}"))
    gate.mark(message(sender="s0", seq=1))
    gate.mark(message(sender="new"))
    assert len(gate.state()) == SENDERS_MAX
    assert "s0" in gate.state()
    assert "s1" not in gate.state()


def test_busy_past_the_budget_but_one_body_is_always_let_in() -> None:
    gate = inbox(limit=0)
    first = gate.admit(message())
    with pytest.raises(PeerError) as caught:
        gate.admit(message(seq=1))
    assert caught.value.code == "busy"
    gate.release(first)
    assert gate.inflight_bytes == 0
    gate.release(gate.admit(message(seq=1)))


def test_the_budget_counts_bodies_exactly() -> None:
    gate = inbox(limit=64)
    held = [gate.admit(message(seq=seq)) for seq in range(2)]
    with pytest.raises(PeerError):
        gate.admit(message(seq=2))
    for admission in held:
        gate.release(admission)
    assert gate.inflight_bytes == 0


def test_what_a_coded_body_becomes_is_held_too() -> None:
    """Whatever came before it: 32 bytes raw; coded 8, and the 32 that they become."""
    gate, halves = inbox(), part(codec="float16", nbytes=8)
    raw, coded = message(), message(parts=halves)
    for each, body_bytes, held in [(raw, 32, 32), (coded, 8, 40), (coded, 8, 40), (raw, 32, 32)]:
        admission = gate.admit(each)
        assert (admission.body_bytes, gate.inflight_bytes) == (body_bytes, held)
        gate.release(admission)
        assert gate.inflight_bytes == 0


def test_refused_frames_do_not_make_a_sender_stale() -> None:
    """A body that fails its checksum came with the header of a later life."""
    gate = inbox()
    merge(gate, epoch=7, seq=3)
    gate.mark(message(epoch=2**52, seq=0))
    gate.unmark(message(epoch=2**52, seq=0))
    assert not gate.mark(message(epoch=7, seq=3))
    assert gate.mark(message(epoch=7, seq=4))


def test_refused_frames_do_not_move_the_window() -> None:
    gate = inbox()
    merge(gate, seq=3)
    gate.mark(message(seq=2**52))
    gate.unmark(message(seq=2**52))
    assert gate.mark(message(seq=4))


@pytest.mark.parametrize("ahead", [1, WINDOW - 5, WINDOW, 2**52])
def test_a_refused_frame_makes_nothing_forgotten_that_was_merged(ahead: int) -> None:
    """A sender with many peers counts far between two frames to one of them."""
    gate, n = inbox(), 20
    assert all(merge(gate, seq=seq) for seq in range(n))
    gate.mark(message(seq=n + ahead))
    gate.unmark(message(seq=n + ahead))
    assert not any(merge(gate, seq=seq) for seq in range(n))


def test_frames_that_are_judged_at_once_are_told_apart() -> None:
    gate = inbox()
    merge(gate, seq=0)
    for seq in (1, 2**52, 2, 2**40):
        assert gate.mark(message(seq=seq))
    assert not gate.mark(message(seq=2))
    gate.unmark(message(seq=2**52))
    gate.settle(message(seq=1))
    gate.unmark(message(seq=2**40))
    gate.settle(message(seq=2))
    assert [merge(gate, seq=seq) for seq in range(4)] == [False, False, False, True]


def test_what_is_judged_while_a_checkpoint_is_made_counts_as_merged() -> None:
    gate, restored = inbox(), inbox()
    merge(gate, seq=0)
    gate.mark(message(seq=1))
    restored.restore(gate.state())
    assert not merge(restored, seq=1)
    gate.unmark(message(seq=1))
    assert merge(gate, seq=1)


def test_of_a_sender_that_keeps_beginning_anew_one_life_is_remembered() -> None:
    gate = inbox()
    for epoch in range(8, 100):
        assert merge(gate, epoch=epoch)
        gate.mark(message(epoch=1000 + epoch))
        gate.mark(message(epoch=2000 + epoch))
        gate.unmark(message(epoch=1000 + epoch))
        gate.unmark(message(epoch=2000 + epoch))
        assert not merge(gate, epoch=epoch)
    assert len(gate._lives("you")) == 1


def test_lives_that_were_refused_are_forgotten_while_others_are_judged() -> None:
    gate = inbox()
    merge(gate, epoch=7)
    for epoch in range(8, 100):
        gate.mark(message(epoch=epoch))
        gate.unmark(message(epoch=epoch - 1))
    assert len(gate._lives("you")) == 2


# -- the whole way through a node ---------------------------------------------------------------


async def started() -> tuple[MemorySwarm, Node]:
    swarm = MemorySwarm()
    swarm.add(plain_config(), "me", entries(["me", "you"]), PlainLearner([0.0, 0.0]))
    await swarm.start()
    return swarm, swarm.nodes["me"]


def push(node: Node, **changes: Any) -> tuple[Message, bytearray]:
    """Return a message of the neighbour ``you``, and its body."""
    body = np.array([1.0, 2.0])
    facts = {
        "swarm": "swarm",
        "schema": node.layout.schema,
        "graph": node.place.graph,
        "parts": (Part.of("x", body),),
    }
    sent, arrays = decode(bytearray(encode(message(**facts, **changes), [body]).tobytes()))
    return sent, bytearray(arrays[0].tobytes())


def test_every_path_gives_the_memory_back() -> None:
    async def main() -> None:
        _, node = await started()
        sent, body = push(node)
        first = await node.deliver(node.admit(sent), memoryview(body))
        assert first.reply.status == "buffered"
        again = await node.deliver(node.admit(sent), memoryview(bytearray(body)))
        assert again.reply.status == "duplicate"
        torn, body = push(node, seq=1)
        body[0] ^= 1
        with pytest.raises(PeerError, match="checksum_mismatch"):
            await node.deliver(node.admit(torn), memoryview(body))
        body[0] ^= 1  # repeated, and sound this time: not a duplicate, though the round has it
        once_more = await node.deliver(node.admit(torn), memoryview(body))
        assert once_more.reply.status == "duplicate"
        assert node.counters.by_label("pushes_merged") == {"buffered": 1, "duplicate": 2}
        node.release(node.admit(push(node, seq=2)[0]))
        assert node.inbox.inflight_bytes == 0

    virtual_time.run(main())


def test_a_cancelled_delivery_gives_back_its_memory_and_its_number() -> None:
    async def main() -> None:
        _, node = await started()

        async def never(*_: Any, **__: Any) -> Any:
            await asyncio.sleep(3600)

        node.compute = never  # type: ignore[method-assign]
        sent, body = push(node)
        task = asyncio.create_task(node.deliver(node.admit(sent), memoryview(body)))
        await asyncio.sleep(1)
        assert node.inbox.inflight_bytes == 16
        task.cancel()
        await asyncio.wait([task])
        assert node.inbox.inflight_bytes == 0
        del node.compute
        delivery = await node.deliver(node.admit(sent), memoryview(body))
        assert delivery.reply.status == "buffered"

    virtual_time.run(main())


def test_a_stranger_to_the_graph_is_refused() -> None:
    async def main() -> None:
        _, node = await started()
        sent, body = push(node, sender="stranger")
        with pytest.raises(PeerError) as caught:
            await node.deliver(node.admit(sent), memoryview(body))
        assert caught.value.code == "not_a_neighbour"
        assert "stranger" not in node.peers
        assert node.inbox.inflight_bytes == 0

    virtual_time.run(main())
