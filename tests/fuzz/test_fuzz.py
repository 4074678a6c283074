"""A bounded run of each decoder in `make test`; `make fuzz` gives each a million inputs."""

from __future__ import annotations

import random

import pytest
from fuzz import files
from fuzz.decoders import DECODERS, Decoder
from fuzz.mutating import bounded, fuzz, mutated
from hypothesis import given, settings
from hypothesis import strategies as st

INPUTS = {"config": 60, "peers": 150, "bundle": 60}
EACH = pytest.mark.parametrize("name", DECODERS)


@EACH
def test_what_is_sound_is_taken_and_what_was_kept_is_survived(name: str) -> None:
    decoder = DECODERS[name]
    for data in decoder.seeds:
        assert decoder.check(data), data
    for data in (b"", b"\0", *decoder.corpus()):
        bounded(decoder, data)


@EACH
def test_inputs_near_to_sound_ones(name: str) -> None:
    fuzz(DECODERS[name], INPUTS.get(name, 1500), seed=1)


@EACH
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=600))
def test_any_bytes(name: str, data: bytes) -> None:
    DECODERS[name].check(data)


def test_an_authority_whose_key_is_of_no_known_kind() -> None:
    """cryptography has an exception of its own for it; found by changing one byte."""
    known, unknown = (bytes.fromhex(f"06072a8648ce3d02{last}") for last in ("01", "07"))
    assert files.AUTHORITY.count(known) == 1
    data = files.with_authority(files.AUTHORITY.replace(known, unknown))
    assert DECODERS["bundle"].refusal(data)
    assert DECODERS["bundle"].refusal(files.with_authority(files.AUTHORITY)) is None
    assert DECODERS["certificate"].refusal(files.AUTHORITY)


def test_the_inputs_are_of_both_kinds_and_the_judge_sees_faults() -> None:
    rng = random.Random(0)
    frame = DECODERS["frame"]
    inputs = [mutated(rng, list(frame.seeds)) for _ in range(300)]
    assert len(set(inputs)) > 250

    def faulty(data: bytes) -> None:
        if len(data) % 7 == 0:
            raise KeyError(data)

    with pytest.raises(KeyError):
        [Decoder("faulty", faulty, (ValueError,), ()).check(data) for data in inputs]
    with pytest.raises(AssertionError, match="bytes for"):
        bounded(Decoder("greedy", lambda _: bytes(2**23), (), ()), b"")
