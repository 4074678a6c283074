"""How much a codec keeps, and what γ that allows, for ``choco``.

Invariant: γ is in (0, 1], and what is measured on noise is the same on all nodes that have the same
codec. Measured on a node's own differences alone it can fall into a hole: signs keep next to
nothing of a vector with spikes, γ falls, nodes drift apart, and so spikes arise. Noise is what
most codecs keep least of, and a γ that is right for it has never diverged (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from gossipnode.algorithms.base import Sent, Vector
from gossipnode.codecs import decode
from gossipnode.codecs.base import Codec, Tensor

# Differences over which c is a mean, about.
WINDOW = 20
# Numbers drawn to see what is kept of noise, and vectors at most: of few, one tells little.
NOISE, DRAWS_MAX = 2**16, 32
# γ must be above 0, whatever a codec does.
LEAST = 1e-4


class Quality:
    """c = cos²(v, C(v)), the share of ‖v‖² along what a codec makes of v; 1 without a codec.

    δ of the best multiple of C(v), so that a codec which sends less than it keeps, to be a
    contraction in the worst case, is not taken for a bad one.
    """

    def __init__(self) -> None:
        self.kind = ""  # of the codec that it is about
        self.isotropic = 1.0  # c of noise
        self.own, self.seen = 1.0, 0  # mean of c over the node's own v of late, and their number

    def note(self, c: float) -> None:
        """Take in c of one v; NaN, of a v that is nothing, tells nothing."""
        if 0 <= c <= 1:
            self.seen = min(self.seen + 1, WINDOW)
            self.own += (c - self.own) / self.seen

    def begin_anew(self, kind: str, isotropic: float) -> None:
        """Forget what was measured: the codec is another one, with this c of noise."""
        self.kind, self.isotropic, self.seen = kind, isotropic, 0

    def state(self) -> list[Any]:
        """Return what a checkpoint must hold."""
        return [self.kind, self.isotropic, self.own, self.seen]

    def restore(self, state: Sequence[Any]) -> None:
        """Take up what an earlier life has measured."""
        self.kind, self.isotropic, self.own, self.seen = state

    @property
    def gamma(self) -> float:
        """Return c/(2 − c) in (0, 1], c of noise or, where they are better kept, of the own v."""
        c = max(self.isotropic, self.own if self.seen else 0.0, LEAST)
        return c / (2 - c)


def kind_of(codec: Codec) -> str:
    """Return what tells codecs apart: the name and the options, bits that change among them.

    >>> from gossipnode.codecs.qsgd import QSGD
    >>> kind_of(QSGD(16, contractive=True))
    'qsgd contractive=True is_unbiased=False levels=16'
    """
    options = {k: v for k, v in vars(codec).items() if isinstance(v, int | float)}
    return " ".join([codec.name, *(f"{k}={v}" for k, v in sorted(options.items()))])


def alignment(v: Vector, q: Vector) -> float:
    """Return cos² of the angle between two vectors; NaN where one is 0."""
    inner, vv, qq = (float(np.vdot(*pair)) for pair in ((v, q), (v, v), (q, q)))
    return min(inner / vv * (inner / qq), 1.0) if vv > 0 and qq > 0 else np.nan


def isotropic_alignment(x: Vector, codec: Codec, tensors: Sequence[Tensor]) -> float:
    """Return cos² of normal numbers, as many as ``x`` has, and what ``codec`` makes of them.

    On average over some draws, which are the same on all nodes.
    """
    codec = deepcopy(codec)  # an encoder may remember what it has seen
    rng = np.random.Generator(np.random.Philox(key=0))
    found, draws = 0.0, min(max(NOISE // x.size, 1), DRAWS_MAX)
    for seed in range(draws):
        v = rng.standard_normal(x.size).astype(x.dtype)
        sent = codec.encode(v, seed)
        c = alignment(v, decode(sent, sent.data, tensors))
        found += 0.0 if np.isnan(c) else c
    return found / draws


def encoded(
    half: Vector, hat: Vector, codec: Codec | None, seed: int, tensors: Sequence[Tensor]
) -> tuple[Sent, Vector, float]:
    """Return q = C(half − hat), hat + q, and cos²(half − hat, q)."""
    v = np.subtract(half, hat)
    if codec is None:
        return v, np.add(hat, v), 1.0
    sent = codec.encode(v, seed)
    q = decode(sent, sent.data, tensors)
    kept = alignment(v, q)
    return sent, np.add(hat, q, out=q), kept
