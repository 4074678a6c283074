"""Epidemic learning: every round each node sends to s others, drawn afresh.

Invariant: the draw is common to all nodes (seed, round). EL-Oracle's W is symmetric and doubly
stochastic; EL-Local's rows add to one and its columns do not, so the mean drifts.
Source: De Vos et al., NeurIPS 2023.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError
from gossipnode.topology.mixing import Mixing
from gossipnode.topology.random_graphs import regular_draws

_ORACLE: Final = 21
_LOCAL: Final = 22


def el_oracle(nodes: int, seed: int, round_: int, sends: int) -> Mixing:
    """Return a fresh random graph in which each has ``sends`` neighbours, weights 1/(1 + s).

    Raises ``ConfigError`` unless s < n and n s is even. The graph need not be connected.
    """
    rng = np.random.default_rng([seed, _ORACLE, round_])
    edges = next(regular_draws(nodes, sends, rng))
    i = [end for edge in edges for end in edge]
    j = [end for edge in edges for end in reversed(edge)]
    return Mixing.from_entries(nodes, i, j, 1.0 / (1 + sends))


def el_local(nodes: int, seed: int, round_: int, sends: int) -> Mixing:
    """Return W where each sends to ``sends`` others of its own choice; who hears R takes 1/(1+R).

    Raises ``ConfigError`` unless s < n.
    """
    check_sends(nodes, sends)
    places = np.random.default_rng([seed, _LOCAL, round_]).random((nodes, sends))
    senders = np.repeat(np.arange(nodes), sends)
    # A choice among the n − 1 others: what is at or above one's own number moves up by one.
    others = np.array([_distinct(nodes - 1, row) for row in places.tolist()], dtype=np.intp)
    receivers = others.ravel()
    receivers = receivers + (receivers >= senders)
    heard = np.bincount(receivers, minlength=nodes)
    return Mixing.from_entries(nodes, receivers, senders, 1.0 / (1.0 + heard[receivers]))


def oracle_rho_ms(nodes: int, sends: int) -> float:
    """Return ρ_ms of EL-Oracle, √((1 − s/(n − 1)) / (1 + s)).

    >>> round(oracle_rho_ms(16, 1), 6)
    0.68313
    """
    return 0.0 if nodes == 1 else sqrt((1.0 - sends / (nodes - 1)) / (1 + sends))


def local_rho_ms(nodes: int, sends: int) -> float:
    """Return ρ_ms of EL-Local, √((1 − (1 − s/(n−1))ⁿ)/s − 1/(n−1)).

    The distance is to the nodes' own mean of the moment, which drifts.

    >>> round(local_rho_ms(16, 1), 3)
    0.776
    """
    if nodes == 1:
        return 0.0
    unheard = (1.0 - sends / (nodes - 1)) ** nodes
    return sqrt(max(0.0, (1.0 - unheard) / sends - 1.0 / (nodes - 1)))


def check_sends(nodes: int, sends: int, *, in_pairs: bool = False) -> None:
    """Raise ``ConfigError`` unless a node has so many others to send to.

    ``in_pairs``: who is sent to sends back, so that nodes times sends must be even.
    """
    if not (0 < sends < nodes or nodes == 1):
        raise ConfigError(
            f"{nodes} nodes cannot each send to {sends} others",
            key="topology.sends",
            allowed=f"1 to {nodes - 1}",
        )
    if in_pairs and nodes * sends % 2:
        raise ConfigError(
            f"{nodes} nodes cannot each exchange with {sends} others",
            key="topology.sends",
            allowed="an even number, since the number of nodes is odd",
        )


def _distinct(n: int, places: list[float]) -> list[int]:
    """Draw len(places) distinct numbers below n, uniformly, from one uniform place each.

    Source: Floyd's sampling (Bentley, CACM 30(9), 1987): no draw is rejected.
    """
    chosen: dict[int, None] = {}
    for top, place in zip(range(n - len(places), n), places, strict=True):
        pick = int(place * (top + 1))
        chosen[top if pick in chosen else pick] = None
    return list(chosen)
