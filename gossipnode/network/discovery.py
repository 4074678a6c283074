"""Nodes of the same swarm on the same network, without anybody naming one (``--discover``).

Each announces ``_gossipnode._tcp`` with the swarm's name, its id and its address, none of which is
secret; what others announce is hearsay like any other address: whoever answers there is asked who
it is, and with trust has to prove it. Invariant: at most ``FOUND_MAX`` announcements are
remembered, of this swarm alone, and nothing of what they say is believed but where to ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gossipnode.errors import NetworkError
from gossipnode.logs import bounded, event
from gossipnode.node.addresses import is_address

log = logging.getLogger("gossipnode.network.discovery")

FOUND_MAX = 256
# For the first answers, before a node begins by itself: zeroconf asks at once and after a second,
# and whoever is there answers within 120 ms.
LOOK_S = 1.5
# To take an announcement back: zeroconf says so three times within 0.4 s.
END_S = 2.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node says of itself on the LAN."""

    swarm: str
    id: str
    address: str


Heard = Callable[[str, Announcement | None], None]
"""Gets an announcement under a name of its own, or None when it was taken back."""


class Lan(Protocol):
    """The network around this machine; ``zeroconf_lan.ZeroconfLan`` is the real one."""

    async def begin(self, own: Announcement | None, heard: Heard) -> None:
        """Announce ``own``, if any, and tell of others from now on; raises ``NetworkError``."""

    async def end(self) -> None:
        """Take the announcement back; harmless twice. Raises ``NetworkError`` and ``OSError``."""


class Discovery:
    """Finds nodes of ``swarm`` in ``lan``; ``id`` is this node's, which it does not find."""

    def __init__(self, lan: Lan, swarm: str, own_id: str, own_address: str = "") -> None:
        self._lan, self.swarm, self.own_id, self.own_address = lan, swarm, own_id, own_address
        self._found: dict[str, str] = {}
        self._first = asyncio.Event()

    async def begin(self) -> None:
        """Look, and announce this node where it has an address; a LAN that fails is told of."""
        own = None
        if self.own_address:
            own = Announcement(self.swarm, self.own_id, self.own_address)
        try:
            await self._lan.begin(own, self._heard)
        except NetworkError as error:
            event(log, logging.WARNING, "discover.failed", reason=str(error))

    async def end(self) -> None:
        """Stop; harmless twice. A LAN that fails, or hangs, keeps nobody from what comes next."""
        try:
            async with asyncio.timeout(END_S):
                await self._lan.end()
        except (NetworkError, OSError) as error:
            event(log, logging.WARNING, "discover.failed", reason=str(error) or "it hangs")

    def found(self) -> list[str]:
        """Return the addresses announced by others."""
        return list(dict.fromkeys(self._found.values()))

    async def look(self, seconds: float = LOOK_S) -> list[str]:
        """Return who answers first within ``seconds``; none where nobody does."""
        await self.begin()
        try:
            async with asyncio.timeout(seconds):
                await self._first.wait()
        except TimeoutError:
            return []
        finally:
            await self.end()
        return self.found()

    def _heard(self, name: str, one: Announcement | None) -> None:
        if one is None:
            self._found.pop(name, None)
            return
        if one.swarm != self.swarm or one.id == self.own_id:
            return
        if not is_address(one.address, self.own_address or one.address):
            return
        if name not in self._found:
            if len(self._found) >= FOUND_MAX:
                return
            event(log, logging.INFO, "discover.found", peer=bounded(one.id), address=one.address)
        self._found[name] = one.address
        self._first.set()
