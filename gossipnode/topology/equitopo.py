"""EquiTopo: cyclic shifts drawn at random, a rate that does not depend on the number of nodes.

Invariant: whatever is drawn is common to all nodes (seed, round), and every W is doubly
stochastic. A^(u) = I/n + (1 − 1/n) S_u with S_u the cyclic shift by u; E[A^(u)] = J over
u ~ U{1..n−1}. Source: Song et al., NeurIPS 2022.
"""

from __future__ import annotations

from math import ceil, log, sqrt
from typing import Final

import numpy as np

from gossipnode.topology.mixing import Mixing

# Keep the streams apart where graphs share a seed; 1 to 4 are those of random_graphs.
_STATIC: Final = 11
_DYNAMIC: Final = 12


def draws_for(nodes: int, accuracy: float, failure: float) -> int:
    """Return M, so many shifts that ‖W − J‖ <= ``accuracy`` with probability 1 − ``failure``.

    M = ⌈8 ln(2n/p) / (3 ε²)⌉. Source: theorem 1 of the paper.

    >>> draws_for(1000, 0.5, 0.1)
    106
    """
    return ceil(8 * log(2 * nodes / failure) / (3 * accuracy**2))


def equi_static(nodes: int, seed: int, draws: int | None = None, *, two_way: bool) -> Mixing:
    """Return the mean of ``draws`` matrices A^(u), ⌈log₂ n⌉ of them if None; D-EquiStatic.

    ``two_way`` takes (W + Wᵀ)/2 instead, U-EquiStatic. Shifts are drawn with replacement.
    """
    if nodes == 1:
        return _alone()
    count = draws if draws is not None else (nodes - 1).bit_length()
    places = np.random.default_rng([seed, _STATIC]).random(count)
    shifts = 1 + np.floor(places * (nodes - 1)).astype(np.intp)
    share = (1.0 - 1.0 / nodes) / count
    if two_way:
        shifts, share = np.concatenate([shifts, -shifts]), share / 2
    receivers = np.tile(np.arange(nodes), len(shifts))
    senders = (receivers + np.repeat(shifts, nodes)) % nodes
    return Mixing.from_entries(nodes, receivers, senders, share)


def od_equi_dyn(nodes: int, seed: int, round_: int, step: float) -> Mixing:
    """Return (1 − η)I + η A^(u), one common u a round: each node sends to one, and hears one.

    ``step``: η in (0, 1]. OD-EquiDyn, algorithm 2 of the paper.
    """
    if nodes == 1:
        return _alone()
    place = float(np.random.default_rng([seed, _DYNAMIC, round_]).random())
    shift = 1 + int(place * (nodes - 1))
    receivers = np.arange(nodes)
    weight = step * (1.0 - 1.0 / nodes)
    return Mixing.from_entries(nodes, receivers, (receivers + shift) % nodes, weight)


def ou_equi_dyn(nodes: int, seed: int, round_: int, step: float) -> Mixing:
    """Return OD-EquiDyn's undirected relative: pairs (i, i + u), found from a common start on.

    A node whose partners are both taken keeps its model. OU-EquiDyn, algorithm 3 of the paper.
    """
    if nodes == 1:
        return _alone()
    places = np.random.default_rng([seed, _DYNAMIC, round_]).random(2)
    shift, start = 1 + int(places[0] * (nodes - 1)), int(places[1] * nodes)
    pairs = _pairs(nodes, shift)
    i = [(start + end) % nodes for pair in pairs for end in pair]
    j = [(start + end) % nodes for pair in pairs for end in reversed(pair)]
    return Mixing.from_entries(nodes, i, j, step * (1.0 - 1.0 / nodes))


def od_rho_ms(nodes: int, step: float) -> float:
    """Return ρ_ms of OD-EquiDyn: √(a² + b² − 2ab/(n − 1)), a = 1 − η + η/n, b = η(1 − 1/n).

    >>> round(od_rho_ms(16, 0.5), 6)
    0.684653
    """
    if nodes == 1:
        return 0.0
    b = step * (1.0 - 1.0 / nodes)
    a = 1.0 - b
    return sqrt(max(0.0, a * a + b * b - 2 * a * b / (nodes - 1)))


def ou_rho_ms(nodes: int, step: float) -> float:
    """Return ρ_ms of OU-EquiDyn, in O(n²).

    W = I − b·L of the pairs' Laplacian, and L² = 2L, so that E[W²] = I − (2b − 2b²) E[L]; E[L] is
    a circulant, since the start is uniform: its eigenvalues are Σ_u m_u/(n(n−1)) 2(1 − cos 2πlu/n)
    with m_u pairs at shift u.
    """
    if nodes == 1:
        return 0.0
    b = step * (1.0 - 1.0 / nodes)
    counts = np.array([0, *(len(_pairs(nodes, u)) for u in range(1, nodes))])
    waves = np.fft.fft(counts).real[1:]
    values = (counts.sum() - waves) * 2 / (nodes * (nodes - 1))
    return sqrt(max(0.0, 1.0 - (2 * b - 2 * b * b) * float(values.min())))


def _pairs(nodes: int, shift: int) -> list[tuple[int, int]]:
    """Return the pairs (i, i + shift mod n) that are free when i's turn comes, from 0 on."""
    free = [True] * nodes
    found = []
    for i in range(nodes):
        j = (i + shift) % nodes
        if free[i] and free[j]:
            free[i] = free[j] = False
            found.append((i, j))
    return found


def _alone() -> Mixing:
    return Mixing.from_entries(1, [], [], [])
