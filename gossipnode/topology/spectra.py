"""How fast a sequence of graphs averages: ρ, the spectral gap, rounds predicted and measured.

Invariant: a prediction comes from W alone, a measurement from x <- Wx alone; they never look at
each other. Models may not enter, only what their exchange costs is counted: see ``costs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log, sqrt
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError
from gossipnode.topology import eigen
from gossipnode.topology.mixing import Floats, Mixing
from gossipnode.topology.sequences import GraphSequence

FACTOR: Final = 1e-3
# What remains of ‖Π − J‖ when a product is J but for rounding.
EXACT: Final = 1e-12
# At 1,024 nodes a round takes some 30 µs.
STEPS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class Contraction:
    """By how much a round shrinks disagreement, and how that was found.

    ``kind``: norm (‖W − J‖₂), product (‖W_T ⋯ W_1 − J‖₂^(1/T) over a period), mean_square
    (√λ_max(E[Wᵀ(I − J)W]), by formula) or sampled (its mean over directions, of some rounds).
    ``exact_after``: the rounds after which all agree exactly, where there is such a number.
    """

    rho: float
    kind: str
    exact_after: int | None = None

    @property
    def gap(self) -> float:
        """The spectral gap, 1 − ρ."""
        return 1.0 - self.rho

    def rounds(self, factor: float = FACTOR) -> float:
        """Return the rounds that shrink the consensus distance by ``factor``; inf where none do."""
        return float(self.exact_after) if self.exact_after else rounds_to(self.rho, factor)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """What ``gossipnode topology`` tells of a sequence of graphs.

    ``degree``: the most peers a node sends to in a round; ``messages``: models that travel a
    round, on average; ``predicted`` and ``measured``: rounds to shrink the consensus distance by
    ``FACTOR``, measured None where it would have taken too long.
    """

    name: str
    nodes: int
    rule: str
    period: int | None
    degree: int
    messages: float
    symmetric: bool
    doubly_stochastic: bool
    contraction: Contraction
    predicted: float
    measured: int | None


def spectrum(sequence: GraphSequence, *, seed: int = 0, measure: bool = True) -> Spectrum:
    """Return all of it; random sequences count messages and degree over a sample of rounds."""
    rounds = sequence.sample()
    contraction = contract(sequence)
    return Spectrum(
        name=sequence.name,
        nodes=sequence.nodes,
        rule=sequence.rule,
        period=sequence.period,
        degree=int(max(W.out_degrees.max() for W in rounds)),
        messages=sum(W.messages for W in rounds) / len(rounds),
        symmetric=all(W.is_symmetric() for W in rounds),
        doubly_stochastic=all(W.is_doubly_stochastic() for W in rounds),
        contraction=contraction,
        predicted=contraction.rounds(),
        measured=measured_rounds(sequence, seed=seed) if measure else None,
    )


def rounds_to(rho: float, factor: float = FACTOR) -> float:
    """Return ln(1/factor) / −ln ρ, rounds; 1 where ρ = 0, inf where ρ >= 1.

    >>> round(rounds_to(0.949253), 1), rounds_to(0.0), rounds_to(1.0)
    (132.6, 1.0, inf)
    """
    if rho <= 0.0:
        return 1.0
    return inf if rho >= 1.0 else max(1.0, log(factor) / log(rho))


def contract(sequence: GraphSequence) -> Contraction:
    """Return by how much a round of ``sequence`` shrinks disagreement.

    Raises ``ConfigError`` as ``eigen.rho`` does.
    """
    if sequence.nodes == 1:
        return Contraction(0.0, "norm", 1)
    if sequence.is_static:
        rho = eigen.rho(sequence.at(0))
        return Contraction(0.0, "norm", 1) if rho < EXACT else Contraction(rho, "norm")
    if sequence.period is not None:
        left = product_norm([sequence.at(k) for k in range(sequence.period)])
        if left < EXACT:
            return Contraction(0.0, "product", sequence.period)
        return Contraction(left ** (1.0 / sequence.period), "product")
    if sequence.rho_ms is not None:
        rho = sequence.rho_ms()
        return Contraction(rho, "mean_square", 1 if rho < EXACT else None)
    return Contraction(sampled_rho(sequence), "sampled")


def product_norm(rounds: Sequence[Mixing]) -> float:
    """Return ‖W_T ⋯ W_1 − J‖₂ of doubly stochastic W_1, ..., W_T.

    Raises ``ConfigError`` where above ``eigen.DENSE_MAX`` nodes the iteration does not converge.
    """
    n = rounds[0].nodes
    if n <= eigen.SVD_MAX:
        product = np.eye(n)
        for W in rounds:
            product = W.apply(product)
        return eigen.dense_rho(product, symmetric=False)
    back = [W.transposed() for W in reversed(rounds)]

    def gram(x: Floats) -> Floats:
        for W in (*rounds, *back):
            x = W.apply(x)
        return x

    return sqrt(max(0.0, _largest(gram, n)))


def sampled_rho(sequence: GraphSequence) -> float:
    """Return √(E‖(I − J)W‖²_F / (n − 1)) over a sample of rounds.

    That is the mean over directions, and a little below ρ_ms where some shrink less than others. A
    sample's own slowest direction would say nothing: with few rounds and many nodes it is noise.
    """
    total = 0.0
    rounds = sequence.sample()
    for W in rounds:
        squares = float(W.self_weights @ W.self_weights + W.weights @ W.weights)
        columns = W.transposed().apply(np.ones(W.nodes))
        total += squares - float(columns @ columns) / W.nodes
    return sqrt(max(0.0, total / len(rounds) / (sequence.nodes - 1)))


def measured_rounds(
    sequence: GraphSequence, *, factor: float = FACTOR, seed: int = 0, steps_max: int = STEPS_MAX
) -> int | None:
    """Return after how many rounds of x <- Wx the consensus distance is ``factor`` of the first.

    x starts as a number for each node, N(0, 1) by ``seed``. Past ``steps_max`` rounds a graph that
    stays is followed in W's eigenbasis, where any round is one power away (up to
    ``eigen.DENSE_MAX`` nodes, circulants of any size); otherwise None.
    """
    start = np.random.default_rng(seed).standard_normal(sequence.nodes)
    target = factor * _distance(start)
    x = start
    for k in range(steps_max + 1):
        if _distance(x) <= target:
            return k
        x = sequence.at(k).apply(x)
    return rounds_in_eigenbasis(sequence.at(0), start, factor) if sequence.is_static else None


def rounds_in_eigenbasis(W: Mixing, start: Floats, factor: float) -> int | None:
    """Return what stepping would, from |λ|^k on each eigenvector's share of ``start``.

    None where W has no such basis at hand, or never gets there.
    """
    circulant = W.circulant_row()
    if circulant is not None:
        moduli, shares = np.abs(np.fft.fft(circulant)[1:]), np.abs(np.fft.fft(start)[1:]) ** 2
    elif W.nodes <= eigen.DENSE_MAX and W.is_symmetric():
        values, vectors = np.linalg.eigh(W.dense() - 1.0 / W.nodes)
        moduli, shares = np.abs(values), (vectors.T @ (start - start.mean())) ** 2
    else:
        return None
    moduli = np.minimum(moduli, 1.0)
    target = factor * factor * shares.sum()
    low, high = 0, ceil(min(1e18, 1 + 2 * rounds_to(float(moduli.max()), factor)))
    if shares @ moduli ** (2.0 * high) > target:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if shares @ moduli ** (2.0 * middle) <= target:
            high = middle
        else:
            low = middle
    return high


def _distance(x: Floats) -> float:
    """Return what is proportional to the consensus distance, ‖x − x̄‖."""
    return float(np.linalg.norm(x - x.mean()))


def _largest(gram: eigen.Operator, n: int) -> float:
    """Return the largest eigenvalue on 1^⊥ of a symmetric positive operator that annuls 1."""
    ends = eigen.lanczos(gram, n)
    if not ends.high_is_exact:
        raise ConfigError(
            f"how fast these {n} nodes average cannot be told: they mix too slowly",
            key="topology.graph",
            allowed=f"up to {eigen.SVD_MAX} nodes, or a graph with more edges",
        )
    return ends.high
