"""Extreme eigenvalues: of graphs' Laplacians, of W − J.

Invariant: an eigenvalue returned is right to a millionth of its distance from the end of the
spectrum (of 1 − ρ, of λ_2), or ``ConfigError`` says what is missing. Graphs of up to
``DENSE_MAX`` nodes and circulants of any size take numpy alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gossipnode.errors import ConfigError
from gossipnode.topology.graph import Graph
from gossipnode.topology.mixing import Floats, Mixing

# 2048² float64 is 32 MB and takes eigvalsh some 1.5 s on one core; it grows with n³.
DENSE_MAX: Final = 2048
# Singular values come at some 10 times the price of eigenvalues; above this the Gram matrix's
# eigenvalues serve, which lose what lies below 1e-8.
SVD_MAX: Final = 512
# A basis of 400 vectors of 10,000 nodes is 32 MB. Expanders need 40, a 100 x 100 torus 200.
KRYLOV_MAX: Final = 400
ACCURACY: Final = 1e-6

Operator = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Ends:
    """The smallest and largest eigenvalue on 1^⊥, each with a bound of its error."""

    low: float
    high: float
    low_error: float
    high_error: float

    @property
    def are_exact(self) -> bool:
        """Whether both errors are below ``ACCURACY`` of what is left to −1 and 1."""
        return self.low_error <= ACCURACY * max(1.0 + self.low, 1e-3) and self.high_is_exact

    @property
    def high_is_exact(self) -> bool:
        """Whether the largest is."""
        return self.high_error <= ACCURACY * max(1.0 - self.high, 1e-12)


def rho(mixing: Mixing) -> float:
    """Return ρ = ‖W − J‖₂, J = 11ᵀ/n: by how much one mixing step shrinks disagreement at least.

    A circulant's comes from one Fourier transform. Raises ``ConfigError`` above ``DENSE_MAX``
    nodes where power iteration converges too slowly and scipy is absent.
    """
    n = mixing.nodes
    if n == 1:
        return 0.0
    circulant = mixing.circulant_row()
    if circulant is not None:
        return float(np.abs(np.fft.fft(circulant))[1:].max())
    symmetric = mixing.is_symmetric()
    if n <= DENSE_MAX:
        return dense_rho(mixing.dense(), symmetric=symmetric)
    return sparse_rho(mixing) if symmetric else float(np.sqrt(_gram_norm(mixing)))


def smallest(mixing: Mixing) -> float:
    """Return λ_min of a symmetric W, of 2 nodes or more."""
    if mixing.nodes <= DENSE_MAX:
        return float(np.linalg.eigvalsh(mixing.dense())[0])
    return _ends(mixing).low


def dense_rho(W: Floats, *, symmetric: bool) -> float:
    """Return ‖W − J‖₂ of a dense W."""
    Z: Floats = W - 1.0 / len(W)
    if symmetric:
        return float(np.abs(np.linalg.eigvalsh(Z)).max())
    if len(W) <= SVD_MAX:
        return float(np.linalg.norm(Z, 2))
    return float(np.sqrt(np.linalg.eigvalsh(Z.T @ Z)[-1]))


def sparse_rho(mixing: Mixing) -> float:
    """Return ρ of a symmetric doubly stochastic W of any size."""
    ends = _ends(mixing)
    return max(abs(ends.low), abs(ends.high))


def laplacian_extremes(graph: Graph) -> tuple[float, float]:
    """Return λ_2 > 0 and λ_max of the Laplacian of a connected undirected graph, n >= 2.

    Raises ``ConfigError`` as ``rho`` does.
    """
    # I − L/s with s = 2 d_max has its eigenvalues in [0, 1]: the largest but one is 1 − λ_2/s.
    scale = 2.0 * graph.degree_max
    edges = [(i, j) for i, row in enumerate(graph.out_neighbours) for j in row]
    i, j = zip(*edges, strict=True)
    step = Mixing.from_entries(graph.nodes, i, j, 1.0 / scale)
    circulant = step.circulant_row()
    if circulant is not None:
        spectrum = np.fft.fft(circulant).real[1:]
        low, high = float(spectrum.min()), float(spectrum.max())
    elif graph.nodes <= DENSE_MAX:
        values = np.linalg.eigvalsh(np.eye(graph.nodes) - step.dense())
        return scale * float(values[1]), scale * float(values[-1])
    else:
        ends = _ends(step)
        low, high = ends.low, ends.high
    return scale * (1.0 - high), scale * (1.0 - low)


def lanczos(apply: Operator, n: int) -> Ends:
    """Return the ends of the spectrum on 1^⊥ of a symmetric W with W1 = 1.

    Not exact where ``KRYLOV_MAX`` steps do not suffice. Every vector is orthogonalised against
    all before, so that no eigenvalue appears twice.
    """
    start = np.random.default_rng(0).random(n) - 0.5
    start -= start.mean()
    basis = np.empty((KRYLOV_MAX, n))
    basis[0] = start / np.linalg.norm(start)
    alphas: list[float] = []
    betas: list[float] = []
    for k in range(KRYLOV_MAX):
        v = apply(basis[k])
        alphas.append(float(v @ basis[k]))
        for _ in range(2):  # once leaves what cancellation brought back
            v = v - v.mean()
            v = v - basis[: k + 1].T @ (basis[: k + 1] @ v)
        beta = float(np.linalg.norm(v))
        last = beta < 1e-13 or k + 1 == KRYLOV_MAX
        if last or k % 20 == 19:
            ends = _ritz(alphas, betas, beta)
            if last or ends.are_exact:
                break
        betas.append(beta)
        basis[k + 1] = v / beta
    return ends


def _ritz(alphas: Sequence[float], betas: Sequence[float], beta: float) -> Ends:
    """Return the ends of the tridiagonal matrix; an error is at most its vector's residual."""
    T = np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1)
    values, vectors = np.linalg.eigh(T)
    low_error, high_error = (float(r) for r in beta * np.abs(vectors[-1, [0, -1]]))
    return Ends(float(values[0]), float(values[-1]), low_error, high_error)


def _ends(mixing: Mixing) -> Ends:
    ends = lanczos(mixing.apply, mixing.nodes)
    return ends if ends.are_exact else _shift_invert(mixing, ends)


def _gram_norm(mixing: Mixing) -> float:
    """Return ‖W − J‖₂² = λ_max of (W − J)ᵀ(W − J) for W that is not symmetric."""
    back = mixing.transposed()
    ends = lanczos(lambda x: back.apply(mixing.apply(x)), mixing.nodes)
    if not ends.high_is_exact:
        raise ConfigError(
            f"ρ of this directed graph of {mixing.nodes} nodes cannot be told: it mixes too slowly",
            key="topology.graph",
            allowed=f"up to {DENSE_MAX} nodes, or an undirected graph",
        )
    return ends.high


def _shift_invert(mixing: Mixing, rough: Ends) -> Ends:
    """Return both ends by solving with W − σI, for graphs that mix slowly; needs scipy.

    Slow graphs are long and thin, so their factors stay sparse.
    """
    try:
        linalg: Any = importlib.import_module("scipy.sparse.linalg")
    except ImportError:
        raise ConfigError(
            f"a graph of {mixing.nodes} nodes that mixes this slowly needs scipy",
            key="topology.graph",
            allowed=f"up to {DENSE_MAX} nodes, or pip install 'gossipnode[topology]'",
        ) from None
    n, W = mixing.nodes, mixing.csr().tocsc()
    options = {
        "v0": np.random.default_rng(0).random(n), "return_eigenvectors": False, "tol": 1e-12,
    }  # fmt: skip
    # A little past each end, so that W − σI is not singular: 1 itself is an eigenvalue.
    high = np.sort(linalg.eigsh(W, k=2, sigma=1.0 + 1e-9, **options))[0]
    below = rough.low - max(rough.low_error, 1e-9)
    low = linalg.eigsh(W, k=1, sigma=below, **options)[0]
    return Ends(float(low), float(high), 0.0, 0.0)
