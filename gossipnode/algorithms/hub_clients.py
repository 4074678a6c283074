"""A client of a hub: takes the hub's model, works on it, answers.

Round k, for a client that is asked, x^k the hub's model::

    wait for x^k, and take it in place of the params
    train from a copy, and answer with what came of it

With a codec the answer is C(x_i − x^k + e), by error feedback (``feedback``), and the hub's model
comes as it is.

What a client does where the hub is silent, gone, or set back: see ``hub``.

Invariant: the params are a model of the hub, of the round that this client is in.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from gossipnode.algorithms.all_reduce import hub_of
from gossipnode.algorithms.base import (
    Algorithm,
    Answer,
    Arrival,
    NodeInterface,
    Outcome,
    Sent,
    Vector,
)
from gossipnode.algorithms.feedback import AnswerFeedback
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.waiting import CLOCK_S, PROBE_EVERY_S
from gossipnode.errors import PeerError
from gossipnode.logs import event
from gossipnode.options import Needs, option

log = logging.getLogger("gossipnode.algorithms")

# The phases of a round.
MODEL, ANSWER = 0, 1
# A client asks for a lost model once a deadline. Where three of ten such tries are in vain, so many
# are in one round of 170,000.
LOST_MAX = 10
# Of an answer that is none, but a greeting: its first part is the sender's params.
NO_SAMPLES = 0
# Scalars of either half that are rounds and lives: they are kept, and told again as integers.
MARKS = frozenset({"life", "renewed", "renewed_life", "era", "counted", "counted_life"})
MARK_MAX = 2**63


@dataclass(slots=True)
class Work:
    """What a client made of the hub's model: parts, how many samples it has, and more numbers.

    ``sender`` is the client, where it is not the node itself, and ``life`` that of its lives in
    which it answered. ``coded`` is how the parts are sent, if not as they are.
    """

    parts: Mapping[str, Vector]
    samples: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    sender: str = ""
    life: int = 0
    coded: Mapping[str, Sent] | None = None


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
        return Needs(ignores_graph=True)

    def round_s_max(self, training_s: float) -> float:
        """Return training, the hub's wait, and a client's for a model that is lost again and again.

        That is with a hub; without one clients wait.
        """
        return super().round_s_max(training_s) + LOST_MAX * self.deadline_s


class Client(Algorithm):
    """The half of ``HubAlgorithm`` that all nodes have but one.

    ``down`` and ``up`` are the roles of the hub's message and of the answer, ``coded_up`` those of
    the answer where a codec makes it smaller, ``tells`` the numbers that an answer must have.
    """

    needs_graph = True
    talks_to_all = True
    down: frozenset[str] = frozenset({"x"})
    up: tuple[str, ...] = ("half",)
    coded_up: tuple[str, ...] = ()
    tells: frozenset[str] = frozenset()

    def __init__(self, options: HubOptions, local_steps: int) -> None:
        self.tau, self.hub, self.deadline_s = local_steps, options.hub, options.deadline_s
        self.roles = self.down | {*self.up} | {*self.coded_up}
        answers = (frozenset(up) for up in (self.up, self.coded_up) if up)
        self.bundles = (self.down, *dict.fromkeys(answers))
        self.feedback = AnswerFeedback()
        # The model that has come; the round of the one that was taken last, and the life of the
        # hub that it is of; the answer to it.
        self.offer: Arrival | None = None
        self.news = asyncio.Event()
        self.life, self.held = -1, -1
        self.work: Work | None = None
        self.bereft = False  # whether it was logged that the hub is gone

    @abstractmethod
    async def local(self, node: NodeInterface, k: int) -> Work | None:
        """Return what came of x^k, the params; None where this node is not asked in round k."""

    def taken(self, node: NodeInterface, arrival: Arrival) -> None:
        """Notice what came with a model that this client is about to take."""
        if node.codec is not None:
            self.feedback.hear(arrival.scalars)

    def up_of(self, node: NodeInterface) -> tuple[str, ...]:
        """Return the roles of an answer here."""
        return self.up if node.codec is None else self.coded_up or self.up

    async def compressed(self, node: NodeInterface, k: int, delta: Vector) -> Work:
        """Return the answer to round ``k`` that says ``delta``, made smaller by the codec."""
        made = await self.feedback.answer(node, k, delta)
        (role,) = self.coded_up
        return Work({role: made.decoded}, node.samples, coded={role: made.coded})

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
                # What was trained has gone to the hub: a checkpoint of now is whole.
                await node.adopt(node.params, node.age)

    async def next_offer(self, node: NodeInterface) -> Arrival | None:
        """Wait for a model of the hub; None where none will come."""
        hub, since, tries = hub_of(node, self.hub), node.time(), 0
        while self.offer is None and not node.stopping:
            left = since + self.deadline_s - node.time()
            if left < CLOCK_S:
                if self.is_over(node, hub, tries):
                    break
                tries += 1
                node.count("missing_models")
                self.say(node)
                since = node.time()
                continue
            if not await node.wait(self.news, min(PROBE_EVERY_S, left)):
                node.probe([hub])
                node.tell(self.lacks(node, hub))
            self.watch(node, hub)
        self.watch(node, hub)
        node.tell("")
        offer, self.offer = self.offer, None
        self.news.clear()
        return None if node.stopping else offer

    def lacks(self, node: NodeInterface, hub: str) -> str:
        """Return what a client waits for that has no model of ``hub``."""
        if not node.is_expected(hub):
            return f"waiting for the hub {hub}, which does not answer: start it again"
        if node.is_unknown(hub):
            return f"waiting for the hub {hub}, not heard of yet: is it running?"
        return f"waiting for the hub {hub}: round {node.round}"

    def watch(self, node: NodeInterface, hub: str) -> None:
        """Log, once each, that ``hub`` is gone and that it is back."""
        gone = not node.is_expected(hub)
        if gone == self.bereft:
            return
        self.bereft = gone
        if gone:
            event(log, logging.WARNING, "hub.lost", id=node.id, hub=hub, hint="start it again")
        else:
            event(log, logging.INFO, "hub.back", id=node.id, hub=hub)

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
        work = self.work or Work(dict.fromkeys(self.up_of(node), node.params), NO_SAMPLES)
        told, parts = {"samples": work.samples, **work.numbers}, work.coded or work.parts
        node.push([hub_of(node, self.hub)], parts, scalars=told, phase=ANSWER)

    def look(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Be a client's passive side."""
        self.check(arrival, MODEL, self.down)
        if arrival.sender != hub_of(node, self.hub):
            raise PeerError("not_a_neighbour", f"the hub here is {hub_of(node, self.hub)}")
        k, is_new_life = arrival.round, arrival.order[0] > self.life
        if k < node.round or (k == self.held and not is_new_life):
            if is_new_life:  # it has gone back to an old checkpoint
                # Its model of this node's round is to be worked on anew: the answer is lost.
                self.life, self.held, self.work = arrival.order[0], -1, None
                self.say(node)
            return Answer(Outcome.DROPPED)
        self.life = max(self.life, arrival.order[0])
        if self.offer is None or arrival.order > self.offer.order:
            self.offer = arrival
            self.news.set()
        return Answer(Outcome.BUFFERED)

    def check(self, arrival: Arrival, phase: int, roles: frozenset[str]) -> None:
        """Raise ``PeerError`` for what only the other half takes, and for marks that are none."""
        if arrival.phase != phase or arrival.parts.keys() != roles:
            raise PeerError(
                "unsupported_message", "hub and clients differ in who the hub is, or in [codec]"
            )
        for name in MARKS & arrival.scalars.keys():
            mark = arrival.scalars[name]
            if mark != int(mark) or not -1 <= mark < MARK_MAX:
                raise PeerError("unsupported_message", f"the scalar {name} is no round and no life")
