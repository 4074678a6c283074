"""Joining a running gossip swarm: its options, some peers and its current model from one node.

Invariant: what a joining node takes over is checked as if a person had written it; a checkpoint
of its own counts more than the model that it is given. Nothing is written to the disk on the way,
so a crash in the middle leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gossipnode.cli.flags import with_options
from gossipnode.cli.readers import hinted
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, NetworkError, PeerError
from gossipnode.learning.modelfile import load_model
from gossipnode.learning.params import Array
from gossipnode.logs import bounded, event
from gossipnode.network import HttpClient, HttpNode
from gossipnode.network.sources import Resolver, addresses_of, resolve
from gossipnode.node.place import host_id
from gossipnode.node.replica import Replica

if TYPE_CHECKING:
    from gossipnode.network.trust.trust import Trust

log = logging.getLogger("gossipnode.cli.join")

# A model file's header beside its tensors.
HEADER_BYTES_MAX = 16 * 2**20
# Members that are asked at once, and how long each may take for its first word where there are
# others to ask. A machine that is off answers nothing, one that is on refuses at once.
AT_ONCE = 8
FIRST_WORD_S = 5.0


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node of the swarm told: options by section, some peers, and its model.

    ``shares`` are those that the common data was divided into, as far as the node knows.
    """

    url: str
    donor: str
    options: dict[str, dict[str, Any]]
    peers: tuple[PeerEntry, ...]
    params: Array
    age: int
    schema: str
    shares: int = 1

    def place(
        self, config: Config, *, is_back: bool = False
    ) -> tuple[Config, tuple[PeerEntry, ...]]:
        """Return the config with a share of the data, and the other nodes; raises ConfigError.

        One that ``is_back`` was of the swarm before: it may be known there by its own name.
        """
        if config.topology.graph != "random":
            raise _fixed(config.topology.graph)
        node_id = config.node.id or host_id()
        known = {peer.id: peer.address for peer in self.peers}
        if node_id == self.donor or (not config.node.id and node_id in known and not is_back):
            raise ConfigError(
                f"{node_id!r} is in the swarm already, at {known.get(node_id, self.url)}; give "
                "this node another name with --id",
                key="node.id",
            )
        if config.data.share == "auto":
            # The common file is divided among the nodes that the swarm began with, so a newcomer
            # takes a share that one of them has. Its name chooses: the same after a restart.
            count = max(len(self.peers), self.shares, 1)
            share = f"{zlib.crc32(node_id.encode()) % count}/{count}"
            config = with_options(config, {"data.share": share})
        return config, tuple(peer for peer in self.peers if peer.id != node_id)


async def join(url: str, trust: Trust | None = None, token: str = "") -> Joined:
    """Ask the node at ``url``; raises ``NetworkError`` or, for a fixed graph, ``ConfigError``.

    ``token`` is what it may want of readers, where there is no ``trust``.
    """
    return await join_any([url.rstrip("/")], trust, token=token)


async def join_any(
    urls: Iterable[str],
    trust: Trust | None = None,
    resolver: Resolver = resolve,
    token: str = "",
) -> Joined:
    """Ask the nodes at ``urls``, and all that their names stand for; the first that answers counts.

    ``token`` is shown to each, where there is no ``trust``: readers of a swarm have one in common.

    Raises ``NetworkError`` where none does, or ``ConfigError`` where the graph is fixed.
    """
    waiting, reasons = await _candidates(urls, resolver)
    is_only = len(waiting) == 1
    tls = None if trust is None else trust.dialling
    dates = (lambda: "") if trust is None else (lambda: trust.dates)
    shown = token if trust is None else ""
    async with HttpClient(tls, dates=dates, token=shown) as client:
        while waiting:
            batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            asked = [asyncio.create_task(_ask(client, url, is_only=is_only)) for url in batch]
            try:
                for answer in asyncio.as_completed(asked):
                    try:
                        return await _fetch(client, *await answer)
                    except NetworkError as error:
                        reasons.append(hinted(error))
            finally:
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    raise NetworkError(f"{reasons[0]}{more}" if reasons else "nobody to ask")


async def _candidates(urls: Iterable[str], resolver: Resolver) -> tuple[list[str], list[str]]:
    """Return the addresses to ask, and why others are none.

    A name that stands for one node is asked by that name, as a proxy may want to see it.
    """
    found: dict[str, None] = {}
    reasons = []
    for url in urls:
        try:
            addresses = await addresses_of(url, resolver)
        except NetworkError as error:
            reasons.append(str(error))
            continue
        found |= dict.fromkeys(addresses if len(addresses) > 1 else [url])
    return list(found), reasons


async def _ask(client: HttpClient, url: str, *, is_only: bool) -> tuple[str, dict[str, Any]]:
    """Return the URL and what its node says of the swarm; raises ``NetworkError``."""
    seconds = {} if is_only else {"timeout_s": FIRST_WORD_S}
    swarm = await client.get_json(f"{url}/v1/swarm", **seconds)
    if not isinstance(swarm, dict):
        raise _no_node(url, "its answer is no map")
    return url, swarm


async def _fetch(client: HttpClient, url: str, swarm: dict[str, Any]) -> Joined:
    """Return all that the node at ``url`` has to tell; raises as ``join`` does."""
    try:
        options, peers = dict(swarm["config"]), _peers(swarm["peers"])
        graph = options["topology"]["graph"]
        if graph != "random":
            raise _fixed(graph)
        status = await client.get_json(f"{url}/v1/status")
        item_bytes = 8 if status["dtype"] == "float64" else 4
        limit = int(status["params"]) * item_bytes + HEADER_BYTES_MAX
        data = await client.get_bytes(f"{url}/v1/model", limit)
        donor, shares = str(status["node_id"]), int(swarm.get("shares", 1))
    except (KeyError, TypeError, ValueError, PeerError) as error:
        raise _no_node(url, error) from None
    params, facts = _model(data)
    if donor not in {peer.id for peer in peers}:
        peers = (*peers, PeerEntry(id=donor, address=url))
    age = int(facts.get("age", 0))
    return Joined(url, donor, options, peers, params, age, facts["schema"], shares)


def adopt(node: HttpNode, joined: Joined) -> None:
    """Begin with the swarm's model, unless a checkpoint says more; call before ``node.run``.

    Raises ``ConfigError`` where the model does not fit the data of this node.
    """
    if node.layout.schema != joined.schema:
        raise ConfigError(
            f"the swarm's model ({joined.schema}) does not fit this node's data "
            f"({node.layout.schema}): features, classes or dtype differ",
            key="data.source",
        )
    if node.age > 0:
        event(log, logging.INFO, "model.kept", reason="a checkpoint was loaded", age=node.age)
        return
    node.replica = Replica(joined.params, joined.age, node.compute)
    event(log, logging.INFO, "model.adopted", donor=bounded(joined.donor), age=joined.age)


def _fixed(graph: str) -> ConfigError:
    return ConfigError(
        f"this swarm's graph ({bounded(graph, 64)}) is fixed, so nobody can join it while it runs; "
        "add the node to peers.toml on every node and start all again",
        key="--join",
    )


def _no_node(url: str, error: object) -> NetworkError:
    return NetworkError(
        f"{url} answers, but is no gossipnode, or one of another version: {bounded(error)}"
    )


def _peers(rows: Sequence[dict[str, str]]) -> tuple[PeerEntry, ...]:
    try:
        return tuple(PeerEntry.model_validate(row) for row in rows)
    except ValidationError:
        raise NetworkError("the swarm's peer list is not one") from None


def _model(data: bytes) -> tuple[Array, dict[str, str]]:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return load_model(Path(file.name))
