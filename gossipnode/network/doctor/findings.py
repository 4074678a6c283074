"""What a check finds: good, doubtful or bad, in one sentence, and what to do in another.

Invariant: what is not good has an advice; checks run side by side, and each ends in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from gossipnode.network.threads import Hand

State = Literal["ok", "warning", "failed"]
T = TypeVar("T")

# One step of a check: a name to be resolved, a connection, an answer.
STEP_S = 5.0
# All of one check: a peer takes four steps, and its own dial to here.
CHECK_S = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found; ``advice`` is empty where all is well."""

    check: str
    state: State
    said: str
    advice: str = ""

    def __post_init__(self) -> None:
        assert bool(self.advice) != (self.state == "ok"), self


def ok(check: str, said: str) -> Finding:
    """Return a finding that is good."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, advice: str) -> Finding:
    """Return a finding that may be bad."""
    return Finding(check, "warning", said, advice)


def failed(check: str, said: str, advice: str) -> Finding:
    """Return a finding that is bad: a node would not start, or not be reached."""
    return Finding(check, "failed", said, advice)


async def side_by_side(
    checks: Mapping[str, Awaitable[list[Finding]]], within_s: float = CHECK_S
) -> list[Finding]:
    """Return what all of ``checks`` find, in their order.

    One that does not end has failed, and so has one that may not look (``OSError``).
    """

    async def bounded(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
        try:
            async with asyncio.timeout(within_s):
                return await check
        except TimeoutError:
            said = f"the check did not end within {within_s:g} s"
            return [failed(name, said, "look whether the disk or the name server hangs")]
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            said = f"{where}{(error.strerror or type(error).__name__).lower()}"
            return [failed(name, said, "ask as the user as which the node runs")]

    found = await asyncio.gather(*(bounded(name, check) for name, check in checks.items()))
    return [one for several in found for one in several]


async def aside(work: Callable[..., T], *arguments: Any, within_s: float = STEP_S) -> T:
    """Run what blocks in a thread that nobody waits for at the end; raises ``TimeoutError``.

    Not in the loop's own threads: a process ends only when those do, and a name server may be
    silent for minutes.
    """
    hand = Hand("check")
    try:
        async with asyncio.timeout(within_s):
            return await hand.do(work, *arguments)
    finally:
        hand.close()
