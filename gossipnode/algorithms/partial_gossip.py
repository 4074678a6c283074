"""Gossip learning that sends a part of the model at a time, or a sample of it.

``partitioned``: coordinate c belongs to part c mod S, and each part p has an age t_i[p] of its own.
Active, every period, on node i::

    x_i ← x_i − η Σ_{s<τ} g_i(x_i)               t_i[q] ← t_i[q] + τ for all q
    send (p, x_i[p], t_i[p]) for a random part p

Passive, on (p, x_m[p], t_m[p]), with a by staleness or age as in ``gossip_learning``::

    x_i[p] ← x_i[p] + a·(x_m[p] − x_i[p])        t_i[p] ← max(t_i[p], t_m[p])

With ``part_rate`` age the steps are of the source: x_i[p] ← x_i[p] − (η/t_i[p])·g_i(x_i)[p], the
step itself counted in t. Each part has a token account of its own.

``sampled``: a message has the coordinates of a random mask, a fresh one each time, and the receiver
draws the same from its seed; a is ``merge_weight``, whatever the ages.

Invariant: the parts are an exact cover, and coordinates that are not in a message keep every bit.

Letters: x params, S ``parts``, t age in steps (of a part), η step size, τ local steps.

*Source*: Hegedűs, Danner, Jelasity, JPDC 148, 2021.
*Differs from the source*: equal steps for all parts unless ``part_rate`` says otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from gossipnode.algorithms.base import AGE_MAX, Arrival, NodeInterface, Vector
from gossipnode.algorithms.periodic import PeriodicGossip, PeriodOptions
from gossipnode.errors import PeerError
from gossipnode.learning.params import merge_into
from gossipnode.options import Facts, option

# Random words drawn at a time: half a megabyte, however large the model.
BLOCK = 65_536
SEEDS = 2**63

Selection = slice | np.ndarray[tuple[int], np.dtype[np.bool_]]


class PartialGossipOptions(PeriodOptions):
    """Gossip learning that sends a part of the model at a time, or a sample of it."""

    facts = (
        Facts(
            "partitioned",
            "random peers, small messages, an age for each part",
            "1/S",
            "a merge less",
            steady="none",
        ),
        Facts(
            "sampled",
            "random peers, small messages",
            "a sample's share",
            "a merge less",
            steady="none",
        ),
    )

    name: Literal["partial_gossip"] = "partial_gossip"
    form: Literal["partitioned", "sampled"] = option(
        "partitioned",
        "partitioned: one of `parts` fixed parts a message. sampled: `fraction` of the params a "
        "message, drawn anew each time.",
        flag="--form",
    )
    parts: int = option(
        4, "Parts that the params are divided into (S).", unit="parts", flag="--parts", ge=1,
        le=65_536,
    )  # fmt: skip
    fraction: float = option(
        0.25, "Share of the params in a message of `sampled`, on average.", flag="--fraction",
        ge=1e-6, le=1.0,
    )  # fmt: skip
    part_rate: Literal["common", "age"] = option(
        "common",
        "Step size of a part. common: η for all. age: η/t, t the part's age; without momentum.",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> PartialGossipOptions:
        if self.order not in ("merge", "merge_update"):
            raise ValueError(
                f"order {self.order} takes whole models; with parts choose merge or merge_update"
            )
        if self.form == "sampled" and self.part_rate == "age":
            raise ValueError("part_rate age is for form partitioned: samples have no age of theirs")
        return self


class PartialGossip(PeriodicGossip):
    """Gossip of parts and of samples."""

    Options = PartialGossipOptions
    name = "partial_gossip"
    pieces = frozenset({"part", "seeded"})

    def __init__(self, options: PartialGossipOptions, local_steps: int) -> None:
        self.is_sampled = options.form == "sampled"
        self.S = 1 if self.is_sampled else options.parts
        super().__init__(options, local_steps, self.S)
        self.fraction, self.own_rates = options.fraction, options.part_rate == "age"
        self.t = [0] * self.S
        # A merge reads the params and commits a change of them; a second one must not between.
        self.lock = asyncio.Lock()

    async def send(self, node: NodeInterface, peers: list[str], part: int) -> None:
        """Push a part of the params with its age, or a sample of them."""
        x = node.params
        if not self.is_sampled:
            part %= x.size  # of fewer params than parts, some parts would be empty
            index: dict[str, Any] = {"kind": "part", "part": part, "parts": min(self.S, x.size)}
            chosen: Selection = slice(part, None, min(self.S, x.size))
            age = self.t[part]
            node.push(peers, {"x": await node.compute(_picked, x, chosen)}, index=index, age=age)
            return
        # A message has one coordinate at the least; drawn so that no more than 2 in 5 have none.
        fraction, age, sample = max(self.fraction, 1.0 / x.size), node.age, np.zeros(0)
        while not sample.size:
            seed = int(node.rng.integers(SEEDS))
            sample = await node.compute(_sampled, x, seed, fraction)
        index = {"kind": "seeded", "seed": seed, "fraction": fraction}
        node.push(peers, {"x": sample}, index=index, age=age)

    async def take(self, node: NodeInterface, arrival: Arrival) -> bool:
        """Merge what has arrived into its coordinates, and train if that is the order."""
        theirs, t_m = arrival.parts["x"], arrival.age
        async with self.lock:
            before = node.params
            chosen = await node.compute(self.selection, before, arrival)
            part = self.part_of(arrival)
            t_i = node.age if self.is_sampled else self.t[part]
            a = self.alpha if self.is_sampled else self.weight(t_i, t_m)
            after = await node.compute(_merged, before, theirs, chosen, a)
            await node.commit(after, before, age=t_m)
            self.t[part] = max(self.t[part], t_m)
        if self.order == "merge_update":
            await self.train(node)
        return t_m >= t_i

    async def check(self, node: NodeInterface, arrival: Arrival) -> None:
        """Refuse what is of another partition, or no sample by its seed."""
        await node.compute(self.selection, node.params, arrival)

    def part_of(self, arrival: Arrival) -> int:
        """Return the part that has arrived."""
        return 0 if self.is_sampled else int(arrival.index["part"])

    def selection(self, x: Vector, arrival: Arrival) -> Selection:
        """Return the coordinates of ``x`` that have arrived; raises ``PeerError``."""
        index, parts = arrival.index, min(self.S, x.size)
        if self.is_sampled and index["kind"] == "seeded":
            mask = seeded_mask(index["seed"], index["fraction"], x.size)
            found, size = int(np.count_nonzero(mask)), arrival.parts["x"].size
            if found != size:
                raise PeerError("wrong_schema", f"the seed draws {found} coordinates, not {size}")
            return mask
        if not self.is_sampled and index["kind"] == "part" and index["parts"] == parts:
            return slice(index["part"], None, parts)
        wanted = "samples" if self.is_sampled else f"one of {parts} parts"
        raise PeerError(
            "unsupported_message", f"this node takes {wanted}, not the index {dict(index)}"
        )

    async def train(self, node: NodeInterface) -> None:
        """Take τ local steps with the whole model, and let each part grow older by them."""
        if self.own_rates:
            await self._train_by_age(node)
        else:
            await node.train(self.local_steps)
        self.t = [min(t + self.local_steps, AGE_MAX) for t in self.t]

    async def _train_by_age(self, node: NodeInterface) -> None:
        before = node.params
        after = await node.compute(np.copy, before)
        ages = list(self.t)
        for s in range(1, self.local_steps + 1):
            g, eta = await node.gradient(after)
            await node.compute(_stepped, after, g, [eta / (t + s) for t in ages])
        if self.waits:  # nothing was merged meanwhile, and more may be trained this period
            await node.adopt(after, node.age + self.local_steps)
        else:
            await node.commit(after, before, steps=self.local_steps)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the ages of the parts, and the tokens."""
        arrays, facts = super().state()
        return arrays, {**facts, "t": list(self.t)}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Take up the ages; of another partition the least, for all parts have that many steps."""
        super().restore(arrays, facts)
        t = list(facts.get("t", []))
        if t:
            self.t = t if len(t) == self.S else [min(t)] * self.S


def seeded_mask(
    seed: int, fraction: float, size: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which of ``size`` coordinates a seed in [0, 2⁶⁴) draws, each with ``fraction``.

    Word c of Philox 4×64 with key ``seed`` and a counter that begins at its first value; drawn
    where it is below fraction·2⁶⁴. Raw words, for what numpy makes of them may change.

    >>> int(seeded_mask(7, 0.25, 100_000).sum()), bool(seeded_mask(7, 1.0, 5).all())
    (24921, True)
    """
    words, mask = np.random.Philox(key=seed), np.ones(size, np.bool_)
    bound = int(fraction * 2.0**64)
    if bound < 2**64:
        for start in range(0, size, BLOCK):
            drawn = words.random_raw(min(BLOCK, size - start))
            np.less(drawn, np.uint64(bound), out=mask[start : start + BLOCK])
    return mask


def _picked(x: Vector, chosen: Selection) -> Vector:
    """Return the chosen coordinates in memory of their own."""
    return x[chosen].copy()


def _sampled(x: Vector, seed: int, fraction: float) -> Vector:
    """Return the coordinates that the seed draws, in memory of their own."""
    found: Vector = x[seeded_mask(seed, fraction, x.size)]
    return found


def _merged(own: Vector, theirs: Vector, chosen: Selection, a: float) -> Vector:
    """Return ``own`` with ``theirs`` merged into the chosen coordinates."""
    after = own.copy()
    merge_into(theirs, after[chosen], a)
    after[chosen] = theirs
    return after


def _stepped(x: Vector, g: Vector, rates: list[float]) -> None:
    """Set x[p] ← x[p] − rates[p]·g[p] for each part p."""
    for part, rate in enumerate(rates):
        step = g[part :: len(rates)] * g.dtype.type(rate)
        x[part :: len(rates)] -= step
