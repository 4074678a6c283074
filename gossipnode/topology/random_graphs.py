"""Random edges that are the same on every machine that knows the seed.

Invariant: only ``Generator.random`` is drawn from, whose stream is fixed by the bit generator;
``shuffle`` and ``integers`` may change between numpy versions, and then nodes would disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, sqrt
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError

# At 2 ln n / n a draw is connected nine times in ten or more; for a regular graph of degree 3
# nearly always. A hundred failures mean that the options are hopeless.
DRAWS_MAX: Final = 100

# Keep the generators' streams apart where they share a seed.
_ERDOS_RENYI: Final = 1
_RANDOM_REGULAR: Final = 2
_RANDOM_GEOMETRIC: Final = 3
_SMALL_WORLD: Final = 4

Edges = list[tuple[int, int]]


def erdos_renyi_edges(n: int, seed: int, probability: float | None) -> Iterator[Edges]:
    """Yield up to ``DRAWS_MAX`` draws: each pair with ``probability``, None for 2 ln n / n.

    Raises ``ConfigError`` unless 0 < probability <= 1.
    """
    p = min(1.0, 2.0 * log(n) / n) if probability is None else probability
    if n > 1 and not 0.0 < p <= 1.0:
        raise ConfigError(
            f"{p} is no probability", key="topology.probability", allowed="above 0, at most 1"
        )
    rng = np.random.default_rng([seed, _ERDOS_RENYI])
    for _ in range(DRAWS_MAX):
        # Row by row: n = 10,000 in one piece would be 400 MB.
        hits = (np.flatnonzero(rng.random(n - 1 - i) < p) for i in range(n))
        yield [(i, i + 1 + int(j)) for i, row in enumerate(hits) for j in row]


def random_regular_edges(n: int, seed: int, degree: int) -> Iterator[Edges]:
    """Yield up to ``DRAWS_MAX`` draws in which every node has ``degree`` neighbours.

    Raises ``ConfigError`` unless degree < n and n * degree is even.
    """
    return regular_draws(n, degree, np.random.default_rng([seed, _RANDOM_REGULAR]))


def regular_draws(n: int, degree: int, rng: np.random.Generator) -> Iterator[Edges]:
    """Yield what ``random_regular_edges`` does, drawn from ``rng``."""
    if not 0 <= degree < n or n * degree % 2:
        serve = [d for d in range(1, min(n, degree + 3)) if n * d % 2 == 0][-3:]
        raise ConfigError(
            f"no graph of {n} nodes has degree {degree} everywhere",
            key="topology.degree",
            allowed=f"below the number of nodes, and their product even: {serve or [0]}",
        )
    # Above half, pairing gets stuck; the complement of a regular graph is regular too.
    dense = degree > (n - 1) // 2
    sparse_degree = n - 1 - degree if dense else degree
    for _ in range(DRAWS_MAX):
        edges = _pair_stubs(n, sparse_degree, rng)
        if edges is None:
            continue
        if dense:
            edges = {(i, j) for i in range(n) for j in range(i + 1, n)} - edges
        yield sorted(edges)


def _pair_stubs(n: int, degree: int, rng: np.random.Generator) -> set[tuple[int, int]] | None:
    """Join ``degree`` stubs per node at random, or return None where the last ones do not fit.

    Configuration model: shuffle the stubs, join them two by two, keep what is neither a loop nor
    a repetition, and go on with the rest. Rejecting the whole draw instead would succeed with
    probability exp(-(degree^2 - 1)/4) only, which is 1e-7 at degree 8.
    """
    edges: set[tuple[int, int]] = set()
    stubs = np.repeat(np.arange(n), degree)
    futile = 0
    while stubs.size and futile < DRAWS_MAX:
        shuffled = stubs[np.argsort(rng.random(stubs.size), kind="stable")]
        rest: list[int] = []
        for a, b in shuffled.reshape(-1, 2).tolist():
            edge = (min(a, b), max(a, b))
            if a == b or edge in edges:
                rest += (a, b)
            else:
                edges.add(edge)
        futile = futile + 1 if len(rest) == stubs.size else 0
        stubs = np.array(rest, dtype=np.intp)
    return None if stubs.size else edges


def random_geometric_edges(n: int, seed: int, radius: float | None) -> Iterator[Edges]:
    """Yield up to ``DRAWS_MAX`` draws: points on the unit square, joined within ``radius``.

    A radius of None stands for √(2 ln n / n). Raises ``ConfigError`` unless it is positive.
    """
    r = sqrt(2.0 * log(n) / n) if radius is None else radius
    if n > 1 and not r > 0.0:
        raise ConfigError(f"a radius of {r}", key="topology.radius", allowed="above 0, up to 1.42")
    rng = np.random.default_rng([seed, _RANDOM_GEOMETRIC])
    for _ in range(DRAWS_MAX):
        points = rng.random((n, 2))
        edges: Edges = []
        for i in range(n - 1):
            apart = ((points[i + 1 :] - points[i]) ** 2).sum(axis=1)
            edges += [(i, i + 1 + int(j)) for j in np.flatnonzero(apart <= r * r)]
        yield edges


def small_world_edges(n: int, seed: int, degree: int, rewiring: float) -> Iterator[Edges]:
    """Yield up to ``DRAWS_MAX`` draws: a ring of ``degree`` nearest, far ends moved at random.

    Each edge's far end moves with probability ``rewiring``, to a node drawn uniformly among those
    that are not yet neighbours. Raises ``ConfigError`` unless degree is even, 2 <= degree < n, and
    0 <= rewiring <= 1. Source: Watts, Strogatz, Nature 393, 1998.
    """
    if not 2 <= degree < n or degree % 2:
        even = [d for d in (2, degree - 1, degree + 1) if 2 <= d < n and d % 2 == 0]
        raise ConfigError(
            f"no small world of {n} nodes begins with degree {degree}",
            key="topology.degree",
            allowed=f"even, from 2 to below the number of nodes: {sorted(set(even))}",
        )
    if not 0.0 <= rewiring <= 1.0:
        raise ConfigError(
            f"{rewiring} is no probability", key="topology.rewiring", allowed="from 0 to 1"
        )
    rng = np.random.default_rng([seed, _SMALL_WORLD])
    for _ in range(DRAWS_MAX):
        yield _rewired(n, degree, rewiring, rng)


def _rewired(n: int, degree: int, rewiring: float, rng: np.random.Generator) -> Edges:
    """Draw one small world."""
    hops = range(1, degree // 2 + 1)
    rows = [{(i + hop) % n for hop in hops} | {(i - hop) % n for hop in hops} for i in range(n)]
    for hop in hops:
        moved, place = rng.random(n) < rewiring, rng.random(n)
        for i in np.flatnonzero(moved).tolist():
            j = (i + hop) % n
            free = n - 1 - len(rows[i])
            # j is a neighbour still: only the edge's first end moves its second end.
            if not free:
                continue
            new = _nth_stranger(sorted({*rows[i], i}), int(place[i] * free))
            rows[i].remove(j)
            rows[j].remove(i)
            rows[i].add(new)
            rows[new].add(i)
    return sorted((i, j) for i, row in enumerate(rows) for j in row if i < j)


def _nth_stranger(known: Sequence[int], place: int) -> int:
    """Return the number at ``place`` among those from 0 that are not in ``known``, ascending."""
    for node in known:
        if node > place:
            break
        place += 1
    return place
