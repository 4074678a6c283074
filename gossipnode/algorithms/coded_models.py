"""Models that are sent through a codec: rounded, or some of their coordinates.

With C the codec, C(x_j) is mixed against this node's own C(x_i), so that what C leaves out stays
where it is and no sum moves. Sound for models are codecs that keep each value they send (nearly):
``float16`` and ``bfloat16``, and ``randomk`` where one seed, of swarm and round, draws the same
coordinates on all nodes.

Invariant: what has come is of the very coordinates that this node would have sent, or of all.

*Source*: shared seeds: Konečný et al. 2016 (arXiv 1610.05492), random masks.
*Differs from the source*: one mask a round for all nodes, so that mixing stays doubly stochastic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from gossipnode.algorithms.base import Arrival, NodeInterface, Vector
from gossipnode.codecs import decode
from gossipnode.codecs.base import Codec, Coded, Coding, Tensor
from gossipnode.errors import PeerError
from gossipnode.learning.params import merge_into

# What rounds values and leaves none out; what leaves out the same on all nodes.
ROUNDING = frozenset({"float16", "bfloat16"})
SAMPLE = "randomk"


async def coded_model(node: NodeInterface, x: Vector, seed: int = 0) -> tuple[Coded, Vector]:
    """Return x, shape (d,), as it is sent, and C(x), which is what all make of that."""
    codec = node.codec
    assert codec is not None
    made = await node.compute(_coded, x, codec, seed, node.tensors)
    return cast("tuple[Coded, Vector]", made)


def is_sample(coding: Coding | None) -> bool:
    """Whether some coordinates alone have come."""
    return coding is not None and coding.codec == SAMPLE


def check_sample(node: NodeInterface, arrival: Arrival) -> None:
    """Raise ``PeerError`` unless as many and the same coordinates have come as are mixed here."""
    coding, codec = arrival.codings.get("x"), node.codec
    sampled = codec is not None and codec.name == SAMPLE
    if is_sample(coding) != sampled:
        here = f"what {SAMPLE} draws" if sampled else "whole models"
        raise PeerError("unsupported_message", f"this node mixes {here}")
    if coding is None or not sampled:
        return
    from gossipnode.codecs.randomk import RandomK

    wanted = cast("RandomK", codec).count(coding.size)
    if coding.seed != node.shared_seed(arrival.round) or _values_of(coding) != wanted:
        raise PeerError(
            "unsupported_message",
            f"these are not the {wanted} coordinates of round {arrival.round}: the nodes differ "
            "in swarm.seed or codec.fraction",
        )


def merged_sample(own: Vector, theirs: Vector, coding: Coding, a: float) -> Vector:
    """Return ``own`` with ``theirs`` merged, by weight a, into the coordinates that have come."""
    from gossipnode.codecs.randomk import drawn

    assert coding.seed is not None
    after, mask = own.copy(), drawn(coding.seed, _values_of(coding), own.size)
    chosen = theirs[mask]
    merge_into(chosen, own[mask], a)
    after[mask] = chosen
    return after


def put_back(mixed: Vector, own: Vector, x: Vector) -> None:
    """Set mixed ← x + (mixed − own), where ``own`` is C(x)."""
    mixed -= own
    mixed += x


def _values_of(coding: Coding) -> int:
    return coding.nbytes // np.dtype(coding.dtype).itemsize


def _coded(x: Vector, codec: Codec, seed: int, tensors: Sequence[Tensor]) -> tuple[Coded, Vector]:
    assert not codec.is_unbiased  # it would multiply the values, which no model wants
    coded = codec.encode(x, seed)
    return coded, decode(coded, coded.data, tensors)
