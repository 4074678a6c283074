"""D-PSGD on every graph and every sequence of graphs, against the dense recursion.

The oracle multiplies by W of round k as the topology gives it, X ← W_k (X + step). Whatever only
takes time (a slow node, a slow wire) must leave the result exact: nothing missing, nothing late,
nothing replaced.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.node.rounds import AHEAD_MAX
from gossipnode.simulation import SimulatedSwarm
from gossipnode.simulation import loop as virtual_time
from gossipnode.topology.sequences import GraphSequence, build_sequence, kinds

ROUNDS = 20
SEED = 5
EDGES = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (1, 4)]
CHANGING = [
    "one_peer_exponential",
    "base",
    "od_equi_dyn",
    "ou_equi_dyn",
    "el_oracle",
    "el_local",
]
FAULTS = (
    "missing_models",
    "pushes_replaced",
    "late_merged",
    "late_dropped",
    "peers_suspected",
    "rounds_skipped",
)
# What a graph of 6 nodes, which is no power of two, needs instead of the defaults.
NAMES = [name for name in kinds() if name != "explicit"]
CASES = [(name, n) for name in NAMES for n in (8, 6) if (name, n) != ("hypercube", 6)]

Disturb = Callable[[MemorySwarm, GraphSequence], None]


def names(n: int) -> list[str]:
    return [f"n{i}" for i in range(n)]


def config(graph: str, **flags: Any) -> Config:
    common = {
        "topology__graph": graph,
        "swarm__seed": SEED,
        "run__rounds": ROUNDS,
        "algorithm__deadline_s": 500.0,
        "run__drain_deadline_s": 500.0,
    }
    return plain_config(**{**common, **flags})


def learners(n: int, *, trains: bool = True) -> list[PlainLearner | None]:
    """Models of two numbers; node i's step differs from all others'."""
    return [PlainLearner([i, -0.5 * i * i], 0.1 * (i + 1) if trains else 0.0) for i in range(n)]


def dense(sequence: GraphSequence, form: str = "atc", rounds: int = ROUNDS) -> np.ndarray[Any, Any]:
    i = np.arange(sequence.nodes, dtype=np.float64)
    X, step = np.stack([i, -0.5 * i * i], axis=1), 0.1 * (i[:, None] + 1)
    for k in range(rounds):
        W = sequence.at(k).dense()
        X = W @ (X + step) if form == "atc" else W @ X + step
    return X


def play(config: Config, n: int, disturb: Disturb, sequence: GraphSequence) -> MemorySwarm:
    async def scenario() -> MemorySwarm:
        async with swarm_of(config, names(n), learners(n)) as swarm:
            for world in swarm.worlds.values():
                world.step_s = 1.0
            disturb(swarm, sequence)
            await swarm.run()
            return swarm

    return virtual_time.run(scenario())


def assert_nothing_lost(swarm: MemorySwarm) -> None:
    for counter in FAULTS:
        counts = {name: node.counters.get(counter) for name, node in swarm.nodes.items()}
        assert not any(counts.values()), (counter, counts)


def nothing(swarm: MemorySwarm, sequence: GraphSequence) -> None:
    """Leave the swarm alone."""


def slow_node(swarm: MemorySwarm, sequence: GraphSequence) -> None:
    swarm.worlds["n0"].step_s = 5.0


def slow_wire(swarm: MemorySwarm, sequence: GraphSequence) -> None:
    """The wire that is used most takes three and a half rounds."""
    used = Counter(
        (int(j), int(i))
        for k in range(ROUNDS)
        for i, j in zip(sequence.at(k).receivers, sequence.at(k).senders, strict=True)
    )
    (j, i), _ = used.most_common(1)[0]
    slow = (f"n{j}", f"n{i}")
    swarm.latency_s = lambda sender, receiver: 3.5 if (sender, receiver) == slow else 0.0


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize(("graph", "n"), CASES)
def test_every_graph_and_sequence_equals_the_dense_recursion(graph: str, n: int, form: str) -> None:
    sequence = build_sequence(graph, n, seed=SEED)
    swarm = play(config(graph, algorithm__form=form), n, nothing, sequence)
    np.testing.assert_allclose(swarm.models(), dense(sequence, form), rtol=0, atol=1e-12)
    assert_nothing_lost(swarm)


@pytest.mark.parametrize(
    ("disturb", "form"),
    [
        (slow_node, "atc"),
        (slow_wire, "cta"),
        pytest.param(slow_node, "cta", marks=pytest.mark.long),
        pytest.param(slow_wire, "atc", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(("graph", "n"), CASES)
def test_what_only_takes_time_costs_no_model(
    graph: str, n: int, disturb: Disturb, form: str
) -> None:
    sequence = build_sequence(graph, n, seed=SEED)
    swarm = play(config(graph, algorithm__form=form), n, disturb, sequence)
    np.testing.assert_allclose(swarm.models(), dense(sequence, form), rtol=0, atol=1e-12)
    assert_nothing_lost(swarm)


def test_the_cases_are_all_that_a_config_can_name() -> None:
    from typing import get_args

    from gossipnode.config import CHANGING as CHANGING_HERE
    from gossipnode.config import OWN_WEIGHTS, GraphName
    from gossipnode.topology.sequences import SEQUENCES

    assert set(get_args(GraphName)) == {"random", "explicit", *NAMES}
    assert set(SEQUENCES) == OWN_WEIGHTS | CHANGING_HERE
    assert set(CHANGING) == CHANGING_HERE
    assert not OWN_WEIGHTS & CHANGING_HERE


@pytest.mark.parametrize(
    ("graph", "options"),
    [
        ("ring", {"weights": "max_degree"}),
        ("star", {"weights": "best_constant"}),
        ("torus", {"weights": "best_constant", "lazy": True}),
        ("exponential", {"lazy": True}),
        ("random_geometric", {"radius": 0.7}),
        ("small_world", {"degree": 2, "rewiring": 0.3}),
        ("one_peer_exponential", {"lazy": True}),
        ("base", {"peers": 2}),
        ("d_equi_static", {"draws": 4, "lazy": True}),
        ("u_equi_static", {"draws": 4}),
        ("od_equi_dyn", {"step": 0.9}),
        ("ou_equi_dyn", {"step": 0.9, "lazy": True}),
        ("el_oracle", {"sends": 4}),
        ("el_local", {"sends": 2, "lazy": True}),
    ],
    ids=str,
)
def test_the_options_of_a_graph_are_the_config_s(graph: str, options: dict[str, Any]) -> None:
    n, seed = (9, 0) if graph == "star" else (8, SEED)
    told = {f"topology__{key}": value for key, value in options.items()}
    rule = {"rule" if key == "weights" else key: value for key, value in options.items()}
    sequence = build_sequence(graph, n, seed=seed, **rule)
    swarm = play(config(graph, swarm__seed=seed, **told), n, nothing, sequence)
    np.testing.assert_allclose(swarm.models(), dense(sequence), rtol=0, atol=1e-12)
    assert_nothing_lost(swarm)


@pytest.mark.parametrize("source", ["neighbours", "edges"])
@pytest.mark.parametrize("directed", [False, True])
def test_an_explicit_graph(tmp_path: Path, source: str, directed: bool) -> None:
    edges = [(i, (i + hop) % 6) for i in range(6) for hop in (1, 3)] if directed else EDGES
    rows: list[list[int]] = [[] for _ in range(6)]
    for i, j in edges:
        rows[i].append(j)
        if not directed:
            rows[j].append(i)
    told: dict[str, Any] = {"topology__directed": directed}
    if source == "edges":
        path = tmp_path / "edges.txt"
        path.write_text("# who talks\n" + "".join(f"n{i} n{j}\n" for i, j in edges))
        told["topology__edges"] = str(path)
    else:
        told["topology__neighbours"] = {f"n{i}": [f"n{j}" for j in r] for i, r in enumerate(rows)}
    sequence = build_sequence("explicit", 6, edges=rows, directed=directed)
    swarm = play(config("explicit", **told), 6, slow_node, sequence)
    np.testing.assert_allclose(swarm.models(), dense(sequence), rtol=0, atol=1e-12)
    assert_nothing_lost(swarm)


@pytest.mark.parametrize(
    ("graph", "n", "rounds"),
    [
        ("one_peer_exponential", 2, 1),
        ("one_peer_exponential", 8, 3),
        ("one_peer_exponential", 16, 4),
        ("base", 6, build_sequence("base", 6).period),
        ("base", 11, build_sequence("base", 11).period),
    ],
)
def test_without_training_a_period_averages_exactly(graph: str, n: int, rounds: int) -> None:
    async def scenario() -> None:
        wanted = config(graph, run__rounds=rounds)
        async with swarm_of(wanted, names(n), learners(n, trains=False)) as swarm:
            before = swarm.models()
            await swarm.run()
            mean = np.tile(before.mean(axis=0), (n, 1))
            np.testing.assert_allclose(swarm.models(), mean, rtol=0, atol=1e-14 * n * n)

    virtual_time.run(scenario())


def test_one_round_less_does_not_average() -> None:
    async def scenario() -> None:
        wanted = config("one_peer_exponential", run__rounds=2)
        async with swarm_of(wanted, names(8), learners(8, trains=False)) as swarm:
            await swarm.run()
            assert swarm.consensus_distance() > 1.0

    virtual_time.run(scenario())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("graph", CHANGING)
def test_nodes_and_wires_of_any_speed_cost_no_model(graph: str, seed: int) -> None:
    """Each node has a speed of its own, and each push takes as long as chance will have it."""
    n, rounds, rng = 7 + seed, 40, np.random.default_rng(seed)
    options: dict[str, Any] = {"sends": 2} if graph.startswith("el_") else {}

    def disturb(swarm: MemorySwarm, sequence: GraphSequence) -> None:
        for world in swarm.worlds.values():
            world.step_s = float(rng.choice([0.0, 0.1, 1.0, 4.0]))
        swarm.latency_s = lambda sender, receiver: float(rng.choice([0.0, 0.2, 3.0]))

    sequence = build_sequence(graph, n, seed=SEED, **options)
    told = {f"topology__{key}": value for key, value in options.items()}
    swarm = play(config(graph, run__rounds=rounds, **told), n, disturb, sequence)
    np.testing.assert_allclose(
        swarm.models(), dense(sequence, rounds=rounds), rtol=1e-12, atol=1e-12
    )
    assert_nothing_lost(swarm)


def test_a_model_that_is_much_too_early_is_asked_to_come_again() -> None:
    """Where rounds never repeat, two may miss each other for long; memory stays bounded."""
    n, rounds = 8, 300
    sequence = build_sequence("el_local", n, seed=SEED, sends=1)
    opened = []

    def slow(swarm: MemorySwarm, sequence: GraphSequence) -> None:
        for world in swarm.worlds.values():
            world.step_s = 0.01
        swarm.worlds["n3"].step_s = 1.0
        algorithm: Any = swarm.nodes["n3"].algorithm
        open_round = algorithm.open_round

        def counted(*arguments: Any) -> Any:
            found = open_round(*arguments)
            opened.append(len(algorithm.open))
            return found

        algorithm.open_round = counted

    told = config("el_local", topology__sends=1, run__rounds=rounds)
    swarm = play(told, n, slow, sequence)
    np.testing.assert_allclose(swarm.models(), dense(sequence, rounds=rounds), rtol=1e-11)
    assert_nothing_lost(swarm)
    asked = sum(n.counters.by_label("pushes_refused").get("busy", 0) for n in swarm.nodes.values())
    assert asked > 0
    assert max(opened) <= AHEAD_MAX + 1


def test_a_modelled_network_leaves_the_result_exact() -> None:
    from gossipnode.simulation.network import Link

    for graph in CHANGING:
        sequence = build_sequence(graph, 6, seed=SEED)
        link = Link(latency_s=0.1, jitter_s=0.5, reply_loss=0.02)
        with SimulatedSwarm(
            config(graph), names=names(6), seed=2, link=link, step_s=0.05,
            learners=[learner for learner in learners(6) if learner],
        ) as swarm:  # fmt: skip
            swarm.run_to_end(within=1000.0)
            np.testing.assert_allclose(swarm.models(), dense(sequence), rtol=0, atol=1e-12)


# -- faults -----------------------------------------------------------------------------------


def alive_rounds(swarm: MemorySwarm, but: str) -> list[int]:
    return [node.round for name, node in swarm.nodes.items() if name != but]


@pytest.mark.parametrize("graph", CHANGING)
@pytest.mark.parametrize("killed_at_s", [7.5, 17.5])
def test_a_killed_node_does_not_stop_the_others(graph: str, killed_at_s: float) -> None:
    """Each that meets it asks whether it listens, twice a second, and then waits no more."""

    async def scenario() -> None:
        wanted = config(graph, run__rounds=1000, algorithm__deadline_s=20.0)
        async with swarm_of(wanted, names(8), learners(8, trains=False)) as swarm:
            for name in swarm.nodes:
                swarm.worlds[name].step_s = 1.0
                swarm.launch(name)
            await asyncio.sleep(killed_at_s)
            await swarm.kill("n3")
            await asyncio.sleep(100.0)
            rounds = alive_rounds(swarm, "n3")
            assert min(rounds) > 80, rounds
            others = [node for name, node in swarm.nodes.items() if name != "n3"]
            assert sum(node.counters.get("missing_models") for node in others) > 10
            assert not any(node.counters.get("rounds_skipped") for node in others)
            for node in others:
                assert node.peers["n3"].state != "alive"
                suspected = [peer.id for peer in node.peers if peer.state == "suspect"]
                assert suspected in ([], ["n3"])

    virtual_time.run(scenario())


@pytest.mark.parametrize("graph", CHANGING)
def test_a_node_that_hung_for_long_goes_on_where_the_others_are(graph: str) -> None:
    async def scenario() -> None:
        flags = {"algorithm__deadline_s": 20.0, "network__push_timeout_s": 2.0}
        wanted = config(graph, run__rounds=1000, run__drain_deadline_s=1.0, **flags)
        async with swarm_of(wanted, names(8), learners(8, trains=False)) as swarm:
            for name in swarm.nodes:
                swarm.worlds[name].step_s = 1.0
                swarm.launch(name)
            await asyncio.sleep(10.5)
            swarm.pause("n3")
            await asyncio.sleep(200.0)
            node = swarm.nodes["n3"]
            assert min(alive_rounds(swarm, "n3")) > node.round + 2 * AHEAD_MAX
            swarm.resume("n3")
            # What was sent to it meanwhile is lost: nothing of it is worth a deadline.
            await asyncio.sleep(15.0)
            assert node.counters.get("rounds_skipped") > AHEAD_MAX
            assert node.round >= min(alive_rounds(swarm, "n3")) - 2
            await asyncio.sleep(20.0)
            missing = sum(node.counters.get("missing_models") for node in swarm.nodes.values())
            await asyncio.sleep(50.0)
            now = sum(node.counters.get("missing_models") for node in swarm.nodes.values())
            assert now == missing, "in step again"

    virtual_time.run(scenario())


@pytest.mark.parametrize("graph", CHANGING)
def test_a_swarm_whose_last_node_starts_late_is_exact(graph: str) -> None:
    """Whom nobody has heard of yet is waited for, and what was sent to it is sent again."""
    n, sequence = 6, build_sequence(graph, 6, seed=SEED)

    async def scenario() -> None:
        wanted = config(graph, algorithm__deadline_s=25.0)
        async with swarm_of(wanted, names(n), learners(n)) as swarm:
            swarm.down.add("n5")
            for name in names(5):
                swarm.worlds[name].step_s = 0.5
                swarm.launch(name)
            await asyncio.sleep(20.0)
            swarm.down.discard("n5")
            swarm.launch("n5")
            await asyncio.gather(*swarm.tasks.values())
            np.testing.assert_allclose(swarm.models(), dense(sequence), rtol=0, atol=1e-12)
            assert_nothing_lost(swarm)

    virtual_time.run(scenario())
