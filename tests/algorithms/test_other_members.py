"""A swarm that goes on with other members: what was kept over all of them may bias nobody."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from q16_swarms import NAMES, A, Matrix, b, settings, simulated

from gossipnode.algorithms.members import are_others, members_of
from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.simulation import SimulatedSwarm

# After so many all are within 1e-3 of the optimum; the bias was 0.2 and more.
ROUNDS = 250
UNBIASED: dict[str, dict[str, Any]] = {
    "dsgt": {},
    "diging": {},
    "atc_gt": {},
    "exact_diffusion": {},
    "d2": {"topology__lazy": True},
    "extra": {},
    "momentum_tracking": {},
    "edm": {},
    "scaffold": {},
}


def best(nodes: int) -> Matrix:
    """Return the optimum of the first so many."""
    found: Matrix = np.linalg.solve(A[:nodes].sum(0), b[:nodes].sum(0))
    return found


def until(config: Config, rounds: int) -> Config:
    run = config.run.model_copy(update={"rounds": rounds, "linger": True})
    return config.model_copy(update={"run": run})


def gone_on(config: Config, before: int, now: int, rounds: int) -> SimulatedSwarm:
    """Return a swarm of the first ``now`` nodes, on the disks of one of ``before``, after rounds.

    Both have come to the end of their rounds, and nothing is under way.
    """
    with simulated(until(config, 20), names=NAMES[:before], stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=60, every=0.1)
        swarm.stop(*swarm.names)
    present = simulated(until(config, rounds), names=NAMES[:now], stores=True)
    present._stores |= {name: swarm._stores[name] for name in NAMES[: min(before, now)]}
    with present:
        present.run_until(lambda: all(n.round == rounds for n in present.up), within=60, every=0.1)
    return present


@pytest.mark.parametrize(
    ("name", "before", "now"), [*((name, 5, 4) for name in UNBIASED), ("scaffold", 4, 5)]
)
def test_unbiased_methods_come_to_the_optimum_of_those_who_are_left(
    source: str, name: str, before: int, now: int
) -> None:
    config = settings(source, name, 0.05, **UNBIASED[name])
    swarm = gone_on(config, before, now, ROUNDS)
    rows = np.stack([swarm.nodes[name].params for name in swarm.names])
    np.testing.assert_allclose(rows, np.tile(best(now), (now, 1)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["dsgt", "edm", "scaffold"])
def test_the_same_members_begin_nothing_anew(source: str, name: str) -> None:
    config = settings(source, name, 0.05)
    swarm = gone_on(config, 4, 4, 40)
    assert sum(swarm.nodes[name].counters.get("restarts") for name in swarm.names) == 0


def test_a_swarm_of_a_peer_more_goes_on_from_its_checkpoints() -> None:
    """As quickstart.md tells; the others' shares of the samples are smaller then."""
    config = load_config(flags={"algorithm.name": "dpsgd", "run.evaluate_every": 0})
    swarm = gone_on(config, 3, 4, 25)
    nodes = [swarm.nodes[name] for name in swarm.names]
    assert sum(node.learner.samples for node in nodes) == 1438
    # 25 rounds of five steps, but for the newcomer, which goes on in the round of the others.
    assert [node.age for node in nodes[:3]] == [125] * 3


@pytest.mark.parametrize(("before", "now"), [(6, 4), (6, 6)])
def test_sums_that_count_too_many_are_not_relayed(source: str, before: int, now: int) -> None:
    """Else they were refused, and whoever waited for them did so for a minute."""
    config = settings(source, "relay_sum", 0.05, topology__graph="chain")
    swarm = gone_on(config, before, now, 60)
    nodes = [swarm.nodes[name] for name in swarm.names]
    assert swarm.outcomes.keys() == {"buffered"}
    assert [node.counters.get("missing_models") for node in nodes] == [0] * now


def test_means_of_the_swarm_are_of_those_who_are_left(source: str) -> None:
    swarm = gone_on(settings(source, "dpsgd", 0.05, algorithm__swarm_metrics=True), 5, 4, 60)
    averages = [swarm.nodes[name].algorithm.average for name in swarm.names]  # type: ignore[attr-defined]
    x, z = (np.sum([getattr(a, of) for a in averages], axis=0) for of in "xz")
    np.testing.assert_allclose(x, z, rtol=1e-12)


def test_members_are_a_set() -> None:
    assert members_of(["a", "b"]) == members_of(("b", "a"))
    assert are_others(members_of(["a", "b"]), ["a"])
    assert are_others(members_of(["a"]), ["b"])
    assert not are_others(members_of(["a", "b"]), ["b", "a"])
    assert not are_others("", ["a"])  # of a checkpoint that does not tell


# -- gone for good, but still in the peer list -----------------------------------------------------


def at_round(swarm: SimulatedSwarm, k: int) -> None:
    swarm.run_until(lambda: all(n.round >= k for n in swarm.up), within=600, every=0.1)


def away(swarm: SimulatedSwarm, gone: int | None = None) -> float:
    """Return how far any is from the optimum of those that are up."""
    left = [i for i in range(6) if i != gone]
    x = np.linalg.solve(A[left].sum(0), b[left].sum(0))
    return float(np.abs(swarm.models() - x).max())


def restarts(swarm: SimulatedSwarm) -> list[int]:
    return [node.counters.get("restarts") for node in swarm.up]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "extra" else pytest.mark.long)
        for name in UNBIASED
        if name != "scaffold"
    ],
)
def test_who_stays_away_is_made_up_for_once(source: str, name: str) -> None:
    flags = {"algorithm__deadline_s": 0.2, "checkpoint__every_s": 0.0, **UNBIASED[name]}
    config = settings(source, name, 0.05, **flags)
    with simulated(config, names=NAMES[:6], stores=True) as swarm:
        at_round(swarm, 20)
        swarm.kill("n02")
        at_round(swarm, 60)
        begun = restarts(swarm)
        assert min(begun) > 0
        at_round(swarm, 700)
        assert restarts(swarm) == begun
        assert away(swarm, gone=2) < 1e-3
        # Those who are left stop and come back: it is still missing, and all else as it was.
        others = [other for other in NAMES[:6] if other != "n02"]
        swarm.stop(*others)
        for other in others:
            swarm.restart(other)
        swarm.run(1.0)
        swarm.restart("n02")
        at_round(swarm, 2000)
        assert min(restarts(swarm)) > 0
        assert away(swarm) < 1e-3


def test_where_edges_lead_one_way_who_stays_away_is_made_up_for_again_and_again(
    source: str,
) -> None:
    """Those whom it does not hear any more cannot know that their column lacks something."""
    config = settings(
        source, "dsgt", 0.05, topology__graph="exponential", algorithm__deadline_s=0.2
    )
    with simulated(config, names=NAMES[:6]) as swarm:
        at_round(swarm, 20)
        swarm.kill("n02")
        at_round(swarm, 60)
        begun = restarts(swarm)
        at_round(swarm, 120)
        assert all(now > then for now, then in zip(restarts(swarm), begun, strict=True))
