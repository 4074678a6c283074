"""Of whom a checkpoint's sums are: what is kept over all members means nothing to others.

Invariant: the same for the same ids, in whatever order a peer list has them.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash


def members_of(ids: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that tell these members from others.

    >>> members_of(["a", "b"]) == members_of(["b", "a"]) != members_of(["a"])
    True
    """
    return xxhash.xxh3_64_hexdigest("\n".join(sorted(ids)).encode())


def are_others(kept: str, ids: Iterable[str]) -> bool:
    """Tell whether ``kept``, of an earlier life, is of other members; "" tells nothing."""
    return kept not in ("", members_of(ids))
