"""Push-sum loses nothing, whatever wires and machines do: all mass is counted at every step.

The count is the sum over nodes of (w, w·z), and over edges of what was handed over and not taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner
from push_sum_swarms import (
    LINK,
    NODES,
    Watched,
    cleared,
    config,
    held_by,
    mass_of,
    totals,
    watched,
)

from gossipnode.algorithms.mass import NOTHING
from gossipnode.simulation import SimulatedSwarm

FORMS = ["sgp", "overlap_sgp", "gossip"]
Story = Callable[[Watched], object]


def crash(swarm: Watched) -> None:
    """Lose what happened since the last checkpoint, a second of it at most, and come back."""
    swarm.run(0.5)
    swarm.kill("n3")
    swarm.run(1.0)
    swarm.restart("n3")


def partition(swarm: Watched) -> None:
    swarm.partition(["n0", "n1", "n2"], [f"n{i}" for i in range(3, NODES)])
    swarm.run(2.0)
    swarm.heal()


def one_way(swarm: Watched) -> None:
    """A node sends, and hears nobody: it may not run dry."""
    swarm.cut([f"n{i}" for i in range(1, NODES)], ["n0"])
    swarm.run(2.0)
    swarm.heal()


def pause(swarm: Watched) -> None:
    swarm.pause("n2")
    swarm.run(2.0)
    swarm.resume("n2")


WIRES = {
    "loss": replace(LINK, loss=0.1),
    "reply_loss": replace(LINK, reply_loss=0.1),
    "duplicates": replace(LINK, duplicate=0.3),
    "reordered": replace(LINK, jitter_s=0.3, duplicate=0.5),
    "all of it": replace(LINK, loss=0.1, reply_loss=0.05, duplicate=0.2, jitter_s=0.2),
}
STORIES: dict[str, Story] = {
    "crash": crash,
    "partition": partition,
    "one_way": one_way,
    "pause": pause,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wires", WIRES)
def test_no_wire_loses_mass(form: str, wires: str) -> None:
    with watched(config(form), link=WIRES[wires], step=0.001, seed=3) as swarm:
        swarm.run(4.0)
        assert any(swarm.network.fired.values())
        cleared(swarm)
        assert swarm.looks > 150


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("story", STORIES)
def test_no_trouble_loses_mass(form: str, story: str) -> None:
    """A crash undoes the steps since the checkpoint, on all nodes: Σu is as if never made."""
    with watched(config(form), step=0.001) as swarm:
        swarm.run(1.0)
        STORIES[story](swarm)
        swarm.run(1.0)
        cleared(swarm)
        assert swarm.looks > 150


@pytest.mark.parametrize("form", FORMS)
def test_a_crash_on_bad_wires_takes_nothing_either(form: str) -> None:
    with watched(config(form), link=WIRES["all of it"], seed=7, step=0.001) as swarm:
        for name in ("n1", "n5"):
            swarm.run(1.5)
            swarm.kill(name)
            swarm.run(0.5)
            swarm.restart(name)
        swarm.run(2.0)
        cleared(swarm)


@pytest.mark.parametrize("form", FORMS)
def test_a_crash_before_a_checkpoint_was_due_makes_no_mass(form: str) -> None:
    """What a node handed out must not come into being again with its first mass."""
    with watched(config(form, checkpoint__every_s=1000.0), step=0.001) as swarm:
        swarm.run(1.0)
        swarm.kill("n3")
        swarm.run(0.5)
        swarm.restart("n3")
        swarm.run(2.0)
        cleared(swarm)


def test_all_agree_on_the_mean_over_bad_wires() -> None:
    settings = config(training__local_steps=0, checkpoint__every_s=0.0)
    with watched(settings, link=WIRES["all of it"]) as swarm:
        swarm.run(40.0)
        mean = swarm.u_expected(swarm.up) / NODES
        np.testing.assert_allclose(swarm.models(), np.tile(mean, (NODES, 1)), rtol=0, atol=1e-12)
        assert min(map(mass_of, swarm.up)) > 0.0


def test_a_node_that_hears_nobody_keeps_enough() -> None:
    settings = config()
    with watched(settings, step=0.001) as swarm:
        swarm.run(1.0)
        swarm.cut([f"n{i}" for i in range(1, NODES)], ["n0"])
        swarm.run(20.0)
        # It hands out no more once it is below the least, and so keeps a share of that.
        assert mass_of(swarm.nodes["n0"]) > 0.05 / 4 / 1.001
        assert np.abs(swarm.nodes["n0"].params).max() < 10.0


def test_nothing_is_handed_to_the_dead_and_the_rest_goes_on() -> None:
    """What the dead had is gone with it; the others keep the mean of what they have."""
    with watched(config(training__local_steps=0)) as swarm:
        swarm.run(1.0)
        swarm.kill("n4")
        swarm.run(3.0)
        handed, left = mass_between(swarm, "n4"), totals(swarm.up)[0]
        swarm.run(3.0)
        assert mass_between(swarm, "n4") == handed
        assert left > NODES - 3.0
        assert totals(swarm.up)[0] == pytest.approx(left, abs=1e-12)
        assert swarm.consensus_distance() < 1e-9


def mass_between(swarm: Watched, dead: str) -> float:
    """Return what was handed to ``dead`` so far."""
    return sum(held_by(node).sent.get(dead, NOTHING).w for node in swarm.up)


def test_models_of_float32_lose_no_more_than_they_round() -> None:
    """w and the sums are float64: only z rounds, some 2⁻²⁴ of itself at each change."""
    learners = [PlainLearner([i / NODES, -1.0, 1e3], dtype="float32") for i in range(NODES)]
    bad = WIRES["all of it"]
    with SimulatedSwarm(config(), NODES, learners=learners, link=bad, step_s=0.1) as swarm:
        before = totals(swarm.up)[1]
        for _ in range(20):
            swarm.run(0.5)
            w, u, _ = totals(swarm.up)
            assert abs(w - NODES) < 1e-12
            changes = 4 * sum(swarm.frames.values()) + 1
            assert np.abs((u - before) / before).max() < 2.0**-24 * changes**0.5 * 4


# -- joining and leaving --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_who_joins_gets_mass_from_the_others(form: str) -> None:
    settings = config(form, algorithm__joining=True)
    with watched(settings, late=["n5"], step=0.0) as swarm:
        for name, node in swarm.nodes.items():
            if name != "n5":
                held_by(node).w = 1.0
        swarm.run(2.0)
        newcomer = swarm.start_late("n5")
        assert mass_of(newcomer) == 0.0
        w, u, _ = totals(swarm.up)
        assert w == pytest.approx(NODES - 1, abs=1e-12)
        swarm.w_expected = NODES - 1
        swarm.u_expected = lambda nodes: u  # type: ignore[method-assign]
        swarm.run(6.0)
        np.testing.assert_allclose(newcomer.params, u / w, rtol=0, atol=1e-9)
        cleared(swarm)
        assert mass_of(newcomer) > 0.3


@pytest.mark.parametrize("form", FORMS)
def test_who_leaves_hands_all_it_has_to_a_neighbour(form: str) -> None:
    with watched(config(form)) as swarm:
        swarm.run(2.0)
        before = totals(swarm.up)[1]
        swarm.stop("n6")
        arrays, facts = stored(swarm, "n6")
        assert facts["w"] == 0.0
        assert arrays
        swarm.run(3.0)
        w, u, _ = totals(list(swarm.nodes.values()))
        assert w == pytest.approx(NODES, abs=1e-12)
        np.testing.assert_allclose(u, before, rtol=0, atol=1e-12)
        # Of what was on its way to it when it left, a share of each sender, nobody has had more.
        assert totals(swarm.up)[0] > NODES - 2.0
        swarm.restart("n6")
        assert mass_of(swarm.nodes["n6"]) == 0.0
        swarm.run(3.0)
        cleared(swarm)
        assert mass_of(swarm.nodes["n6"]) > 0.3


@pytest.mark.parametrize("form", FORMS)
def test_who_has_left_takes_no_more(form: str) -> None:
    """Between handing over and the last checkpoint the others still send to it."""
    with watched(config(form)) as swarm:
        swarm.run(1.0)
        swarm.nodes["n6"].request_stop()
        swarm.run(2.0)
        assert mass_of(swarm.nodes["n6"]) == 0.0
        assert swarm.outcomes["draining"] > 0
        assert totals(swarm.up)[0] == pytest.approx(NODES, abs=1e-12)


def stored(swarm: Watched, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the algorithm's state in a node's newest checkpoint."""
    snapshot = swarm.worlds[name].store.load()  # type: ignore[union-attr]
    assert snapshot is not None
    arrays = {k: a for k, a in snapshot.arrays.items() if k.startswith("algorithm/")}
    return arrays, snapshot.facts["algorithm_state"]


def test_a_machine_whose_disk_is_lost_gets_no_mass_twice() -> None:
    """It joins anew: what its predecessor was handed is not handed over again."""
    with watched(config(training__local_steps=0)) as swarm:
        swarm.run(5.0)
        swarm.kill("n2")
        swarm.wipe("n2")
        swarm.config = config(algorithm__joining=True, training__local_steps=0)
        before = totals(swarm.up)[0]
        swarm.w_expected = float("inf")  # it is not preserved here
        swarm.delivered = lambda *a: None  # type: ignore[method-assign]
        swarm.restart("n2")
        swarm.run(5.0)
        after = totals(swarm.up)[0]
        assert before - 2.0 < after < before + 1e-12
        assert swarm.consensus_distance() < 1e-9


def test_gossip_one_way_with_anybody_keeps_the_mean() -> None:
    settings = config("gossip", topology__graph="random", training__local_steps=0)
    with watched(settings, link=WIRES["all of it"]) as swarm:
        swarm.run(20.0)
        mean = swarm.u_expected(swarm.up) / NODES
        np.testing.assert_allclose(swarm.models(), np.tile(mean, (NODES, 1)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["sgp", "overlap_sgp"])
def test_a_silent_node_does_not_get_the_mass_of_all_until_it_is_suspected(form: str) -> None:
    """The steps of the others are as much longer as their mean mass is less: 4 times at most.

    Three of the others hand it half of what they have every third round, and its silence shows
    when a push has timed out twice: after some 40 rounds.
    """
    flags = config(
        form,
        algorithm__deadline_s=3.0,
        network__push_timeout_s=5.0,
        topology__graph="one_peer_exponential",
    )
    learners = [PlainLearner([float(i)]) for i in range(NODES)]
    with SimulatedSwarm(flags, NODES, link=LINK, learners=learners, step_s=0.2) as swarm:
        swarm.run(5)
        swarm.partition(["n0"], [f"n{i}" for i in range(1, NODES)])
        swarm.run(30)
        assert sum(map(mass_of, swarm.up[1:])) > (NODES - 1) / 4
        swarm.heal()
        swarm.run(20)
        assert totals(swarm.up)[0] == pytest.approx(NODES, abs=1e-12)
