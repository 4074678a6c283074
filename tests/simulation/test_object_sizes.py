"""Frames passed on as objects: as long as the real ones, whatever their heads hold."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from gossipnode.simulation.delivery import ObjectEncoder
from gossipnode.wire.frame import encode
from gossipnode.wire.message import Kind, Message, Part

CODED = np.zeros(8, np.uint8)


def coded(**numbers: Any) -> Part:
    return Part(role="q", dtype="float32", size=4, nbytes=8, codec="float16", **numbers)


def ranged(start: int, stop: int) -> Part:
    index = {"kind": "range", "start": start, "stop": stop}
    return Part(role="x", dtype="uint8", size=8, nbytes=8, index=index)


def message(part: Part, **more: Any) -> Message:
    return Message(Kind.MODEL, "s", "0" * 32, "dpsgd", "n0", 1, 1, parts=(part,), **more)


PLAIN = Part.of("x", CODED)
ALIKE = {
    "phase": [message(PLAIN), message(PLAIN, phase=1), message(PLAIN, phase=200)],
    "resync": [message(PLAIN), message(PLAIN, resync=True)],
    "scale": [message(coded()), message(coded(scale=0.5))],
    "zero and norm": [message(coded(zero=0.5)), message(coded(norm=0.5, zero=0.5))],
    "seed": [message(coded(seed=seed)) for seed in (0, 127, 128, 2**16, 2**40)],
    "seed or none": [message(coded()), message(coded(seed=0))],
    "index": [message(ranged(start, start + 8)) for start in (0, 120, 200, 2**20)],
    "all or a range": [message(PLAIN), message(ranged(0, 8))],
}


@pytest.mark.parametrize("what", ALIKE)
def test_an_object_is_as_long_as_its_frame(what: str) -> None:
    for order in permutations(ALIKE[what]):
        encoder = ObjectEncoder()
        for each in order:
            assert encoder(each, [CODED]).nbytes == encode(each, [CODED]).nbytes


def test_a_seed_for_each_message_is_not_remembered_for_ever() -> None:
    encoder, first = ObjectEncoder(), message(coded(seed=0))
    for seed in np.random.default_rng(0).integers(2**64, size=1000, dtype=np.uint64):
        encoder(replace(first, parts=(coded(seed=int(seed)),)), [CODED])
    assert len(encoder._heads) <= 64
