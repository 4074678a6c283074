"""CHOCO's γ: what is found for each codec; averaging with it neither diverges nor crawls."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from choco_swarms import CODECS, averaging, spread, top
from q16_swarms import settings, simulated

from gossipnode.algorithms.choco_quality import Quality, isotropic_alignment
from gossipnode.codecs import Codec
from gossipnode.codecs.qsgd import QSGD
from gossipnode.codecs.randomk import RandomK
from gossipnode.codecs.sign import Sign
from gossipnode.codecs.topk import TopK
from gossipnode.codecs.uniform import Uniform


def ring(n: int) -> np.ndarray:
    eye = np.eye(n)
    return (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3


def largest(share: float) -> float:
    """Return E[z²; |z| > t] of a normal number, P(|z| > t) = share."""
    normal = NormalDist()
    t = normal.inv_cdf(1 - share / 2)
    return 2 * (t * normal.pdf(t) + share / 2)


@pytest.mark.long
def test_by_256_levels_a_ring_of_25_agrees_as_fast_as_by_whole_models() -> None:
    """All begin at 0, so that x̂ has to catch up with x."""
    goals = np.random.default_rng(0).standard_normal((25, 2000))
    with averaging(goals, 120, algorithm__gamma=1.0) as swarm:
        for node in swarm.up:
            node.codec = QSGD(256, contractive=True)
        swarm.run_to_end(within=100)
        off = swarm.models() - goals.mean(0)
    exact = np.linalg.matrix_power(ring(25), 120) @ (goals - goals.mean(0))
    assert (off**2).sum() == pytest.approx((exact**2).sum(), rel=0.05)


@pytest.mark.long
def test_by_top_1_percent_a_ring_of_25_agrees_as_the_recursion_does() -> None:
    """With γ = 0.046 the recursion is at 9.45 after 1500 rounds, at 1.4e-3 after 6000."""
    goals = np.random.default_rng(0).standard_normal((25, 2000))
    flags = {"codec__name": "topk", "codec__fraction": 0.01, "algorithm__gamma": 0.046}
    X, H = goals, np.zeros_like(goals)
    for _ in range(60):
        H = H + np.array([top(v, 0.01) for v in X - H])
        X = X + 0.046 * (ring(25) - np.eye(25)) @ H
    with averaging(goals, 60, **flags) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), X, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("codec", "kept"),
    [
        (TopK(0.01), largest(0.01)),
        (TopK(0.1), largest(0.1)),
        (RandomK(0.01), 0.01),
        (Sign(), 2 / np.pi),
        (QSGD(16, contractive=True), 1 / 2.249),
        (Uniform(8, contractive=True), 1.0),
    ],
    ids=lambda one: one.name if isinstance(one, Codec) else "",
)
def test_gamma_is_by_what_is_kept_of_noise(codec: Codec, kept: float) -> None:
    quality = Quality()
    quality.begin_anew("", isotropic_alignment(np.zeros(2000, np.float32), codec, ()))
    tolerance = 0.2 if codec.name == "randomk" else 0.03  # squares of 640 numbers, by a half each
    assert quality.gamma == pytest.approx(kept / (2 - kept), rel=tolerance)


def test_gamma_does_not_follow_a_factor() -> None:
    """Contractive codecs send less than they keep; unbiased ones what they keep."""
    one, other = (isotropic_alignment(np.zeros(5000), QSGD(8, c), ()) for c in (False, True))
    assert one == pytest.approx(other, rel=1e-9)


def test_gamma_is_larger_where_more_is_kept_of_what_there_is() -> None:
    quality = Quality()
    quality.begin_anew("", 0.2)
    quality.note(0.6)
    quality.note(0.4)
    assert quality.gamma == pytest.approx(0.5 / 1.5)
    for _ in range(200):
        quality.note(0.1)
    quality.note(np.nan)  # of v = 0
    assert quality.gamma == pytest.approx(0.2 / 1.8)


def test_gamma_is_found_again_when_bits_change(source: str) -> None:
    made = settings(source, "choco", 0.05, run__rounds=30, codec__name="uniform")
    with simulated(made) as swarm:
        one = swarm.up[0].algorithm
        swarm.run_until(lambda: swarm.up[0].round == 10, within=1, every=1e-4)
        assert one.gamma > 0.99
        assert " bits=8 " in one.quality.kind
        for node in swarm.up:
            node.codec = Uniform(2, contractive=True)
        swarm.run_to_end(within=10)
        assert one.gamma < 0.99
        assert " bits=2 " in one.quality.kind
        assert one.quality.seen <= 20


@pytest.mark.parametrize("codec", CODECS)
def test_no_codec_diverges_with_the_gamma_that_is_found(codec: str) -> None:
    """Averaging is the hardest: no gradient pulls the nodes back."""
    goals = np.random.default_rng(1).standard_normal((8, 200)).astype(np.float32)
    with averaging(goals, 200, "float32", **CODECS[codec]) as swarm:
        swarm.run_to_end(within=100)
        assert spread(swarm.models()) < 0.35 * spread(goals)
