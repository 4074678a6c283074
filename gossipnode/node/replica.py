"""The params and the ways to change them.

Invariant: a vector that has been current is never written again. Every change computes a new
vector and swaps it in, so anyone may hold the old one as a snapshot that later merges cannot
tear: training its starting point, a push the bytes that it sends. Nothing merged is ever lost,
because a finished computation is applied as the *difference* that it made.

Memory: the current vector, the one being computed, and whatever old ones are still held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gossipnode.algorithms.base import AGE_MAX, Vector, Weight
from gossipnode.errors import PeerError
from gossipnode.learning.params import add_difference_into, all_finite, merge_into

Compute = Callable[..., Any]


class Replica:
    """This node's copy of the model: ``params`` of shape (d,), read-only, and its ``age``."""

    def __init__(self, params: Vector, age: int, compute: Compute) -> None:
        self.params = params
        self.params.flags.writeable = False
        self.age = age
        self._compute = compute
        # Held from reading the current params to swapping: the computation between may leave
        # the loop for the worker thread.
        self._lock = asyncio.Lock()

    async def merge(self, incoming: Vector, weight: Weight, age: int) -> None:
        """Set params ← params + weight·(incoming − params), age ← max of both.

        A ``weight`` that depends on the age is asked when the merge's turn has come.
        """
        async with self._lock:
            w = weight(self.age) if callable(weight) else weight
            finite = await self._compute(_merge, incoming, self.params, w)
            self._swap(incoming, max(self.age, age), finite=finite)

    async def commit(self, after: Vector, before: Vector, age: int = 0, steps: int = 0) -> None:
        """Apply the change before → after; age ← max(own, ``age``) + ``steps``.

        Where nothing else changed meanwhile, ``after`` simply takes the place: exact, no copy.
        """
        async with self._lock:
            finite = await self._compute(_apply, after, before, self.params)
            self._swap(after, max(self.age, age) + steps, finite=finite)

    async def adopt(self, params: Vector, age: int) -> None:
        """Set params ← ``params`` and age ← ``age``: what either was before is gone."""
        async with self._lock:
            self._swap(params, age, finite=await self._compute(all_finite, params))

    def _swap(self, params: Vector, age: int, *, finite: bool) -> None:
        if not finite:
            raise PeerError("not_finite", "the merged model would have a value that is not finite")
        params.flags.writeable = False
        self.params, self.age = params, min(age, AGE_MAX)


def _merge(incoming: Vector, own: Vector, weight: float) -> bool:
    """Merge into ``incoming``; whether the result is finite."""
    merge_into(incoming, own, weight)
    return all_finite(incoming)


def _apply(after: Vector, before: Vector, current: Vector) -> bool:
    """Put the change before → after upon ``current`` into ``after``; whether that is finite."""
    if current is not before:
        add_difference_into(after, before, current)
    return all_finite(after)
