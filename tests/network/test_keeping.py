"""What is kept of bodies that were cut off, as a state machine: bounded, accounted for, exact."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gossipnode.errors import PeerError
from gossipnode.network import partials
from gossipnode.network.partials import Partials
from gossipnode.network.pool import BufferPool
from gossipnode.wire import Kind, Message, Part

PEERS = st.sampled_from(["b", "c", "d"])
SIZES = st.sampled_from([40, 100, 260])
BUDGET = 300


def message_of(seq: int, size: int) -> Message:
    return Message(
        Kind.MODEL, "s", "0", "gossip", "b", 1, seq, parts=(Part("x", "uint8", size, size),)
    )


class KeepingMachine(RuleBasedStateMachine):
    """Bodies arrive, break, go on and end, in any order; the model is a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool = BufferPool(BUDGET)
        self.partials = Partials(self.pool)
        self.arriving: dict[int, tuple[str, Message, memoryview]] = {}
        self.model: dict[str, tuple[Message, int, int]] = {}
        self.seq = 0

    def teardown(self) -> None:
        self.partials.close()
        assert not self.partials
        self.loop.close()

    @rule(peer=PEERS, size=SIZES)
    def arrive(self, peer: str, size: int) -> None:
        self.seq += 1
        message = message_of(self.seq, size)
        busy = self.pool.inflight_bytes and self.pool.inflight_bytes + size > BUDGET
        try:
            body = self.pool.take(size)
        except PeerError:
            assert busy
            return
        assert not busy
        self.arriving[self.seq] = peer, message, body

    @rule(data=st.data(), filled=st.integers(0, 259))
    def break_off(self, data: st.DataObject, filled: int) -> None:
        if self.arriving:
            seq = data.draw(st.sampled_from(sorted(self.arriving)))
            peer, message, body = self.arriving.pop(seq)
            self.pool.arrived(len(body))
            filled %= len(body)
            body[:filled] = bytes([seq % 251]) * filled
            self.loop.run_until_complete(self._keep(peer, message, body, filled))

    async def _keep(self, peer: str, message: Message, body: memoryview, filled: int) -> None:
        self.partials.keep(peer, message, body, filled)
        assert self.partials.bytes_of(peer, message) in (0, filled)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.arriving:
            seq = data.draw(st.sampled_from(sorted(self.arriving)))
            self.pool.arrived(len(self.arriving.pop(seq)[2]))

    @rule(peer=PEERS, seq=st.integers(1, 30), size=SIZES, off=st.integers(-1, 1))
    def go_on(self, peer: str, seq: int, size: int, off: int) -> None:
        message = message_of(seq, size)
        there = self.partials.bytes_of(peer, message)
        try:
            body = self.partials.take(peer, message, there + off)
        except PeerError:
            inflight = self.pool.inflight_bytes
            assert off or not there or (inflight and inflight + size > BUDGET)
            return
        assert there
        assert not off
        assert bytes(body[:there]) == bytes([seq % 251]) * there
        assert self.partials.bytes_of(peer, message) == 0
        self.arriving[seq] = peer, message, body

    @rule(peer=PEERS)
    def forget(self, peer: str) -> None:
        self.partials.drop(peer)

    @invariant()
    def memory_is_bounded_and_accounted_for(self) -> None:
        if hasattr(self, "pool"):
            arriving = sum(len(body) for _, _, body in self.arriving.values())
            assert self.pool.inflight_bytes == arriving
            kept, count = self.partials.kept_bytes, len(self.arriving) + len(self.partials)
            assert arriving + kept <= BUDGET or count <= 1


@pytest.fixture(autouse=True)
def machine_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every body is large here.
    monkeypatch.setattr(partials, "RESUME_BYTES_MIN", 1)


TestKeepingMachine = KeepingMachine.TestCase
TestKeepingMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
