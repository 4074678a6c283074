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

With a codec the answers are smaller, and x^k is not: it goes to all as it is, so that a client that
comes or comes back needs no more than the next one. Of n clients' bytes that is half.

Invariant: a client's params are a model of the hub, of the round that it is in.

Memory: at the hub one vector a role for each answer, since they are added up in the order of the
peer list, not of arrival: the same answers give the same model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping

from gossipnode.algorithms.all_reduce import hub_of
from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.hub_clients import ANSWER, MODEL, NO_SAMPLES, Client, HubOptions, Work
from gossipnode.algorithms.mailbox import ANY_LEAD, Mailbox
from gossipnode.algorithms.waiting import CLOCK_S, PROBE_EVERY_S
from gossipnode.errors import PeerError


class HubAlgorithm(Client):
    """A swarm whose model one node has."""

    def __init__(self, options: HubOptions, local_steps: int) -> None:
        super().__init__(options, local_steps)
        self.mailbox = Mailbox(options)
        # The round of the model that was sent last, -1 while there is none; a later model, if one
        # came.
        self.sent = -1
        self.later: Arrival | None = None

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

    def told(self, node: NodeInterface, peer: str) -> Mapping[str, float] | None:
        """Return what the hub tells ``peer`` besides; None where all are told the same: nothing.

        With a codec that is which of its answers was counted last.
        """
        return None if node.codec is None else self.feedback.told(peer)

    def note_counted(self, node: NodeInterface, k: int, answers: Mapping[str, Work]) -> None:
        """Remember whose answers are in the next model."""
        if node.codec is not None:
            self.feedback.counted |= {j: (k, work.life) for j, work in answers.items()}
            if node.id in answers:
                self.feedback.confirm((k, node.epoch))

    async def run(self, node: NodeInterface) -> None:
        """Be the hub or a client until the budget is used up."""
        await (self.serve(node) if node.id == hub_of(node, self.hub) else self.attend(node))

    async def serve(self, node: NodeInterface) -> None:
        """Send the model to all, round by round, and make a new one of the answers."""
        self.mailbox.skip(node, (node.round, 0))
        self.send_model(node, node.ids)
        while node.budget_left:
            began, k = node.time(), node.round
            answers = await self.collect(node, k)
            if node.stopping and len(answers) < len(self.asked(node, k)):
                answers = {}  # the last model is not to be that of the few that were quick
            if self.later is None:
                if answers:
                    x = node.params
                    after = await self.aggregate(node, k, answers)
                    self.note_counted(node, k, answers)
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
        if self.later is not None:  # it came while this node trained
            return {}
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
        if self.told(node, node.id) is None:
            node.push(others, parts, phase=MODEL)
            return
        for j in others:
            node.push([j], parts, scalars=self.told(node, j), phase=MODEL)

    async def catch_up(self, node: NodeInterface, later: Arrival) -> None:
        """Go on from the model of a later round, which a client still had."""
        self.later = None
        if later.round > node.round:
            node.skip_to(later.round)
            self.mailbox.skip(node, (later.round, 0))
            await node.adopt(later.parts[self.up_of(node)[0]], later.age)
            self.lag(node)

    def lag(self, node: NodeInterface) -> None:
        """Notice that this node, the hub, has forgotten some rounds."""

    def hear(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Be the hub's passive side."""
        self.check(arrival, ANSWER, frozenset(self.up_of(node)))
        k, samples = arrival.round, arrival.scalars.get("samples", NO_SAMPLES)
        if samples < NO_SAMPLES or samples != int(samples):
            raise PeerError("unsupported_message", f"{samples} is no number of samples")
        greets = samples == NO_SAMPLES
        if not greets and not self.tells <= arrival.scalars.keys():
            raise PeerError("unsupported_message", f"no {', '.join(sorted(self.tells))}")
        if k > node.round:
            # Leaps are not believed at once, nor what no round of this run can be.
            if k > min(node.peer_round(arrival.sender), node.rounds or k):
                return Answer(Outcome.DROPPED)
            if greets and (self.later is None or self.later.round < k):
                self.later = arrival
                self.mailbox.interrupt()
            return Answer(Outcome.BUFFERED if greets else Outcome.DROPPED)
        # First, for the model tells whether it was counted.
        answer = Answer(Outcome.DROPPED) if greets else self.answered(node, arrival)
        if k < node.round or greets:
            if self.sent == node.round:
                self.send_model(node, [arrival.sender])
            else:
                self.owe(arrival.sender)
        return answer

    def owe(self, peer: str) -> None:
        """Remember to send ``peer`` the next model, where not all are sent it anyway."""

    def answered(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Take a client's answer to the model of this round or an earlier one."""
        return self.mailbox.put(node, arrival)

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
    samples, (life, _) = int(arrival.scalars["samples"]), arrival.order
    return Work(arrival.parts, samples, arrival.scalars, arrival.sender, life)
