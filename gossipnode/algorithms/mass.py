"""Mass that is handed from node to node and never lost: the sums behind push-sum.

A node has z and w; u = w·z is what its model weighs. On each edge the sender keeps all that it ever
handed over there, and sends these sums; the receiver takes what they have grown by since the
last that it saw::

    σ_u ← σ_u + p·w·z           σ_w ← σ_w + p·w           u, w lose what the sums have grown by
    u ← u + (σ_u − seen_u)      w ← w + (σ_w − seen_w)    seen ← σ

In terms of z, which alone is kept, with (δ_u, δ_w) what comes in::

    z ← z + (δ_u − δ_w·z)/(w + δ_w)

Invariant: Σ w_i + Σ (σ_w − seen_w) and Σ u_i + Σ (σ_u − seen_u), over nodes and edges, are the same
at every instant. A message that is lost, comes twice, late or after a later one changes neither,
since the next one holds all of it; nor does a node that goes back to a checkpoint, which holds its
σ and seen: what it forgot to have taken comes again, and what it forgot to have handed out it owes.
Whoever is owed something by a sum that went back waits until it has grown beyond what was seen.

Sums are float64 whatever params are, since they grow with the rounds: what is handed over in round
k is known to k·2⁻⁵² of itself, where float32 would leave k·2⁻²³. Of float32 params they travel as
two float32 that add up to them, which leaves k·2⁻⁴⁸. What rounding takes from or adds to a sum
stays with its sender.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.algorithms.base import Arrival, Vector
from gossipnode.errors import PeerError

Floats = NDArray[np.float64]
# The scalars of a message: σ_w, how often something was handed over, and in which life of the
# sender the sums began.
MASS, TIMES, SINCE = "mass", "count", "since"
# Less of w than this share of it is nothing: rounding's doing.
ROUNDING = 1e-12
# No sum is so large, nor was anything handed over so often: a node hands over less than the whole
# swarm's mass a round. Larger ones, added up, could leave the range of floats.
SUMS_MAX = 2.0**53


@dataclass(frozen=True, slots=True)
class Sums:
    """(σ_u, σ_w) of one edge after ``times`` hand-outs; ``u`` (d,) is never written again.

    ``since`` is the sender's life in which they began, ``order`` that of the message.
    """

    u: Floats | None = None  # None: zero
    w: float = 0.0
    times: int = 0
    since: int = 0
    order: tuple[int, int] = (-1, -1)

    def facts(self) -> list[Any]:
        """Return all but the vector, as JSON."""
        return [self.w, self.times, self.since, *self.order]

    @classmethod
    def of(cls, u: Vector | None, facts: list[Any]) -> Sums:
        """Return the sums of a checkpoint."""
        w, times, since, epoch, seq = facts
        return cls(None if u is None else np.asarray(u, np.float64), w, times, since, (epoch, seq))


NOTHING = Sums()


@dataclass(slots=True)
class Mass:
    """One node's mass ``w``, and the sums of its edges by peer.

    ``since`` is the life in which its sums began, ``rounds`` how many rounds ago that was,
    ``joined`` whether they began without mass, and ``is_kept`` whether a checkpoint brought them.
    """

    w: float = 1.0
    since: int = 0
    rounds: int = 0
    joined: bool = False
    is_kept: bool = False
    sent: dict[str, Sums] = field(default_factory=dict)
    seen: dict[str, Sums] = field(default_factory=dict)

    def news(self, sender: str, sums: Sums, lead_max: int) -> tuple[Sums, Sums] | None:
        """Return (σ, seen), whose difference is to be taken; None where σ is not after seen."""
        seen = self.seen.get(sender)
        if seen is None:
            # Peers never heard of are handed mass in few rounds. Where it was in more than this
            # life can have had, an earlier one got it, whose disk is gone: ours is what comes now.
            # A checkpoint, of which the first comes before all mass, tells that no disk was lost;
            # but not that of one that joined, maybe in the place of a machine whose disk was.
            knows_all = self.is_kept and not self.joined
            is_ours = knows_all or sums.times <= 1 + self.rounds + 2 * lead_max
            return sums, NOTHING if is_ours else sums
        if sums.since != seen.since:
            return (sums, NOTHING) if sums.since > seen.since else None
        return (sums, seen) if sums.order > seen.order else None

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return vectors and facts for a checkpoint."""
        edges = {"sent": self.sent, "seen": self.seen}
        arrays: dict[str, Vector] = {
            f"{way}/{peer}": sums.u
            for way, of in edges.items()
            for peer, sums in of.items()
            if sums.u is not None
        }
        facts = {
            way: {peer: sums.facts() for peer, sums in of.items()} for way, of in edges.items()
        }
        own = {"w": self.w, "since": self.since, "rounds": self.rounds, "joined": self.joined}
        return arrays, {**own, **facts}

    @classmethod
    def restored(cls, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> Mass:
        """Return the mass of an earlier life."""
        edges = {
            way: {peer: Sums.of(arrays.get(f"{way}/{peer}"), row) for peer, row in of.items()}
            for way, of in (("sent", facts["sent"]), ("seen", facts["seen"]))
        }
        w, since, rounds = (facts[name] for name in ("w", "since", "rounds"))
        joined = facts.get("joined", True)  # one that does not say may have
        return cls(w, since, rounds, joined, is_kept=True, **edges)


def given(
    z: Vector, w: float, sent: Mapping[str, Sums], shares: Mapping[str, float]
) -> tuple[Vector, float, dict[str, Sums]]:
    """Return z, w and the sums after handing out the ``shares`` p_ji of u and w.

    z = u/w stays what it is but for what rounding left of u here. Where all of w goes, z stays.
    """
    rest, out, found = w, np.zeros(z.size), {}
    nothing = ROUNDING * w
    for j, share in shares.items():
        old = sent.get(j, NOTHING)
        u = np.multiply(z, share * w, dtype=np.float64)
        if old.u is not None:
            u += old.u
        u = _as_it_travels(u, z.dtype)
        out += u if old.u is None else u - old.u
        found[j] = Sums(u, old.w + share * w, old.times + 1)
        rest -= found[j].w - old.w
        nothing += math.ulp(found[j].w)  # what is added to a large sum is known to no more
    if abs(rest) <= nothing:
        return z, 0.0, found
    out -= np.multiply(z, w - rest, dtype=np.float64)
    out /= -rest
    out += z
    return out.astype(z.dtype, copy=False), rest, found


def taken(z: Vector, w: float, news: Mapping[str, tuple[Sums, Sums]]) -> tuple[Vector, float]:
    """Return z and w after taking what the sums have grown by, (σ, seen) of each sender."""
    gain, mass = np.zeros(z.size), 0.0
    for new, old in news.values():
        if new.u is not None:
            gain += new.u if old.u is None else new.u - old.u
        mass += new.w - old.w
    if w + mass <= 0.0:
        return z, w
    gain -= np.multiply(z, mass, dtype=np.float64)
    gain /= w + mass
    gain += z
    return gain.astype(z.dtype, copy=False), w + mass


def lifted(z: Vector, before: Vector, after: Vector, w: float) -> Vector:
    """Return z + (after − before)/w: what local steps make of u, as z shows it."""
    step = np.subtract(after, before)
    step /= step.dtype.type(w)
    step += z
    return step


def parts_of(sums: Sums, dtype: np.dtype[Any], size: int) -> dict[str, Vector]:
    """Return σ_u as parts of params' ``dtype``: itself, or two that add up to it."""
    u = np.zeros(size) if sums.u is None else sums.u
    if dtype == u.dtype:
        return {"u": u}
    high = u.astype(dtype)
    return {"u": high, "sum": np.subtract(u, high, dtype=np.float64).astype(dtype)}


def scalars_of(sums: Sums, since: int) -> dict[str, float]:
    """Return what travels beside σ_u."""
    return {MASS: sums.w, TIMES: sums.times, SINCE: since}


def check_scalars(arrival: Arrival) -> None:
    """Raise ``PeerError`` unless a message has the scalars, as somebody may have sent them."""
    for name, largest in ((MASS, SUMS_MAX), (TIMES, SUMS_MAX), (SINCE, arrival.order[0])):
        number = arrival.scalars.get(name)
        if number is None or not 0 <= number <= largest:
            raise PeerError(
                "unsupported_message", f"the scalar {name} is wanted, from 0 to {largest:.0f}"
            )


def sums_of(u: Vector, arrival: Arrival) -> Sums:
    """Return the sums of a message, whose part u is ``u`` and whose scalars have been checked."""
    whole = np.asarray(u, np.float64)
    if "sum" in arrival.parts:
        whole = whole + arrival.parts["sum"]
    w, times, since = (arrival.scalars[name] for name in (MASS, TIMES, SINCE))
    return Sums(whole, float(w), int(times), int(since), arrival.order)


def _as_it_travels(u: Floats, dtype: np.dtype[Any]) -> Floats:
    """Return ``u`` rounded to what its parts hold."""
    if dtype == u.dtype:
        return u
    high = u.astype(dtype)
    low = (u - high).astype(dtype)
    whole: Floats = np.add(high, low, dtype=np.float64)
    return whole
