"""Error feedback: what a codec leaves out of one difference is sent with the next.

With g a difference, C the codec and e what is left, at first 0::

    p = g + e
    send C(p)
    e ← p − C(p)

Invariant: Σ sent + e = Σ g, whatever the codec leaves out, up to the rounding of the params' type;
an unbiased codec leaves nothing: for it e stays 0, and errors make up for one another by chance.

Where a difference may be lost on its way, as a client's answer to its hub may, e moves only when
the receiver says that it counted the answer, which is told by its *mark*. One that was not counted
is as if its sender had not been asked, and e is what it was. A mark that the sender does not know
shows that one of the two has come back from an old checkpoint: then e begins anew at 0, for what it
holds may have been sent.

*Source*: Seide et al., Interspeech 2014; Stich et al., NeurIPS 2018; Karimireddy et al., ICML 2019.
*Differs from the source*: answers that are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gossipnode.algorithms.base import NodeInterface, Vector
from gossipnode.codecs import decode
from gossipnode.codecs.base import Codec, Coded, Tensor
from gossipnode.errors import PeerError
from gossipnode.learning.params import all_finite

# An answer: its round, and the life of the client that gave it.
Mark = tuple[int, int]
NEVER: Mark = (-1, 0)
SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Compressed:
    """A difference as it is sent: ``coded``; what all make of it; and what it leaves for the next.

    ``decoded`` has shape (d,), and so has ``left``, which is None where nothing is kept.
    """

    coded: Coded
    decoded: Vector
    left: Vector | None


class ErrorFeedback:
    """The e of one stream of differences, of shape (d,); None while it is zero."""

    def __init__(self) -> None:
        self.e: Vector | None = None

    async def compress(self, node: NodeInterface, g: Vector) -> Compressed:
        """Return C(g + e), g of shape (d,), which stays as it is; e moves with ``keep``.

        Raises ``PeerError`` (not_finite) where the sum has grown out of range.
        """
        codec = node.codec
        assert codec is not None
        seed = int(node.rng.integers(SEEDS)) if codec.draws else 0
        found: Compressed = await node.compute(compressed, g, self.e, codec, seed, node.tensors)
        return found

    def keep(self, made: Compressed) -> None:
        """Set e to what ``made`` leaves: it is sent."""
        self.e = made.left


class AnswerFeedback(ErrorFeedback):
    """The e of a client whose answers may be lost, and the hub's memory of those that it counted.

    ``counted`` is the hub's, by client; all else is the client's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of: Mark = NEVER  # the answer that left e
        self.pending: tuple[Mark, Vector | None] | None = None  # what the last answer leaves
        self.counted: dict[str, Mark] = {}

    async def answer(self, node: NodeInterface, k: int, g: Vector) -> Compressed:
        """Return C(g + e), the answer to round ``k``; e moves when it is confirmed."""
        made = await self.compress(node, g)
        self.pending = (k, node.epoch), made.left
        return made

    def confirm(self, counted: Mark) -> None:
        """Hear which of this client's answers was counted last."""
        if self.pending is not None and self.pending[0] == counted:
            self.of, self.e = self.pending
        elif counted != self.of:
            self.of, self.e = counted, None
        self.pending = None

    def hear(self, scalars: Mapping[str, float]) -> None:
        """Confirm what the hub tells; of a hub that tells nothing, nothing was counted."""
        life = scalars.get("counted_life", NEVER[1])
        self.confirm((int(scalars.get("counted", NEVER[0])), int(life)))

    def told(self, peer: str) -> Mapping[str, float]:
        """Return what the hub tells ``peer``."""
        k, life = self.counted.get(peer, NEVER)
        return {"counted": k, "counted_life": life}

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return e, what the last answer leaves, and what was counted; nothing without a codec."""
        if self.pending is None and self.of == NEVER and not self.counted:
            return {}, {}
        mark, left = self.pending or (NEVER, None)
        arrays = {"e": self.e, "e_pending": left}
        facts = {"e_of": self.of, "e_pending": mark, "e_counted": dict(self.counted)}
        return {name: array for name, array in arrays.items() if array is not None}, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the e of an earlier life, if that had one."""
        self.e, self.of = arrays.get("e"), mark_of(facts.get("e_of", NEVER))
        self.counted = {j: mark_of(found) for j, found in facts.get("e_counted", {}).items()}
        pending = mark_of(facts.get("e_pending", NEVER))
        self.pending = None if pending == NEVER else (pending, arrays.get("e_pending"))


def compressed(
    g: Vector, e: Vector | None, codec: Codec, seed: int, tensors: Sequence[Tensor]
) -> Compressed:
    """Return C(g + e) and what it leaves; raises ``PeerError`` (not_finite)."""
    p: Vector = g if e is None else np.add(g, e)
    if not all_finite(p):
        raise PeerError("not_finite", "what is to be sent has a value that is not finite")
    coded = codec.encode(p, seed)
    decoded = decode(coded, coded.data, tensors)
    return Compressed(coded, decoded, None if codec.is_unbiased else np.subtract(p, decoded))


def mark_of(found: Sequence[int]) -> Mark:
    """Return a mark that JSON gave back as a list."""
    k, life = found
    return k, life
