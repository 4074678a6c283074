"""Two halves that cannot hear each other, in network namespaces: both go on, and find together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from chaos.heals import ACROSS, BAR_S, HOLD_S, TOML, apart, both_ways, counts
from chaos.namespaces import WHY_NOT, Lab
from chaos.swarms import GOSSIP, InLab, Nodes, nodes
from daemon.processes import until
from properties import longer

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

LONG = pytest.mark.long


def partition_and_heal(folder: Path, algorithm: str, hold_s: list[float]) -> None:
    pairs = ACROSS[algorithm]
    with Lab([2, 2]) as lab, nodes(folder, InLab(lab), 4, TOML[algorithm]) as four:
        four.launch()
        until(lambda: all(all(c) for c in counts(four, pairs).values()), "all have met")
        for seconds in hold_s:
            apart(lab, four, pairs, seconds)
            four.go_on(5)  # each half for itself
            lab.heal()
            assert max(both_ways(four, pairs, 4 * BAR_S)) <= BAR_S
            four.go_on(5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("algorithm", longer(TOML, but=["dpsgd"]))
def test_pushes_go_both_ways_again_soon(tmp_path: Path, algorithm: str) -> None:
    partition_and_heal(tmp_path, algorithm, [2.0])


@LONG
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("algorithm", TOML)
def test_pushes_go_both_ways_again_soon_however_long_it_took(
    tmp_path: Path, algorithm: str
) -> None:
    """The system waits the longer to send again the longer nothing came through."""
    rng = random.Random(1)
    partition_and_heal(tmp_path, algorithm, [rng.uniform(*HOLD_S) for _ in range(4)] + [60.0])


@pytest.mark.timeout(240)
def test_a_node_that_moves_is_found_at_its_new_address(tmp_path: Path) -> None:
    """n3 is in nobody's peer list; it comes back under its id, with its checkpoint."""
    place: InLab
    with Lab([4]) as lab:
        place = InLab(lab)
        toml = GOSSIP.format(period_s=0.1) + "[checkpoint]\nevery_s = 0.2\n"
        with nodes(tmp_path, place, 4, toml, listed=range(3)) as four:
            four.launch()
            others = range(3)
            until(lambda: all(four.received(3, j) for j in others), "n3 is pushed to by all")
            until(lambda: four.status(3).get("durable_age", 0) > 0, "n3 has a checkpoint")
            before, durable = place.address(3), four.status(3)["durable_age"]
            four.stop(3)
            lab.move(3, "10.77.0.33")
            four.launch(3)
            until(lambda: four.is_ready(3), "n3 is back")
            assert place.address(3) != before
            assert four.status(3)["age"] >= durable
            until(lambda: all(four.received(3, j) for j in others), "all push to where it is now")
            assert all(address_of(four, i, 3) == place.address(3) for i in others)


def address_of(some: Nodes, i: int, j: int) -> str:
    """Return under which address node i knows node j."""
    rows = [row for row in some.status(i)["peers"] if row["id"] == some.names[j]]
    return str(rows[0]["address"])
