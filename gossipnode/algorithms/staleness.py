"""The weight of a model that arrives late.

s(δ) for a model δ ≥ 0 rounds behind: s(0) = 1, non-increasing, in (0, 1].

*Source*: Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv 1903.03934
(constant, polynomial, hinge); Hegedűs, Danner, Jelasity, JPDC 148, 2021 (age).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from gossipnode.options import AlgorithmOptions, option

Staleness = Literal["constant", "polynomial", "hinge", "exponential", "age"]
Weighting = Callable[[float], float]

POLYNOMIAL_A = 0.5
HINGE_A, HINGE_B = 10.0, 4.0
EXPONENTIAL_A = 0.1
# A weight stays above zero where the formula underflows, past δ ≈ 745/a for e^(−aδ).
LEAST = 5e-324


class MergeOptions(AlgorithmOptions):
    """How much an arriving model counts, by how far it is behind."""

    staleness: Staleness = option(
        "polynomial",
        "Weight by staleness δ: constant 1; polynomial (δ+1)^-a; hinge 1 up to b, then "
        "1/(a(δ-b)+1); exponential e^(-aδ); age: t_m/(t_i+t_m) from the two ages.",
        flag="--staleness",
    )
    staleness_a: float | None = option(
        None,
        "a of the staleness function; polynomial 0.5, hinge 10, exponential 0.1.",
        gt=0,
        le=1e6,
    )
    staleness_b: float | None = option(
        None, "b of the hinge: rounds behind that cost nothing; 4.", unit="rounds", ge=0, le=1e9
    )


def no_ages(options: MergeOptions, name: str) -> None:
    """Raise ``ValueError`` where an algorithm that counts rounds is to weigh by age."""
    if options.staleness == "age":
        raise ValueError(
            f"algorithm.staleness age is for gossip; {name} counts rounds: choose constant, "
            "polynomial, hinge or exponential"
        )


def staleness_function(name: str, a: float | None = None, b: float | None = None) -> Weighting:
    """Return s for ``constant``, ``polynomial``, ``hinge`` or ``exponential``.

    ``a`` > 0 and ``b`` ≥ 0 default to the constants of this module.

    >>> s = staleness_function("hinge")
    >>> [round(s(delta), 4) for delta in (0, 4, 8, 16)]
    [1.0, 1.0, 0.0244, 0.0083]
    """
    match name:
        case "constant":
            return lambda _: 1.0
        case "polynomial":
            power = POLYNOMIAL_A if a is None else a
            return lambda delta: max((delta + 1.0) ** -power, LEAST)
        case "hinge":
            slope, free = HINGE_A if a is None else a, HINGE_B if b is None else b
            return lambda delta: 1.0 if delta <= free else 1.0 / (slope * (delta - free) + 1.0)
        case "exponential":
            rate = EXPONENTIAL_A if a is None else a
            return lambda delta: max(math.exp(-rate * delta), LEAST)
    raise AssertionError(f"no staleness function {name!r}")


def age_weight(own_age: int, other_age: int) -> float:
    """Return t_m/(t_i + t_m), the share of the other model; ½ if both ages are 0.

    >>> age_weight(0, 7), age_weight(5, 5), age_weight(0, 0)
    (1.0, 0.5, 0.5)
    """
    total = own_age + other_age
    return other_age / total if total else 0.5
