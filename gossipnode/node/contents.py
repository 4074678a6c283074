"""What is in a body: checked, decoded and finite, and of models none beyond all bounds.

A model of 1e30 is finite, and one merge with it ends all learning for good. So what takes part in
the params may be ``ratio_max`` times as large as this node's own model, by the largest magnitude
of an element, and is refused (``out_of_range``) beyond. Invariant: nothing is allocated here but
what coded parts become.

This ends accidents and crude attacks. It is no robust merging: who stays within the bound is
believed, and sums and gradients, which have no scale of their own, are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gossipnode import codecs
from gossipnode.algorithms.base import Vector
from gossipnode.errors import PeerError
from gossipnode.learning.params import Layout, extent, largest
from gossipnode.wire.frame import arrays, verify_checksum
from gossipnode.wire.message import Message, Part

# Models, and differences between models. Not the sums of push-sum and all-reduces, which grow with
# nodes and rounds; nor gradients, trackers and factors.
MODELS = frozenset({"x", "half", "phi", "q", "delta"})
# Below this magnitude a node's own model is no measure: it may have begun with zeros.
OWN_LEAST = 1.0


class Bound:
    """How large the elements of a model may be: ``ratio_max`` × the largest of ``own``'s.

    ``own()`` gives the params of the moment. They cost a pass only where an arrival is larger
    than ``ratio_max`` itself, which few models ever are.
    """

    def __init__(self, ratio_max: float, own: Callable[[], Vector]) -> None:
        self.ratio_max, self.own = ratio_max, own

    def check(self, part: Part, vector: Vector, found: float) -> None:
        """Raise ``PeerError`` (out_of_range) where a model is too large; ``found`` bounds it."""
        if found <= self.ratio_max * OWN_LEAST or part.role not in MODELS:
            return
        limit = self.ratio_max * max(OWN_LEAST, largest(self.own()))
        if found > limit and (magnitude := largest(vector)) > limit:
            raise PeerError(
                "out_of_range",
                f"part {part.role} has a value of magnitude {magnitude:.3g}, the limit here is "
                f"{limit:.3g}: network.magnitude_ratio_max times this node's own largest",
            )


def bound_by(ratio_max: float, own: Callable[[], Vector]) -> Bound | None:
    """Return the bound of a node with the model ``own()``; None, for 0: any finite one is taken."""
    return Bound(ratio_max, own) if ratio_max else None


def read(
    message: Message, body: memoryview, layout: Layout, bound: Bound | None
) -> tuple[Sequence[Vector], float]:
    """Return the vectors of ``body``, and a bound on the magnitude of their elements.

    Raw ones are views of it. Raises ``PeerError`` unless they are sound.
    """
    verify_checksum(message, body)
    return checked(message, arrays(message, body), layout, bound)


def checked(
    message: Message, vectors: Sequence[Vector], layout: Layout, bound: Bound | None
) -> tuple[Sequence[Vector], float]:
    """Return ``vectors`` as numbers, and a bound on their magnitude; raises ``PeerError``."""
    vectors = _numbers(message, vectors, layout)
    highest = 0.0
    for part, vector in zip(message.parts, vectors, strict=True):
        found = extent(vector)
        if found == math.inf:
            raise PeerError("not_finite", f"part {part.role} has a NaN or an infinite value")
        if bound is not None:
            bound.check(part, vector, found)
        if found > highest:
            highest = found
    return vectors, highest


def _numbers(message: Message, vectors: Sequence[Vector], layout: Layout) -> Sequence[Vector]:
    """Return ``vectors`` decoded; the wire gives bfloat16 as uint16, and coded ones as bytes."""
    for part in message.parts:
        if part.codec != "raw":
            return [_decoded(*pair, layout) for pair in zip(message.parts, vectors, strict=True)]
    if layout.dtype.isbuiltin == 1:  # numpy's own; a dtype's name costs a microsecond
        return vectors
    return [vector.view(layout.dtype) for vector in vectors]


def _decoded(part: Part, vector: Vector, layout: Layout) -> Vector:
    """Return one part as numbers; 16-bit params are never coded."""
    return vector if part.codec == "raw" else codecs.decode(part, vector, layout.tensors)
