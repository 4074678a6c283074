"""Laws 3 and 4: D-PSGD on quadratics f_i = ½xᵀA_i x − b_iᵀx, round by round and at rest.

The oracles are the gradient step written out, the fixed point by a linear solve, and one mode's
fixed point by hand. The lectures' steady state ρη(b + nσ)/(1 − 2ρηL) drops the carried-over
ρ‖x − x̄‖; the corrected form is ρη√n·b/(1 − ρ(1 + ηL)), b the gradients' spread at x̄.
"""

from __future__ import annotations

import numpy as np
import pytest
from plain_learner import plain_config
from q16 import q16

from gossipnode.learning.learner import NumpyLearner
from gossipnode.learning.optimizer import SGD
from gossipnode.learning.schedule import schedule
from gossipnode.learning.tasks.quadratic import Quadratic
from gossipnode.simulation.vectorised import VectorisedSwarm

A16, B16, BEST16 = q16()
L16 = max(float(np.linalg.eigvalsh(A)[-1]) for A in A16)
HETEROGENEITY = np.einsum("nij,j->ni", A16, BEST16) - B16  # ∇f_i(x*), which add to zero


def ring(n: int) -> np.ndarray:
    eye = np.eye(n)
    return (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3


def star(n: int) -> np.ndarray:
    W = np.diag(np.r_[1 / n, np.full(n - 1, 1 - 1 / n)])
    W[0, 1:] = W[1:, 0] = 1 / n
    return W


def hypercube(n: int) -> np.ndarray:
    ones = np.array([[(a ^ b).bit_count() <= 1 for b in range(n)] for a in range(n)])
    return ones / ones.sum(1)


MATRICES = {"ring": ring(16), "star": star(16), "hypercube": hypercube(16)}
RHO = {name: float(np.sort(np.abs(np.linalg.eigvalsh(W)))[-2]) for name, W in MATRICES.items()}


def swarm_of(
    A: np.ndarray, b: np.ndarray, eta: float, graph: str = "ring", form: str = "atc"
) -> VectorisedSwarm:
    config = plain_config(algorithm__form=form, topology__graph=graph)
    learners = [
        NumpyLearner(
            Quadratic(A_i, b_i),
            None,
            None,
            SGD(eta, 0.0, False),
            schedule("constant"),
            0,
            np.random.default_rng(0),
        )
        for A_i, b_i in zip(A, b, strict=True)
    ]
    return VectorisedSwarm(config, len(b), learners=learners)


def at_rest(A: np.ndarray, b: np.ndarray, eta: float, W: np.ndarray) -> np.ndarray:
    """Solve X = W(X − η(AX − b)) for X of shape (n, d)."""
    n, d = b.shape
    M, right = np.eye(n * d), np.zeros(n * d)
    for i in range(n):
        for j in range(n):
            at = slice(i * d, i * d + d), slice(j * d, j * d + d)
            M[at] -= W[i, j] * (np.eye(d) - eta * A[j])
            right[at[0]] += W[i, j] * eta * b[j]
    return np.linalg.solve(M, right).reshape(n, d)


def spread(X: np.ndarray) -> float:
    """Return ‖X − X̄‖_F."""
    return float(np.linalg.norm(X - X.mean(0)))


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("graph", MATRICES)
def test_mean_follows_the_gradient_step_and_the_error_term(graph: str, form: str) -> None:
    """x̄⁺ = x̄ − η(∇f(x̄) + E_k), E_k = (1/n) Σ A_i(x_i − x̄); ‖E_k‖ ≤ L·max‖x_i − x̄‖."""
    eta = 0.1
    swarm = swarm_of(A16, B16, eta, graph, form)
    largest = 0.0
    for _ in range(120):
        X = swarm.models
        mean = X.mean(0)
        error = np.einsum("nij,nj->i", A16, X - mean) / 16
        step = A16.mean(0) @ mean - B16.mean(0)
        swarm.run(1)
        np.testing.assert_allclose(
            swarm.models.mean(0), mean - eta * (step + error), rtol=0, atol=1e-14
        )
        furthest = np.linalg.norm(X - mean, axis=1).max()
        assert np.linalg.norm(error) <= L16 * furthest
        largest = max(largest, float(np.linalg.norm(error)))
    assert largest > 0.05, "the term is not negligible, and leaving it out would be noticed"


@pytest.mark.parametrize(
    ("eta", "distance", "width"),
    [
        (0.2, 0.1609011, 1.334071),
        (0.1, 0.1208488, 1.057010),
        (0.05, 0.0853296, 0.7696960),
        (0.02, 0.0472504, 0.4323420),
    ],
)
def test_stops_at_the_fixed_point(eta: float, distance: float, width: float) -> None:
    """The distances grow with η; the rounds suffice for the seven digits that are published."""
    swarm = swarm_of(A16, B16, eta)
    swarm.run(int(24 / eta))
    X = at_rest(A16, B16, eta, MATRICES["ring"])
    np.testing.assert_allclose(swarm.models, X, rtol=0, atol=1e-6)
    assert np.linalg.norm(swarm.models.mean(0) - BEST16) == pytest.approx(distance, rel=5e-6)
    assert swarm.consensus_distance() == pytest.approx(width, rel=5e-6)


@pytest.mark.parametrize("scale", [0.5, 2.0, 10.0])
def test_distance_is_proportional_to_heterogeneity(scale: float) -> None:
    """Gradients at x* times s, x* the same: everything at rest is s times as far away."""
    b = np.einsum("nij,j->ni", A16, BEST16) - scale * HETEROGENEITY
    swarm = swarm_of(A16, b, 0.1)
    swarm.run(400)
    reference = at_rest(A16, B16, 0.1, MATRICES["ring"]) - BEST16
    np.testing.assert_allclose(
        swarm.models - BEST16, scale * reference, rtol=0, atol=1e-12 * scale + 1e-12
    )


@pytest.mark.parametrize("graph", MATRICES)
def test_corrected_bound_holds(graph: str) -> None:
    W, rho, eta = MATRICES[graph], RHO[graph], 0.005
    assert rho * (1 + eta * L16) < 1
    swarm = swarm_of(A16, B16, eta, graph)
    swarm.models = at_rest(A16, B16, eta, W)
    before = swarm.models.copy()
    swarm.run(5)
    np.testing.assert_allclose(swarm.models, before, rtol=0, atol=1e-13)
    mean = swarm.models.mean(0)
    gradients = A16 @ mean - B16
    bound = rho * eta * spread(gradients) / (1 - rho * (1 + eta * L16))
    assert 0.1 * bound < spread(swarm.models) <= bound


def test_the_formula_of_the_lectures_is_too_small() -> None:
    """η = 0.01: ‖X − X̄‖ is 1.00, the printed ρηb/(1 − 2ρηL) 0.04, and 0.70 with b times n."""
    eta, rho = 0.01, RHO["ring"]
    measured = spread(at_rest(A16, B16, eta, MATRICES["ring"]))
    b = np.sqrt((HETEROGENEITY**2).sum(1).mean())
    assert b * b == pytest.approx(18.292172, rel=1e-6)
    printed = rho * eta * 16 * b / (1 - 2 * rho * eta * L16)
    assert measured == pytest.approx(1.00, abs=0.01)
    assert printed < 0.71 < measured


@pytest.mark.parametrize("n", [4, 8, 16, 32])
@pytest.mark.parametrize("eta", [0.02, 0.2])
def test_slowest_mode_stops_at_its_closed_form(n: int, eta: float) -> None:
    """Equal curvature a and gradients along the slowest mode: ‖X‖ = ηρ√n·b/(1 − ρ + ρηa).

    For small η that is η·b·ρ/(1 − ρ). The error shrinks by ρ(1 − ηa) a round, so the rounds are
    those after which 1e-14 is left of it.
    """
    a, rho = 1.5, (1 + 2 * np.cos(2 * np.pi / n)) / 3
    u = 3.0 * np.cos(2 * np.pi * np.arange(n) / n)
    swarm = swarm_of(np.full((n, 1, 1), a), u[:, None], eta)
    swarm.run(int(np.log(1e-14) / np.log(rho * (1 - eta * a))) + 1)
    right = eta * rho * np.linalg.norm(u) / (1 - rho + rho * eta * a)
    assert spread(swarm.models) == pytest.approx(right, rel=1e-12)
    np.testing.assert_allclose(swarm.models.mean(0), 0, atol=1e-13)


@pytest.mark.parametrize("graph", MATRICES)
def test_equal_data_reach_the_optimum(graph: str) -> None:
    A, b = np.repeat(A16[:1], 16, 0), np.repeat(B16[:1], 16, 0)
    swarm = swarm_of(A, b, 0.3, graph)
    swarm.models = np.random.default_rng(7).standard_normal((16, 10))
    swarm.run(700)
    best = np.linalg.solve(A[0], b[0])
    np.testing.assert_allclose(swarm.models, np.tile(best, (16, 1)), rtol=0, atol=1e-12)
