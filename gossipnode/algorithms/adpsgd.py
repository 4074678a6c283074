"""AD-PSGD: at any time, average with one neighbour; meanwhile, step along a gradient.

Node i, again and again, with a neighbour j chosen at random::

    x̂_i = x_i                                           read
    x_i ← x_i + ½(x_j − x̂_i),  x_j ← x_j + ½(x̂_i − x_j)   exchange, while
    x_i ← x_i − η Σ_{s<τ} g_i(x̂_i)                       the gradient is computed at x̂_i

Each end applies an *increment*, half the difference of the two values that were exchanged, to
whatever its params are by then: neither gradients nor other exchanges in between move Σx, and no
node is locked while another thinks. An exchange takes the two to their mean; on a graph with
Laplacian L and |E| edges, drawn uniformly, the squared distance to the mean shrinks in expectation
by 1 − λ_2(L)/(2|E|) a time.

A node asks one peer at a time and answers anybody. It waits for the answer no longer than
``answer_deadline_s``, and not for a suspect's; one that comes later is still applied. A lost
request costs nothing: it is repeated, and merged once. Where the answer is lost for good only one
half was applied, and Σx has moved by ½(x̂_i − x_j).

Where two ask each other at once, both exchanges together take them to their mean, each by ¼ in
place of ½; else they would change places, and two nodes in step never agree, nor learn. Who is
asked by the one whose answer it waits for applies ¼, and answers with ½(x̂_i + x_j), which makes
the other's half increment a quarter as well.

Letters: x params, x̂ the params as they were read and sent, g gradient, η step size, τ local steps.

*Source*: Lian et al., ICML 2018 (arXiv 1710.06952).
*Differs from the source*: increments in place of locks, so that no graph need be bipartite; τ local
steps.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import numpy as np

from gossipnode.algorithms.base import (
    Algorithm,
    Answer,
    Arrival,
    NodeInterface,
    Outcome,
    Purpose,
    is_answer,
)
from gossipnode.learning.params import merge_into
from gossipnode.options import AlgorithmOptions, Facts, Needs, option

# Where there is nobody to wait for and no time is spent on computing: how long until the next look.
IDLE_S = 0.5
HALF, QUARTER = 0.5, 0.25


class AdpsgdOptions(AlgorithmOptions):
    """AD-PSGD: average with one neighbour at a time, without rounds, while stepping."""

    facts = (
        Facts(
            "",
            "pairs of neighbours, no rounds, no waiting",
            "1",
            "a request is said again; of an answer: the mean drifts",
            steady="more than dpsgd",
        ),
    )

    name: Literal["adpsgd"] = "adpsgd"
    answer_deadline_s: float = option(
        10.0,
        "How long a node that has done its local steps waits for the answer of the peer that it "
        "asked, before it goes on to the next.",
        unit="s",
        gt=0,
        le=86_400,
    )

    def needs(self) -> Needs:
        """Return that any graph that stays will do, and none."""
        return Needs(graph=False, rounds=False)

    def round_s_max(self, training_s: float) -> float:
        """Return training and the wait."""
        return training_s + max(self.answer_deadline_s, IDLE_S)


class ADPSGD(Algorithm):
    """Asynchronous decentralized parallel SGD, by increments."""

    Options = AdpsgdOptions
    name = "adpsgd"
    purposes = frozenset({Purpose.EXCHANGE_REQUEST, Purpose.EXCHANGE_REPLY})

    def __init__(self, options: AdpsgdOptions, local_steps: int) -> None:
        self.answer_deadline_s = options.answer_deadline_s
        self.local_steps = local_steps
        self.asked: str | None = None
        self.answered = asyncio.Event()

    async def run(self, node: NodeInterface) -> None:
        """Ask, step, and wait for the answer, until the budget is used up."""
        while node.budget_left:
            began, self.asked = node.time(), node.sample_peer()
            self.answered.clear()
            if self.asked is not None:
                node.push([self.asked], {"x": node.params}, Purpose.EXCHANGE_REQUEST)
            # At the params that were just sent; the difference is applied to those of then.
            await node.train(self.local_steps)
            # A suspect that is tried may not answer, nor even be asked while another one is tried.
            if self.asked is not None and node.is_expected(self.asked):
                await node.wait(self.answered, self.answer_deadline_s)
            elif not self.local_steps or node.time() == began:
                await node.sleep(IDLE_S)
            await node.end_round()

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Apply this end's increment; answer a request with the params of before."""
        answers, x_j, t_j = is_answer(arrival), arrival.parts["x"], arrival.age
        x_i, t_i = (
            (node.params, node.age) if arrival.own is None else (arrival.own, arrival.own_age)
        )
        told, a = x_i, HALF
        if not answers and arrival.sender == self.asked and not self.answered.is_set():
            told, a = await node.compute(np.copy, x_j), QUARTER  # it will have our question, too
            await node.compute(merge_into, told, x_i, HALF)
        await node.compute(merge_into, x_j, x_i, a)
        await node.commit(after=x_j, before=x_i, age=t_j)
        if not answers:
            return Answer(Outcome.MERGED, reply={"x": told}, reply_age=t_i)
        if arrival.sender == self.asked:
            self.answered.set()
        return Answer(Outcome.MERGED)

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """Stop waiting for a peer that is suspected: it will not answer."""
        if peer == self.asked and not node.is_expected(peer):
            self.answered.set()
