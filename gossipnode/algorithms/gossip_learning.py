"""Gossip learning: train, push to one peer, merge what arrives. No rounds, no barrier.

Active, every period Δ(1 ± jitter), on node i::

    x_i ← x_i − η Σ_{s<τ} g_i(x_i)          t_i ← t_i + τ
    send (x_i, t_i) to a random peer or fixed neighbour p

Passive, on (x_m, t_m)::

    x_i ← x_i + a·(x_m − x_i)               t_i ← max(t_i, t_m)

with a = α·s(δ), δ = max(0, t_i − t_m)/τ periods behind, or a = t_m/(t_i + t_m) (``age``).
With ``push_pull`` the passive side answers with the x_i that it had. Where s is ``constant``
both ends apply the *increment* between the two exchanged values, a·(x_m − x_i): that preserves
Σx exactly, whatever either end does meanwhile. Other weights differ between the two ends and
preserve no sum, so there each end merges as above, which at least stays convex when exchanges
overlap.

Letters: x params, t age, τ local steps, Δ period, α merge weight, s staleness function.

*Source*: Ormándi, Hegedűs, Jelasity, CCPE 25(4), 2013 (arXiv 1109.1396).
*Differs from the source*: the receiver merges into its current model and trains in its own next
period (order MERGE_UPDATE), without the one-slot memory of the last received model.
"""

from __future__ import annotations

from typing import Literal

from gossipnode.algorithms.base import Algorithm, Answer, Arrival, NodeInterface, Outcome, Purpose
from gossipnode.algorithms.staleness import MergeOptions, Staleness, age_weight, staleness_function
from gossipnode.config import Facts, Needs, option
from gossipnode.learning.params import merge_into


class GossipOptions(MergeOptions):
    """Gossip learning: asynchronous; train, push to one peer, merge what arrives."""

    default_graph = "random"
    facts = (Facts("", "random peers, no rounds", "1", "none"),)

    name: Literal["gossip"] = "gossip"
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
    exchange: Literal["push", "push_pull"] = option(
        "push",
        "push: one way. push_pull: both ends merge, each what the other had.",
        flag="--exchange",
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
        """Return training and a period, which is at most twice ``period_s`` by its jitter."""
        return training_s + 2.0 * self.period_s


class GossipLearning(Algorithm):
    """Asynchronous gossip learning with push or push-pull."""

    Options = GossipOptions
    name = "gossip"
    purposes = frozenset({Purpose.MODEL, Purpose.EXCHANGE_REQUEST, Purpose.EXCHANGE_REPLY})

    def __init__(self, options: GossipOptions, local_steps: int) -> None:
        self.period_s = options.period_s
        self.jitter = options.jitter
        self.local_steps = local_steps
        self.alpha = options.merge_weight
        self.by_age = options.staleness == "age"
        self.by_increment = options.staleness == "constant"
        self.s = staleness_function(
            "constant" if self.by_age else options.staleness,
            options.staleness_a,
            options.staleness_b,
        )
        pull = options.exchange == "push_pull"
        self.purpose = Purpose.EXCHANGE_REQUEST if pull else Purpose.MODEL

    async def run(self, node: NodeInterface) -> None:
        """Train and push once a period."""
        # A random phase: nodes started together must not push in step.
        due = node.time() + node.rng.uniform(0.0, self.period_s)
        while node.budget_left:
            await node.sleep(due - node.time())
            await node.train(self.local_steps)
            peer = node.sample_peer()
            if peer is not None:
                node.push([peer], {"x": node.params}, self.purpose)
            await node.end_round()
            # From the time that was due, not from now: training must not stretch the period.
            due = max(due + self._period(node), node.time())

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Merge the arriving model; in an exchange, answer with the model that was here."""
        x_m, t_m = arrival.parts["x"], arrival.age
        exchanges = arrival.purpose is not Purpose.MODEL
        # What was exchanged for x_m: what this node had sent, or what it answers with now.
        x_i, t_i = (
            (node.params, node.age) if arrival.own is None else (arrival.own, arrival.own_age)
        )
        if exchanges and self.by_increment:
            await node.compute(merge_into, x_m, x_i, self.alpha)
            await node.commit(after=x_m, before=x_i, age=t_m)
        else:
            await node.merge(x_m, lambda t: self.weight(t, t_m), t_m)
        if arrival.purpose is Purpose.EXCHANGE_REQUEST:
            return Answer(Outcome.MERGED, reply={"x": x_i}, reply_age=t_i)
        return Answer(Outcome.MERGED)

    def weight(self, own_age: int, other_age: int) -> float:
        """Return a ∈ [0, 1], the share of the other model, from the two ages in steps."""
        if self.by_age:
            return age_weight(own_age, other_age)
        delta = max(0, own_age - other_age) / max(1, self.local_steps)
        return self.alpha * self.s(delta)

    def _period(self, node: NodeInterface) -> float:
        """Draw Δ(1 + jitter·N(0,1)), kept within a factor that cannot turn negative."""
        stretch = 1.0 + self.jitter * node.rng.standard_normal()
        return self.period_s * min(max(stretch, 0.1), 2.0)
