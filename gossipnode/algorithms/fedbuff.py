"""FedBuff: clients train each at its own pace; the hub steps whenever its buffer is full.

Client i, again and again::

    get x_start, of round v, from the hub; train: x_end
    send Δ_i = x_start − x_end, and v

The hub, in round k, when K of them have come (the order is that of arrival)::

    x ← x − η_g (1/K) Σ_{i in buffer} s(k − v_i) Δ_i        k ← k + 1, and the buffer is empty

A client gets the next model in answer to its Δ, at once if the hub has gone on since v, else when
it does: nobody trains twice from one model, which is why K ≤ n. With K = n and η_g = 1 this is
FedAvg with equal weights. The hub fills a place of its own buffer in each round that it begins; if
for a deadline nothing comes, it steps with what there is.

With a codec C a client sends C(Δ_i + e_i), by error feedback (``feedback``), and the hub's model
comes as it is.

Letters: x params, τ local steps, s staleness function, δ = k − v rounds behind, K buffer size, η_g
step size of the hub. Rounds are the hub's steps.

*Source*: Nguyen et al., AISTATS 2022 (FedBuff); Huba et al., MLSys 2022 (Papaya).
*Differs from the source*: no client trains twice from one model; a buffer that stays half empty
for a deadline is used as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.hub import HubAlgorithm, work_of
from gossipnode.algorithms.hub_clients import HubOptions, Work
from gossipnode.algorithms.staleness import MergeOptions, no_ages, staleness_function
from gossipnode.algorithms.vectors import narrowed, widened
from gossipnode.algorithms.waiting import CLOCK_S, PROBE_EVERY_S
from gossipnode.codecs import CODECS, UNBIASED
from gossipnode.learning.params import add_scaled
from gossipnode.options import Facts, Needs, option

# Answers of one client in the buffer: it is sent a model for each, and may be quicker than the hub
# steps. One that answers all models of the past at once would fill the hub's memory.
ROOM = 4


class FedBuffOptions(HubOptions, MergeOptions):
    """FedBuff: asynchronous federated learning with a hub."""

    default_graph = "star"
    codecs, unbiased = frozenset(CODECS), UNBIASED
    facts = (
        Facts(
            "",
            "one model, by a hub, of nodes of uneven speed",
            "1 each way",
            "is said again",
            steady="more than dpsgd",
        ),
    )

    name: Literal["fedbuff"] = "fedbuff"
    buffer: int = option(
        10, "K: answers in one step of the hub; no more than there are nodes.", unit="answers", ge=1
    )
    server_rate: float = option(1.0, "η_g: how far the hub goes.", gt=0.0, le=1e3)

    @model_validator(mode="after")
    def _counts_rounds(self) -> FedBuffOptions:
        no_ages(self, "fedbuff")
        return self

    def needs(self) -> Needs:
        """Return that nodes have no rounds in common."""
        return Needs(ignores_graph=True, rounds=False)

    def round_s_max(self, training_s: float) -> float:
        """Return the same, where each answer but the first takes a deadline."""
        return super().round_s_max(training_s) + (self.buffer - 1) * self.deadline_s


class FedBuff(HubAlgorithm):
    """Buffered asynchronous aggregation."""

    Options = FedBuffOptions
    name = "fedbuff"
    up = coded_up = ("delta",)
    coded = frozenset(up)

    def __init__(self, options: FedBuffOptions, local_steps: int) -> None:
        super().__init__(options, local_steps)
        self.K, self.eta_g = options.buffer, options.server_rate
        self.s = staleness_function(options.staleness, options.staleness_a, options.staleness_b)
        self.buffer: list[tuple[int, Work]] = []  # (v, Δ)
        self.latest: dict[str, int] = {}  # the v of each client's last Δ
        self.owed: set[str] = set()  # those that wait for the next model
        self.filled = asyncio.Event()

    async def local(self, node: NodeInterface, k: int) -> Work | None:
        """Return Δ_i."""
        x = node.params
        after = await node.trained(x, self.tau)
        delta = await node.compute(np.subtract, x, after)
        if node.codec is None:
            return Work({"delta": delta}, node.samples)
        return await self.compressed(node, k, delta)

    async def serve(self, node: NodeInterface) -> None:
        """Fill the buffer, step, and send the model to those that wait for it."""
        self.send_model(node, node.ids)
        while node.budget_left:
            began, was_full = node.time(), self.is_full(node)
            if not was_full:
                await self.contribute(node)
                await self.wait_for_more(node)
            if self.later is not None:
                await self.catch_up(node, self.later)
                self.buffer, self.owed = [], {*node.ids}
            else:
                await self.step(node)
            owed, self.owed = self.owed, set()
            is_over = not node.budget_left
            self.send_model(node, node.ids if is_over else [j for j in node.ids if j in owed])
            # Rounds with nobody would follow one another without giving way.
            if not owed and not was_full:
                await node.sleep(PROBE_EVERY_S if node.time() - began < CLOCK_S else 0.0)

    def send_model(self, node: NodeInterface, peers: Collection[str]) -> None:
        """Send the model, which tells with a codec what of its receiver was not counted.

        So that will not be counted later, either: its part of e stays with who sent it.
        """
        super().send_model(node, peers)
        if node.codec is not None:
            for j in peers:
                self.latest[j] = max(self.latest.get(j, -1), node.round - 1)

    async def contribute(self, node: NodeInterface) -> None:
        """Be a client of oneself."""
        k = node.round
        work = await self.local(node, k)
        if work is not None:
            self.buffer.append((k, work))
            self.note_counted(node, k, {node.id: work})

    async def wait_for_more(self, node: NodeInterface) -> None:
        """Return when the buffer is full, nobody is left, or nothing came for a deadline."""
        since, size = node.time(), len(self.buffer)
        others = [j for j in node.ids if j != node.id]
        while not self.is_full(node) and self.later is None and not node.stopping:
            if len(self.buffer) > size:
                since, size = node.time(), len(self.buffer)
            left = since + self.deadline_s - node.time()
            # Nobody answers twice to one model.
            waits = [
                j for j in others if node.is_expected(j) and self.latest.get(j, -1) < node.round
            ]
            if left < CLOCK_S or not waits:
                return
            self.filled.clear()
            if not await node.wait(self.filled, min(PROBE_EVERY_S, left)):
                node.probe(waits)

    def is_full(self, node: NodeInterface) -> bool:
        """Whether there are as many answers as a step takes."""
        return len(self.buffer) >= min(self.K, node.nodes)

    async def step(self, node: NodeInterface) -> None:
        """Step with the first K answers, if there is any, and close the round."""
        k, x = node.round, node.params
        used, self.buffer = self.buffer[: self.K], self.buffer[self.K :]
        if used and not node.stopping:
            after = await self.stepped(node, k, used)
            self.sent = -1  # no more x^k, and not yet x^{k+1}
            await node.commit(after=after, before=x, steps=self.tau)
        await node.end_round()

    async def stepped(self, node: NodeInterface, k: int, used: list[tuple[int, Work]]) -> Vector:
        """Return x − η_g (1/K) Σ s(k − v) Δ."""
        x: Vector = await node.compute(widened, node.params)
        for v, work in used:
            share = self.eta_g * self.s(max(0, k - v)) / len(used)
            await node.compute(add_scaled, x, work.parts["delta"], -share)
        found: Vector = await node.compute(narrowed, x, node.params)
        return found

    async def aggregate(self, node: NodeInterface, k: int, answers: Mapping[str, Work]) -> Vector:
        """Return the step with ``answers``, all of round ``k``: FedAvg's."""
        return await self.stepped(node, k, [(k, work) for work in answers.values()])

    def answered(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Put Δ into the buffer, once."""
        j, v = arrival.sender, arrival.round
        if v == node.round:
            self.owe(j)
        if v <= self.latest.get(j, -1):
            return Answer(Outcome.DUPLICATE)
        if sum(work.sender == j for _, work in self.buffer) >= ROOM:
            return Answer(Outcome.DROPPED)
        work, self.latest[j] = work_of(arrival), v
        self.buffer.append((v, work))
        self.note_counted(node, v, {j: work})
        self.filled.set()
        return Answer(Outcome.BUFFERED)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return which answers have been used: they may be said again, the others must be.

        And e.
        """
        used = dict(self.latest)
        for v, work in self.buffer:
            if work.sender:
                used[work.sender] = min(used[work.sender], v - 1)
        arrays, facts = self.feedback.state()
        return arrays, {"used": used, **facts}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Know what an earlier life has used, and go on with its e."""
        self.feedback.restore(arrays, facts)
        self.latest = dict(facts.get("used", {}))

    def owe(self, peer: str) -> None:
        """Remember that ``peer`` waits for the next model."""
        self.owed.add(peer)

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """Look whether anybody is left to wait for."""
        del node, peer
        self.filled.set()
