"""The LAN as multicast DNS shows it, by the library zeroconf, which is loaded for this alone.

Invariant: what a service of another kind, or a broken one, says is dropped here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import xxhash

from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network.discovery import Announcement, Heard
from gossipnode.node.addresses import is_number

TYPE = "_gossipnode._tcp.local."
REQUEST_MS = 1000.0


class ZeroconfLan:
    """Announces and browses on ``interfaces``, all by default. Raises ``ConfigError`` without it.

    Constructing only looks whether the library is there.
    """

    def __init__(self, interfaces: list[str] | None = None) -> None:
        try:
            import zeroconf.asyncio
        except ImportError:
            raise ConfigError(
                "discovering nodes needs zeroconf: pip install 'gossipnode[discover]'",
                key="network.discover",
            ) from None
        self._library = zeroconf
        self._interfaces = interfaces
        self._zeroconf: Any = None
        self._browser: Any = None
        self._heard: Heard = lambda _name, _one: None
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self, own: Announcement | None, heard: Heard) -> None:
        """Announce ``own``, if any, and tell of others from now on; raises ``NetworkError``."""
        library, self._heard = self._library, heard
        chosen = {} if self._interfaces is None else {"interfaces": self._interfaces}
        try:
            self._zeroconf = library.asyncio.AsyncZeroconf(**chosen)
            if own is not None:
                await self._zeroconf.async_register_service(self._service(own))
            self._browser = library.asyncio.AsyncServiceBrowser(
                self._zeroconf.zeroconf, TYPE, handlers=[self._changed]
            )
        except (OSError, library.Error) as error:
            await self.end()
            raise NetworkError(f"no multicast here: {error}") from None

    async def end(self) -> None:
        """Take the announcement back; harmless twice. Raises ``NetworkError`` and ``OSError``."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        found, self._zeroconf = self._zeroconf, None
        if found is not None:
            if self._browser is not None:
                await self._browser.async_cancel()
                self._browser = None
            try:
                await found.async_unregister_all_services()
            except self._library.Error as error:
                raise NetworkError(f"no multicast here any more: {error}") from None
            finally:
                await found.async_close()

    def _service(self, own: Announcement) -> Any:
        parts = urlsplit(own.address)
        host = parts.hostname or ""
        # A name of at most 63 bytes that no other node has; people read the id in the properties.
        name = xxhash.xxh3_64_hexdigest(f"{own.swarm} {own.id}".encode())
        return self._library.asyncio.AsyncServiceInfo(
            TYPE,
            f"{name}.{TYPE}",
            port=parts.port,
            parsed_addresses=[host] if is_number(host) else [],
            properties={"swarm": own.swarm, "id": own.id, "address": own.address},
            server=f"{name}.local.",
        )

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if state_change is self._library.ServiceStateChange.Removed:
            self._heard(name, None)
            return
        task = asyncio.get_running_loop().create_task(self._look_up(zeroconf, service_type, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, zeroconf: Any, service_type: str, name: str) -> None:
        info = self._library.asyncio.AsyncServiceInfo(service_type, name)
        if await info.async_request(zeroconf, REQUEST_MS):
            one = announcement_of(info.properties)
            if one is not None:
                self._heard(name, one)


def announcement_of(properties: Mapping[bytes, bytes | None]) -> Announcement | None:
    """Return what a service's properties say; None where that is no node.

    >>> announcement_of({b"swarm": b"s", b"id": b"a", b"address": b"http://10.0.0.1:7946"})
    Announcement(swarm='s', id='a', address='http://10.0.0.1:7946')
    >>> announcement_of({b"swarm": b"s"}) is None
    True
    """
    values = []
    for key in (b"swarm", b"id", b"address"):
        try:
            text = (properties.get(key) or b"").decode()
        except UnicodeDecodeError:
            return None
        if not text or not text.isprintable():
            return None
        values.append(text)
    return Announcement(*values)
