"""Every node finds the same graph, and the neighbours' weights fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from memory_swarm import entries, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.errors import ConfigError
from gossipnode.node.place import find_place, share_of
from gossipnode.simulation import loop as virtual_time

NAMES = [f"n{i}" for i in range(8)]
GRAPHS = [
    "ring",
    "chain",
    "grid",
    "torus",
    "star",
    "complete",
    "hypercube",
    "exponential",
    "erdos_renyi",
    "random_regular",
]


def config(name: str = "n0", **flags: Any) -> Config:
    return plain_config(node__id=name, **flags)


def explicit(name: str, neighbours: dict[str, list[str]]) -> Config:
    return config(name, topology__graph="explicit", topology__neighbours=neighbours)


@pytest.mark.parametrize("graph", GRAPHS)
def test_all_nodes_agree_and_their_rows_make_a_doubly_stochastic_matrix(graph: str) -> None:
    places = [
        find_place(config(name, topology__graph=graph, swarm__seed=3), entries(NAMES))
        for name in NAMES
    ]
    assert len({place.graph for place in places}) == 1
    assert [place.index for place in places] == list(range(8))
    W = np.zeros((8, 8))
    for i, place in enumerate(places):
        assert place.row is not None
        W[i, i] = place.row.self_weight
        for j, weight in place.row.weights.items():
            W[i, NAMES.index(j)] = weight
            assert place.id in places[NAMES.index(j)].out_neighbours, "who weighs me sends to me"
    assert (W >= 0).all()
    np.testing.assert_allclose(W.sum(0), 1.0, atol=1e-15)
    np.testing.assert_allclose(W.sum(1), 1.0, atol=1e-15)


@pytest.mark.parametrize(
    "other",
    [
        {"topology__graph": "chain"},
        {"topology__graph": "complete"},
        {"topology__weights": "uniform", "topology__graph": "star"},
    ],
)
def test_another_graph_has_another_fingerprint(other: dict[str, Any]) -> None:
    here = find_place(config(), entries(NAMES))
    there = find_place(config(**other), entries(NAMES))
    assert here.graph != there.graph


def test_another_order_or_set_of_peers_has_another_fingerprint() -> None:
    here = find_place(config(), entries(NAMES)).graph
    assert here != find_place(config(), entries([*NAMES[1:3], "n0", *NAMES[3:]])).graph
    assert here != find_place(config(), entries(NAMES[:7])).graph


def test_random_graphs_follow_the_seed() -> None:
    def graph(seed: int) -> str | None:
        flags = {"topology__graph": "random_regular", "topology__degree": 3, "swarm__seed": seed}
        return find_place(config(**flags), entries(NAMES)).graph

    assert graph(1) == graph(1)
    assert len({graph(seed) for seed in range(5)}) > 1


def test_both_ways_a_sender_is_one_round_ahead_at_most_but_more_on_a_directed_graph() -> None:
    for graph in set(GRAPHS) - {"exponential"}:
        assert find_place(config(topology__graph=graph), entries(NAMES)).lead_max == 1
    # Hops of 1, 2, 4 in a ring of 8: the longest way back to a sender is that of −1 = 4+2+1.
    assert find_place(config(topology__graph="exponential"), entries(NAMES)).lead_max == 3


def test_explicit_neighbours_by_name() -> None:
    lists = {"n0": ["n1"], "n1": ["n0", "n2"], "n2": ["n1"]}
    place = find_place(explicit("n1", lists), entries(NAMES[:3]))
    assert place.out_neighbours == ("n0", "n2")
    assert place.row is not None
    assert place.row.weights == {"n0": pytest.approx(1 / 3), "n2": pytest.approx(1 / 3)}
    shuffled = {"n2": ["n1"], "n1": ["n2", "n0"], "n0": ["n1"]}
    assert find_place(explicit("n0", shuffled), entries(NAMES[:3])).graph == place.graph


@pytest.mark.parametrize(
    ("neighbours", "words"),
    [
        ({"n0": ["n1"], "n1": []}, "topology.neighbours"),
        ({"n0": ["n1"], "n1": ["n0"]}, "n2|connect"),
        ({"n0": ["n11"], "n1": ["n0", "n2"], "n2": ["n1"]}, r"'n11' is not in the peer list.*'n1'"),
    ],
    ids=["one end only", "not connected", "misspelt"],
)
def test_explicit_graphs_that_cannot_be(neighbours: dict[str, list[str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_place(explicit("n0", neighbours), entries(NAMES[:3]))


def test_a_list_of_neighbours_for_nobody_is_refused() -> None:
    lists = {"n0": ["n1"], "n1": ["n0", "n2"], "n2": ["n1"], "n99": ["n0"]}
    with pytest.raises(ConfigError, match="n99"):
        find_place(explicit("n0", lists), entries(NAMES[:3]))


def test_who_is_not_in_the_list_has_no_place_in_a_graph() -> None:
    with pytest.raises(ConfigError, match="'n00' is not in the peer list") as caught:
        find_place(config("n00"), entries(NAMES))
    assert caught.value.key == "node.id"
    assert caught.value.nearest == "n0"


def test_random_peers_need_no_place() -> None:
    place = find_place(config("newcomer", topology__graph="random", algorithm__name="gossip"), [])
    assert (place.nodes, place.row, place.graph) == (1, None, None)
    assert share_of(config(), place) == (0, 1)


def test_two_that_join_later_do_not_draw_the_same_numbers() -> None:
    gossip = {"topology__graph": "random", "algorithm__name": "gossip"}
    one, other = (find_place(config(name, **gossip), entries(NAMES)) for name in ("x", "y"))
    assert one.index != other.index
    assert share_of(config(), one)[0] in range(8)


def test_shares() -> None:
    place = find_place(config("n3"), entries(NAMES))
    assert share_of(config(), place) == (3, 8)
    assert share_of(config(data__share="all"), place) == (0, 1)
    assert share_of(config(data__share="2/5"), place) == (2, 5)
    with pytest.raises(ConfigError, match="0/5 to 4/5"):
        share_of(config(data__share="5/5"), place)


def test_a_list_longer_than_the_peer_table_still_has_its_neighbours() -> None:
    async def main() -> None:
        flags = {"run__rounds": 2, "network__peers_max": 3}
        async with swarm_of(
            plain_config(**flags), NAMES, [PlainLearner([0.0]) for _ in NAMES]
        ) as swarm:
            await swarm.run()

    virtual_time.run(main())
