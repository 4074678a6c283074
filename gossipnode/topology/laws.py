"""Scaling laws: the spectral gap fitted over n = 8 to 1,024 and set against theory.

Invariant: the fit is of computed gaps alone; theory stands beside it and decides nothing but the
variable that the gap is plotted over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, pi, sqrt
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology.sequences import build_sequence
from gossipnode.topology.spectra import contract

POWERS: Final = (8, 16, 32, 64, 128, 256, 512, 1024)
SQUARES: Final = (9, 16, 36, 64, 144, 256, 576, 1024)
# Random graphs: the gap is the mean of so many draws.
DRAWS: Final = 5


@dataclass(frozen=True, slots=True)
class Theory:
    """1 − ρ ≈ constant · x(n)^−exponent; ``text`` says it, ``constant`` is None where open."""

    text: str
    exponent: float
    constant: float | None = None
    x: Callable[[int], float] = float
    sizes: tuple[int, ...] = POWERS
    draws: int = 1


@dataclass(frozen=True, slots=True)
class Law:
    """What was fitted for one graph: ``gaps[k]`` = 1 − ρ at ``sizes[k]`` nodes.

    ``exponent``: minus the slope of ln(1 − ρ) over ln x(n), least squares over all sizes;
    ``tail``: the same over the three largest, where small sizes no longer count;
    ``constant``: (1 − ρ) x(n)^p at the largest size, p by theory.
    """

    name: str
    theory: Theory
    sizes: tuple[int, ...]
    gaps: tuple[float, ...]
    exponent: float
    tail: float
    constant: float


def fit_law(name: str, sizes: Sequence[int] | None = None) -> Law:
    """Fit the law of the graph ``name`` of ``THEORIES``, over ``sizes`` or its own.

    Raises ``ConfigError`` where there is no theory of that graph.
    """
    theory = THEORIES.get(name)
    if theory is None:
        raise ConfigError(
            f"no law is known for {name!r}",
            key="topology.graph",
            allowed=", ".join(THEORIES),
            nearest=nearest_spelling(name, THEORIES),
        )
    chosen = tuple(theory.sizes if sizes is None else sizes)
    gaps = tuple(_gap(name, n, theory.draws) for n in chosen)
    places = [log(theory.x(n)) for n in chosen]
    whole, tail = (-float(np.polyfit(places[a:], np.log(gaps[a:]), 1)[0]) for a in (0, -3))
    constant = gaps[-1] * theory.x(chosen[-1]) ** theory.exponent
    return Law(name, theory, chosen, gaps, whole, tail, constant)


def _gap(name: str, n: int, draws: int) -> float:
    found = [contract(build_sequence(name, n, seed=seed)).gap for seed in range(draws)]
    return sum(found) / draws


def _hops(n: int) -> float:
    """Return 1 + ⌈log₂ n⌉, a node's neighbourhood in the exponential graph."""
    return 1.0 + (n - 1).bit_length()


# Sources: the ring's, torus's and grid's eigenvalues are sums of cosines; Ying et al., NeurIPS
# 2021 for the exponential graph; Song et al., NeurIPS 2022 for EquiTopo; Friedman, 2003, for
# random regular graphs (degree 4 here).
THEORIES: Final[dict[str, Theory]] = {
    "ring": Theory("4π²/3 / n²", 2, 4 * pi**2 / 3),
    "chain": Theory("π²/3 / n²", 2, pi**2 / 3),
    "grid": Theory("π²/5 / n", 1, pi**2 / 5, sizes=SQUARES),
    "torus": Theory("4π²/5 / n", 1, 4 * pi**2 / 5, sizes=SQUARES),
    "star": Theory("1 / n", 1, 1.0),
    "hypercube": Theory("2 / (1 + log₂ n)", 1, 2.0, _hops),
    "exponential": Theory("2 / (1 + ⌈log₂ n⌉)", 1, 2.0, _hops),
    "random_geometric": Theory("O(ln n / n)", 1, None, lambda n: n / log(n), draws=DRAWS),
    "random_regular": Theory("O(1), degree 4", 0, 1 - (1 + 2 * sqrt(3)) / 5, draws=DRAWS),
    "erdos_renyi": Theory("O(1)", 0, draws=DRAWS),
    "d_equi_static": Theory("O(1)", 0, draws=10 * DRAWS),
    "u_equi_static": Theory("O(1)", 0, draws=10 * DRAWS),
    "od_equi_dyn": Theory("O(1)", 0, 1 - sqrt(0.5)),
}
