"""Gossip learning: train, push to one peer, merge what arrives. No rounds, no barrier.

Active, every period Δ(1 ± jitter), on node i::

    x_i ← x_i − η Σ_{s<τ} g_i(x_i)          t_i ← t_i + τ
    send (x_i, t_i) to a random peer or fixed neighbour p

Passive, on (x_m, t_m)::

    x_i ← x_i + a·(x_m − x_i)               t_i ← max(t_i, t_m)

with a = α·s(δ), δ = max(0, t_i − t_m)/τ periods behind, or a = t_m/(t_i + t_m) (``age``). With
``limit`` L, of two ages further apart than L the larger one's model is taken whole.

That is ``order`` merge. The orders of the papers train when a model arrives and not by the clock,
but for ``pass``; with SGD for τ local steps, and M(x, y) = x + a·(y − x)::

    merge_update   x_i ← SGD(M(x_i, x_m))         t_i ← max(t_i, t_m) + τ
    update_merge   x_i ← M(SGD(x_i), SGD(x_m))    t_i ← max(t_i, t_m) + τ
    update         x_i ← SGD(x_m)                 t_i ← t_m + τ           (a random walk)
    pass           x_i ← x_m                      t_i ← t_m

``memory`` last_model puts for x_i, where two are merged, the model that arrived before x_m, as it
arrived. ``buffer`` K waits for K models and merges them at once, x_i ← x_i + 1/K Σ a_m (x_m − x_i),
each with the a_m of its arrival (``gossip_buffer``).

With ``push_pull`` the passive side answers with the x_i that it had. Where s is ``constant``
both ends apply the *increment* between the two exchanged values, a·(x_m − x_i): that preserves
Σx exactly, whatever either end does meanwhile. Other weights differ between the two ends and
preserve no sum, so there each end merges as above, which at least stays convex when exchanges
overlap.

With a codec (``float16`` or ``bfloat16``) x_m is the sender's model rounded, and this node's own is
not. Where Σx is preserved, increments are of both ends' rounded models, so that it still is.
Rounding costs less than the noise of batches: on the digits, after 120 periods, 1 % more loss at
most with ``bfloat16`` where models are merged, 6 % where they are passed on (``update``, ``pass``),
for there each hop rounds; with ``float16`` nothing that shows.

Letters: x params, t age, τ local steps, Δ period, α merge weight, s staleness function.

*Source*: Ormándi, Hegedűs, Jelasity, CCPE 25(4), 2013 (arXiv 1109.1396): orders and last model;
Hegedűs, Danner, Jelasity, JPDC 148, 2021: weights by age; Danner et al. 2023: limit; Nguyen et al.,
AISTATS 2022: buffer.
*Differs from the source*: by default the receiver merges into its current model and trains in its
own next period. What an order trains on waits for the active side, so that nobody waits for it.
One model is kept, no cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from gossipnode.algorithms.base import (
    Answer,
    Arrival,
    NodeInterface,
    Outcome,
    Purpose,
    Sent,
    Vector,
    is_answer,
)
from gossipnode.algorithms.coded_models import ROUNDING, coded_model
from gossipnode.algorithms.gossip_buffer import Buffer
from gossipnode.algorithms.periodic import PeriodicGossip, PeriodOptions
from gossipnode.codecs.base import Coded
from gossipnode.errors import PeerError
from gossipnode.learning.params import all_finite, merge_into
from gossipnode.options import Facts, option


class GossipOptions(PeriodOptions):
    """Gossip learning: asynchronous; train, push to one peer, merge what arrives."""

    facts = (Facts("", "random peers, no rounds", "1", "a merge less", steady="none"),)
    codecs = ROUNDING

    name: Literal["gossip"] = "gossip"
    exchange: Literal["push", "push_pull"] = option(
        "push",
        "push: one way. push_pull: both ends merge, each what the other had.",
        flag="--exchange",
    )
    memory: Literal["own_model", "last_model"] = option(
        "own_model",
        "Whom an arriving model is merged with by merge_update and update_merge: the node's own "
        "model, or the last one that arrived before, as it was then.",
    )
    limit: int | None = option(
        None,
        "Two models whose ages differ by more are not merged: the older-aged one, with more "
        "steps in it, is taken whole. Unset: never.",
        unit="steps",
        ge=0,
        le=2**53,
    )
    buffer: int = option(
        1,
        "Models that are waited for and merged at once (K), each with its own weight.",
        unit="models",
        ge=1,
        le=100_000,
    )

    @model_validator(mode="after")
    def _goes_together(self) -> GossipOptions:
        trains = self.order in ("merge_update", "update_merge")
        for clash, complaint in (
            (
                self.exchange == "push_pull"
                and (self.order != "merge" or self.buffer > 1 or self.flow != "proactive"),
                "exchange push_pull goes with order merge, buffer 1 and flow proactive: its answer "
                "is one half of a merge and cannot wait, nor be passed on",
            ),
            (
                self.memory == "last_model" and not trains,
                f"memory last_model is for the orders merge_update and update_merge, not "
                f"{self.order}",
            ),
            (
                self.limit is not None and self.staleness != "age",
                f"limit compares ages, but staleness is {self.staleness}: set it to age",
            ),
            (
                self.buffer > 1 and self.order != "merge",
                f"buffer {self.buffer} goes with order merge, not {self.order}",
            ),
        ):
            if clash:
                raise ValueError(complaint)
        return self


class GossipLearning(PeriodicGossip):
    """Asynchronous gossip learning with push or push-pull."""

    Options = GossipOptions
    name = "gossip"
    coded = frozenset({"x"})
    purposes = frozenset({Purpose.MODEL, Purpose.EXCHANGE_REQUEST, Purpose.EXCHANGE_REPLY})

    def __init__(self, options: GossipOptions, local_steps: int) -> None:
        super().__init__(options, local_steps)
        self.by_increment = options.staleness == "constant"
        pull = options.exchange == "push_pull"
        self.purpose = Purpose.EXCHANGE_REQUEST if pull else Purpose.MODEL
        self.remembers = options.memory == "last_model"
        self.last: tuple[Vector, int] | None = None
        self.limit = options.limit
        self.said: tuple[Vector, Coded] | None = None  # what the next message says, and of what
        self.buffer = Buffer(options.buffer) if options.buffer > 1 else None

    async def send(self, node: NodeInterface, peers: list[str], part: int) -> None:
        """Push the params."""
        del part
        x, age = node.params, node.age
        said: Sent = x
        if node.codec is not None:
            of, coded = self.said or (None, None)
            self.said = None
            # What was merged since is in no message yet; rounding takes 4 to 8 ns a value.
            if of is x and coded is not None:
                said = coded
            elif self.purpose is Purpose.MODEL:
                said = await node.compute(node.codec.encode, x)
            else:  # at once: the answer is merged with the params of the moment of the push
                said = node.codec.encode(x)
        node.push(peers, {"x": said}, self.purpose, age=age)

    async def train(self, node: NodeInterface) -> None:
        """Train and, where messages are rounded, round what will be sent: beside the loop."""
        await super().train(node)
        if node.codec is not None:
            x = node.params
            self.said = x, await node.compute(node.codec.encode, x)

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Take the arriving model; in an exchange, answer with the model that was here."""
        if arrival.purpose is Purpose.MODEL:
            return await super().receive(node, arrival)
        if self.waits or self.buffer is not None:
            raise PeerError("unsupported_message", "models wait here: this node exchanges none")
        answers = is_answer(arrival)
        x_m, t_m = arrival.parts["x"], arrival.age
        # What was exchanged for x_m: what this node had sent, or what it answers with now.
        x_i, t_i = (
            (node.params, node.age) if arrival.own is None else (arrival.own, arrival.own_age)
        )
        said: Sent = x_i
        if node.codec is not None:
            said, x_i = await coded_model(node, x_i)
        if self.by_increment:
            await node.compute(merge_into, x_m, x_i, self.alpha)
            await node.commit(after=x_m, before=x_i, age=t_m)
        else:
            await node.merge(x_m, lambda t: self.weight(t, t_m), t_m)
        if not answers:
            return Answer(Outcome.MERGED, reply={"x": said}, reply_age=t_i)
        return Answer(Outcome.MERGED)

    async def take(self, node: NodeInterface, arrival: Arrival) -> bool:
        """Do with x_m what the order says; it is of use unless behind this node's model."""
        x_m, t_m = arrival.parts["x"], arrival.age
        useful = t_m >= node.age
        if self.buffer is not None:
            await self.buffer.add(node, x_m, t_m, self.weight)
        elif self.order == "merge":
            await node.merge(x_m, lambda t: self.weight(t, t_m), t_m)
        else:
            await node.adopt(*await self.made_of(node, x_m, t_m))
        return useful

    async def made_of(self, node: NodeInterface, x_m: Vector, t_m: int) -> tuple[Vector, int]:
        """Return the model and the age that the order makes of (x_m, t_m)."""
        tau = self.local_steps
        if self.order == "pass":
            return x_m, t_m
        if self.order == "update":
            return await node.trained(x_m, tau), t_m + tau
        x, t = (node.params, node.age) if self.last is None else self.last
        raw = await node.compute(np.copy, x_m) if self.remembers else None
        if self.order == "merge_update":
            await node.compute(_merged, x_m, x, self.weight(t, t_m))
            made = await node.trained(x_m, tau)
        else:
            ours, made = await node.trained(x, tau), await node.trained(x_m, tau)
            await node.compute(_merged, made, ours, self.weight(t + tau, t_m + tau))
        if raw is not None:
            self.last = (raw, t_m)
        return made, max(t, t_m) + tau

    def weight(self, own_age: int, other_age: int) -> float:
        """Return a ∈ [0, 1], the share of the other model, from the two ages in steps."""
        if self.limit is not None and abs(own_age - other_age) > self.limit:
            return 1.0 if other_age > own_age else 0.0
        return super().weight(own_age, other_age)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the last model, what the buffer holds, and the tokens."""
        arrays, facts = super().state()
        if self.last is not None:
            arrays["last"], facts["last_age"] = self.last
        if self.buffer is not None:
            held, numbers = self.buffer.state()
            return {**arrays, **held}, {**facts, **numbers}
        return arrays, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the last model and the buffer of an earlier life."""
        super().restore(arrays, facts)
        if self.remembers and "last" in arrays:
            self.last = (arrays["last"], facts["last_age"])
        if self.buffer is not None:
            self.buffer.restore(arrays, facts)


def _merged(incoming: Vector, own: Vector, a: float) -> None:
    """Merge into ``incoming``; raises ``PeerError`` where the difference is out of range."""
    merge_into(incoming, own, a)
    if not all_finite(incoming):
        raise PeerError("not_finite", "merging would give a value that is not finite")
