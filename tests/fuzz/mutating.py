"""Inputs near to sound ones: bytes flipped, pieces cut and doubled, numbers at their ends.

In ``tests``, ``python -m fuzz.mutating [--inputs N] [--seed S] [NAMES]`` gives each decoder N of
them. What a decoder does not survive is kept in the corpus, and named. ``--grow`` keeps instead the
shortest input for each refusal that the corpus has none for.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

from fuzz.decoders import CORPUS, DECODERS, Decoder

EDGES = tuple(
    value.to_bytes(size, order)  # type: ignore[arg-type]
    for size in (1, 2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("little", "big")
)
# What begins a map, an array, a text, an extension, a float of msgpack; what TOML is made of.
TOKENS = (
    b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc1",
    b"\xdb\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xc0",
    b"\xcb\x7f\xf0\0\0\0\0\0\0", b"[[", b"]]", b"\"\"\"", b"inf", b"nan", b"1e999", b"\r\n", b"\0",
    b" = ", b"{}", b"://", b"@", b"%00", "\u202e".encode(), b"99999999999999999999",
)  # fmt: skip
LENGTH_MAX = 4096
CORPUS_MAX = 40
# Memory is looked at now and then: it makes Python several times slower.
TRACED_EVERY = 200


def mutated(rng: random.Random, pool: list[bytes]) -> bytes:
    """Return one input."""
    data = bytearray(rng.choice(pool))
    for _ in range(1 + int(rng.expovariate(0.7))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + 1 + int(rng.expovariate(0.2)))
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * rng.randrange(1, 5)
            case 3:
                piece = rng.choice(EDGES)
                data[at : at + len(piece)] = piece
            case 4:
                data[at:at] = rng.choice(TOKENS)
            case 5:
                other = rng.choice(pool)
                begin = rng.randrange(len(other) + 1)
                data[at:end] = other[begin : begin + rng.randrange(64)]
            case 6:
                data[at:end] = rng.randbytes(end - at)
            case _:
                del data[rng.randrange(len(data) + 1) :]
    return bytes(data[:LENGTH_MAX])


def fuzz(decoder: Decoder, inputs: int, seed: int) -> int:
    """Give ``decoder`` so many inputs; return how many were taken. Raises at the first fault."""
    rng = random.Random(f"{decoder.name} {seed}")
    pool = [*decoder.seeds, *decoder.corpus()]
    taken = 0
    for number in range(inputs):
        data = mutated(rng, pool)
        try:
            taken += bounded(decoder, data) if number % TRACED_EVERY == 0 else decoder.check(data)
        except Exception:
            keep(decoder, data)
            raise
    return taken


def bounded(decoder: Decoder, data: bytes) -> bool:
    """Check as ``Decoder.check`` does, and what it allocates at most."""
    tracemalloc.start()
    try:
        taken = decoder.check(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22 + 1000 * len(data), f"{decoder.name} took {peak} bytes for {len(data)}"
    return taken


def keep(decoder: Decoder, data: bytes) -> None:
    folder = CORPUS / decoder.name
    if decoder.is_secret:
        folder = Path(tempfile.gettempdir()) / f"gossipnode-fuzz-{decoder.name}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    print(f"kept {path}", file=sys.stderr)


def grow(decoder: Decoder, inputs: int, seed: int) -> int:
    """Keep an input for each thing that the decoder says; return how many are new."""
    rng = random.Random(f"{decoder.name} {seed}")
    pool = [*decoder.seeds, *decoder.corpus()]
    there = {plain(decoder.refusal(data)) for data in pool}
    found: dict[str, bytes] = {}
    for _ in range(inputs):
        data = mutated(rng, pool)
        said = plain(decoder.refusal(data))
        if said not in there and len(data) < len(found.get(said, bytes(LENGTH_MAX + 1))):
            found[said] = data
    for data in sorted(found.values(), key=len)[:CORPUS_MAX]:
        keep(decoder, data)
    return len(found)


def plain(said: str | None) -> str:
    """Return what was said without what is in quotes, and without numbers."""
    return re.sub(r"'.*?'|\".*?\"|\d+", "", said or "taken")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("names", nargs="*", default=list(DECODERS))
    options = parser.parse_args()
    for name in options.names:
        began = time.monotonic()
        decoder = DECODERS[name]
        if options.grow and not decoder.is_secret:
            print(f"{name}: {grow(decoder, options.inputs, options.seed)} kept", flush=True)
            continue
        taken = fuzz(decoder, options.inputs, options.seed)
        seconds = time.monotonic() - began
        print(f"{name}: {options.inputs:,} inputs, {taken:,} taken, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
