"""Federated learning: clients train from the hub's model, the hub takes their weighted mean.

Round k, S_k the clients that are asked, n_i the samples of client i::

    x_i ← x^k − η g_i(x^k)                                                   fedsgd
    x_i ← x^k, then τ times x_i ← x_i − η g_i(x_i)                           fedavg
    x_i ← x^k, then τ times x_i ← x_i − η (g_i(x_i) + μ(x_i − x^k))          fedprox

    x^{k+1} = Σ_{i ∈ S} n_i x_i / Σ_{i ∈ S} n_i

With a codec the client answers with a difference, and sends what that leaves out with the next,
by error feedback; the hub, too, is such a client of itself::

    p_i = x_i − x^k + e_i         answers Q(p_i)         e_i ← p_i − Q(p_i)
    x^{k+1} = x^k + Σ_{i ∈ S} n_i Q(p_i) / Σ_{i ∈ S} n_i

S are those of S_k whose answer came; the e_i of the others stays as it was. fedadam, fedadagrad and
fedyogi train like fedavg and make of this mean a step of the hub's (``federated_servers``). S_k are
⌊C·n + ½⌋ of the n nodes, at least one, drawn by a generator that anybody can repeat: it is seeded
with ``selection_seed`` and k.

Letters: x params, g gradient on the node's next batch, η step size, τ local steps, μ pull towards
the hub's model, C share of the nodes that are asked, Q codec, e_i what it left out.

*Source*: McMahan et al., AISTATS 2017; Li et al., MLSys 2020 (FedProx).
*Differs from the source*: the hub has samples, too, and may ask itself; the model goes to all
after each round, not to those alone that are asked. Momentum of the clients stays with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import NodeInterface, Vector
from gossipnode.algorithms.federated_servers import SECONDS, AdaptiveServer
from gossipnode.algorithms.hub import HubAlgorithm
from gossipnode.algorithms.hub_clients import HubOptions, Work
from gossipnode.algorithms.vectors import descend, narrowed
from gossipnode.codecs import CODECS, UNBIASED
from gossipnode.learning.params import add_scaled
from gossipnode.options import Facts, Needs, option

VECTORS = "1 from each asked, 1 to each"
LOSS = "is said again, or weighs 0"


class ClientOptions(HubOptions):
    """Which nodes the hub asks."""

    fraction: float = option(
        1.0, "C: share of the nodes that are asked in a round.", flag="--fraction", gt=0.0, le=1.0
    )
    selection_seed: int = option(
        0, "Seed, with the round, of the draw; the same on every node.", ge=0, le=2**53
    )


class FederatedOptions(ClientOptions):
    """Federated learning with a hub: what decentralized learning is compared with."""

    facts = (
        Facts("fedavg", "one model, by a hub", VECTORS, LOSS, steady="little"),
        Facts("fedsgd", "the same, one gradient a round", VECTORS, LOSS, steady="little"),
        Facts("fedprox", "the same, less drift of clients", VECTORS, LOSS, steady="little"),
        Facts("fedadam", "adaptive steps of the hub", VECTORS, LOSS, steady="like dpsgd"),
        Facts("fedadagrad", "the same, steps that shrink", VECTORS, LOSS, steady="little"),
        Facts("fedyogi", "the same, slower to forget", VECTORS, LOSS, steady="little"),
    )

    codecs, unbiased = frozenset(CODECS), UNBIASED

    name: Literal["federated"] = "federated"
    form: Literal["fedsgd", "fedavg", "fedprox", "fedadam", "fedadagrad", "fedyogi"] = option(
        "fedavg",
        "fedavg: mean of what τ local steps made. fedsgd: one gradient. fedprox: local steps that "
        "are pulled back. fedadam, fedadagrad, fedyogi: the hub steps adaptively.",
        flag="--form",
    )
    mu: float = option(0.01, "μ of fedprox.", ge=0.0, le=1e6)
    server_rate: float | None = option(
        None, "η of the hub's adaptive step; unset: 0.1, fedyogi 0.01.", gt=0.0, le=1e6
    )
    beta1: float = option(0.9, "β₁ of the hub's adaptive step.", ge=0.0, lt=1.0)
    beta2: float = option(0.99, "β₂ of the hub's adaptive step.", ge=0.0, lt=1.0)
    epsilon: float | None = option(
        None,
        "ε of the hub's adaptive step; unset: 1e-9, fedyogi 1e-3. Larger ones, such as the "
        "paper's 1e-3, keep coordinates still that hardly moved.",
        gt=0.0,
        le=1e6,
    )

    def needs(self) -> Needs:
        """Return that fedsgd takes one gradient a round."""
        return Needs(ignores_graph=True, gradient=self.form == "fedsgd")


class Federated(HubAlgorithm):
    """FedSGD, FedAvg, FedProx and FedOpt."""

    Options = FederatedOptions
    name = "federated"
    coded_up = ("delta",)
    coded = frozenset(coded_up)

    def __init__(self, options: FederatedOptions, local_steps: int) -> None:
        super().__init__(options, 1 if options.form == "fedsgd" else local_steps)
        self.form, self.mu = options.form, options.mu
        self.fraction, self.seed = options.fraction, options.selection_seed
        self.server: AdaptiveServer | None = None
        if options.form in SECONDS:
            is_yogi = options.form == "fedyogi"
            rate = options.server_rate or (0.01 if is_yogi else 0.1)
            epsilon = options.epsilon or (1e-3 if is_yogi else 1e-9)
            self.server = AdaptiveServer(options.form, rate, options.beta1, options.beta2, epsilon)

    def asked(self, node: NodeInterface, k: int) -> Collection[str]:
        """Return S_k."""
        return selected(node.ids, self.fraction, self.seed, k)

    async def local(self, node: NodeInterface, k: int) -> Work | None:
        """Return x_i, trained in the form that was chosen."""
        if node.id not in self.asked(node, k):
            return None
        x = node.params
        if self.form == "fedsgd":
            g, eta = await node.gradient(x)
            found = await node.compute(descend, x, g, eta)
        elif self.form == "fedprox":
            found = x
            for _ in range(self.tau):
                g, eta = await node.gradient(found)
                found = await node.compute(descend_near, found, g, eta, x, self.mu)
        else:
            found = await node.trained(x, self.tau)
        if node.codec is None:
            return Work({"half": found}, node.samples)
        return await self.compressed(node, k, await node.compute(np.subtract, found, x))

    async def aggregate(self, node: NodeInterface, k: int, answers: Mapping[str, Work]) -> Vector:
        """Return Σ n_i x_i / Σ n_i, or the adaptive step that leads there."""
        del k
        if node.codec is None:
            mean = await weighted_mean(node, answers, "half")
        else:
            mean = await node.compute(
                np.add, node.params, await weighted_mean(node, answers, "delta")
            )
        if self.server is not None:
            mean = await node.compute(self.server.step, node.params, mean)
        return mean

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the hub's m and v, and e."""
        own = {} if self.server is None else self.server.state()
        arrays, facts = self.feedback.state()
        return {**own, **arrays}, {"form": self.form, **facts}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the e of an earlier life, and with m and v if that was of the same form."""
        self.feedback.restore(arrays, facts)
        if self.server is not None and facts.get("form") == self.form:
            self.server.restore(arrays)


@lru_cache(maxsize=8)
def selected(ids: tuple[str, ...], fraction: float, seed: int, k: int) -> tuple[str, ...]:
    """Return ⌊fraction·n + ½⌋ of ``ids``, at least one, in their order: those of round ``k``.

    >>> selected(("a", "b", "c", "d"), 0.5, 0, 0), selected(("a", "b", "c", "d"), 0.5, 0, 1)
    (('a', 'c'), ('b', 'd'))
    """
    n = len(ids)
    size = max(1, int(fraction * n + 0.5))
    if size == n:
        return ids
    drawn = np.random.default_rng([seed, k]).choice(n, size, replace=False)
    return tuple(ids[i] for i in sorted(drawn))


async def weighted_mean(node: NodeInterface, answers: Mapping[str, Work], role: str) -> Vector:
    """Return Σ_i n_i v_i / Σ_i n_i of the parts of ``role``, added up in the order given."""
    n = sum(work.samples for work in answers.values())
    x = node.params
    mean = np.zeros(x.shape, np.result_type(np.float32, x))
    for work in answers.values():
        await node.compute(add_scaled, mean, work.parts[role], work.samples / n)
    found: Vector = await node.compute(narrowed, mean, x)
    return found


def descend_near(x: Vector, g: Vector, eta: float, anchor: Vector, mu: float) -> Vector:
    """Return x − η(g + μ(x − anchor))."""
    step = np.subtract(x, anchor)
    step *= mu
    step += g
    step *= eta
    return np.subtract(x, step, out=step)
