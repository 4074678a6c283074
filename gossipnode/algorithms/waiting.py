"""What a node tells its operator while it waits for others.

Invariant: few words, however many are waited for. What to do about it may not enter.
"""

from __future__ import annotations

from collections.abc import Sequence

NAMED_MAX = 2


def waiting_for(peers: Sequence[str], k: int) -> str:
    """Return whom a node waits for in round ``k``; nothing where that is nobody.

    >>> waiting_for(["a", "b", "c"], 7)
    'waiting for a, b and 1 more: round 7'
    """
    if not peers:
        return ""
    named, more = list(peers[:NAMED_MAX]), len(peers) - NAMED_MAX
    last = f"{more} more" if more > 0 else named.pop()
    return f"waiting for {' and '.join(filter(None, (', '.join(named), last)))}: round {k}"
