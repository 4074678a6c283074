"""Who does not answer: peers are pinged in turn, suspects can contradict, who does not is down.

In the manner of SWIM, with Lifeguard's patience (``patience``). Each period one peer of ``watched``
is pinged; who does not answer in time is pinged by helpers, and once more; then it is suspect,
which is told to others (``rumours``) and to itself. It contradicts by a greater incarnation, or by
any sign of life. If it does not, it is down (``standing``), and asked now and then.

Invariant: nobody is taken for down on the word of others alone; what is sent in a period is
bounded, whatever the size of the swarm and however many are gone.

*Source*: Das, Gupta, Motivala, DSN 2002; Dadgar, Phillips, Currey, DSN-W 2018. *Differs from the
source*: any message is a sign of life, so whoever has just sent a model is not asked; a rumour
makes a suspect, and what makes it down is this node's own question; news is sent at once, not with
the next ping alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from gossipnode.errors import NetworkError, PeerError
from gossipnode.node.membership.hearsay import Hearsay
from gossipnode.node.membership.helping import Helping
from gossipnode.node.membership.membership import IDLE_S, LEAVE_S, Handler, Outcome
from gossipnode.node.membership.patience import LocalHealth, RoundTrips, SuspicionTimes
from gossipnode.node.membership.standing import Standing
from gossipnode.node.membership.twins import Twins
from gossipnode.node.membership.watched import Watched
from gossipnode.node.peers import ABSENT, GONE, Peer
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import Frame
from gossipnode.wire.members import Member
from gossipnode.wire.message import Kind

if TYPE_CHECKING:
    from gossipnode.node.membership.membership import Membership

# A turn that comes later than this was kept waiting by this node itself: what it waited for may lie
# unread in its sockets.
LATE_S = 0.02
# At most so many in one period: asked and not answered, reminded of a suspicion, asked again.
PROBES_MAX, REMINDED_MAX, RETRIED_MAX = 16, 4, 4
# To give up a question cuts a connection that may just be in the making: not before this.
ANSWER_S = 5.0
# News leaves so many times a period, so often in a row; then once a period, or a swarm that is
# short of time would spend it on telling so.
NEWS_A_PERIOD = 5
NEWS_IN_A_ROW = 4


@dataclass(slots=True)
class Probe:
    """A question under way: until ``deadline`` the peer itself, then ``missing`` helpers.

    None are asked where others have been in vain already: ``accusers`` first-hand. ``is_sure``
    where one of them has waited for the peer to contradict.
    """

    peer: Peer
    sent_at: float
    deadline: float
    why: str
    is_helped: bool = False
    missing: int = 0
    again_until: float = 0.0
    accusers: set[str] = field(default_factory=set)
    is_sure: bool = False


class Detector:
    """The part of ``membership`` that finds out who has stopped answering."""

    def __init__(self, membership: Membership) -> None:
        self.membership, self.node = membership, membership.node
        self.options = membership.options
        self.health = LocalHealth()
        self.trips = RoundTrips(self.options.probe_timeout_s)
        self.hearsay = Hearsay(self)
        self.twins = Twins(self)
        self.standing = Standing(self.node, self.hearsay.rumours)
        self.watched = Watched(self.node, membership.rng)
        self.probes: dict[str, Probe] = {}
        self._due = self._next_probe = self._next_news = self._told_at = 0.0
        self._news_credit = float(NEWS_IN_A_ROW)
        self.words: Mapping[tuple[Kind, str], Handler] = Helping(self).words

    # -- time -------------------------------------------------------------------------------------

    @property
    def timeout_s(self) -> float:
        """How long an answer is waited for."""
        return self.trips.timeout_s * self.health.factor

    @property
    def _patience_s(self) -> float:
        """How long an answer is taken: one that is late still is a sign of life."""
        return max(4 * self.timeout_s, ANSWER_S)

    @property
    def period_s(self) -> float:
        """How long a period is."""
        return self.options.probe_period_s * self.health.factor

    @property
    def times(self) -> SuspicionTimes:
        """How long a suspicion lasts."""
        nodes = len(self.node.peers) + 1
        factor, helpers = self.options.suspicion_factor, self.options.helpers
        return SuspicionTimes.of(factor, self.period_s, self.timeout_s, nodes, helpers)

    def tick(self, now: float) -> float:
        """Judge what is over, ask whoever's turn it is, pass on what is new."""
        if not self._due:  # nodes that start together must not ask together
            self._next_probe = now + self.period_s * self.membership.rng.random()
        else:
            self._excuse(now - self._due)
        self.standing.forget_what_is_over()
        self.twins.forget_what_is_over(now)
        self.probes = {j: probe for j, probe in self.probes.items() if self._is_known(probe.peer)}
        for probe in [probe for probe in self.probes.values() if probe.deadline <= now]:
            self._judge(probe, now)
        self._judge_suspicions(now)
        if now >= self._next_probe:
            self._next_probe = max(self._next_probe + self.period_s, now)
            self._ask_in_turn(now)
        if self.hearsay.rumours and now >= self._next_news:
            self._spread(now)
        self._due = self._next_turn(now)
        return self._due

    def _next_turn(self, now: float) -> float:
        if not len(self.node.peers):
            return now + IDLE_S
        suspicions = self.standing.suspicions.values()
        times = self.times if suspicions else None
        waits = [s.began + times.seconds(len(s.accusers)) for s in suspicions if times]
        return min(
            self._next_probe,
            self._next_news if self.hearsay.rumours else inf,
            *[probe.deadline for probe in self.probes.values()],
            *[due for due in waits if due > now],  # others wait for a probe
        )

    def _excuse(self, late_s: float) -> None:
        """Give everybody as much longer as this node's own turn came late."""
        if late_s <= LATE_S:
            return
        if late_s > self.options.probe_timeout_s:
            self.health.worse()
        self.trips.took(late_s)  # what keeps this node waiting may keep its peers, too
        for probe in self.probes.values():
            probe.deadline += late_s
        for suspicion in self.standing.suspicions.values():
            suspicion.began += late_s

    # -- asking -----------------------------------------------------------------------------------

    def _ask_in_turn(self, now: float) -> None:
        """Ask the peer whose turn it is, remind suspects, look after those who are down."""
        reminded = list(self.standing.suspicions.values())[:REMINDED_MAX]
        for suspicion in reminded:
            peer = suspicion.peer
            del self.standing.suspicions[peer.id]  # to the end of the line
            self.standing.suspicions[peer.id] = suspicion
            if peer.id not in self.probes:
                self._ping(peer, now, None)
        for peer in self.standing.due(now, RETRIED_MAX):
            self._ping(peer, now, None)
        self.watched.next_round()
        while len(self.probes) < PROBES_MAX and (found := self.watched.draw()) is not None:
            is_theirs = found.id in self.standing.suspicions or found.id in self.probes
            if found.state in GONE or is_theirs or self.is_fresh(found, now):
                continue
            self.probe(found, now)
            return

    def is_fresh(self, peer: Peer, now: float, least_s: float = 0.0) -> bool:
        """Whether a peer was heard of so lately that asking would tell nothing."""
        fresh_s = max(self.options.probe_period_s, least_s)
        return peer.heard_at is not None and now - peer.heard_at < fresh_s

    def probe(self, peer: Peer, now: float) -> None:
        """Ask a peer, and draw conclusions; not where too many are asked already."""
        if peer.id not in self.probes and len(self.probes) < PROBES_MAX:
            why = f"no answer to a ping within {self.timeout_s:.2g} s"
            probe = self.probes[peer.id] = Probe(peer, now, now + self.timeout_s, why)
            self._ping(peer, now, probe)

    def doubt(self, peer: Peer, now: float, accuser: str | None, *, is_sure: bool) -> None:
        """Ask a peer that others have asked in vain; that takes the place of helpers."""
        self.probe(peer, now)
        probe = self.probes.get(peer.id)
        if probe is None:
            return  # too many are asked: it is met in its turn
        if probe.sent_at == now:
            probe.is_helped = True
        if accuser is not None:
            probe.accusers.add(accuser)
        probe.is_sure = probe.is_sure or is_sure

    def _ping(self, peer: Peer, now: float, probe: Probe | None) -> None:
        frame = self.hearsay.frame("ping", peer.id)
        then = partial(self._answered, peer, peer.epoch, now, probe)
        self.membership.ask(peer.address, "ping", frame, self._patience_s, then)

    def ask_for(self, peer: Peer, then: Callable[[bool], object]) -> None:
        """Ask a peer for somebody else; ``then`` is told whether it answered, if it does."""
        life = peer.epoch

        def answered(outcome: Outcome) -> None:
            is_there = self.is_sign_of_life(peer, life, outcome)
            if is_there:
                self.alive(peer, self.node.time())
            then(is_there)

        frame = self.hearsay.frame("ping", peer.id)
        self.membership.ask(peer.address, "ping", frame, self._patience_s, answered)

    def _answered(
        self, peer: Peer, life: int, sent_at: float, probe: Probe | None, outcome: Outcome
    ) -> None:
        now = self.node.time()
        if self.is_sign_of_life(peer, life, outcome):
            self.trips.took(now - sent_at)
            self.health.better()
            self.alive(peer, now)
        elif probe is not None and self.probes.get(peer.id) is probe and not probe.is_helped:
            probe.why = f"{outcome}" if isinstance(outcome, Exception) else "another node answered"
            probe.deadline = now
            self.membership.wake()

    def is_sign_of_life(self, peer: Peer, life: int, outcome: Outcome) -> bool:
        """Whether an answer is the peer's own; takes what it tells.

        ``life`` was the peer's last known one when it was asked.
        """
        if not isinstance(outcome, Receipt):
            return False
        reply, message = outcome.reply, outcome.message
        if message is not None:
            is_own = message.sender == peer.id and message.kind is Kind.CONTROL
            if is_own:
                self.hearsay.take(peer, message)
            return is_own
        assert reply is not None
        if reply.sender != peer.id or reply.code == "wrong_swarm":
            return False
        if reply.code == "draining":
            if peer.epoch == life:  # else the next one has overtaken this goodbye
                peer.over = life
                self.left(peer, "it is stopping")
            return False
        return True  # one that does not know the question lives as well

    def _is_known(self, peer: Peer) -> bool:
        """Whether a peer was not forgotten since it was asked: nothing is to be noted of it then.

        A view lets go of peers all the time, and answers take theirs.
        """
        return dict.get(self.node.peers.known, peer.id) is peer

    def alive(self, peer: Peer, now: float, *, is_heard: bool = True) -> None:
        """Take a sign of life of a peer; unless it ``is_heard``, others have had it."""
        if not self._is_known(peer):
            return
        self.probes.pop(peer.id, None)
        if is_heard:
            peer.heard_at = now
        self.standing.returned(peer, now)
        if self.hearsay.rumours:
            self.membership.wake()

    def left(self, peer: Peer, why: str) -> None:
        """Take a peer at its word that it stops."""
        if not self._is_known(peer):
            return
        self.probes.pop(peer.id, None)
        self.standing.left(peer, why)
        self.membership.wake()

    def _judge(self, probe: Probe, now: float) -> None:
        """Ask helpers where the peer itself did not answer; where that is over, suspect it."""
        peer = probe.peer
        if peer.heard_at is not None and peer.heard_at > probe.sent_at:
            self.probes.pop(peer.id, None)  # by a model
        elif peer.state == "unknown":
            del self.probes[peer.id]  # it may never have been there
        elif not probe.is_helped:
            self._ask_helpers(probe, now)
        else:
            del self.probes[peer.id]
            self.health.worse(probe.missing)
            suspicion = self.standing.accuse(peer, now, probe.why)
            suspicion.accusers |= probe.accusers
            suspicion.is_sure = suspicion.is_sure or probe.is_sure

    def _ask_helpers(self, probe: Probe, now: float) -> None:
        self.node.counters.add("probes_failed")
        peer, timeout_s = probe.peer, self.timeout_s
        helpers = self._some_alive(self.options.helpers, but=peer.id)
        probe.is_helped, probe.missing = True, len(helpers)
        probe.again_until = now + timeout_s
        # A helper waits as long as this node did, and its word takes its time as well.
        probe.deadline = now + (2 * timeout_s if helpers else timeout_s)
        self._ping(peer, now, None)
        target = Member(peer.id, peer.address, "alive", *peer.said)
        for helper in helpers:
            frame = self.membership.frame("ping_req", [target], scalars={"timeout_s": timeout_s})
            then = partial(self._helped, probe, helper)
            self.membership.ask(helper.address, "ping_req", frame, self._patience_s, then)

    def _helped(self, probe: Probe, helper: Peer, outcome: Outcome) -> None:
        """Take a helper's word."""
        message = outcome.message if isinstance(outcome, Receipt) else None
        if message is None or message.sender != helper.id:
            return
        now = self.node.time()
        self.hearsay.take(helper, message)
        self.alive(helper, now)
        if self.probes.get(probe.peer.id) is not probe:
            return
        if message.control == "ack":
            self.alive(probe.peer, now, is_heard=False)
        else:
            probe.missing -= 1
            if not probe.missing:
                probe.deadline = min(probe.deadline, max(now, probe.again_until))
                self.membership.wake()

    def _some_alive(self, most: int, but: str = "") -> list[Peer]:
        known = self.node.peers.known.values()
        alive = [p for p in known if p.state == "alive" and p.id != but and p.id in self.node.peers]
        if len(alive) <= most:
            return alive
        chosen = self.membership.rng.choice(len(alive), most, replace=False)
        return [alive[int(number)] for number in chosen]

    # -- suspects ---------------------------------------------------------------------------------

    def _judge_suspicions(self, now: float) -> None:
        if not self.standing.suspicions:
            return
        times = self.times
        for suspicion in tuple(self.standing.suspicions.values()):
            wait_s = 0.0 if suspicion.is_sure else times.seconds(len(suspicion.accusers))
            if now < suspicion.began + wait_s:
                continue
            if suspicion.failed:
                self.probes.pop(suspicion.peer.id, None)
                self.standing.give_up(suspicion, now)
            else:
                suspicion.is_sure = True  # as soon as this has failed, too
                self.probe(suspicion.peer, now)

    # -- telling ----------------------------------------------------------------------------------

    def _spread(self, now: float) -> None:
        """Tell some peers at once; what they answer is a sign of life, and silence is nothing."""
        rumours, period_s = self.hearsay.rumours, self.period_s
        credit = min(self._news_credit + (now - self._told_at) / period_s, NEWS_IN_A_ROW) - 1
        self._news_credit, self._told_at = credit, now
        self._next_news = now + (period_s / NEWS_A_PERIOD if credit >= 1 else period_s)
        for peer in self._some_alive(max(self.options.helpers, 1)):
            if rumours:
                self._ping(peer, now, None)
        if not self.node.peers.alive:  # whoever comes back is told of itself
            self.hearsay.forget([row.id for row in rumours])

    async def leave(self) -> None:
        """Tell the peers that this node watches, all at once; who does not listen is not told."""
        self.hearsay.is_leaving = True
        if self.twins.has_lost:
            return  # the other one goes on under this name
        known = self.node.peers.known.values()
        there = [p for p in known if p.id in self.watched and p.state not in ABSENT]
        frame = self.membership.frame("leave", scalars=self.hearsay.own_scalars())
        await asyncio.gather(*[self._say_goodbye(peer, frame) for peer in there])

    async def _say_goodbye(self, peer: Peer, frame: Frame) -> None:
        self.membership.count("leave", frame)
        with contextlib.suppress(NetworkError, PeerError):
            await self.node.world.push(peer.address, frame, LEAVE_S)
