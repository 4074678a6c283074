"""Rounds under a hub: one node has the model, the others are its clients.

Round k, with x^k the hub's model at its beginning::

    hub → all           x^k
    client i ∈ S_k      trains from x^k, answers with what came of it and its number of samples
    hub                 aggregates what came within the deadline: x^{k+1}

The hub is a client as well, with its own samples. Clients do not touch x^k: between two messages
of the hub their params are its model, so that any node serves it. The topology is not used.

A dead client is missing, no more. A client that misses the hub's model says its answer again, a
deadline later, and whoever answers an old round is sent the present model. While the hub is gone
clients wait: they ask whether it listens, go on when it is back, and end when they are stopped.
Where it is gone because it has finished, they end with what they have. A hub that comes back from
an old checkpoint is told so: clients that are further greet it with their params, which are the
model of that later round, and it goes on from there.

Invariant: a client's params are a model of the hub, of the round that it is in.

Memory: at the hub one vector a role for each answer, since they are added up in the order of the
peer list, not of arrival: the same answers give the same model.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gossipnode.algorithms.all_reduce import hub_of
from gossipnode.algorithms.base import Algorithm, Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.lockstep import CLOCK_S, PROBE_EVERY_S, LockstepOptions
from gossipnode.algorithms.mailbox import ANY_LEAD, Mailbox
from gossipnode.config import Needs, option
from gossipnode.errors import PeerError

# The phases of a round.
MODEL, ANSWER = 0, 1
# Of an answer that is none, but a greeting: its first part is the sender's params.
NO_SAMPLES = 0


@dataclass(slots=True)
class Work:
    """What a client made of the hub's model: parts, how many samples it has, and more numbers."""

    parts: Mapping[str, Vector]
    samples: int
    numbers: Mapping[str, float] = field(default_factory=dict)


class HubOptions(LockstepOptions):
    """Who the hub is."""

    default_graph = "star"

    hub: str = option(
        "",
        "The node that has the model. Empty: the first of the peer list. The graph is not used: "
        "all talk to the hub, whatever it is.",
    )

    def needs(self) -> Needs:
        """Return that a peer list is needed, and no W."""
        return Needs()

    def round_s_max(self, training_s: float) -> float:
        """Return that there is no limit: without the hub, clients wait."""
        del training_s
        return math.inf


class HubAlgorithm(Algorithm):
    """A swarm whose model one node has. ``down`` and ``up`` are the roles of its two messages."""

    needs_graph = True
    talks_to_all = True
    down: frozenset[str] = frozenset({"x"})
    up: tuple[str, ...] = ("half",)

    def __init__(self, options: HubOptions, local_steps: int) -> None:
        self.tau, self.hub, self.deadline_s = local_steps, options.hub, options.deadline_s
        self.mailbox = Mailbox(options)
        self.roles = self.down | {*self.up}
        self.bundles = (self.down, frozenset(self.up))
        # The hub's: the round of the model that was sent to all last; a later model, if one came.
        self.sent = -1
        self.later: Arrival | None = None
        # A client's: the model that has come, the life of the hub it is of, and the round of the
        # last one that was taken; the answer to that.
        self.offer: Arrival | None = None
        self.news = asyncio.Event()
        self.life, self.held = -1, -1
        self.work: Work | None = None

    @abstractmethod
    async def local(self, node: NodeInterface, k: int) -> Work | None:
        """Return what came of x^k, the params; None where this node is not asked in round k."""

    @abstractmethod
    async def aggregate(self, node: NodeInterface, k: int, answers: Mapping[str, Work]) -> Vector:
        """Return x^{k+1}, from the answers (at least one) in the order of the peer list."""

    def asked(self, node: NodeInterface, k: int) -> Collection[str]:
        """Return who is to answer in round ``k``, in order of the peer list."""
        del k
        return node.ids

    def model(self, node: NodeInterface) -> Mapping[str, Vector]:
        """Return the parts of the hub's message."""
        return {"x": node.params}

    def told(self, peer: str) -> Mapping[str, float] | None:
        """Return what the hub tells ``peer`` besides; None where all are told the same: nothing."""
        del peer
        return None

    def taken(self, node: NodeInterface, arrival: Arrival) -> None:
        """Notice what came with a model that this client is about to take."""

    async def run(self, node: NodeInterface) -> None:
        """Be the hub or a client until the budget is used up."""
        await (self.serve(node) if node.id == hub_of(node, self.hub) else self.attend(node))

    # -- the hub ----------------------------------------------------------------------------------

    async def serve(self, node: NodeInterface) -> None:
        """Send the model to all, round by round, and make a new one of the answers."""
        self.send_model(node, node.ids)
        while node.budget_left:
            began, k = node.time(), node.round
            answers = await self.collect(node, k)
            if self.later is None:
                if answers:
                    x = node.params
                    after = await self.aggregate(node, k, answers)
                    self.sent = -1  # no more x^k, and not yet x^{k+1}
                    await node.commit(after=after, before=x, steps=self.tau)
                await node.end_round()
            else:
                await self.catch_up(node, self.later)
            self.send_model(node, node.ids)
            # Rounds with nobody would follow one another without giving way.
            if len(answers) < 2:
                await node.sleep(PROBE_EVERY_S if node.time() - began < CLOCK_S else 0.0)

    async def collect(self, node: NodeInterface, k: int) -> dict[str, Work]:
        """Return the answers of round ``k``, this node's own included."""
        own = await self.local(node, k)
        asked = self.asked(node, k)
        others = [j for j in asked if j != node.id]
        came = await self.mailbox.take(node, (k, ANSWER), others, lead=ANY_LEAD)
        answers = {j: work_of(arrival) for j, arrival in came.items()}
        if own is not None:
            answers[node.id] = own
        return {j: answers[j] for j in asked if j in answers}

    def send_model(self, node: NodeInterface, peers: Collection[str]) -> None:
        """Send the model of this round to ``peers``."""
        self.sent, parts = node.round, self.model(node)
        others = [j for j in peers if j != node.id]
        if self.told(node.id) is None:
            node.push(others, parts, phase=MODEL)
            return
        for j in others:
            node.push([j], parts, scalars=self.told(j), phase=MODEL)

    async def catch_up(self, node: NodeInterface, later: Arrival) -> None:
        """Go on from the model of a later round, which a client still had."""
        self.later = None
        if later.round > node.round:
            node.skip_to(later.round)
            self.mailbox.skip(node, (later.round, 0))
            await node.adopt(later.parts[self.up[0]], later.age)
            self.lag(node)

    def lag(self, node: NodeInterface) -> None:
        """Notice that this node, the hub, has forgotten some rounds."""

    def hear(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Be the hub's passive side."""
        self.check(arrival, ANSWER, frozenset(self.up))
        k, greets = arrival.round, arrival.scalars.get("samples", NO_SAMPLES) == NO_SAMPLES
        if k > node.round:
            if greets and (self.later is None or self.later.round < k):
                self.later = arrival
                self.mailbox.interrupt()
            return Answer(Outcome.BUFFERED if greets else Outcome.DROPPED)
        if (k < node.round or greets) and self.sent == node.round:
            self.send_model(node, [arrival.sender])
        return Answer(Outcome.DROPPED) if greets else self.answered(node, arrival)

    def answered(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Take a client's answer to the model of this round or an earlier one."""
        return self.mailbox.put(node, arrival)

    # -- a client ---------------------------------------------------------------------------------

    async def attend(self, node: NodeInterface) -> None:
        """Wait for the hub's model, work on it, answer; again and again."""
        if node.round:
            self.say(node)  # the hub need not wait for a deadline to know that this node is back
        while node.budget_left:
            offer = await self.next_offer(node)
            if offer is None:
                return
            await self.take(node, offer)
            self.work = None
            if node.budget_left:
                self.work = await self.local(node, node.round)
            if self.work is not None:
                self.say(node)

    async def next_offer(self, node: NodeInterface) -> Arrival | None:
        """Wait for a model of the hub; None where none will come."""
        hub, since, tries = hub_of(node, self.hub), node.time(), 0
        while self.offer is None and not node.stopping:
            left = since + self.deadline_s - node.time()
            if left < CLOCK_S:
                if self.is_over(node, hub, tries):
                    return None
                tries += 1
                node.count("missing_models")
                self.say(node)
                since = node.time()
                continue
            if not await node.wait(self.news, min(PROBE_EVERY_S, left)):
                node.probe([hub])
        offer, self.offer = self.offer, None
        self.news.clear()
        return None if node.stopping else offer

    def is_over(self, node: NodeInterface, hub: str, tries: int) -> bool:
        """Whether the hub has finished, and did not hear or answer that this node missed that."""
        if not node.rounds or not tries:
            return False
        is_gone = not node.is_expected(hub) and node.round + 1 >= node.rounds
        return is_gone or node.peer_round(hub) >= node.rounds

    async def take(self, node: NodeInterface, offer: Arrival) -> None:
        """Set the params to the hub's model, and be in its round."""
        k = offer.round
        self.held = k
        self.taken(node, offer)
        if node.round < k - 1:
            node.skip_to(k - 1)
        await node.adopt(offer.parts["x"], offer.age)
        if node.round < k:
            await node.end_round()

    def say(self, node: NodeInterface) -> None:
        """Send the hub the answer or, without one, a greeting."""
        work = self.work or Work(dict.fromkeys(self.up, node.params), NO_SAMPLES)
        told = {"samples": work.samples, **work.numbers}
        node.push([hub_of(node, self.hub)], work.parts, scalars=told, phase=ANSWER)

    def look(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Be a client's passive side."""
        self.check(arrival, MODEL, self.down)
        if arrival.sender != hub_of(node, self.hub):
            raise PeerError("not_a_neighbour", f"the hub here is {hub_of(node, self.hub)}")
        k, is_new_life = arrival.round, arrival.order[0] > self.life
        if k < node.round or (k == self.held and not is_new_life):
            if is_new_life:  # it has gone back to an old checkpoint
                self.life, self.work = arrival.order[0], None
                self.say(node)
            return Answer(Outcome.DROPPED)
        self.life = max(self.life, arrival.order[0])
        if self.offer is None or arrival.order > self.offer.order:
            self.offer = arrival
            self.news.set()
        return Answer(Outcome.BUFFERED)

    # -- both -------------------------------------------------------------------------------------

    def check(self, arrival: Arrival, phase: int, roles: frozenset[str]) -> None:
        """Raise ``PeerError`` for what only the other half takes."""
        if arrival.phase != phase or arrival.parts.keys() != roles:
            raise PeerError("unsupported_message", "hub and clients differ in who the hub is")

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Be the passive side of the hub, or of a client."""
        is_hub = node.id == hub_of(node, self.hub)
        return self.hear(node, arrival) if is_hub else self.look(node, arrival)

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """Look whether anybody is left to wait for."""
        del peer
        self.mailbox.recheck(node)


def work_of(arrival: Arrival) -> Work:
    """Return the work that an answer tells of."""
    return Work(arrival.parts, int(arrival.scalars["samples"]), arrival.scalars)
