"""Random edges that are the same on every machine that knows the seed.

Invariant: only ``Generator.random`` is drawn from, whose stream is fixed by the bit generator;
``shuffle`` and ``integers`` may change between numpy versions, and then nodes would disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError

# At 2 ln n / n a draw is connected nine times in ten or more; for a regular graph of degree 3
# nearly always. A hundred failures mean that the options are hopeless.
DRAWS_MAX: Final = 100

# Keep the two generators' streams apart where they share a seed.
_ERDOS_RENYI: Final = 1
_RANDOM_REGULAR: Final = 2

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
    if not 0 <= degree < n or n * degree % 2:
        serve = [d for d in range(1, min(n, degree + 3)) if n * d % 2 == 0][-3:]
        raise ConfigError(
            f"no graph of {n} nodes has degree {degree} everywhere",
            key="topology.degree",
            allowed=f"below the number of nodes, and their product even: {serve or [0]}",
        )
    rng = np.random.default_rng([seed, _RANDOM_REGULAR])
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
