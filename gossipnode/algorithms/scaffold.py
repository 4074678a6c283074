"""SCAFFOLD: federated learning whose clients know where they drift, and correct it.

Round k, on client i of S_k, from the hub's x and c::

    y ← x, then τ times y ← y − η (g_i(y) − c_i + c)
    c_i⁺ = c_i − c + (x − y)/(τη)                               answers y − x and c_i⁺ − c_i

and on the hub, with what came, S::

    x ← x + η_g (1/|S|) Σ_{i ∈ S} (y_i − x)
    c ← c + (1/n) Σ_{i ∈ S} (c_i⁺ − c_i)

With full gradients x comes to rest at the optimum whatever τ is, and c_i at ∇f_i there. That needs
c = (1/n) Σ_i c_i, always; so a client takes its c_i⁺ only when the hub says that it has counted it:
each model tells its receiver the last answer that was taken from it, by round and life of the
client. Each answer tells of which answer its c_i is. Where the two differ, one of them has come
back from an old checkpoint: then all c are set to zero, in a new *era* whose number goes with each
message. So they are where the hub begins with other members, for its c is the mean of other c_i.

Letters: x the hub's params, y a client's, c and c_i control variates, g gradient on the node's next
batch, η step size, η_g that of the hub, τ local steps. Two vectors each way.

*Source*: Karimireddy et al., ICML 2020 (arXiv 1910.06378), option II.
*Differs from the source*: where η changes meanwhile, τη is the sum over the local steps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.all_reduce import hub_of
from gossipnode.algorithms.base import Arrival, NodeInterface, Vector
from gossipnode.algorithms.federated import LOSS, ClientOptions, selected
from gossipnode.algorithms.feedback import NEVER, Mark, mark_of
from gossipnode.algorithms.hub import HubAlgorithm
from gossipnode.algorithms.hub_clients import Work
from gossipnode.algorithms.members import are_others, members_of
from gossipnode.algorithms.vectors import narrowed, renew, widened
from gossipnode.learning.params import add_scaled
from gossipnode.options import Facts, option


class ScaffoldOptions(ClientOptions):
    """SCAFFOLD: federated learning without the clients' drift, for twice the bytes."""

    facts = (
        Facts(
            "",
            "one model, by a hub, no bias from uneven data",
            "2 from each asked, 2 to each",
            LOSS + "; c is kept exactly",
            steady="none",
        ),
    )

    name: Literal["scaffold"] = "scaffold"
    server_rate: float = option(1.0, "η_g: how far the hub goes.", gt=0.0, le=1e3)

    def unsound(self, codec: str) -> str:
        """Tell that c has to be told as it is."""
        del codec
        return (
            "its clients and the hub keep c = Σ c_i/n exactly, and the change of c_i that a codec "
            "leaves out would be in the one and not in the other; choose federated or fedbuff, "
            "which send differences alone"
        )


class Scaffold(HubAlgorithm):
    """SCAFFOLD, option II."""

    Options = ScaffoldOptions
    name = "scaffold"
    down = frozenset({"x", "c"})
    up = ("delta", "c")
    tells = frozenset({"life", "renewed", "renewed_life", "era"})

    def __init__(self, options: ScaffoldOptions, local_steps: int) -> None:
        super().__init__(options, local_steps)
        self.fraction, self.seed = options.fraction, options.selection_seed
        self.eta_g = options.server_rate
        self.c: Vector | None = None  # the hub's; None: all zero
        self.own: Vector | None = None  # c_i
        self.renewed, self.era = NEVER, -1  # the answer that c_i is of
        self.pending: tuple[Mark, Vector] | None = None  # c_i⁺, and the answer that told of it
        self.counted: dict[str, Mark] = {}  # the hub's: the last answer counted, of each client
        self.members = ""  # of whose c_i c is the mean

    def begin(self, node: NodeInterface) -> None:
        """Begin anew where an earlier life's c is of other members."""
        if are_others(self.members, node.ids) and node.id == hub_of(node, self.hub):
            self.begin_era(node, node.round)
        self.members = members_of(node.ids)

    def asked(self, node: NodeInterface, k: int) -> Collection[str]:
        """Return S_k."""
        return selected(node.ids, self.fraction, self.seed, k)

    async def local(self, node: NodeInterface, k: int) -> Work | None:
        """Return y − x and c_i⁺ − c_i."""
        if node.id not in self.asked(node, k) or not self.tau:
            return None
        x = y = node.params
        c = np.zeros_like(x) if self.c is None else self.c
        own = np.zeros_like(x) if self.own is None else self.own
        total = 0.0
        for _ in range(self.tau):
            g, eta = await node.gradient(y)
            y = await node.compute(_corrected, y, g, eta, own, c)
            total += eta
        change = await node.compute(_change, x, y, total, c)
        self.pending = (k, node.epoch), await node.compute(np.add, own, change)
        k_i, life_i = self.renewed
        facts = {"life": node.epoch, "renewed": k_i, "renewed_life": life_i, "era": self.era}
        delta = await node.compute(np.subtract, y, x)
        return Work({"delta": delta, "c": change}, node.samples, facts)

    async def aggregate(self, node: NodeInterface, k: int, answers: Mapping[str, Work]) -> Vector:
        """Return x + η_g·mean(y − x), and move c by the answers' share of n."""
        old = node.params
        x: Vector = await node.compute(widened, old)
        c = np.zeros_like(x) if self.c is None else await node.compute(widened, self.c)
        for work in answers.values():
            await node.compute(add_scaled, x, work.parts["delta"], self.eta_g / len(answers))
            await node.compute(add_scaled, c, work.parts["c"], 1 / node.nodes)
        x = await node.compute(narrowed, x, old)
        if any(not self.agrees(j, work) for j, work in answers.items()):
            self.begin_era(node, k)
            return x
        self.c = await node.compute(narrowed, c, old)
        self.counted |= {j: (k, int(work.numbers.get("life", 0))) for j, work in answers.items()}
        if node.id in answers:
            self.confirm((k, node.epoch))
        return x

    def agrees(self, j: str, work: Work) -> bool:
        """Whether client ``j`` renewed its c_i when the hub counted it, and never else."""
        told = work.numbers
        renewed = told.get("renewed"), told.get("renewed_life")
        return told.get("era") == self.era and renewed == self.counted.get(j, NEVER)

    def begin_era(self, node: NodeInterface, k: int) -> None:
        """Set all c to zero; the clients follow when they hear of it."""
        self.forget(max(k, self.era) + 1)
        self.counted = {}
        node.count("restarts")

    def forget(self, era: int) -> None:
        """Set c and c_i to zero."""
        self.era, self.renewed = era, NEVER
        self.c = self.own = self.pending = None

    def confirm(self, counted: Mark) -> None:
        """Take c_i⁺ for c_i, if the answer that told of it is the one that was counted."""
        if self.pending is not None and self.pending[0] == counted:
            self.renewed, self.own = self.pending
        self.pending = None

    def model(self, node: NodeInterface) -> Mapping[str, Vector]:
        """Return x and c."""
        return {"x": node.params, "c": np.zeros_like(node.params) if self.c is None else self.c}

    def told(self, node: NodeInterface, peer: str) -> Mapping[str, float] | None:
        """Return the last answer of ``peer`` that was counted, and the era."""
        del node
        k, life = self.counted.get(peer, NEVER)
        return {"counted": k, "counted_life": life, "era": self.era}

    def taken(self, node: NodeInterface, arrival: Arrival) -> None:
        """Take c, and c_i⁺ if it was counted."""
        del node
        told = arrival.scalars
        era = int(told.get("era", -1))
        if era != self.era:
            self.forget(era)
        self.confirm((int(told.get("counted", -1)), int(told.get("counted_life", 0))))
        self.c = arrival.parts["c"]

    def lag(self, node: NodeInterface) -> None:
        """Begin anew: rounds were forgotten, and with them what c was then."""
        self.begin_era(node, node.round)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return c, c_i and what was counted."""
        mark, pending = self.pending or (NEVER, None)
        arrays = {"c": self.c, "own": self.own, "pending": pending}
        facts = {"renewed": self.renewed, "pending": mark, "era": self.era, "counted": self.counted}
        facts["members"] = self.members
        return {name: array for name, array in arrays.items() if array is not None}, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the c of an earlier life."""
        self.c, self.own = arrays.get("c"), arrays.get("own")
        self.renewed, self.era = mark_of(facts["renewed"]), facts["era"]
        self.counted = {j: mark_of(found) for j, found in facts["counted"].items()}
        self.members = facts.get("members", "")
        if "pending" in arrays:
            self.pending = mark_of(facts["pending"]), arrays["pending"]


def _corrected(y: Vector, g: Vector, eta: float, own: Vector, c: Vector) -> Vector:
    """Return y − η(g − c_i + c)."""
    step = renew(g, c, own)
    step *= eta
    return np.subtract(y, step, out=step)


def _change(x: Vector, y: Vector, total: float, c: Vector) -> Vector:
    """Return c_i⁺ − c_i = (x − y)/(τη) − c; zero where no step had any length."""
    if not total:
        return np.zeros_like(x)
    found = np.subtract(x, y)
    found /= total
    found -= c
    return found
