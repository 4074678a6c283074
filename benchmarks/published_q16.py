"""Where methods come to rest on Q16, and how soon: B4 to B7, by nodes in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.laws import q16
from benchmarks.published import Row, distances, q16_rounds, rounds_to

SIX_DIGITS = 1e-6

# η -> (‖x̄ − x*‖, Ξ, f(x̄) − f*) of both forms of D-PSGD.
ATC = {
    0.2: (0.1609011, 1.334071, 0.01514976), 0.1: (0.1208488, 1.057010, 0.008695181),
    0.05: (0.0853296, 0.7696960, 0.004383895), 0.02: (0.0472504, 0.4323420, 0.001354806),
    0.01: (0.0274152, 0.2511296, 0.0004573455),
}  # fmt: skip
CTA = {
    0.2: (0.1940559, 1.413208, 0.02037056), 0.1: (0.1361786, 1.107925, 0.01028455),
    0.05: (0.0914316, 0.8056056, 0.004767883), 0.02: (0.0491942, 0.4552986, 0.001418207),
    0.01: (0.0283916, 0.2658983, 0.0004777214),
}  # fmt: skip


def enough(eta: float) -> int:
    """Return rounds after which what is left of the start is below 1e-7: e^(−0.79·24) of 4."""
    return max(500, int(24 / eta))


def b4() -> Iterator[Row]:
    """Fixed points of D-PSGD."""
    for form, table in (("atc", ATC), ("cta", CTA)):
        for eta, published in table.items():
            models = q16_rounds(enough(eta), eta, algorithm__form=form)
            for what, ours, reference in zip(
                ("‖x̄ − x*‖", "Ξ", "f(x̄) − f*"), distances(models), published, strict=True
            ):
                yield Row(f"{form}, η = {eta}: {what}", ours, reference, SIX_DIGITS)


def at_rest(
    what: str, rounds: int, eta: float, reference: tuple[float, ...], **flags: Any
) -> Iterator[Row]:
    """Compare ‖x̄ − x*‖ and, where it is known, Ξ after ``rounds``."""
    found = distances(q16_rounds(rounds, eta, **flags))
    for name, ours, right in zip(("‖x̄ − x*‖", "Ξ"), found, reference, strict=False):
        yield Row(f"{what}: {name}", ours, right, SIX_DIGITS)


def b5() -> Iterator[Row]:
    """Methods that rest where another does, or at the optimum."""
    yield from at_rest(
        "dmsgd, η = 0.01, β = 0.9 as atc, η = 0.1", 600, 0.01, ATC[0.1], algorithm__name="dmsgd"
    )
    for form in ("decentlam", "qgm"):
        rounds = 2500 if form == "qgm" else 600
        what = f"{form}, η = 0.01, β = 0.9 as atc, η = 0.01"
        yield from at_rest(what, rounds, 0.01, ATC[0.01], algorithm__name=form)
    yield from at_rest("atc, a round stale, η = 0.1", 1000, 0.1, ATC[0.1], algorithm__form="stale")
    hub = {"algorithm__name": "fedavg", "topology__graph": "star", "training__local_steps": 10}
    yield from at_rest("FedAvg, τ = 10, η = 0.05 (DiLoCo's)", 100, 0.05, (0.1497062,), **hub)
    zero = (0.0, 0.0)
    for name, eta, rounds in (
        ("dsgt", 0.05, 1400), ("diging", 0.05, 1400), ("atc_gt", 0.05, 1400), ("d2", 0.1, 500),
        ("exact_diffusion", 0.1, 500), ("extra", 0.1, 500), ("edm", 0.02, 1500),
    ):  # fmt: skip
        yield from at_rest(f"{name}, η = {eta}", rounds, eta, zero, algorithm__name=name)
    hub |= {"algorithm__name": "scaffold"}
    yield from at_rest("SCAFFOLD, τ = 10, η = 0.02", 400, 0.02, (0.0,), **hub)


ROUNDS_TO = {
    "diging": {0.02: 1093, 0.05: 1053, 0.1: 1607},
    "atc_gt": {0.02: 1095, 0.05: 995, 0.1: 1497, 0.2: 2477},
    "d2": {0.05: 600, 0.1: 317, 0.2: 171, 0.3: 149},
    "exact_diffusion": {0.05: 491, 0.1: 334, 0.2: 201, 0.3: 315},
    "extra": {0.05: 491, 0.1: 327, 0.2: 202, 0.3: 327},
}


def b6() -> Iterator[Row]:
    """Rounds until sqrt(1/n Σ‖x_i − x*‖²) is below 1e-8."""
    for name, table in ROUNDS_TO.items():
        for eta, published in table.items():
            models = q16_rounds(published + 5, eta, algorithm__name=name)
            yield Row(f"{name}, η = {eta}", rounds_to(models, 1e-8), published, 1)


def b7() -> Iterator[Row]:
    """Bias by local steps, and by how seldom all average."""
    hub = {"algorithm__name": "fedavg", "topology__graph": "star"}
    fedavg = {1: 0.0, 2: 0.0412968, 4: 0.1122587, 8: 0.2179053, 16: 0.3418790}
    for tau, published in fedavg.items():
        what = f"FedAvg, η = 0.1, τ = {tau}"
        yield from at_rest(what, 300, 0.1, (published,), training__local_steps=tau, **hub)
    for tau, published in {1: 0.085330, 2: 0.12298, 4: 0.17246, 8: 0.23936}.items():
        ours, *_ = distances(q16_rounds(600, 0.05, training__local_steps=tau))
        yield Row(f"D-PSGD, η = 0.05, τ = {tau}: ‖x̄ − x*‖", ours, published, 5e-6)
    pga: dict[int, float] = {1: 0.0, 4: 0.028625, 16: 0.075695, 64: 0.10812, 0: 0.12085}
    for every, published in pga.items():
        models = q16_rounds(640, 0.1, algorithm__name="pga", algorithm__every=every)
        means = np.linalg.norm(models[-64:].mean(1) - q16()[2], axis=1)
        what = f"Gossip-PGA, η = 0.1, H = {every or '∞'}: mean of the last 64"
        yield Row(what, float(means.mean()), published, 5e-6)
    hub |= {"algorithm__name": "fedprox", "training__local_steps": 8}
    for mu, published in {0.0: 0.217905, 0.1: 0.215917, 1.0: 0.196323}.items():
        what = f"FedProx, η = 0.1, τ = 8, μ = {mu:g}"
        yield from at_rest(what, 300, 0.1, (published,), algorithm__mu=mu, **hub)
