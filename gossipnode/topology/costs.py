"""What a training run costs before it runs: messages, bytes, the busiest link's time, the bill.

Invariant: pure arithmetic on how often a model crosses which link; one round is one exchange of
every node. Compression, retries and frame headers (some 200 bytes) may not enter: put the bytes
that a message really takes in ``model_bytes``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError
from gossipnode.topology.sequences import GraphSequence

GIB: Final = 2**30
BITS: Final = 8


@dataclass(frozen=True, slots=True)
class Link:
    """A machine's line: bits a second up and down, at the same time, and seconds one way."""

    up_bps: float
    down_bps: float
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """How many models one round of a scheme moves.

    ``messages``: sent by all together (a part of a model is a message too); ``models``: the same
    in whole models; ``sent`` and ``received``: models by the busiest machine; ``steps``: messages
    that must follow one another; ``served``: models that a server sends, which is none of the
    nodes.
    """

    scheme: str
    nodes: int
    messages: float
    models: float
    sent: float
    received: float
    steps: int = 1
    served: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What ``rounds`` rounds come to: bytes, seconds, and money where a GiB sent has a price.

    ``node_bytes``: sent by a node, on average; ``busiest_bytes``: sent by the busiest machine;
    ``round_s``: the busiest link's time a round; ``price``: of all that is sent, by anyone;
    ``busiest_price``: the bill of the machine that sends the most (a server's, a hub's).
    """

    scheme: str
    rounds: int
    messages: float
    node_bytes: float
    busiest_bytes: float
    total_bytes: float
    round_s: float
    seconds: float
    price: float
    busiest_price: float


def parameter_server(nodes: int) -> Load:
    """Each node sends its model to the server and gets one back: 2n messages, 2 steps.

    The busiest machine is the server, which receives n models and sends n.
    """
    n = float(nodes)
    return Load("parameter server", nodes, 2 * n, 2 * n, sent=n, received=n, steps=2, served=n)


def naive_all_reduce(nodes: int) -> Load:
    """Each node sends its model to every other: n(n − 1) messages."""
    others = float(nodes - 1)
    return Load("naive all-reduce", nodes, nodes * others, nodes * others, others, others)


def ring_all_reduce(nodes: int) -> Load:
    """Reduce-scatter, then all-gather: 2(n − 1) steps, a node sends 2(n − 1)/n of a model.

    Source: Patarasuk, Yuan, JPDC 69(2), 2009.
    """
    steps = 2 * (nodes - 1)
    share = steps / nodes
    return Load("ring all-reduce", nodes, float(steps * nodes), nodes * share, share, share, steps)


def dpsgd(sequence: GraphSequence) -> Load:
    """Each node sends its model to its neighbours of the round; a changing graph on average.

    The busiest machine is the one with the most neighbours in a round, since all wait for it.
    """
    rounds = sequence.sample()
    messages = sum(W.messages for W in rounds) / len(rounds)
    sent = sum(int(W.out_degrees.max()) for W in rounds) / len(rounds)
    received = sum(int(W.in_degrees.max()) for W in rounds) / len(rounds)
    return Load(f"D-PSGD, {sequence.name}", sequence.nodes, messages, messages, sent, received)


def gossip(nodes: int, sequence: GraphSequence | None = None) -> Load:
    """Each node pushes its model to one neighbour drawn uniformly, in a period; n messages.

    Nobody waits, so a link's load is its long-run mean: a node hears Σ_i 1/d_i of its neighbours
    i, which is n − 1 at the hub of a star. Without a ``sequence`` peers are random; one that
    changes is drawn from in turn.
    """
    if sequence is None:
        once = float(nodes > 1)
        return Load("gossip, random peers", nodes, nodes * once, nodes * once, once, once)
    rounds = sequence.sample()
    heard, sent, pushed = np.zeros(nodes), np.zeros(nodes), 0
    for W in rounds:
        chance = 1.0 / W.out_degrees[W.senders]
        heard += np.bincount(W.receivers, weights=chance, minlength=nodes)
        sent += W.out_degrees > 0
        pushed += int((W.out_degrees > 0).sum())
    messages = pushed / len(rounds)
    busiest_sent, busiest_heard = (float(v.max()) / len(rounds) for v in (sent, heard))
    name = f"gossip, {sequence.name}"
    return Load(name, nodes, messages, messages, busiest_sent, busiest_heard)


def cost(
    load: Load,
    model_bytes: float,
    *,
    rounds: int = 1,
    link: Link | None = None,
    price_per_gib: float = 0.0,
) -> Cost:
    """Return what ``rounds`` of ``load`` come to; without a ``link`` the seconds are 0.

    The busiest link's time is max(sent/up, received/down) + steps · latency: a line carries both
    directions at once, and whatever comes first starts what follows.
    """
    round_s = 0.0
    if link is not None:
        up, down = load.sent / link.up_bps, load.received / link.down_bps
        round_s = BITS * model_bytes * max(up, down) + load.steps * link.latency_s
    times = model_bytes * rounds
    busiest, total = load.sent * times, load.models * times
    return Cost(
        scheme=load.scheme,
        rounds=rounds,
        messages=load.messages * rounds,
        node_bytes=(load.models - load.served) * times / load.nodes,
        busiest_bytes=busiest,
        total_bytes=total,
        round_s=round_s,
        seconds=round_s * rounds,
        price=total / GIB * price_per_gib,
        busiest_price=busiest / GIB * price_per_gib,
    )


def participants_max(model_bytes: float, link: Link, seconds: float) -> tuple[int, int]:
    """Return how many nodes' models a server's line takes in, and how many it gives out.

    In ``seconds`` a round; the smaller of the two is how many can take part. A model of 85,098
    float32 on 1 Gbit/s down and 100 Mbit/s up, in a minute:

    >>> participants_max(85_098 * 4, Link(up_bps=100e6, down_bps=1e9), 60.0)
    (22033, 2203)
    """
    bits = BITS * model_bytes
    return floor(seconds * link.down_bps / bits), floor(seconds * link.up_bps / bits)


def saving(before: float, after: float) -> float:
    """Return the share that is saved, (before − after)/before.

    >>> round(saving(278.0, 150.0), 4)
    0.4604
    """
    if before <= 0.0:
        raise ConfigError(f"nothing can be saved of {before}", allowed="above 0")
    return (before - after) / before


def together(run: Cost, end: Cost) -> Cost:
    """Return what a run and what ends it come to; ``round_s`` and ``rounds`` stay the run's."""
    return replace(
        run,
        **{
            name: getattr(run, name) + getattr(end, name)
            for name in (
                "messages", "node_bytes", "busiest_bytes", "total_bytes", "seconds", "price",
                "busiest_price",
            )
        },
    )  # fmt: skip
