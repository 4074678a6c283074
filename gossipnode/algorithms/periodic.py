"""What all gossip learning shares: a period, peers, tokens, and arrivals that wait for training.

Active, every period Δ(1 ± jitter)::

    take what waits, if arrivals are trained on
    x_i ← x_i − η Σ_{s<τ} g_i(x_i)          unless training is for arrivals
    send, if the token account says so

Passive: what arrives is merged at once, or put where the active side takes it, so that no sender
ever waits for this node's training. Then tokens pay for passing on what was of use.

Invariant: where arrivals wait, only the active side changes the params. No more than ``ROOM``
wait; one that finds no room is answered that it was dropped. What waits is lost when the node
ends, as a message may be on its way.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from gossipnode.algorithms.base import (
    Algorithm,
    Answer,
    Arrival,
    NodeInterface,
    Outcome,
    Vector,
)
from gossipnode.algorithms.staleness import MergeOptions, Staleness, age_weight, staleness_function
from gossipnode.algorithms.token_account import FlowOptions
from gossipnode.errors import PeerError
from gossipnode.options import Needs, option

# Models of memory. With peers chosen uniformly one arrives a period, so even where training takes
# a whole period more than two rarely wait, and the oldest is two trainings old.
ROOM = 2

Order = Literal["merge", "merge_update", "update_merge", "update", "pass"]


class PeriodOptions(MergeOptions, FlowOptions):
    """How often a gossip node sends, and what it does with what arrives."""

    default_graph = "random"

    staleness: Staleness = option("age", MergeOptions.model_fields["staleness"].description or "")
    period_s: float = option(
        1.0,
        "Time between two pushes (the lectures' Δ).",
        unit="s",
        flag="--period-s",
        gt=0,
        le=86_400,
    )
    jitter: float = option(
        0.1, "Standard deviation of the period, as a share of it.", ge=0.0, le=0.5
    )
    order: Order = option(
        "merge",
        "What is done with an arriving model m. merge: merge it on arrival; training comes once "
        "a period, whatever arrived. merge_update: merge, then train. update_merge: train both, "
        "then merge. update: train m and keep that. pass: keep m as it is; training comes once a "
        "period. With the middle three a node trains for each arrival and never else.",
        flag="--order",
    )
    merge_weight: float = option(
        0.5,
        "Weight of an arriving model before the staleness weight; `age` sets its own.",
        gt=0.0,
        le=1.0,
    )

    def needs(self) -> Needs:
        """Return that any graph that stays will do, and none."""
        return Needs(graph=False, rounds=False)

    def round_s_max(self, training_s: float) -> float:
        """Return two periods, by the jitter, and the training that may begin at their very end."""
        return training_s * (2 if self.order == "update_merge" else 1) + 2.0 * self.period_s


class PeriodicGossip(Algorithm):
    """A gossip node; a subclass says what it sends and how it merges. One account a part."""

    def __init__(self, options: PeriodOptions, local_steps: int, parts: int = 1) -> None:
        self.period_s, self.jitter = options.period_s, options.jitter
        self.local_steps = local_steps
        self.order: Order = options.order
        self.alpha = options.merge_weight
        self.by_age = options.staleness == "age"
        self.s = staleness_function(
            "constant" if self.by_age else options.staleness,
            options.staleness_a,
            options.staleness_b,
        )
        self.accounts = [options.account() for _ in range(parts)]
        self.trains_apart = options.order in ("merge", "pass")
        self.waits = options.order != "merge"
        self.waiting: list[Arrival] = []
        self.arrived: asyncio.Event | None = None  # while the active side waits
        self.running = self.over = False

    @abstractmethod
    async def send(self, node: NodeInterface, peers: list[str], part: int) -> None:
        """Push the params, or their part, to ``peers``."""

    @abstractmethod
    async def take(self, node: NodeInterface, arrival: Arrival) -> bool:
        """Do with a model what the order says; tell whether it was of use (u)."""

    async def check(self, node: NodeInterface, arrival: Arrival) -> None:
        """Refuse what cannot be merged, before it waits: later nobody could be told."""

    async def train(self, node: NodeInterface) -> None:
        """Take the local steps of a period."""
        await node.train(self.local_steps)

    async def run(self, node: NodeInterface) -> None:
        """Train and push once a period."""
        self.running = True
        # A random phase: nodes started together must not push in step.
        due = node.time() + node.rng.uniform(0.0, self.period_s)
        while node.budget_left:
            await self._until(node, due)
            if self.trains_apart:
                await self.train(node)
            part = self._any_part(node)
            if self.accounts[part].tick(node.rng):
                await self._send_some(node, 1, part)
            await node.end_round()
            # From the time that was due, not from now: training must not stretch the period.
            due = max(due + self._period(node), node.time())
        self.running, self.over = False, True

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Merge the arriving model, or let it wait for the active side."""
        if not self.waits:
            await self.react(node, await self.take(node, arrival), self.part_of(arrival))
            return Answer(Outcome.MERGED)
        await self.check(node, arrival)
        if self.over or len(self.waiting) >= ROOM:
            return Answer(Outcome.DROPPED)
        self.waiting.append(arrival)
        if self.arrived is not None:
            self.arrived.set()
        return Answer(Outcome.BUFFERED)

    async def _until(self, node: NodeInterface, due: float) -> None:
        """Let time pass until ``due``, taking what arrives; one arrival at least if any waits."""
        if not self.waits:
            await node.sleep(due - node.time())
            return
        await node.sleep(0.0)
        while True:
            if self.waiting:
                await self._take_one(node, self.waiting.pop(0))
            if node.stopping or node.time() >= due:
                return
            if not self.waiting:
                self.arrived = asyncio.Event()
                await node.wait(self.arrived, due - node.time())

    async def _take_one(self, node: NodeInterface, arrival: Arrival) -> None:
        """Take what has waited; where it cannot be merged after all, nothing changes."""
        try:
            useful = await self.take(node, arrival)
        except PeerError:
            node.count("waiting_refused")
            return
        await self.react(node, useful, self.part_of(arrival))

    async def react(self, node: NodeInterface, useful: bool, part: int = 0) -> None:
        """Pass on what has arrived, as far as the tokens go."""
        if self.running and node.budget_left:
            await self._send_some(node, self.accounts[part].spend(useful, node.rng), part)

    async def _send_some(self, node: NodeInterface, messages: int, part: int) -> None:
        """Send to so many peers, each another; what that leaves of the tokens is put back."""
        if messages:
            drawn = (node.sample_peer() for _ in range(messages))
            peers = list(dict.fromkeys(peer for peer in drawn if peer is not None))
            self.accounts[part].refund(messages - len(peers))
            if peers:
                await self.send(node, peers, part)

    def part_of(self, arrival: Arrival) -> int:
        """Return which part of the model has arrived, and so which account pays."""
        del arrival
        return 0

    def weight(self, own_age: int, other_age: int) -> float:
        """Return a ∈ [0, 1], the share of the other model, from the two ages in steps."""
        if self.by_age:
            return age_weight(own_age, other_age)
        delta = max(0, own_age - other_age) / max(1, self.local_steps)
        return self.alpha * self.s(delta)

    def _any_part(self, node: NodeInterface) -> int:
        return int(node.rng.integers(len(self.accounts))) if len(self.accounts) > 1 else 0

    def _period(self, node: NodeInterface) -> float:
        """Draw Δ(1 + jitter·N(0,1)), kept within a factor that cannot turn negative."""
        stretch = 1.0 + self.jitter * node.rng.standard_normal()
        return self.period_s * min(max(stretch, 0.1), 2.0)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the balances of the accounts."""
        return {}, {"tokens": [account.balance for account in self.accounts]}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Take up the balances of an earlier life, as far as they still fit."""
        del arrays
        saved = facts.get("tokens", [])
        if len(saved) == len(self.accounts):
            for account, tokens in zip(self.accounts, saved, strict=True):
                account.refund(tokens)
