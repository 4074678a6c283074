"""Algorithms that use gradients: exact recursions, published figures, and what a loss must not do.

The oracle is each method as a few dense matrix products on Q16; the figures are of how many rounds
it takes to come within 1e-8 of the optimum, and of where momentum comes to rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from memory_swarm import swarm_of
from properties import longer
from q16_swarms import BEST, EYE, NAMES, Matrix, W, gradients, lose, settings, start

from gossipnode.algorithms import build_algorithm
from gossipnode.algorithms.base import Row
from gossipnode.algorithms.lockstep import Lockstep
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError
from gossipnode.node.place import find_place
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time
from gossipnode.topology.sequences import build_sequence

BETA = MU = 0.9


def diging(X: Matrix, eta: float) -> Iterator[Matrix]:
    g = gradients(X)
    Y = g
    while True:
        X = W @ X - eta * Y
        Y, g = W @ Y + gradients(X) - g, gradients(X)
        yield X


def dsgt(X: Matrix, eta: float) -> Iterator[Matrix]:
    g = gradients(X)
    Y = g
    while True:
        X = W @ (X - eta * Y)
        Y, g = W @ Y + gradients(X) - g, gradients(X)
        yield X


def d2(X: Matrix, eta: float, V: Matrix = W) -> Iterator[Matrix]:
    """x^{k+1} = V(2x^k − x^{k−1} − η(g^k − g^{k−1})), as the papers write it."""
    old, g_old = X, gradients(X)
    X = V @ (X - eta * g_old)
    yield X
    while True:
        g = gradients(X)
        X, old, g_old = V @ (2 * X - old - eta * (g - g_old)), X, g
        yield X


def exact_diffusion(X: Matrix, eta: float) -> Iterator[Matrix]:
    return d2(X, eta, (EYE + W) / 2)


def extra(X: Matrix, eta: float) -> Iterator[Matrix]:
    old, g_old = X, gradients(X)
    X = W @ X - eta * g_old
    yield X
    while True:
        g = gradients(X)
        X, old, g_old = (EYE + W) @ X - (EYE + W) / 2 @ old - eta * (g - g_old), X, g
        yield X


def dmsgd(X: Matrix, eta: float) -> Iterator[Matrix]:
    m = np.zeros_like(X)
    while True:
        m = BETA * m + gradients(X)
        X = W @ (X - eta * m)
        yield X


def decentlam(X: Matrix, eta: float) -> Iterator[Matrix]:
    m = np.zeros_like(X)
    while True:
        m = BETA * m + (X - W @ (X - eta * gradients(X))) / eta
        X = X - eta * m
        yield X


def qgm(X: Matrix, eta: float) -> Iterator[Matrix]:
    hat = np.zeros_like(X)
    while True:
        new = W @ (X - eta * (BETA * hat + gradients(X)))
        hat, X = MU * hat + (1 - MU) * (X - new) / eta, new
        yield X


Recursion = Callable[[Matrix, float], Iterator[Matrix]]
FORMS: dict[str, tuple[str, Recursion]] = {
    "diging": ("gradient_tracking", diging),
    "dsgt": ("gradient_tracking", dsgt),
    "d2": ("correction", d2),
    "exact_diffusion": ("correction", exact_diffusion),
    "extra": ("correction", extra),
    "dmsgd": ("momentum", dmsgd),
    "decentlam": ("momentum", decentlam),
    "qgm": ("momentum", qgm),
}
UNBIASED = [form for form, (name, _) in FORMS.items() if name != "momentum"]


def config(source: str, form: str, eta: float, **flags: Any) -> Config:
    return settings(source, FORMS[form][0], eta, algorithm__form=form, **flags)


# -- the recursions ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_sixteen_nodes_are_the_dense_recursion(source: str, form: str) -> None:
    rounds, eta = 40, 0.05
    models = {}

    async def main() -> None:
        async with swarm_of(config(source, form, eta, run__rounds=rounds), NAMES) as swarm:
            await swarm.run()
            models["X"] = swarm.models()
            for node in swarm.nodes.values():
                assert node.counters.get("missing_models") == 0
                assert node.counters.get("restarts") == 0
                assert node.age == rounds

    virtual_time.run(main())
    expected = next(islice(FORMS[form][1](start(), eta), rounds - 1, None))
    np.testing.assert_allclose(models["X"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", UNBIASED)
def test_the_mean_goes_along_the_mean_gradient(form: str) -> None:
    """x̄^{k+1} = x̄^k − ηḡ^k for corrections; for trackers with the mean of y, which is ḡ."""
    eta, before = 0.05, start()
    for X in islice(FORMS[form][1](start(), eta), 500):
        expected = before.mean(0) - eta * gradients(before).mean(0)
        np.testing.assert_allclose(X.mean(0), expected, rtol=0, atol=1e-12)
        before = X


@pytest.mark.parametrize(
    ("form", "rounds"),
    [
        ("diging", {0.02: 1093, 0.05: 1053, 0.1: 1607}),
        ("d2", {0.05: 600, 0.1: 317, 0.2: 171, 0.3: 149}),
        ("exact_diffusion", {0.05: 491, 0.1: 334, 0.2: 201, 0.3: 315}),
        ("extra", {0.05: 491, 0.1: 327, 0.2: 202, 0.3: 327}),
    ],
)
def test_rounds_to_the_optimum_are_the_published_ones(form: str, rounds: dict[float, int]) -> None:
    for eta, published in rounds.items():
        for X in islice(FORMS[form][1](start(), eta), published - 2):
            assert np.sqrt(((X - BEST) ** 2).sum(1).mean()) >= 1e-8
        last = list(islice(FORMS[form][1](start(), eta), published + 1))[-1]
        assert np.sqrt(((last - BEST) ** 2).sum(1).mean()) < 1e-8


@pytest.mark.parametrize(
    ("form", "eta", "distance", "spread"),
    [
        ("dmsgd", 0.01, 0.1208488, 1.057010),  # D-PSGD's of η/(1 − β) = 0.1
        ("decentlam", 0.01, 0.0274152, 0.2511296),  # D-PSGD's of η = 0.01
        ("qgm", 0.01, 0.0274152, 0.2511296),
    ],
)
def test_momentum_rests_where_it_should(
    form: str, eta: float, distance: float, spread: float
) -> None:
    X = next(islice(FORMS[form][1](start(), eta), 8000, None))
    assert np.linalg.norm(X.mean(0) - BEST) == pytest.approx(distance, rel=5e-6)
    away = np.sqrt(((X - X.mean(0)) ** 2).sum(1).mean())
    assert away == pytest.approx(spread, rel=5e-6)


# -- what goes wrong ----------------------------------------------------------------------------


# η and rounds that are enough to come to rest after the trouble.
ENOUGH = {
    form: (0.05, 1300) if FORMS[form][0] == "gradient_tracking" else (0.2, 450) for form in FORMS
}


def disturbed(source: str, form: str) -> tuple[float, list[int]]:
    """Let nobody hear one node for a while: how far all end from the optimum, and the restarts.

    It hears the others, so that W is not symmetric meanwhile; a cut both ways would do no harm.
    """
    eta, rounds = ENOUGH[form]
    settings = config(
        source, form, eta, run__rounds=rounds, algorithm__deadline_s=0.1,
        algorithm__start_deadline_s=0.1, network__push_timeout_s=0.1,
    )  # fmt: skip
    link = Link(latency_s=0.001)
    with SimulatedSwarm(settings, names=NAMES, seed=1, link=link, objects=True) as swarm:
        swarm.run(0.1)
        swarm.cut(NAMES[:1], NAMES[1:])
        swarm.run(0.3)
        swarm.heal()
        swarm.run_to_end(within=60)
        away = float(np.abs(swarm.models() - BEST).max())
        return away, [node.counters.get("restarts") for node in swarm.nodes.values()]


@pytest.mark.parametrize("form", longer(UNBIASED, but=("dsgt", "exact_diffusion")))
def test_after_a_loss_all_begin_anew_and_reach_the_optimum(source: str, form: str) -> None:
    away, restarts = disturbed(source, form)
    assert away < 1e-5
    assert min(restarts) > 0


@pytest.mark.parametrize("form", longer(["dsgt", "exact_diffusion"], but=["exact_diffusion"]))
def test_without_beginning_anew_a_loss_leaves_an_error_for_ever(
    monkeypatch: pytest.MonkeyPatch, source: str, form: str
) -> None:
    monkeypatch.setattr(Lockstep, "restart_is_due", lambda self, k: False)
    away, _ = disturbed(source, form)
    assert away > 1e-4  # ten times what is left where they do


@pytest.mark.parametrize("form", FORMS)
def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str, form: str) -> None:
    """All stop in the same round, with nothing under way, and start again from their disks."""
    settings = config(source, form, 0.05, run__rounds=30, run__linger=True, checkpoint__every_s=0.0)
    link = Link(latency_s=0.001)
    with SimulatedSwarm(settings, names=NAMES, link=link, stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        swarm.stop(*NAMES)
        longer = settings.run.model_copy(update={"rounds": 60})
        swarm.config = settings.model_copy(update={"run": longer})
        for name in NAMES:
            swarm.restart(name)
        swarm.run_until(lambda: all(n.round == 60 for n in swarm.up), within=60, every=0.1)
        for node in swarm.up:
            assert node.counters.get("restarts") == 0
        X = swarm.models()
    expected = next(islice(FORMS[form][1](start(), 0.05), 59, None))
    np.testing.assert_allclose(X, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", longer(["dsgt", "d2"], but=["d2"]))
def test_a_restart_that_was_named_is_owed_by_the_next_life(source: str, form: str) -> None:
    """All stop between the loss and the round in which they were to begin anew."""
    settings = config(
        source, form, 0.05, run__rounds=1300, algorithm__deadline_s=0.1,
        algorithm__start_deadline_s=0.1, network__push_timeout_s=0.1, checkpoint__every_s=0.0,
    )  # fmt: skip
    link = Link(latency_s=0.001)
    with SimulatedSwarm(
        settings, names=NAMES, seed=1, link=link, stores=True, objects=True
    ) as swarm:
        swarm.run(0.1)
        swarm.cut(NAMES[:1], NAMES[1:])
        algorithms = [node.algorithm for node in swarm.up]
        swarm.run_until(
            lambda: all(a.restart_at > a.restarted for a in algorithms), within=5, every=0.001
        )
        swarm.heal()
        swarm.stop(*NAMES)
        owed = [node.algorithm.restart_at for node in swarm.nodes.values()]
        for name in NAMES:
            swarm.restart(name)
        assert [node.algorithm.restart_at for node in swarm.up] == owed
        swarm.run_to_end(within=60)
        assert np.abs(swarm.models() - BEST).max() < 1e-5


@pytest.mark.parametrize(("graph", "n"), [("base", 3), ("base", 5), ("ou_equi_dyn", 4)])
@pytest.mark.parametrize("since", range(10, 18, 2))
def test_all_hear_of_a_restart_also_where_the_graph_changes(
    source: str, graph: str, n: int, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word may need more than n rounds there; who has not heard it in time breaks the mean."""
    settings = config(
        source, "dsgt", 0.02, run__rounds=80, topology__graph=graph, algorithm__deadline_s=0.2,
        algorithm__start_deadline_s=0.2, network__push_timeout_s=0.1,
    )  # fmt: skip
    sequence = build_sequence(graph, n)
    k = next(k for k in range(since, 80) if sequence.at(k).row(0)[1])
    lose(monkeypatch, 0, min(sequence.at(k).row(0)[1]), k)
    with SimulatedSwarm(
        settings, names=NAMES[:n], link=Link(latency_s=0.001), objects=True
    ) as swarm:
        swarm.run_to_end(within=60)
        assert sum(node.counters.get("missing_models") for node in swarm.up) == 1
        assert [node.counters.get("restarts") for node in swarm.up] == [1] * n
        ys, gs = ([getattr(node.algorithm, v) for node in swarm.up] for v in "yg")
        np.testing.assert_allclose(np.mean(ys, 0), np.mean(gs, 0), rtol=0, atol=1e-12)


def test_who_skips_rounds_asks_all_to_begin_anew(source: str) -> None:
    """Its tracker is of an old round, although nobody may have missed a model of it."""
    algorithm = build_algorithm(config(source, "dsgt", 0.05))
    assert isinstance(algorithm, Lockstep)

    class Away:
        nodes, round, budget_left, graph_changes = 16, 5, True, False
        row_at = staticmethod(lambda k: Row(0.5, {"n01": 0.5}))
        went_on_without = staticmethod(lambda j, k: True)
        peer_round = staticmethod(lambda j: 40)

        def skip_to(self, k: int) -> None:
            self.round = k

    node = Away()
    assert algorithm.catch_up(node)  # type: ignore[arg-type]
    assert (node.round, algorithm.restart_at) == (40, 40 + 16)


@pytest.mark.parametrize("form", ["dmsgd", "decentlam", "qgm"])
def test_where_the_steps_end_momentum_only_mixes(source: str, form: str) -> None:
    """A cosine down to nothing after 20 rounds; 20 rounds more are products with W."""
    models = {}
    for rounds in (20, 40):
        settings = config(
            source, form, 0.01, run__rounds=rounds, training__schedule="cosine",
            training__schedule_steps=20, training__schedule_factor=0.0,
        )  # fmt: skip
        with SimulatedSwarm(settings, names=NAMES, objects=True) as swarm:
            swarm.run_to_end(within=100)
            models[rounds] = swarm.models()
    expected = np.linalg.matrix_power(W, 20) @ models[20]
    np.testing.assert_allclose(models[40], expected, rtol=0, atol=1e-12)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "flags", "what"),
    [
        ("d2", {"topology__graph": "exponential"}, "symmetric and the same in every round"),
        ("extra", {"topology__graph": "one_peer_exponential"}, "the same in every round"),
        ("dsgt", {"topology__graph": "random"}, "needs fixed neighbours"),
        ("qgm", {"training__local_steps": 5}, "one gradient a round"),
    ],
)
def test_what_an_algorithm_cannot_bear_is_refused(
    source: str, form: str, flags: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        config(source, form, 0.05, **flags)


def test_d2_refuses_a_w_with_too_small_an_eigenvalue_and_lists_what_serves(source: str) -> None:
    """Best constant weights on a ring of 16: λ_min = −0.927, by the Laplacian's spectrum."""
    listed = [PeerEntry(id=name, address=f"http://{name}:1") for name in NAMES]
    best = {"topology__weights": "best_constant"}
    with pytest.raises(ConfigError, match=r"least eigenvalue is -0\.927") as caught:
        find_place(config(source, "d2", 0.05, **best), listed, NAMES[0])
    assert caught.value.key == "algorithm.name"
    served = 'algorithm.name = "exact_diffusion" or "extra", or topology.lazy = true'
    assert caught.value.allowed == served
    find_place(config(source, "d2", 0.05, topology__lazy=True, **best), listed, NAMES[0])
    find_place(config(source, "d2", 0.05), listed, NAMES[0])  # an even ring is at -1/3 exactly
    find_place(config(source, "extra", 0.05, **best), listed, NAMES[0])


@pytest.mark.parametrize(
    ("form", "others", "vector"), [("extra", "d2", "psi"), ("qgm", "dmsgd", "m")]
)
def test_a_state_of_another_form_is_not_taken_up(
    source: str, form: str, others: str, vector: str
) -> None:
    one = build_algorithm(config(source, form, 0.05))
    other = build_algorithm(config(source, others, 0.05))
    other.restore({vector: start()[0]}, {"form": others})
    arrays, facts = other.state()
    assert arrays
    one.restore(arrays, facts)
    assert one.state()[0] == {}
