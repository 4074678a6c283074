"""How a node waits for others: to a deadline, asking whether they live, and telling its operator.

Invariant: nobody is waited for who cannot send any more, and whoever is missing at the deadline is
not waited for again until it is heard of. What it tells has few words, however many are waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from gossipnode.algorithms.base import NodeInterface

PROBE_EVERY_S = 0.5
# Timers may fire early by what a clock cannot tell apart.
CLOCK_S = 1e-6
NAMED_MAX = 2


async def wait_for(
    node: NodeInterface,
    complete: asyncio.Event,
    until: float,
    missing: Callable[[], Iterator[str]],
    k: int,
    *,
    what: str = "model",
    blame: bool = True,
) -> None:
    """Wait for ``complete``, to the instant ``until`` at most, or until the node stops.

    Those ``missing`` meanwhile are asked whether they still listen; with ``blame``, those missing
    at the end are suspected, for want of ``what`` of round ``k``.
    """
    while not await node.wait(complete, min(PROBE_EVERY_S, until - node.time())):
        found = list(missing())
        if node.stopping:
            break
        if node.time() >= until - CLOCK_S:
            for j in found if blame else ():
                node.suspect(j, f"no {what} of round {k} within the deadline")
            break
        # A process that died says so at once, when asked: no need to wait out the deadline.
        node.probe(found)
        node.tell(waiting_for(found, k))
    node.tell("")


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
