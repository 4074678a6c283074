"""CHOCO-SGD: differences to a model that all neighbours hold, made as small as any codec can.

Round k on node i, C the codec of ``[codec]``, N_i the neighbours::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i                                    train
    q_i       = C(x_i^{k+½} − x̂_i^k)                                     send to all j ∈ N_i
    x̂_j^{k+1} = x̂_j^k + q_j                                              j = i and each j ∈ N_i
    x_i^{k+1} = x_i^{k+½} + Σ_j γ_ij w_ij (x̂_j^{k+1} − x̂_i^{k+1})        mix

All holders of x̂_j have the same bits, j itself too, which decodes what it has encoded. What C left
out stays in x_i − x̂_i and is sent later, so nothing is lost for good, and at rest x̂ = x.

γ_ij is the smaller of γ_i and γ_j, which go along with each q: γ_ij w_ij is symmetric, so mixing
leaves x̄ where it is, although each node has a γ, and a codec, of its own. Where none is given,
γ_i = c/(2 − c), c = cos²(v, C(v)) as measured on noise or, if C keeps more of them, on the node's
own differences v of late. Without a codec γ = 1, and this is D-PSGD.

A q_j that is lost leaves the copy of x̂_j behind, which shows in the next one: it starts from
another version. That is refused, and j sends x̂_j whole to this neighbour; so does a node that goes
on from a checkpoint, to all. Where no q_j comes in time, x̂_j as it was serves in the round's mix,
for a few rounds; x̄ then moves by γ_ij w_ij q_j/n, nothing at rest. Later the weight stays with x_i.

x̂^0 is x^0 between neighbours that have the same bits of it, which a mark of them shows: else codecs
that send a hundredth would be busy for hundreds of rounds with what all know.

Letters: x params, x̂ what the neighbours hold of it, q difference, W mixing matrix (symmetric), γ
consensus step, c how much of a vector the codec keeps, τ local steps. Memory: x̂_i, and x̂_j of each
neighbour: one sum Σ w_ij x̂_j would do if γ were the same everywhere and nothing were ever lost.

*Source*: Koloskova, Stich, Jaggi, ICML 2019 (arXiv 1902.00340), algorithm 2 with x̂^0 = 0.
*Differs from the source*: γ an edge and measured; deadlines, resync; x̂^0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import (
    Answer,
    Arrival,
    NodeInterface,
    Outcome,
    Vector,
)
from gossipnode.algorithms.choco_copies import BEHIND, GAMMA, START, Copies, add, checked
from gossipnode.algorithms.choco_pace import Pace, check_pace
from gossipnode.algorithms.choco_quality import Quality, encoded, isotropic_alignment, kind_of
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.mailbox_rounds import MailboxRounds
from gossipnode.algorithms.vectors import narrowed, widened
from gossipnode.errors import PeerError
from gossipnode.options import Facts, Needs, option

# Rounds for which a copy serves in place of what does not come. On Q16 with a tenth of the messages
# lost, where suspects are tried again after many rounds, ‖x̄ − x*‖ is 0.15 with none, 0.12 with 16
# and 0.098 with 64; but as long the others are drawn to the last model of a node that is gone.
SERVES = 16


class ChocoOptions(LockstepOptions):
    """CHOCO-SGD: D-PSGD by compressed differences."""

    codecs = frozenset(
        {"topk", "randomk", "sign", "qsgd", "uniform", "float16", "bfloat16", "lowrank"}
    )
    adapts_bits = True
    facts = (
        Facts(
            "",
            "D-PSGD with any codec: compressed differences, so that nothing is left out for good",
            "1, less by the codec",
            "the last x̂ serves",
            steady="like dpsgd",
        ),
    )

    name: Literal["choco"] = "choco"
    gamma: float = option(
        0.0,
        "γ, the consensus step: how far a round goes towards the neighbours. 0: measured, by how "
        "much the codec leaves out.",
        flag="--gamma",
        ge=0,
        le=1,
    )

    def unsound_without_feedback(self, codec: str) -> str:
        """Tell that feedback is what this is, and that unbiased codecs are wrong for it."""
        del codec
        return (
            "it sends what was left out with the next difference anyway, and of a codec that is "
            "stretched to be right on average copies would run away; leave it true, or choose "
            "federated or fedbuff with qsgd, randomk or uniform"
        )

    def needs(self) -> Needs:
        """Return that W must stay and be symmetric, so that it is doubly stochastic."""
        return Needs(weights="doubly", symmetric=True, static=True)


class Choco(MailboxRounds):
    """SGD with compressed gossip by CHOCO."""

    Options = ChocoOptions
    name = "choco"
    roles = frozenset({"q", "x"})
    bundles = (frozenset({"q"}), frozenset({"x"}))  # a difference, or x̂ whole
    coded = frozenset({"q"})

    def __init__(self, options: ChocoOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau, self.given = local_steps, options.gamma
        self.copies, self.quality, self.pace = Copies(), Quality(), Pace()
        self.tells: dict[str, float] = {}  # besides γ, with this version
        self.hat: Vector | None = None  # x̂_i after so many differences, the last of round ``of``
        self.version, self.of = 0, -1
        self.gamma = 1.0  # γ_i, as was told with this version
        self.goes_on = False  # whether the neighbours are yet to hear what a checkpoint held
        self.whole: dict[str, int] = {}  # neighbour -> version of the last x̂_i sent whole
        self.lock = asyncio.Lock()  # adding may leave the loop: one message at a time

    def begin(self, node: NodeInterface) -> None:
        """Begin with the params."""
        self.begin_at(node.params)

    def begin_at(self, x: Vector) -> None:
        """Let x̂_i be ``x``, unless this life goes on where an earlier one was."""
        if self.hat is None:
            self.hat = x
            self.copies.begin_at(x)

    def resume(self, node: NodeInterface) -> None:
        """Forget the copies of those that are no neighbours any more."""
        self.copies.forget_all_but(self.neighbours(node))

    async def step(self, node: NodeInterface, k: int, neighbours: Sequence[str]) -> None:
        """Train, send the difference, and mix what the neighbours hold with what is held here."""
        began = node.time()
        await node.train(self.tau)
        self.pace.note(node.time() - began)
        half = node.params
        hat = await self.send(node, k, half, neighbours)  # x̂_i
        came = await self.mailbox.take(node, (k, 0), neighbours)
        self.copies.start = None  # who has not been heard of by now sends its x̂ whole
        self.alone = not came
        held = {j: (a.scalars[GAMMA], a.parts["x"]) for j, a in came.items()}
        for j in neighbours:
            copy = self.copies.of.get(j)
            if copy is not None and j not in held and copy.round >= k - SERVES:
                held[j] = copy.gamma, copy.x
        w = node.row.weights
        terms = [(min(self.gamma, gamma) * w[j], x) for j, (gamma, x) in held.items()]
        if terms:
            after = await node.compute(_mix, half, hat, terms)
            await node.commit(after=after, before=half)

    async def send(
        self, node: NodeInterface, k: int, half: Vector, neighbours: Sequence[str]
    ) -> Vector:
        """Send what brings x̂_i nearer to ``half``, and return x̂_i then."""
        codec, hat, base = node.codec, self.hat, self.version
        assert hat is not None, "begun"
        self.tells = self.pace.adapt(node, neighbours)
        await self.judge(node, half)
        draws = codec is not None and codec.draws
        seed = int(node.rng.integers(2**64, dtype=np.uint64)) if draws else 0
        q, after, kept = await node.compute(encoded, half, hat, codec, seed, node.tensors)
        self.quality.note(kept)
        self.hat, self.version, self.of = after, base + 1, k
        self.gamma = self.given or self.quality.gamma
        if self.goes_on:
            self.goes_on = False
            self.send_whole(node, neighbours)
        elif neighbours:
            start = {} if base else {START: self.copies.mark}
            scalars = {GAMMA: self.gamma, **self.tells, **start}
            node.push(neighbours, {"q": q}, scalars=scalars, version=base + 1, base_version=base)
        return self.hat

    async def judge(self, node: NodeInterface, x: Vector) -> None:
        """Find out what the codec keeps of noise, where it is new or has changed its bits."""
        codec = node.codec
        if codec is None or self.given or self.quality.kind == kind_of(codec):
            return
        found = await node.compute(isotropic_alignment, x, codec, node.tensors)
        self.quality.begin_anew(kind_of(codec), found)

    def send_whole(self, node: NodeInterface, peers: Iterable[str]) -> None:
        """Send x̂_i as it is; differences that follow start from it."""
        assert self.hat is not None, "begun"
        scalars = {GAMMA: self.gamma, BEHIND: node.round - self.of, **self.tells}
        peers = [j for j in peers if self.whole.get(j) != self.version]  # else it is on its way
        if peers:
            node.push(peers, {"x": self.hat}, scalars=scalars, version=self.version)
            node.count("resyncs", len(peers))
            self.whole.update(dict.fromkeys(peers, self.version))

    def refused(self, node: NodeInterface, peer: str, code: str) -> None:
        """Send x̂_i whole to a neighbour whose copy a difference does not fit."""
        if code == "missing_base":
            self.send_whole(node, [peer])

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Bring the copy of the sender's x̂ up to date, and keep it for its round."""
        behind = checked(arrival)
        check_pace(arrival)
        self.begin_at(node.params)  # a neighbour may be quicker than ``begin``
        async with self.lock:
            x = await self.held_by(node, arrival)
            if x is None:
                return Answer(Outcome.DUPLICATE)
            arrival.parts, arrival.round = {"x": x}, arrival.round - behind
            answer = self.mailbox.put(node, arrival)
            self.copies.keep(arrival, x)
            self.pace.hear(arrival)
        # Too late for its round, but not for the copy.
        return Answer(Outcome.LATE) if answer.outcome is Outcome.DROPPED else answer

    async def held_by(self, node: NodeInterface, arrival: Arrival) -> Vector | None:
        """Return x̂_j as the sender has it; None where it is older than the copy."""
        if "x" in arrival.parts:
            return arrival.parts["x"] if self.copies.is_news(arrival) else None
        q, base = arrival.parts["q"], self.copies.base(arrival, arrival.scalars.get(START))
        if not await node.compute(add, q, base):
            raise PeerError("not_finite", "with this difference x̂ would not be finite")
        return q

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return x̂_i, the copies, and what was measured."""
        arrays, copies = self.copies.state()
        if self.hat is not None:
            arrays["hat"] = self.hat
        facts = {"version": self.version, "copies": copies, "quality": self.quality.state()}
        return arrays, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the x̂ of an earlier life; what the neighbours hold of it is not known."""
        self.hat, self.version = arrays.get("hat"), facts.get("version", 0)
        self.copies.restore(arrays, facts.get("copies", {}))
        if "quality" in facts:
            self.quality.restore(facts["quality"])
        self.goes_on = self.hat is not None


def _mix(half: Vector, hat: Vector, terms: Sequence[tuple[float, Vector]]) -> Vector:
    """Return half + Σ c_j (x̂_j − hat) over (c_j, x̂_j) in ``terms``.

    One difference after another: both ends of an edge then add the same numbers but for the sign.
    """
    found = widened(half)
    for c, x in terms:
        step = np.subtract(x, hat, dtype=found.dtype)
        step *= c
        found += step
    return narrowed(found, half)
