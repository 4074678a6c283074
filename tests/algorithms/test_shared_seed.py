"""D-PSGD on the coordinates that the swarm draws, and on rounded models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash
from plain_learner import PlainLearner, plain_config
from q16_swarms import (
    HASTY,
    Matrix,
    W,
    after,
    gradients,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms import build_algorithm
from gossipnode.algorithms.base import Arrival, Purpose, Row
from gossipnode.algorithms.coded_models import check_sample
from gossipnode.algorithms.dpsgd import DPSGD
from gossipnode.codecs.halves import BFloat16, Float16
from gossipnode.codecs.randomk import RandomK, drawn
from gossipnode.errors import ConfigError, PeerError
from gossipnode.simulation import Link, SimulatedSwarm

ETA, D = 0.05, 10
RANDOMK = {"codec__name": "randomk", "codec__fraction": 0.3}
Leaves = Callable[[int, Matrix], Matrix]


def config(source: str, rounds: int, **flags: Any) -> Any:
    return settings(source, "dpsgd", ETA, **{"run__rounds": rounds, **flags})


def seed_of(k: int, seed: int = 0) -> int:
    return xxhash.xxh3_64_intdigest(f"swarm {seed} {k}".encode())


def sampled(k: int, X: Matrix) -> Matrix:
    """Return the three coordinates of round k in each row, the others zero."""
    return np.where(drawn(seed_of(k), 3, D), X, 0.0)


def halved(k: int, X: Matrix) -> Matrix:
    del k
    return X.astype(np.float16).astype(np.float64)


def bfloat_of(k: int, X: Matrix) -> Matrix:
    """Round to eight significant bits, ties to even, by exact steps."""
    del k
    fractions, exponents = np.frexp(X)
    return np.ldexp(np.rint(np.ldexp(fractions, 8)), exponents - 8)


def recursion(form: str, C: Leaves) -> Iterator[Matrix]:
    """Yield X after each round."""
    X, last, k = start(), None, 0
    while True:
        H = X - ETA * gradients(X)
        if form == "atc":
            X = H + W @ C(k, H) - C(k, H)
        elif form == "cta":
            X = H + W @ C(k, X) - C(k, X)
        else:
            others = X if last is None else last
            own = np.diag(W)[:, None]
            X, last = (
                H + own * C(k, H) + (W - np.diag(np.diag(W))) @ C(k, others) - C(k, H),
                H,
            )
        k += 1
        yield X


@pytest.mark.parametrize("form", ["atc", "cta", "stale"])
def test_sixteen_nodes_are_the_dense_recursion_on_what_is_drawn(source: str, form: str) -> None:
    X = models_of(config(source, 60, algorithm__form=form, **RANDOMK))
    np.testing.assert_allclose(X, after(recursion(form, sampled), 60), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "C"), [("float16", halved), ("bfloat16", bfloat_of)])
@pytest.mark.parametrize("form", ["atc", "stale"])
def test_sixteen_nodes_are_the_dense_recursion_on_what_is_rounded(
    source: str,
    form: str,
    name: str,
    C: Leaves,
) -> None:
    # Few rounds: past a tie a last bit decides between two neighbours.
    X = models_of(config(source, 12, algorithm__form=form, codec__name=name))
    np.testing.assert_allclose(X, after(recursion(form, C), 12), rtol=0, atol=1e-12)


def test_all_coordinates_are_plain_dpsgd(source: str) -> None:
    flags = {**RANDOMK, "codec__fraction": 1.0}
    one, other = models_of(config(source, 60, **flags)), models_of(config(source, 60))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)


# -- what is kept, and how far models agree --------------------------------------------------------


def still(rounds: int, **flags: Any) -> Matrix:
    """Return the models of eight nodes that learn nothing, after so many rounds on a ring."""
    rng = np.random.default_rng(4)
    learners = [PlainLearner(rng.standard_normal(40).tolist()) for _ in range(8)]
    with SimulatedSwarm(
        plain_config(run__rounds=rounds, **flags), 8, learners=learners
    ) as swarm:  # fmt: skip
        swarm.run_to_end(within=1000)
        return swarm.models()


# A sum of eight values near 1 is rounded in each round anew, it may be the same way each time.
EACH_ROUND = 1e-15


def test_the_sum_is_kept_and_models_come_to_agree() -> None:
    begun, mixed = np.random.default_rng(4).standard_normal((8, 40)), still(700, **RANDOMK)
    assert np.abs(mixed.sum(0) - begun.sum(0)).max() < 700 * EACH_ROUND
    assert mixed.std(0).max() < 1e-12


@pytest.mark.parametrize(("name", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_rounded_models_differ_by_their_last_digits_and_keep_the_sum(name: str, bits: int) -> None:
    begun = np.random.default_rng(4).standard_normal((8, 40))
    mixed = still(400, codec__name=name)
    assert np.abs(mixed.sum(0) - begun.sum(0)).max() < 400 * EACH_ROUND
    spread = np.abs(mixed - mixed.mean(0)).max(0)
    # Once all round to the same, nothing moves: each is half a last digit of it away at most,
    # and of magnitudes below 2^e a last digit is 2^(e − bits).
    ulp = np.ldexp(1.0, np.frexp(np.abs(mixed).max(0))[1] - bits)
    assert (spread <= 2 * ulp).all()
    assert spread.max() > 0


def test_nodes_may_differ_in_how_they_round(source: str) -> None:
    """Each message says how it is coded, and the sum does not care."""
    begun = np.random.default_rng(4).standard_normal((8, 40))
    learners = [PlainLearner(row.tolist()) for row in begun]
    with SimulatedSwarm(plain_config(run__rounds=100), 8, learners=learners) as swarm:
        for i, codec in enumerate((None, Float16(), BFloat16())):
            swarm.up[i].codec = codec
        swarm.run_to_end(within=100)
        X = swarm.models()
    assert np.abs(X.sum(0) - begun.sum(0)).max() < 100 * EACH_ROUND
    assert np.abs(X - X.mean(0)).max() < 2.0**-6


# -- who does not belong together ------------------------------------------------------------------


def arriving(codec: Any, seed: int, k: int = 5) -> Arrival:
    coded = codec.encode(np.ones(D), seed)
    return Arrival(
        "b", Purpose.MODEL, k, 0, {"x": np.ones(D)}, codings={"x": coded} if coded else {}
    )


def node_with(codec: Any) -> Any:
    return SimpleNamespace(codec=codec, shared_seed=seed_of)


def refusal(node: Any, arrival: Arrival) -> str:
    with pytest.raises(PeerError) as raised:
        check_sample(node, arrival)
    assert raised.value.code == "unsupported_message"
    return raised.value.reason


def test_only_the_coordinates_of_the_round_are_taken() -> None:
    node, codec = node_with(RandomK(0.3)), RandomK(0.3)
    check_sample(node, arriving(codec, seed_of(5)))
    assert "3 coordinates of round 5" in refusal(node, arriving(codec, seed_of(6)))
    assert "swarm.seed" in refusal(node, arriving(codec, seed_of(5, seed=1)))
    assert "codec.fraction" in refusal(node, arriving(RandomK(0.4), seed_of(5)))
    whole = Arrival("b", Purpose.MODEL, 5, 0, {"x": np.ones(D)})
    assert refusal(node, whole) == "this node mixes what randomk draws"
    assert refusal(node, arriving(Float16(), 0)) == "this node mixes what randomk draws"


@pytest.mark.parametrize("codec", [None, Float16(), BFloat16()])
def test_who_mixes_whole_models_takes_any_that_are_whole(codec: Any) -> None:
    node = node_with(codec)
    for theirs in (Float16(), BFloat16()):
        check_sample(node, arriving(theirs, 0))
    check_sample(node, Arrival("b", Purpose.MODEL, 5, 0, {"x": np.ones(D)}))
    assert refusal(node, arriving(RandomK(0.3), seed_of(5))) == "this node mixes whole models"


def test_swarms_of_two_seeds_refuse_each_other(source: str) -> None:
    with simulated(config(source, 5, **RANDOMK, **HASTY)) as swarm:
        last = swarm.nodes[swarm.names[3]]
        swarm_options = last.config.swarm.model_copy(update={"seed": 9})
        last.config = last.config.model_copy(update={"swarm": swarm_options})
        swarm.run_to_end(within=100)
        assert last.counters.get("pushes_refused", label=("code", "unsupported_message")) > 0


@pytest.mark.parametrize("name", ["topk", "sign", "qsgd", "uniform", "lowrank"])
def test_other_codecs_are_refused(source: str, name: str) -> None:
    with pytest.raises(ConfigError, match="would never agree"):
        config(source, 5, codec__name=name)


# -- losses, late models, restarts -----------------------------------------------------------------


def test_a_late_sample_changes_its_coordinates_alone() -> None:
    made: Any = build_algorithm(plain_config(**RANDOMK))
    assert isinstance(made, DPSGD)
    committed = []

    async def compute(work: Callable[..., Any], *vectors: Any) -> Any:
        return work(*vectors)

    async def commit(after: Any, before: Any, age: int = 0) -> None:
        committed.append((after, before, age))

    x = np.arange(D, dtype=float)
    node: Any = SimpleNamespace(
        params=x, compute=compute, commit=commit, count=lambda _: None, row=Row(0.5, {"b": 0.5})
    )
    arrival = arriving(RandomK(0.3), seed_of(5))
    arrival.age = 7
    asyncio.run(made.late(node, arrival, 0.5, 1))
    ((found, before, age),) = committed
    mask = drawn(seed_of(5), 3, D)
    weight = 0.5 * made.s(1)
    assert (before is x, age) == (True, 7)
    np.testing.assert_allclose(found[mask], x[mask] + weight * (1.0 - x[mask]), rtol=1e-15)
    assert np.array_equal(found[~mask], x[~mask])


@pytest.mark.parametrize(("name", "factor"), [("randomk", 1.5), ("bfloat16", 1.02)])
def test_losses_cost_as_much_as_without_a_codec(source: str, name: str, factor: float) -> None:
    """Half the coordinates a round leave models 1.4 times as far apart without losses, too."""
    link = Link(latency_s=0.001, loss=0.1)

    def apart(codec: str) -> float:
        flags = {"codec__name": codec, "codec__fraction": 0.5, **HASTY}
        X = models_of(config(source, 200, **flags), link=link)
        return float(np.sqrt(((X - X.mean(0)) ** 2).sum(1).mean()))

    assert apart(name) < factor * apart("none")


@pytest.mark.parametrize("form", ["atc", "stale"])
def test_a_swarm_that_stops_and_starts_goes_on_as_if_it_had_not(source: str, form: str) -> None:
    flags = {"algorithm__form": form, **RANDOMK}
    whole = models_of(config(source, 24, **flags))
    assert np.array_equal(stopped_and_started(config(source, 12, **flags), 24), whole)


def test_the_same_seed_is_the_same_run(source: str) -> None:
    one, two = (trace_of(config(source, 10, **RANDOMK, **HASTY), 5) for _ in range(2))
    assert one[0] == two[0]
    assert np.array_equal(one[1], two[1])


def test_a_quarter_of_the_coordinates_is_a_quarter_of_the_bytes() -> None:
    def sent(**flags: Any) -> int:
        learners = [PlainLearner([0.0] * 4000) for _ in range(4)]
        with SimulatedSwarm(plain_config(run__rounds=5, **flags), 4, learners=learners) as swarm:
            swarm.run_to_end(within=100)
            return swarm.up[0].counters.get("bytes_sent")

    whole = sent()
    assert sent(codec__name="randomk", codec__fraction=0.25) == pytest.approx(whole / 4, rel=0.03)
    assert sent(codec__name="bfloat16") == pytest.approx(whole / 4, rel=0.03)
