"""The vigil of a node with trust: revocations spread, and whoever is shut out is cut off.

Every node asks a random peer now and then whether it has a newer list, and hands a new one at once
to a few others; so it is everywhere after some log n steps, at a constant price a node. Invariant:
a peer that counts no longer has no lane here for longer than a tick, and no other connection for
longer than two; whatever it asks for meanwhile is refused (``Trust.peer_of``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gossipnode.errors import ConfigError, NetworkError, PeerError, StorageError
from gossipnode.logs import bounded, event
from gossipnode.network.client import HttpClient
from gossipnode.network.trust import files
from gossipnode.network.trust.revocations import BYTES_MAX
from gossipnode.network.trust.trust import Trust

log = logging.getLogger("gossipnode.network.trust")

TICK_S = 2.0
# Between two questions, at random from half to one and a half of it.
ASK_S = 10.0
# A new list is handed on to so many: a rumour that each tells 4 others at random reaches 98 % of
# all, the share s with s = 1 − e^(−4s); the rest ask.
FANOUT = 4
TIMEOUT_S = 5.0


class Vigil:
    """Watches for one node. ``peers`` tells addresses that may be asked, ``cut`` cuts who is out.

    ``kept`` is the file in which the newest list survives a restart; ``watched`` one that somebody
    else writes; ``work`` runs what blocks elsewhere.
    """

    def __init__(
        self,
        trust: Trust,
        client: HttpClient,
        peers: Callable[[], Sequence[str]],
        cut: Callable[[], None],
        work: Callable[..., Awaitable[Any]],
        kept: Path | None = None,
        watched: Path | None = None,
    ) -> None:
        self.trust, self._client = trust, client
        self._peers, self._cut, self._kept, self._watched = peers, cut, kept, watched
        self._work = work
        self._rng = np.random.default_rng()  # whom to ask, which no run repeats
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: tuple[int, int] | None = None

    def recall(self) -> None:
        """Take the lists that are on this machine; raises ``ConfigError`` where one is none."""
        for path in (self._kept, self._watched):
            if path is not None and path.exists():
                self._take(path)
        if self._watched is not None:
            if not self._watched.exists():
                raise ConfigError(
                    "there is no such file", file=str(self._watched), key="trust.revocations"
                )
            self._seen = _stamp(self._watched)

    def reread(self) -> None:
        """Take the list that somebody else writes, if there is one; raises ``ConfigError``."""
        if self._watched is None:
            return
        text = files.read(self._watched, BYTES_MAX)
        self._seen = _stamp(self._watched)
        try:
            self.hear(text, str(self._watched))
        except PeerError as error:
            where = str(self._watched)
            raise ConfigError(error.reason, file=where, key="trust.revocations") from None

    def start(self) -> None:
        """Begin, in the running loop."""
        for coroutine in (self._tick(), self._ask()):
            self._spawn(asyncio.get_running_loop().create_task(coroutine))

    async def close(self) -> None:
        """End; harmless twice."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hear(self, text: str, source: str) -> bool:
        """Take a list that came from ``source``; whether it is newer. Raises ``PeerError``."""
        if not self.trust.adopt(text):
            return False
        revocations = self.trust.revocations
        event(
            log, logging.WARNING, "trust.revocations", counter=revocations.counter,
            revoked=len(revocations.ids), source=bounded(source),
        )  # fmt: skip
        if self.trust.member.id in revocations.ids:
            event(log, logging.ERROR, "trust.revoked_self", id=self.trust.member.id)
        self._cut()
        self._spawn(asyncio.get_running_loop().create_task(self._pass_on(text)))
        return True

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "trust is no longer watched", "exception": error, "task": task}
            )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._cut()  # certificates expire by themselves
            self._look()
            self.trust.remind()

    def _look(self) -> None:
        if self._watched is None or (stamp := _stamp(self._watched)) in (None, self._seen):
            return
        self._seen = stamp
        try:
            self.hear(files.read(self._watched, BYTES_MAX), str(self._watched))
        except (ConfigError, PeerError) as error:
            event(log, logging.ERROR, "trust.unreadable", reason=error)

    async def _ask(self) -> None:
        while self.trust.bundle.authority_key is not None:
            await asyncio.sleep(ASK_S * (0.5 + self._rng.random()))
            for address in self._some(1):
                url = f"{address}/v1/revocations?than={self.trust.revocations.counter}"
                try:
                    text = await self._client.get_bytes(url, BYTES_MAX, TIMEOUT_S)
                    if text:
                        self.hear(text.decode("utf-8", "replace"), address)
                except (NetworkError, PeerError) as error:
                    event(log, logging.DEBUG, "trust.unanswered", reason=error)

    async def _pass_on(self, text: str) -> None:
        if self._kept is not None:
            try:
                await self._work(files.write, self._kept, text)
            except StorageError as error:
                event(log, logging.ERROR, "trust.not_kept", reason=error)
        await asyncio.gather(*(self._hand(address, text) for address in self._some(FANOUT)))

    async def _hand(self, address: str, text: str) -> None:
        try:
            await self._client.send(f"{address}/v1/revocations", text.encode(), TIMEOUT_S)
        except (NetworkError, PeerError) as error:
            event(log, logging.DEBUG, "trust.not_told", address=bounded(address), reason=error)

    def _some(self, count: int) -> list[str]:
        peers = self._peers()
        chosen = self._rng.choice(len(peers), min(count, len(peers)), replace=False)
        return [peers[int(i)] for i in chosen]

    def _take(self, path: Path) -> None:
        try:
            self.trust.adopt(files.read(path, BYTES_MAX))
        except PeerError as error:
            if path == self._watched:
                raise ConfigError(error.reason, file=str(path), key="trust.revocations") from None
            # Not put aside unasked: with a list that is damaged, the revoked would be let in again.
            raise ConfigError(
                f"{error.reason}. It is the list that this node kept: if the authority is another "
                "one now, remove the file; else put the authority's revocations.txt in its place",
                file=str(path),
            ) from None


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
