"""All-reduce: to the bit the same sums everywhere, the messages it takes, and who is missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config
from q16_swarms import (
    bias_under_loss,
    gradients,
    models_of,
    settings,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms.all_reduce import EVERYBODY, RING_MAX, AllReduce, Mean
from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.errors import ConfigError
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm

FORMS = ("ring", "naive", "server")
LINK = Link(latency_s=0.01)
HASTY = {
    "algorithm__deadline_s": 1.0,
    "algorithm__start_deadline_s": 1.0,
    "network__push_timeout_s": 1.0,
}


def begun(n: int, d: int, dtype: str = "float64") -> Any:
    """Return X at the beginning: rows of very different size, so that the order of adding shows."""
    rng = np.random.default_rng([n, d])
    sizes = 10.0 ** rng.integers(-4, 4, (n, d))  # float16 ends at 65504
    return (rng.standard_normal((n, d)) * sizes).astype(dtype)


def swarm_of(
    X: Any,
    form: str = "ring",
    *,
    step: float = 0.0,
    link: Link = LINK,
    how: Any = None,
    **flags: Any,
) -> SimulatedSwarm:
    """Return a swarm whose node i begins at row i; a step adds i·step to all of its params."""
    learners = [PlainLearner(list(x), i * step, X.dtype.name) for i, x in enumerate(X)]
    given = {"algorithm__name": "allreduce", "algorithm__form": form, "run__rounds": 1, **flags}
    return SimulatedSwarm(
        plain_config(**given), len(X), link=link, learners=learners, step_s=0.1, **(how or {})
    )


def around_the_ring(X: Any) -> Any:
    """Return the mean as the ring adds up: chunk c from node c on, once round."""
    n, d = X.shape
    found = np.empty(d, X.dtype)
    for c, (a, b) in enumerate(pairwise([d * c // n for c in range(n + 1)])):
        total = X[c, a:b].copy()
        for i in range(c + 1, c + n):
            total = total + X[i % n, a:b]
        found[a:b] = total
    return found / X.dtype.type(n)


def in_order(X: Any) -> Any:
    """Return the mean as it is added up in the order of the list, in float32 at the least."""
    total = np.zeros(X[0].shape, np.result_type(np.float32, X))
    for x in X:
        total = total + x
    return (total / total.dtype.type(len(X))).astype(X.dtype)


ORACLES = {"ring": around_the_ring, "naive": in_order, "server": in_order}


# -- the mean --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("n", "d"), [(2, 5), (3, 9), (4, 1), (5, 3), (5, 23), (8, 64)])
@pytest.mark.parametrize("form", FORMS)
def test_all_nodes_have_the_dense_mean_to_the_bit(form: str, n: int, d: int, dtype: str) -> None:
    X = begun(n, d, dtype)
    with swarm_of(X, form, task__dtype=dtype) as swarm:
        swarm.run_to_end(within=10)
        found = swarm.models()
        assert all(node.counters.get("fallbacks") == 0 for node in swarm.up)
    assert np.array_equal(found, np.broadcast_to(ORACLES[form](X), found.shape))


def test_the_order_of_adding_up_shows() -> None:
    """Else the test above would not tell one order from another."""
    X = begun(8, 64)
    assert not np.array_equal(around_the_ring(X), in_order(X))


@pytest.mark.parametrize("form", FORMS)
def test_one_node_alone_is_its_own_mean(form: str) -> None:
    with swarm_of(begun(1, 3), form, run__rounds=3) as swarm:
        swarm.run_to_end(within=10)
        assert np.array_equal(swarm.models(), begun(1, 3))


@pytest.mark.parametrize("form", FORMS)
def test_training_and_averaging_is_sgd_on_the_mean_gradient(source: str, form: str) -> None:
    rounds, eta = 25, 0.1
    X = models_of(settings(source, "allreduce", eta, algorithm__form=form, run__rounds=rounds))
    x = start()
    for _ in range(rounds):
        x = np.broadcast_to((x - eta * gradients(x)).mean(0), x.shape)
    np.testing.assert_allclose(X, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_numbers_go_along(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Each node sends its own number; all get the mean of them, to the bit the same."""
    found: dict[str, Mean] = {}
    mean = AllReduce.mean

    async def with_number(self: AllReduce, node: Any, k: int, x: Any) -> Mean:
        number = 0.1 + node.ids.index(node.id)
        found[node.id] = await mean(self, node, k, x, {"loss": number, "first": 2 * number})
        return found[node.id]

    monkeypatch.setattr(AllReduce, "mean", with_number)
    with swarm_of(begun(5, 3), form) as swarm:
        swarm.run_to_end(within=10)
    numbers = [one.numbers for one in found.values()]
    assert all(one == numbers[0] for one in numbers)
    assert numbers[0] == pytest.approx({"loss": 2.1, "first": 4.2}, rel=1e-14)
    assert [one.count for one in found.values()] == [5] * 5


# -- what it takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "messages"),
    [
        ("ring", lambda n: 2 * n * (n - 1)),
        ("naive", lambda n: n * (n - 1)),
        ("server", lambda n: 2 * (n - 1)),
    ],
)
def test_messages_are_as_many_as_the_formula_says(form: str, messages: Any) -> None:
    for n in (2, 5, 8):
        with swarm_of(begun(n, 40), form, run__rounds=3) as swarm:
            swarm.run_to_end(within=10)
            assert sum(swarm.frames.values()) == 3 * messages(n)


def test_a_node_of_the_ring_sends_two_models_whatever_their_number() -> None:
    d, header = 40_000, 400
    for n in (4, 8):
        with swarm_of(begun(n, d)) as swarm:
            swarm.run_to_end(within=10)
            for node in swarm.up:
                body = 2 * (n - 1) / n * d * 8
                sent = node.counters.get("bytes_sent")
                assert body <= sent <= body + 2 * (n - 1) * header


def test_fifty_rounds_of_dpsgd_and_one_naive_all_reduce_take_67456_messages() -> None:
    """128 nodes of mean degree 8: 50·128·8 + 128·127."""
    learners = [PlainLearner([float(i)]) for i in range(128)]
    config = plain_config(
        algorithm__name="gossip_pga", algorithm__every=51, algorithm__reduction="naive",
        run__rounds=51, topology__graph="random_regular", topology__degree=8,
    )  # fmt: skip
    with SimulatedSwarm(config, 128, link=LINK, learners=learners, objects=True) as swarm:
        swarm.run_to_end(within=100)
        assert sum(swarm.frames.values()) == 50 * 128 * 8 + 128 * 127 == 67_456
        found = swarm.models()
        assert np.array_equal(found, np.broadcast_to(found[0], found.shape))


def test_a_ring_may_have_128_nodes_and_no_more() -> None:
    class Many:
        id = "n0"
        ids = tuple(f"n{i}" for i in range(129))
        nodes = 129

    reduce = AllReduce(settings_of(), "ring")
    with pytest.raises(ConfigError, match="129 nodes are too many for a ring"):
        reduce.is_whole(Many())  # type: ignore[arg-type]
    assert 2 * (RING_MAX - 1) - 1 < EVERYBODY < 256  # its last step, and what the wire takes


def settings_of(**flags: Any) -> Any:
    return plain_config(algorithm__name="allreduce", **flags).algorithm


# -- who is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "pause"])
@pytest.mark.parametrize("form", FORMS)
def test_without_a_dead_node_the_others_agree_to_the_bit(form: str, how: str) -> None:
    """The dead one is the hub, the others' neighbour on the ring, or one of many."""
    with swarm_of(begun(6, 8), form, step=1.0, run__rounds=0, **HASTY) as swarm:
        swarm.run(2.05)  # in the middle of training, or of an all-reduce
        getattr(swarm, how)("n0")
        swarm.run(8)  # time out once
        alive = [node for node in swarm.up if node.id != "n0"]
        before = [node.round for node in alive]
        swarm.run(3)
        assert min(n.round - k for n, k in zip(alive, before, strict=True)) >= 8  # no deadline
        swarm.run_until(lambda: agree(alive), within=1)
        if form != "naive":
            assert min(node.counters.get("fallbacks") for node in alive) > 0


@pytest.mark.parametrize("form", FORMS)
def test_what_is_left_is_averaged_exactly(form: str) -> None:
    """n0 is never there: the mean is that of the other five, in the order of the list."""
    X = begun(6, 8)
    with swarm_of(X, form, how={"late": ["n0"]}, **HASTY) as swarm:
        swarm.run_to_end(within=20)
        found = swarm.models()
    assert np.array_equal(found, np.broadcast_to(in_order(X[1:]), found.shape))


@pytest.mark.parametrize("form", FORMS)
def test_one_that_comes_back_takes_part_again(form: str) -> None:
    with swarm_of(
        begun(6, 8), form, step=1.0, run__rounds=0, checkpoint__every_s=0.5,
        how={"stores": True}, **HASTY,
    ) as swarm:  # fmt: skip
        swarm.run(2)
        swarm.kill("n0")
        swarm.run(5)
        swarm.restart("n0")
        swarm.run(8)
        fallen = [node.counters.get("fallbacks") for node in swarm.up]
        swarm.expect_progress(2)
        assert [node.counters.get("fallbacks") for node in swarm.up] == fallen
        rounds = [node.round for node in swarm.up]
        assert max(rounds) - min(rounds) <= 1
        swarm.run_until(lambda: agree(swarm.up), within=1)


@pytest.mark.parametrize("form", FORMS)
def test_one_that_some_have_no_messages_of_is_not_waited_for_when_it_is_gone(form: str) -> None:
    """As long as for one that never started, which is a minute: all have taken part before."""
    X = begun(5, 12)
    with swarm_of(X, form, run__rounds=1000, how={"stores": True}) as swarm:
        swarm.run(5.0)
        before = min(node.round for node in swarm.up)
        assert before >= 3
        swarm.kill("n3")
        # It is asked whether it listens; no deadline passes.
        swarm.run(5.0)
        assert min(node.round for node in swarm.up) >= before + 10


def agree(nodes: Sequence[Node]) -> bool:
    """Whether all have the same params, to the bit: so they do when a round has ended."""
    return all(np.array_equal(node.params, nodes[0].params) for node in nodes)


def test_two_halves_of_a_cut_ring_go_on_apart_and_meet_again() -> None:
    with swarm_of(begun(6, 8), step=1.0, run__rounds=0, **HASTY) as swarm:
        swarm.run(2)
        one, other = ["n0", "n1", "n2"], ["n3", "n4", "n5"]
        swarm.partition(one, other)
        swarm.run(12)
        for half in (one, other):
            nodes = [swarm.nodes[name] for name in half]
            swarm.run_until(lambda nodes=nodes: agree(nodes), within=1)
        assert swarm.consensus_distance() > 0.1
        swarm.heal()
        swarm.run(12)
        swarm.run_until(lambda: agree(swarm.up), within=1)


@pytest.mark.parametrize("form", FORMS)
def test_sums_that_overflow_end_no_node(form: str) -> None:
    """Each x is finite, two of them are not: of float32 no more than 3.4e38 can be said."""
    X = np.ones((4, 8), np.float32)
    X[:2] = 3e38
    with swarm_of(X, form, task__dtype="float32", **HASTY) as swarm:
        swarm.run_to_end(within=30)
        assert np.isfinite(swarm.models()).all()


def test_who_takes_part_in_a_broken_ring_says_so_whenever_it_hears_of_it() -> None:
    """Also while it computes, and so waits for nothing that could be interrupted."""
    X = begun(4, 8)
    with swarm_of(X, **HASTY) as swarm:
        hasty = swarm.nodes["n2"].algorithm.reduce  # type: ignore[attr-defined]
        compute = swarm.nodes["n2"].compute

        async def slowly(work: Any, *arguments: Any, **how: Any) -> Any:
            found = await compute(work, *arguments, **how)
            if work.__name__ == "_joined":  # the last step: then somebody's word comes
                parts = {"sum": X[0].copy()}
                whole = Arrival("n0", Purpose.MODEL, 0, 0, parts, phase=EVERYBODY, order=(1, 99))
                hasty.receive(swarm.nodes["n2"], whole)
            return found

        swarm.nodes["n2"].compute = slowly  # type: ignore[method-assign]
        swarm.run_to_end(within=30)
        assert swarm.nodes["n2"].counters.get("fallbacks") == 1


def test_a_hub_that_is_not_in_the_list_is_a_fault_of_the_config() -> None:
    with (
        pytest.raises(ConfigError, match=r"n9.*not in the peer list"),
        swarm_of(begun(3, 2), "server", algorithm__hub="n9") as swarm,
    ):
        swarm.run_to_end(within=5)


# -- what a swarm must bear ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_seed_is_a_run(source: str, form: str) -> None:
    config = settings(
        source, "allreduce", 0.1, algorithm__form=form, run__rounds=6,
        algorithm__deadline_s=0.1, algorithm__start_deadline_s=0.1, network__push_timeout_s=0.05,
    )  # fmt: skip
    one, again, other = (trace_of(config, seed) for seed in (1, 1, 2))
    assert one[0] == again[0] != other[0]
    assert np.array_equal(one[1], again[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str, form: str) -> None:
    config = settings(
        source, "allreduce", 0.1, algorithm__form=form, run__rounds=8, checkpoint__every_s=0.0
    )
    X = stopped_and_started(config, 20)
    x = start()
    for _ in range(20):
        x = np.broadcast_to((x - 0.1 * gradients(x)).mean(0), x.shape)
    np.testing.assert_allclose(X, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_tenth_of_the_messages_lost_leaves_less_bias_than_a_ring_has(
    source: str,
    form: str,
) -> None:
    """D-PSGD on a ring ends 0.1208 from the optimum without any loss."""
    config = settings(
        source, "allreduce", 0.1, algorithm__form=form, run__rounds=80,
        algorithm__deadline_s=0.1, algorithm__start_deadline_s=0.1, network__push_timeout_s=0.05,
    )  # fmt: skip
    assert bias_under_loss(config, 0.1, last=20) < 0.1208
