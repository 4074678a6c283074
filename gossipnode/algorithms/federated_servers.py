"""What the hub of federated learning does with the clients' mean: take it, or step towards it.

With Δ = Σ_i (n_i/n) x_i − x, in each coordinate::

    fedavg       x ← x + Δ
    fedadagrad   m ← β₁m + (1 − β₁)Δ      v ← v + Δ²                             x ← x + ηm/(√v + ε)
    fedadam      m as above               v ← β₂v + (1 − β₂)Δ²                   x as above
    fedyogi      m as above               v ← v − (1 − β₂)Δ² sign(v − Δ²)        x as above

m and v begin at zero, and no form corrects their bias. ε bounds the step where Δ is small: with
1e-9 the first step is η(1 − β₁)/√(1 − β₂) in every coordinate that moved at all, be it noise; the
paper finds ε = 1e-3, relative to Δ of 1e-3 to 1, to be better nearly everywhere.

*Source*: Reddi et al., ICLR 2021 (arXiv 2003.00295), algorithm 2.
*Differs from the source*: the clients' mean is weighted by their samples; v begins at 0, not ε².
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gossipnode.algorithms.base import Vector

Second = Callable[[Vector, Vector, float], Vector]


def adagrad(v: Vector, square: Vector, beta: float) -> Vector:
    """Return v + Δ²."""
    del beta
    return v + square


def adam(v: Vector, square: Vector, beta: float) -> Vector:
    """Return β₂v + (1 − β₂)Δ²."""
    return beta * v + (1 - beta) * square


def yogi(v: Vector, square: Vector, beta: float) -> Vector:
    """Return v − (1 − β₂)Δ² sign(v − Δ²)."""
    change: Vector = (1 - beta) * square * np.sign(v - square)
    return v - change


SECONDS: Mapping[str, Second] = {"fedadagrad": adagrad, "fedadam": adam, "fedyogi": yogi}


class AdaptiveServer:
    """The hub's optimizer in ``form``; its m and v, of shape (d,), begin with the first step."""

    def __init__(self, form: str, eta: float, beta1: float, beta2: float, epsilon: float) -> None:
        self.second, self.eta, self.epsilon = SECONDS[form], eta, epsilon
        self.beta1, self.beta2 = beta1, beta2
        self.m: Vector | None = None
        self.v: Vector | None = None

    def step(self, x: Vector, mean: Vector) -> Vector:
        """Return the next x, a new vector, from the clients' mean."""
        # Δ² of float16 would vanish below 2e-4.
        delta = mean.astype(np.result_type(np.float32, mean)) - x
        m = np.zeros_like(delta) if self.m is None else self.m
        v = np.zeros_like(delta) if self.v is None else self.v
        self.m = self.beta1 * m + (1 - self.beta1) * delta
        self.v = self.second(v, delta * delta, self.beta2)
        moved = x + self.eta * self.m / (np.sqrt(self.v) + self.epsilon)
        found: Vector = moved.astype(x.dtype)
        return found

    def state(self) -> dict[str, Vector]:
        """Return m and v."""
        return {} if self.m is None or self.v is None else {"m": self.m, "v": self.v}

    def restore(self, arrays: Mapping[str, Vector]) -> None:
        """Go on with the m and v of an earlier life."""
        self.m, self.v = arrays.get("m"), arrays.get("v")
