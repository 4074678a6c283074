"""The reference problem Q16: sixteen quadratics in ten dimensions, with heterogeneous optima."""

from __future__ import annotations

import numpy as np


def q16() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A (16, 10, 10), b = A·c (16, 10) and the minimiser x* (10,) of the mean."""
    r = np.random.default_rng(0)
    F = r.standard_normal((16, 20, 10))
    A = np.einsum("nmi,nmj->nij", F, F) / 20 + 0.1 * np.eye(10)
    c = 1 + r.standard_normal((16, 10))
    b = np.einsum("nij,nj->ni", A, c)
    return A, b, np.linalg.solve(A.sum(0), b.sum(0))


def ring16() -> np.ndarray:
    """Return W of the ring of 16 with weights 1/3."""
    eye = np.eye(16)
    return (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3
