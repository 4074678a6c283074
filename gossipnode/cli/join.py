"""Joining a running gossip swarm: its options, its peers and its current model from one node.

Invariant: what a joining node takes over is checked as if a person had written it; a checkpoint
of its own counts more than the model that it is given.
"""

from __future__ import annotations

import logging
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gossipnode.cli.flags import with_options
from gossipnode.config import Config, PeerEntry
from gossipnode.errors import ConfigError, NetworkError, PeerError
from gossipnode.learning.modelfile import load_model
from gossipnode.learning.params import Array
from gossipnode.logs import bounded, event
from gossipnode.network import HttpClient, HttpNode
from gossipnode.node.place import host_id
from gossipnode.node.replica import Replica

if TYPE_CHECKING:
    from gossipnode.network.trust.trust import Trust

log = logging.getLogger("gossipnode.cli.join")

# A model file's header beside its tensors.
HEADER_BYTES_MAX = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node of the swarm told: options by section, the peers, and its model."""

    url: str
    donor: str
    options: dict[str, dict[str, Any]]
    peers: tuple[PeerEntry, ...]
    params: Array
    age: int
    schema: str

    def place(self, config: Config) -> tuple[Config, tuple[PeerEntry, ...]]:
        """Return the config with a share of the data, and the other nodes; raises ConfigError."""
        if config.topology.graph != "random":
            raise _fixed(config.topology.graph)
        node_id = config.node.id or host_id()
        known = {peer.id: peer.address for peer in self.peers}
        if node_id == self.donor or (not config.node.id and node_id in known):
            raise ConfigError(
                f"{node_id!r} is in the swarm already, at {known.get(node_id, self.url)}; give "
                "this node another name with --id",
                key="node.id",
            )
        if config.data.share == "auto":
            # The common file is divided among the nodes that the swarm began with, so a newcomer
            # takes a share that one of them has. Its name chooses: the same after a restart.
            count = max(len(self.peers), 1)
            share = f"{zlib.crc32(node_id.encode()) % count}/{count}"
            config = with_options(config, {"data.share": share})
        return config, tuple(peer for peer in self.peers if peer.id != node_id)


async def join(url: str, trust: Trust | None = None) -> Joined:
    """Ask the node at ``url``; raises ``NetworkError`` or, for a fixed graph, ``ConfigError``."""
    url = url.rstrip("/")
    tls = None if trust is None else trust.dialling
    async with HttpClient(tls, dates=lambda: "" if trust is None else trust.dates) as client:
        try:
            swarm = await client.get_json(f"{url}/v1/swarm")
            status = await client.get_json(f"{url}/v1/status")
            options, peers = dict(swarm["config"]), _peers(swarm["peers"])
            graph = options["topology"]["graph"]
            if graph != "random":
                raise _fixed(graph)
            item_bytes = 8 if status["dtype"] == "float64" else 4
            limit = int(status["params"]) * item_bytes + HEADER_BYTES_MAX
            data = await client.get_bytes(f"{url}/v1/model", limit)
            donor = str(status["node_id"])
        except (KeyError, TypeError, ValueError, PeerError) as error:
            raise NetworkError(
                f"{url} answers, but is no gossipnode, or one of another version: {bounded(error)}"
            ) from None
    params, facts = _model(data)
    if donor not in {peer.id for peer in peers}:
        peers = (*peers, PeerEntry(id=donor, address=url))
    return Joined(url, donor, options, peers, params, int(facts.get("age", 0)), facts["schema"])


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


def _peers(rows: list[dict[str, str]]) -> tuple[PeerEntry, ...]:
    try:
        return tuple(PeerEntry.model_validate(row) for row in rows)
    except ValidationError:
        raise NetworkError("the swarm's peer list is not one") from None


def _model(data: bytes) -> tuple[Array, dict[str, str]]:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        return load_model(Path(file.name))
