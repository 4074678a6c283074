"""Measure the laws of decentralized averaging and learning: ours beside theory.

``python benchmarks/laws.py`` prints every table of ``docs/laws.md``; with numbers behind it, only
those laws. ``--crowd`` prints law 7 for ten thousand nodes, in some minutes. Invariant: a figure
under "ours" comes out of the nodes or of the package's matrices, one under "theory" of a formula, a
recursion or eigenvalues worked out here, never of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gossipnode.configfile import load_config
from gossipnode.learning.learner import Learner, TrainResult
from gossipnode.learning.params import Layout
from gossipnode.learning.tasks import Evaluation
from gossipnode.simulation import SimulatedSwarm
from gossipnode.simulation.vectorised import VectorisedSwarm
from gossipnode.topology import build_sequence, costs

Step = Callable[[int, Any], Any]


class Row(NamedTuple):
    """A line of a law's table."""

    what: str
    ours: str
    theory: str


class Stepping:
    """A learner whose local step k adds ``step(k, x)`` to x, from ``start`` of shape (d,) on."""

    samples = 1

    def __init__(self, start: Any, step: Step | None = None) -> None:
        self.start = np.array(start, float)
        self.step, self.steps_done = step, 0
        self.layout = Layout.of({"x": self.start.shape}, "float64", ())

    def initial_params(self, seed: int) -> Any:
        """Return a copy of ``start``."""
        del seed
        return self.start.copy()

    def train(self, params: Any, steps: int) -> TrainResult:
        """Take ``steps`` of its steps."""
        for _ in range(steps):
            if self.step is not None:
                params += self.step(self.steps_done, params)
            self.steps_done += 1
        return TrainResult(0.0, steps, 1)

    def evaluate(self, params: Any) -> Evaluation:
        """Return nothing of interest."""
        del params
        return Evaluation(0.0, None, 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the steps done."""
        return {}, {"steps_done": self.steps_done}

    def restore(self, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        del arrays
        self.steps_done = meta["steps_done"]

    def describe(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


def config_of(**flags: Any) -> Any:
    """Return a config of one local step a round; two underscores stand for the dot of a key."""
    fixed = {"training.local_steps": 1, "run.evaluate_every": 0}
    return load_config(flags=fixed | {k.replace("__", "."): v for k, v in flags.items()})


def matrix_swarm(graph: str, learners: Sequence[Learner], form: str = "atc") -> VectorisedSwarm:
    """Return a synchronous swarm of ``learners``, each from its own start."""
    config = config_of(topology__graph=graph, algorithm__form=form)
    swarm = VectorisedSwarm(config, len(learners), learners=learners)
    swarm.models = np.stack([learner.initial_params(0) for learner in learners])
    return swarm


def spread(X: Any) -> float:
    """Return ‖X − X̄‖_F."""
    return float(np.linalg.norm(X - X.mean(0)))


def ring_rho(n: int) -> float:
    """Return ρ of a ring with weights 1/3."""
    return float((1 + 2 * np.cos(2 * np.pi / n)) / 3)


def averaging() -> Iterator[Row]:
    """Law 1: contraction a round over the rounds in which 10⁻⁶ falls to 10⁻¹¹."""
    cos = np.cos
    theory = {
        ("ring", 16): ring_rho(16),
        ("chain", 12): (1 + 2 * cos(np.pi / 12)) / 3,
        ("star", 16): 1 - 1 / 16,
        ("torus", 36): (3 + 2 * cos(np.pi / 3)) / 5,
        ("hypercube", 32): 1 - 2 / 6,
        ("exponential", 16): 1 - 2 / 5,
    }
    drawn = [("grid", 16), ("erdos_renyi", 32), ("random_regular", 32), ("small_world", 32)]
    for name, n in [*theory, *drawn]:
        sequence = build_sequence(name, n, seed=1)
        rho = theory.get((name, n)) or float(
            np.sort(np.abs(np.linalg.eigvalsh(sequence.at(0).dense())))[-2]
        )  # no closed form: dense eigenvalues against sparse rounds
        x = np.random.default_rng(5).standard_normal(n)
        apart = [spread(x)]
        drift, total = 0.0, x.sum()
        while apart[-1] > 1e-11:
            x = sequence.at(0).apply(x)
            apart.append(spread(x))
            drift = max(drift, abs(float(x.sum() - total)))
        late = [d for d in apart if d < 1e-6]
        ours = (late[-1] / late[0]) ** (1 / (len(late) - 1))
        assert drift <= 1e-12
        yield Row(f"{name}, n = {n}", f"{ours:.4f}", f"{rho:.4f}")


def moving_means() -> Iterator[Row]:
    """Law 2 on a ring of 16: the largest ‖x − mean z‖ of the last rounds, over e/(1 − ρ)."""
    n, rounds, k = 16, 800, np.arange(801)[:, None]
    slowest = np.cos(2 * np.pi * np.arange(n) / n)
    phases = np.random.default_rng(4).standard_normal(n)
    signals = {
        "z oscillates, period 2": np.sin(np.pi * k + phases),
        "z oscillates, period 40": np.sin(2 * np.pi * k / 40 + phases),
        "z drifts along the slowest mode": 0.01 * k * slowest,
    }
    for what, z in signals.items():
        steps = np.diff(z, axis=0)

        def follow(i: int, steps: Any = steps) -> Step:
            return lambda k, _: steps[k, i]

        swarm = matrix_swarm(
            "ring", [Stepping(z[0, i : i + 1], follow(i)) for i in range(n)], "cta"
        )
        worst = off = 0.0
        for r in range(1, rounds + 1):
            swarm.run(1)
            off = max(off, abs(float(swarm.models.sum() - z[r].sum())))
            if r > rounds - 100:
                worst = max(worst, float(np.linalg.norm(swarm.models[:, 0] - z[r].mean())))
        assert off <= 1e-12
        e = np.linalg.norm(steps - steps.mean(1, keepdims=True), axis=1).max()
        yield Row(what, f"{worst / e * (1 - ring_rho(n)):.4f}", "1" if "drifts" in what else "≤ 1")


@cache
def q16() -> tuple[Any, Any, Any]:
    """Return A (16, 10, 10), b (16, 10) and x* of sixteen unlike quadratics."""
    r = np.random.default_rng(0)
    F = r.standard_normal((16, 20, 10))
    A = np.einsum("nmi,nmj->nij", F, F) / 20 + 0.1 * np.eye(10)
    b = np.einsum("nij,nj->ni", A, 1 + r.standard_normal((16, 10)))
    return A, b, np.linalg.solve(A.sum(0), b.sum(0))


def quadratics(A: Any, b: Any, eta: float, graph: str = "ring") -> VectorisedSwarm:
    """Return a swarm that minimises the mean of ½xᵀA_i x − b_iᵀx from zero."""

    def descend(i: int) -> Step:
        return lambda _, x: -eta * (A[i] @ x - b[i])

    return matrix_swarm(graph, [Stepping(0 * b[i], descend(i)) for i in range(len(b))])


def error_terms() -> Iterator[Row]:
    """Law 3: over 120 rounds of D-PSGD, η = 0.1."""
    A, b, _ = q16()
    L = max(np.linalg.eigvalsh(A_i)[-1] for A_i in A)
    for graph in ("ring", "star", "hypercube"):
        swarm, worst, ratio = quadratics(A, b, 0.1, graph), 0.0, 0.0
        for _ in range(120):
            X, mean = swarm.models, swarm.models.mean(0)
            E = np.einsum("nij,nj->i", A, X - mean) / 16
            right = mean - 0.1 * (A.mean(0) @ mean - b.mean(0) + E)
            swarm.run(1)
            worst = max(worst, float(np.abs(swarm.models.mean(0) - right).max()))
            furthest = np.linalg.norm(X - mean, axis=1).max()
            if furthest:
                ratio = max(ratio, float(np.linalg.norm(E) / (L * furthest)))
        assert worst <= 1e-14
        yield Row(f"{graph}: mean iterate off by more than 1e-14", "never", "never")
        yield Row(f"{graph}: largest ‖E_k‖/(L·max‖x_i − x̄‖)", f"{ratio:.4f}", "≤ 1")


def resting_places() -> Iterator[Row]:
    """Law 4: where D-PSGD with a constant step stops."""
    A, b, best = q16()
    published = {0.2: 0.1609011, 0.1: 0.1208488, 0.05: 0.0853296, 0.02: 0.0472504}
    for eta, distance in published.items():
        swarm = quadratics(A, b, eta)
        swarm.run(int(24 / eta))
        ours = np.linalg.norm(swarm.models.mean(0) - best)
        yield Row(f"Q16, ring, η = {eta}: ‖x̄ − x*‖", f"{ours:.5f}", f"{distance:.5f}")
    for n, eta, u in ((8, 0.02, 3), (16, 0.02, 3), (32, 0.02, 3), (16, 0.04, 3), (16, 0.02, 6)):
        a, rho, g = 1.5, ring_rho(n), u * np.cos(2 * np.pi * np.arange(n) / n)
        swarm = quadratics(np.full((n, 1, 1), a), g[:, None], eta)
        swarm.run(900)
        right = eta * rho * np.linalg.norm(g) / (1 - rho + rho * eta * a)
        what = f"slowest mode, ring of {n}, η = {eta}, b = {u}/√2: ‖X − X̄‖"
        yield Row(what, f"{spread(swarm.models):.5f}", f"{right:.5f}")
    same = quadratics(np.repeat(A[:1], 16, 0), np.repeat(b[:1], 16, 0), 0.3)
    same.run(700)
    off = float(np.abs(same.models - np.linalg.solve(A[0], b[0])).max())
    assert off <= 1e-12
    yield Row("equal data: distance to the optimum above 1e-12", "no", "no")


DIMENSIONS = 2000


def noisy(n: int, graph: str, start: float, rate: Callable[[int], float]) -> VectorisedSwarm:
    """Return n nodes with f(x) = ½‖x‖², gradients with N(0, 1) noise, η_k = ``rate(k)``."""

    def descend(i: int) -> Step:
        rng = np.random.default_rng([11, i])
        return lambda k, x: -rate(k) * (x + rng.standard_normal(DIMENSIONS))

    return matrix_swarm(graph, [Stepping([start] * DIMENSIONS, descend(i)) for i in range(n)])


def speedups() -> Iterator[Row]:
    """Law 5: rounds to a mean ½x̄² of 0.005 from 0.18, η = n/1000; then the transient."""
    for n in (1, 2, 4, 8, 16, 32):
        eta, m, k = n / 1000, 0.36, 0
        while m > 0.01:
            m, k = (1 - eta) ** 2 * m + eta**2 / n, k + 1
        swarm = noisy(n, "exponential", 0.6, dict.fromkeys(range(k + 200), eta).__getitem__)
        while float((swarm.models.mean(0) ** 2).mean()) > 0.01:
            swarm.run(1)
        yield Row(f"rounds to the target, n = {n}", str(swarm.round), str(k))
    for n in (16, 32):
        yield from (transient(graph, n) for graph in ("ring", "exponential"))


def transient(graph: str, n: int) -> Row:
    """Return the last round, η_k = 1/(k + 10), whose spread is above the mean's error."""
    hops = [0, 1, n - 1] if graph == "ring" else [0, *(1 << t for t in range(n.bit_length() - 1))]
    column = np.zeros(n)
    column[hops] = 1 / len(hops)
    moduli, m, right, ours = np.abs(np.fft.fft(column)), np.zeros(n), 0, 0
    swarm = noisy(n, graph, 0.0, lambda k: 1 / (k + 10))
    for k in range(1, 200):
        m = moduli**2 * ((1 - 1 / (k + 9)) ** 2 * m + 1 / (k + 9) ** 2)
        right = k if m[1:].sum() > m[0] else right
        swarm.run(1)
        mean = swarm.models.mean(0)
        ours = k if ((swarm.models - mean) ** 2).mean() > (mean**2).mean() else ours
    return Row(f"transient rounds, {graph}, n = {n}", str(ours), str(right))


def one_peer() -> Iterator[Row]:
    """Law 6: the first round after which all integers agree exactly."""
    for n in (2, 8, 64, 1024):
        sequence, k = build_sequence("one_peer_exponential", n), 0
        x = np.random.default_rng(n).permutation(n).astype(float)
        while np.ptp(x):
            x, k = sequence.at(k).apply(x), k + 1
        assert x[0] == (n - 1) / 2
        yield Row(f"rounds to the exact mean, n = {n}", str(k), f"{np.log2(n):.0f}")


GOSSIP_NODES, GOSSIP_TIMES = 128, (16, 32, 64)


@cache
def gossip_models(nodes: int = GOSSIP_NODES) -> tuple[list[Any], Any]:
    """Return X at each of ``GOSSIP_TIMES``, and one node's learner; digits, 8 samples a node."""
    config = config_of(
        algorithm__name="gossip",
        topology__graph="random",
        data__partition="sample:8",
        training__learning_rate=0.5,
    )
    with SimulatedSwarm(config, nodes, seed=2, objects=nodes > GOSSIP_NODES) as swarm:
        found = []
        for time in GOSSIP_TIMES:
            swarm.run(time - swarm.time)
            found.append(swarm.models())
        return found, swarm.up[0].learner


def gossip() -> Iterator[Row]:
    """Law 7: accuracies of 128 nodes; 1/360 is one test sample, hence two digits."""
    found, learner = gossip_models()
    theory = "–"
    for time, X in zip(GOSSIP_TIMES, found, strict=True):
        accuracies = [learner.evaluate(x).accuracy for x in X]
        deviation = f"{np.std(accuracies):.2f}"
        yield Row(f"standard deviation after {time} periods", deviation, theory)
        theory = "below the line above"


def crowd(nodes: int = 10_000) -> Iterator[str]:
    """Law 7 of a crowd: mean, standard deviation, least and greatest accuracy of its nodes."""
    found, learner = gossip_models(nodes)
    for time, X in zip(GOSSIP_TIMES, found, strict=True):
        a = np.array([learner.evaluate(x).accuracy for x in X])
        yield (
            f"{nodes} nodes, {time} periods: mean {a.mean():.3f}, standard deviation "
            f"{a.std():.3f}, least {a.min():.3f}, greatest {a.max():.3f}"
        )


@cache
def counted_messages() -> tuple[dict[str, int], set[int], Any]:
    """Return messages by sender, the rounds of the nodes, and X: 128 nodes, degree 8, 50 rounds."""
    config = config_of(topology__graph="random_regular", topology__degree=8, run__rounds=50)
    learners = [Stepping([i]) for i in range(128)]
    with SimulatedSwarm(config, 128, learners=learners) as swarm:
        swarm.run_to_end()
        return dict(swarm.frames), {node.round for node in swarm.up}, swarm.models()


def messages() -> Iterator[Row]:
    """Law 8: counted as they are delivered on the simulated wire, and computed."""
    sent = sum(counted_messages()[0].values())
    final = round(costs.naive_all_reduce(128).messages)
    yield Row("D-PSGD, 128 nodes, degree 8, 50 rounds", str(sent), str(128 * 8 * 50))
    yield Row("one naive all-reduce", str(final), str(128 * 127))
    yield Row("together", str(sent + final), "67456")


LAWS: dict[int, Callable[[], Iterable[Row]]] = {
    1: averaging,
    2: moving_means,
    3: error_terms,
    4: resting_places,
    5: speedups,
    6: one_peer,
    7: gossip,
    8: messages,
}


def table(law: int) -> str:
    """Return a law's table in Markdown."""
    lines = ["| what | ours | theory |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in LAWS[law]())])


if __name__ == "__main__":
    if sys.argv[1:] == ["--crowd"]:
        for line in crowd():
            print(line)
        sys.exit()
    unknown = [word for word in sys.argv[1:] if word not in map(str, LAWS)]
    if unknown:
        sys.exit(
            f"error: {unknown[0]}: no such law; say --crowd or some of {', '.join(map(str, LAWS))}"
        )
    for number in map(int, sys.argv[1:]) if sys.argv[1:] else LAWS:
        print(f"Law {number}\n\n{table(number)}\n")
