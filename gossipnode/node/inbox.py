"""The passive side's gate: what is let in, once, and what is refused, and why.

A push passes three checks. ``admit`` sees the header alone and refuses before a byte of the
body is read or a byte of memory is taken for it. ``open`` sees the body: checksum, finite
values, and none beyond all bounds (``contents``). The algorithm then merges or refuses.
Invariant: a (sender, epoch, sequence) is merged at most once, and a refusal changes nothing but
a counter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from gossipnode import codecs
from gossipnode.algorithms.base import ALL, Algorithm, Arrival, Purpose, Vector
from gossipnode.codecs.base import Coding
from gossipnode.errors import PeerError
from gossipnode.learning.params import Layout
from gossipnode.logs import bounded
from gossipnode.node.contents import Bound, checked, read
from gossipnode.node.world import INLINE_BYTES_MAX
from gossipnode.wire.message import Kind, Message, Part

PURPOSES = {
    Kind.MODEL: Purpose.MODEL,
    Kind.EXCHANGE_REQUEST: Purpose.EXCHANGE_REQUEST,
    Kind.EXCHANGE_REPLY: Purpose.EXCHANGE_REPLY,
}
KINDS = {purpose: kind for kind, purpose in PURPOSES.items()}

# What a codec may add to the bytes of a few params.
CODED_EXTRA_BYTES = 64
# Sequence numbers remembered per sender, a bit each. One frame is in flight per pair, so a repeat
# is at most a few numbers old.
WINDOW = 1024
# Senders remembered; the one silent longest makes room. With some 500 bytes a sender, what
# strangers can fill stays below 2 MB.
SENDERS_MAX = 4096


@dataclass(slots=True)
class Ledger:
    """What was merged from one sender in one of its lives, and what is being judged."""

    epoch: int
    highest: int = -1
    seen: int = 0  # bit i stands for the number highest − i
    # Numbers of frames that are neither merged nor refused yet: one may be far ahead of all others,
    # and if it is refused then nothing may have been forgotten for it.
    open: tuple[int, ...] = ()
    # The life before, until something of this one is merged: a refused frame proves nothing.
    before: Ledger | None = None

    def holds(self, seq: int) -> bool:
        """Whether ``seq`` was entered or is open; below the window nothing is told apart: yes."""
        back = self.highest - seq
        merged = back >= 0 and (back >= WINDOW or bool(self.seen >> back & 1))
        return merged or seq in self.open

    def close(self, seq: int) -> None:
        """Say that the frame ``seq`` has been judged."""
        self.open = tuple([number for number in self.open if number != seq])

    def enter(self, seq: int) -> None:
        """Enter ``seq``, unless it is held."""
        if self.holds(seq):
            return
        ahead = seq - self.highest
        if ahead <= 0:
            self.seen |= 1 << -ahead
            return
        # Shifted by the window at most: a number far ahead must not make a huge integer.
        self.seen = (self.seen << min(ahead, WINDOW) | 1) & ((1 << WINDOW) - 1)
        self.highest = seq

    def state(self) -> list[Any]:
        """Return [epoch, highest, seen in hex]; what is open counts as merged, as it may be."""
        whole = Ledger(self.epoch, self.highest, self.seen)
        for seq in self.open:
            whole.enter(seq)
        return [whole.epoch, whole.highest, f"{whole.seen:x}"]


@dataclass(slots=True)
class Admission:
    """A header that was let in: ``held_bytes`` are reserved until ``Inbox.release``.

    They are the ``body_bytes`` and, of coded parts, what those become.
    """

    message: Message
    body_bytes: int
    duplicate: bool
    held_bytes: int


class Fit(NamedTuple):
    """Parts that fit the layout, and what ``Admission`` says of them."""

    parts: tuple[Part, ...]
    body_bytes: int
    held_bytes: int


class Inbox:
    """Checks arrivals against the swarm, the layout, the ledger and the memory budget."""

    def __init__(
        self,
        *,
        swarm: str,
        node_id: str,
        layout: Layout,
        algorithm: Algorithm,
        graph: str | None,
        senders: Collection[str] | None = None,
        inflight_bytes_max: int,
        senders_max: int = SENDERS_MAX,
        bound: Bound | None = None,
    ) -> None:
        self.swarm, self.node_id, self.layout = swarm, node_id, layout
        self.algorithm, self.graph, self.senders = algorithm, graph, senders
        self.inflight_bytes_max, self.senders_max = inflight_bytes_max, senders_max
        self.bound = bound
        self.inflight_bytes = 0
        self.draining = False
        self._ledgers: dict[str, Ledger] = {}  # the sender heard last comes last
        self._fit: Fit | None = None  # what passed last: nearly all parts are the same

    def check(self, message: Message) -> Fit:
        """Return its sizes; raises ``PeerError`` unless it is of this swarm and fits the layout."""
        self._check_identity(message)
        return self._check_parts(message)

    def admit(self, message: Message) -> Admission:
        """Let the body come, or raise ``PeerError``. Call ``release`` when done with it."""
        if self.draining:
            raise PeerError("draining", "this node is stopping")
        self._check_identity(message)
        _, body, held = self._check_parts(message)
        duplicate = self._is_duplicate(message)
        if self.inflight_bytes and self.inflight_bytes + held > self.inflight_bytes_max:
            raise PeerError("busy", "too many bodies are arriving at once; come again")
        self.inflight_bytes += held
        return Admission(message, body, duplicate, held)

    def release(self, admission: Admission) -> None:
        """Give the reserved bytes back; once for each admission."""
        self.inflight_bytes -= admission.held_bytes
        assert self.inflight_bytes >= 0

    async def open(
        self, message: Message, body: memoryview, size: int, compute: Callable[..., Any]
    ) -> Arrival:
        """Check the body and return the arrival; raises ``PeerError``.

        The arrival's vectors are views of ``body``, which must be writable and never reused.
        ``size`` are the bytes that are held for it.
        """
        found = await compute(read, message, body, self.layout, self.bound, size=size)
        return arrival_of(message, *found)

    async def opened(
        self, message: Message, vectors: Sequence[Vector], size: int, compute: Callable[..., Any]
    ) -> Arrival:
        """Check vectors whose checksum is known to hold, if there was one; as ``open`` else."""
        if size <= INLINE_BYTES_MAX:  # nothing to wait for and, since it only looks, to silence
            return arrival_of(message, *checked(message, vectors, self.layout, self.bound))
        found = await compute(checked, message, vectors, self.layout, self.bound, size=size)
        return arrival_of(message, *found)

    def mark(self, message: Message) -> bool:
        """Begin to judge a message; False if it is in the ledger. Then ``settle`` or ``unmark``."""
        if self._is_duplicate(message):
            return False
        ledger = self._ledgers.pop(message.sender, None)
        if ledger is None or message.epoch > ledger.epoch:
            ledger = Ledger(message.epoch, before=ledger)
            while len(self._ledgers) >= self.senders_max:
                del self._ledgers[next(iter(self._ledgers))]
        self._ledgers[message.sender] = ledger
        ledger.open += (message.seq,)
        return True

    def settle(self, message: Message) -> None:
        """Enter what was marked: it is merged, and the life is the sender's own."""
        ledger = self._ledgers.get(message.sender)
        while ledger is not None and ledger.epoch != message.epoch:
            ledger = ledger.before
        if ledger is not None:
            ledger.close(message.seq)
            ledger.enter(message.seq)
            ledger.before = None

    def unmark(self, message: Message) -> None:
        """Forget what was marked: it was refused, so the sender may try once more."""
        lives = self._lives(message.sender)
        for ledger in lives:
            if ledger.epoch == message.epoch:
                ledger.close(message.seq)
        if not lives:
            return
        newest = None
        for ledger in reversed(lives):
            if ledger.seen or ledger.open:
                ledger.before, newest = newest, ledger
        if newest is not None:
            self._ledgers[message.sender] = newest
        else:
            del self._ledgers[message.sender]

    def _lives(self, sender: str) -> list[Ledger]:
        """Return what is known of a sender's lives, the newest first."""
        lives, ledger = [], self._ledgers.get(sender)
        while ledger is not None:
            lives.append(ledger)
            ledger = ledger.before
        return lives

    def state(self) -> dict[str, list[Any]]:
        """Return the ledger for the checkpoint: sender -> [epoch, highest, seen in hex]."""
        return {sender: ledger.state() for sender, ledger in self._ledgers.items()}

    def restore(self, state: dict[str, list[Any]]) -> None:
        """Take the ledger from a checkpoint: what that life merged is not merged again."""
        for sender, (epoch, highest, seen) in state.items():
            self._ledgers[sender] = Ledger(epoch, highest, int(seen, 16))

    def _is_duplicate(self, message: Message) -> bool:
        ledger = self._ledgers.get(message.sender)
        if ledger is None or message.epoch > ledger.epoch:
            return False
        if message.epoch < ledger.epoch:
            raise PeerError(
                "stale_epoch", f"a later life of the sender is known: epoch {ledger.epoch}"
            )
        return ledger.holds(message.seq)

    def _check_identity(self, message: Message) -> None:
        if message.swarm != self.swarm:
            raise PeerError("wrong_swarm", f"this is swarm {self.swarm}")
        if message.sender == self.node_id:
            raise PeerError(
                "not_a_neighbour",
                f"the sender calls itself {self.node_id}, which is this node's own id; "
                "give each node an id of its own",
            )
        if self.senders is not None and message.sender not in self.senders:
            raise PeerError("not_a_neighbour", "the graph has no edge between us")
        if message.algorithm != self.algorithm.called:
            raise PeerError(
                "wrong_algorithm",
                f"this node runs {self.algorithm.called}, the sender {bounded(message.algorithm)}",
            )
        if PURPOSES.get(message.kind) not in self.algorithm.purposes:
            raise PeerError(
                "unsupported_message", f"{self.algorithm.called} takes no {message.kind.name}"
            )
        if self.graph is not None and message.graph is not None and message.graph != self.graph:
            raise PeerError(
                "wrong_graph",
                f"the graph here is {self.graph}, the sender's {bounded(message.graph)}: the two "
                "nodes have different peer lists or [topology] settings",
            )

    def _check_parts(self, message: Message) -> Fit:
        if message.schema != self.layout.schema:
            raise PeerError(
                "wrong_schema",
                f"the schema here is {self.layout.schema} ({self.layout.size} "
                f"{self.layout.dtype.name} params), the sender's {bounded(message.schema)}: the "
                "nodes differ in task, layer sizes, dtype, class names or feature names",
            )
        fit = self._fit
        if fit is None or message.parts != fit.parts:
            self._check_fit(message)
            coded = sum(part.size for part in message.parts if part.codec != "raw")
            body = message.body_bytes
            fit = self._fit = Fit(message.parts, body, body + coded * self.layout.dtype.itemsize)
        if not isinstance(message.age, int):
            raise PeerError("unsupported_message", f"{self.algorithm.called} takes one age")
        return fit

    def _check_fit(self, message: Message) -> None:
        limit = body_bytes_max(self.layout, self.algorithm)
        if message.body_bytes > limit:
            raise PeerError(
                "too_large", f"a body of {message.body_bytes} bytes; the layout allows {limit}"
            )
        roles = [part.role for part in message.parts]
        bundles = self.algorithm.bundles or (self.algorithm.roles,)
        if set(roles) not in bundles or len(set(roles)) != len(roles):
            wanted = " or ".join(", ".join(sorted(bundle)) for bundle in bundles)
            raise PeerError("unsupported_message", f"one part each is wanted of: {wanted}")
        for part in message.parts:
            if part.index != message.parts[0].index:
                raise PeerError("unsupported_message", "the parts must be of one index")
            wanted_size = self._size_of(part)
            if wanted_size is None:
                raise PeerError("unsupported_message", f"part {part.role} must be raw and whole")
            if part.size != wanted_size or part.dtype != self.layout.dtype.name:
                raise PeerError(
                    "wrong_schema",
                    f"part {part.role} has {part.size} {bounded(part.dtype)} values, the layout "
                    f"{wanted_size} {self.layout.dtype.name}",
                )
            if part.codec != "raw":
                self._check_coded(part)

    def _check_coded(self, part: Part) -> None:
        """Refuse a coded part that the algorithm does not take, or that cannot be what it says."""
        takes = self.algorithm.Options.codecs
        if part.role not in self.algorithm.coded or part.codec not in takes or not part.covers_all:
            raise PeerError(
                "unsupported_message",
                f"{self.algorithm.called} takes no part {part.role} coded by {bounded(part.codec)}",
            )
        codecs.check(part, self.layout.tensors)

    def _size_of(self, part: Part) -> int | None:
        """Return how many values the part must have; None where it is not taken."""
        whole, algorithm = self.layout.size, self.algorithm
        if part.covers_all and part.size != whole:
            fits = algorithm.size_fits(part.role, part.size, self.layout.tensors)
            return part.size if fits else whole
        return _size_of(part, whole, algorithm.pieces)


def body_bytes_max(layout: Layout, algorithm: Algorithm) -> int:
    """Return the bytes of the largest body that a node takes.

    Each role whole and raw; of a few params a codec may make more, by the numbers that it adds.
    """
    return (layout.nbytes + (CODED_EXTRA_BYTES if algorithm.coded else 0)) * len(algorithm.roles)


def _size_of(part: Part, whole: int, pieces: Collection[str]) -> int | None:
    """Return how many values the part must have, of ``whole``; None where it is not taken."""
    index = part.index
    match index["kind"]:
        case "all":
            return whole
        case "range" if "range" in pieces and index["stop"] <= whole:
            return int(index["stop"] - index["start"])
        case "part" if "part" in pieces and index["parts"] <= whole:
            return len(range(index["part"], whole, index["parts"]))
        case "seeded" if "seeded" in pieces and part.size <= whole:
            return part.size  # what the seed draws, the algorithm knows
    return None


def arrival_of(message: Message, vectors: Sequence[Vector], bound: float = math.inf) -> Arrival:
    """Return what the algorithm gets of an admitted message and its checked vectors.

    ``bound`` is on the magnitude of their elements.
    """
    assert isinstance(message.age, int), "checked at admission"
    parts: dict[str, Vector] = {
        part.role: vector for part, vector in zip(message.parts, vectors, strict=True)
    }
    return Arrival(
        message.sender,
        PURPOSES[message.kind],
        message.round,
        message.age,
        parts,
        message.scalars,
        phase=message.phase,
        order=(message.epoch, message.seq),
        index=message.parts[0].index if message.parts else ALL,
        extent=bound,
        version=message.version,
        base_version=message.base_version,
        codings=_codings(message.parts),
    )


NO_CODINGS: Mapping[str, Coding] = MappingProxyType({})


def _codings(parts: Sequence[Part]) -> Mapping[str, Coding]:
    """Return by role how the coded ones of ``parts`` are coded."""
    for part in parts:
        if part.codec != "raw":
            return {part.role: part for part in parts if part.codec != "raw"}
    return NO_CODINGS
