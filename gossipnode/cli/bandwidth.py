"""Bits a second as people write them.

Invariant: what is read is a positive, finite number; how a line is used may not enter. A number
alone is bits a second, and who writes a small one has most likely left out a unit.
"""

from __future__ import annotations

import re
from math import inf

import click

# Below it a number needs its unit: no line is that slow.
BARE_LEAST = 1000.0
PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def bandwidth(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    """Return the bits a second that ``text`` means: 100Mbit, 1Gbit/s, 2e6; a click callback.

    >>> bandwidth(None, None, "100Mbit"), bandwidth(None, None, "10bit/s")  # type: ignore[arg-type]
    (100000000.0, 10.0)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?)\s*([kMGT]?)(bit/s|bit|bps)?", text.strip())
    bps = float(found[1]) * PREFIXES[found[2]] if found else 0.0
    if not 0.0 < bps < inf:
        raise click.BadParameter(f"{text!r}: say 100Mbit or 1Gbit (bits a second)")
    if found is not None and not (found[2] or found[3]) and bps < BARE_LEAST:
        number = found[1]
        raise click.BadParameter(
            f"{text!r} is {number} bits a second: say {number}Mbit, or the unit"
        )
    return bps
