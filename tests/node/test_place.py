"""Every node finds the same graph, and the neighbours' weights fit together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_swarm import entries, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.errors import ConfigError, DataError
from gossipnode.node.directory import SEQUENCE_OPTIONS, Directory
from gossipnode.node.place import Place, find_place, share_of
from gossipnode.node.rounds import AHEAD_MAX, ROUNDS_KEPT, WAITING_MAX
from gossipnode.simulation import loop as virtual_time
from gossipnode.topology import build_sequence

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
    "random_geometric",
    "small_world",
    "d_equi_static",
    "u_equi_static",
]
DIRECTED = {"exponential", "d_equi_static"}
SEQUENCES = [
    "one_peer_exponential",
    "base",
    "od_equi_dyn",
    "ou_equi_dyn",
    "el_oracle",
    "el_local",
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
        {"topology__weights": "max_degree"},
        {"topology__lazy": True},
        {"topology__graph": "one_peer_exponential"},
        {"topology__graph": "d_equi_static"},
    ],
)
def test_another_graph_has_another_fingerprint(other: dict[str, Any]) -> None:
    here = find_place(config(), entries(NAMES))
    there = find_place(config(**other), entries(NAMES))
    assert here.graph != there.graph


@pytest.mark.parametrize(
    ("flags", "digits"),
    [
        ({}, "8f7739a05edbded3"),
        ({"topology__graph": "torus"}, "e5fa3b33ee219d69"),
        ({"topology__graph": "exponential"}, "04a2667bdafc051d"),
        ({"topology__graph": "star", "topology__weights": "uniform"}, "160f6bffcc40879c"),
        ({"topology__graph": "random_regular", "swarm__seed": 3}, "124f516ad70762e2"),
    ],
)
def test_a_fingerprint_is_the_one_that_earlier_versions_send(
    flags: dict[str, Any], digits: str
) -> None:
    assert find_place(config(**flags), entries(NAMES)).graph == digits


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
    for graph in set(GRAPHS) - DIRECTED:
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


def test_who_was_issued_no_address_is_told_what_to_issue() -> None:
    with pytest.raises(ConfigError, match="'n00' is not among its bundle's seeds") as caught:
        find_place(config("n00", trust__bundle="n00.bundle"), entries(NAMES))
    assert "gossipnode ca issue NAME=HOST:PORT" in str(caught.value)


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
            for node in swarm.nodes.values():
                assert node.round == 2
                assert node.counters.get("missing_models") == 0

    virtual_time.run(main())


# -- graphs that change each round ------------------------------------------------------------


def sequence_places(graph: str, **flags: Any) -> list[Place]:
    directory = Directory(entries(NAMES))
    told = {"topology__graph": graph, "swarm__seed": 3, **flags}
    return [find_place(config(name, **told), directory) for name in NAMES]


@pytest.mark.parametrize("graph", SEQUENCES)
def test_the_rows_of_a_round_are_those_of_its_matrix(graph: str) -> None:
    sequence, places = build_sequence(graph, 8, seed=3), sequence_places(graph)
    assert {place.index for place in places} == set(range(8))
    # Not in order: late models ask for rounds that are over.
    for k in (*range(2 * ROUNDS_KEPT), 3, 2 * ROUNDS_KEPT, 0):
        W = sequence.at(k).dense()
        for i, place in enumerate(places):
            assert place.rounds is not None
            row = place.rounds.row(k)
            assert row.self_weight == W[i, i]
            assert row.weights == {NAMES[j]: W[i, j] for j in range(8) if j != i and W[i, j]}
            receivers = [NAMES[j] for j in range(8) if j != i and W[j, i]]
            assert list(place.rounds.out_neighbours(k)) == receivers
            assert place.senders is not None
            assert all(j in place.senders for j in row.weights)
            assert all(place.room[j] >= 2 for j in receivers)


@pytest.mark.parametrize("graph", ["one_peer_exponential", "base"])
def test_what_repeats_names_its_neighbours_and_bounds(graph: str) -> None:
    for i, place in enumerate(sequence_places(graph)):
        # Hops of 1, 2, 4; the base graph of a power of two is the hypercube, a bit a round.
        one_way = graph == "one_peer_exponential"
        ahead = {(i + h) % 8 if one_way else i ^ h for h in (1, 2, 4)}
        behind = {(i - h) % 8 if one_way else i ^ h for h in (1, 2, 4)}
        assert set(place.out_neighbours) == {NAMES[j] for j in ahead}
        assert set(place.senders or ()) == {NAMES[j] for j in behind}
        assert place.lead_max == 3
        assert place.room == dict.fromkeys(place.out_neighbours, 2)


@pytest.mark.parametrize("graph", ["od_equi_dyn", "ou_equi_dyn", "el_oracle", "el_local"])
def test_where_rounds_never_repeat_anybody_may_send(graph: str) -> None:
    place = sequence_places(graph)[2]
    assert set(NAMES) <= set(place.senders or ())
    assert "stranger" not in (place.senders or ())
    assert place.lead_max == AHEAD_MAX
    two_way = graph in ("ou_equi_dyn", "el_oracle")
    assert set(place.room.values()) == {2 if two_way else WAITING_MAX}


def test_one_sequence_serves_all_nodes_of_a_process() -> None:
    places = sequence_places("el_local")
    assert len({id(place.rounds.sequence) for place in places if place.rounds}) == 1


@pytest.mark.parametrize("graph", [*SEQUENCES, "d_equi_static", "u_equi_static"])
def test_the_fingerprint_of_a_sequence_follows_what_decides_it(graph: str) -> None:
    def told(names: list[str] = NAMES, **flags: Any) -> str | None:
        common = {"topology__graph": graph, "swarm__seed": 3}
        return find_place(config(**{**common, **flags}), entries(names)).graph

    here = told()
    assert here == told() == told(topology__degree=6)
    others = {
        "seed": {"swarm__seed": 4},
        "peers": {"topology__peers": 2},
        "draws": {"topology__draws": 5},
        "step": {"topology__step": 0.7},
        "sends": {"topology__sends": 2},
    }
    for option, flags in others.items():
        decides = option in SEQUENCE_OPTIONS[graph]
        assert (told(**flags) != here) == decides, option
    assert told(topology__lazy=True) != here
    assert told(names=[*NAMES[1:3], "n0", *NAMES[3:]]) != here
    assert told(names=NAMES[:6]) != here


def test_the_sequence_of_a_config_has_w_of_every_round() -> None:
    directory = Directory(entries(NAMES))
    for graph in (*GRAPHS, *SEQUENCES):
        told = config(topology__graph=graph, swarm__seed=3, topology__lazy=True)
        sequence = directory.sequence(told)
        assert sequence is directory.sequence(told)
        other = build_sequence(graph, 8, seed=3, lazy=True)
        for k in (0, 1, 7):
            np.testing.assert_array_equal(sequence.at(k).dense(), other.at(k).dense())


@pytest.mark.parametrize("graph", ["ring", "torus", "exponential", "small_world"])
def test_a_node_on_a_graph_that_stays_does_not_load_the_sequences(graph: str) -> None:
    program = (
        "import sys; from gossipnode.configfile import load_config; "
        "from gossipnode.config import PeerEntry; from gossipnode.node.place import find_place; "
        f"c = load_config(flags={{'topology.graph': {graph!r}, 'node.id': 'n0'}}); "
        "find_place(c, [PeerEntry(id=f'n{i}', address=f'http://h:{i + 1}') for i in range(8)]); "
        "print([m for m in sys.modules if m in ('gossipnode.topology.sequences', "
        "'gossipnode.node.rounds')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"


# -- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"graph": "base", "weights": "metropolis"}, "base has its own weights; leave.* auto"),
        ({"graph": "u_equi_static", "weights": "uniform"}, "u_equi_static has its own weights"),
        ({"graph": "explicit"}, r"the table \[topology.neighbours\], or topology.edges"),
        (
            {"graph": "explicit", "edges": "e.txt", "neighbours": {"n0": ["n1"], "n1": ["n0"]}},
            "needs its edges once",
        ),
        ({"graph": "bsae"}, "bsae"),
        ({"graph": "base", "peers": 0}, "topology.peers.*greater than or equal to 1"),
        ({"graph": "od_equi_dyn", "step": 1.5}, "topology.step.*less than or equal to 1"),
        ({"graph": "od_equi_dyn", "step": 0.0}, "topology.step.*greater than 0"),
        ({"graph": "small_world", "rewiring": 1.5}, "topology.rewiring"),
        ({"graph": "random_geometric", "radius": 0.0}, "topology.radius"),
        ({"graph": "ring", "weights": "best"}, "'best_constant'"),
    ],
    ids=str,
)
def test_settings_that_contradict_are_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**{f"topology__{key}": value for key, value in flags.items()})


@pytest.mark.parametrize("graph", SEQUENCES)
def test_gossip_has_no_rounds_for_a_graph_to_change_with(graph: str) -> None:
    with pytest.raises(ConfigError, match="no rounds in common; choose random or a graph that"):
        config(algorithm__name="gossip", topology__graph=graph)
    place = find_place(
        config(algorithm__name="gossip", topology__graph="u_equi_static"), entries(NAMES)
    )
    assert place.out_neighbours


def test_gossip_has_no_matrix_to_make_lazy() -> None:
    with pytest.raises(ConfigError, match=r"topology\.lazy is for algorithms that mix with W"):
        config(algorithm__name="gossip", topology__lazy=True)


@pytest.mark.parametrize(
    ("flags", "nodes", "words"),
    [
        ({"graph": "hypercube"}, 6, "power of two.*4 or 8 nodes"),
        ({"graph": "torus"}, 7, "7 is prime"),
        ({"graph": "small_world", "degree": 5}, 8, "topology.degree.*even"),
        ({"graph": "small_world", "degree": 8}, 8, "topology.degree.*below the number"),
        ({"graph": "random_geometric", "radius": 0.01}, 8, "topology.radius"),
        ({"graph": "el_local", "sends": 8}, 8, "topology.sends.*1 to 7"),
        ({"graph": "el_oracle", "sends": 3}, 7, "topology.sends.*an even number"),
        ({"graph": "exponential", "weights": "metropolis"}, 8, "topology.weights.*uniform"),
        ({"graph": "exponential", "weights": "best_constant"}, 8, "topology.weights.*uniform"),
        ({"graph": "d_equi_static", "draws": 1}, 8, "topology.draws.*more draws"),
    ],
    ids=str,
)
def test_a_number_of_nodes_that_a_graph_does_not_serve(
    flags: dict[str, Any], nodes: int, words: str
) -> None:
    told = {f"topology__{key}": value for key, value in flags.items()}
    with pytest.raises(ConfigError, match=words):
        find_place(config(**told), entries([f"n{i}" for i in range(nodes)]))


def test_a_directed_graph_whose_mean_would_drift_is_refused() -> None:
    lists = {"n0": ["n1", "n2"], "n1": ["n2"], "n2": ["n0"]}
    told = config(topology__graph="explicit", topology__neighbours=lists, topology__directed=True)
    with pytest.raises(ConfigError, match="the mean would drift"):
        find_place(told, entries(NAMES[:3]))


def from_file(path: Path, text: str | bytes, nodes: int = 3) -> Place:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    told = config(topology__graph="explicit", topology__edges=str(path))
    return find_place(told, entries(NAMES[:nodes]))


def test_an_edge_list_gives_the_graph_of_the_same_table(tmp_path: Path) -> None:
    place = from_file(tmp_path / "e.txt", "n2 n1  # the one\n\n n0\tn1\n")
    lists = {"n0": ["n1"], "n1": ["n0", "n2"], "n2": ["n1"]}
    assert place.graph == find_place(explicit("n0", lists), entries(NAMES[:3])).graph
    assert place.out_neighbours == ("n1",)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("n0 n1\nn1 n22\n", ConfigError, r"e\.txt: 'n22' is not in the peer list.*'n2'"),
        ("n0 n1\n", ConfigError, "not connected"),
        ("n0 n1 n2\n", DataError, r"e\.txt, row 1: 3 words"),
        (b"n0 \xff\n", DataError, r"e\.txt: is no UTF-8 text at byte 3"),
    ],
    ids=["stranger", "not connected", "three words", "no text"],
)
def test_an_edge_list_that_does_not_fit(
    tmp_path: Path, text: str | bytes, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        from_file(tmp_path / "e.txt", text)


def test_an_edge_list_that_is_not_there(tmp_path: Path) -> None:
    told = config(topology__graph="explicit", topology__edges=str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match=r"none\.txt: topology\.edges: there is no such file"):
        find_place(told, entries(NAMES))
    folder = config(topology__graph="explicit", topology__edges=str(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        find_place(folder, entries(NAMES))
