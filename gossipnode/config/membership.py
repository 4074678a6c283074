"""Options of who is in the swarm: the node itself, what all agree on, trust, the peer list."""

from __future__ import annotations

from pydantic import field_validator

from gossipnode.options import Section, option

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class NodeOptions(Section):
    """Who this node is, and where it keeps what must survive a restart."""

    id: str = option(
        "",
        "This node's id; must be its id in peers.toml. Empty: the bundle's, or the host name.",
        flag="--id",
        pattern=r"^$|" + ID_PATTERN,
    )
    data_dir: str = option(
        "",
        "Folder for checkpoints and the boot epoch. Empty: the user's data folder of this system.",
        flag="--data-dir",
    )


class SwarmOptions(Section):
    """What all nodes of one swarm must agree on."""

    name: str = option(
        "swarm",
        "The swarm's name; models of another swarm are refused.",
        flag="--swarm",
        pattern=ID_PATTERN,
    )
    seed: int = option(
        0,
        "Seed of the first model, the partition, random graphs and (with the node's place in the "
        "peer list) the batches; the same on every node.",
        flag="--seed",
        ge=0,
        le=2**53,
    )
    peers: str = option(
        "",
        "Path of peers.toml, relative to this file. The order of its entries places the nodes in "
        "the graph, so it is the same file on every node.",
        flag="--peers",
    )


class TrustOptions(Section):
    """Who belongs to the swarm (docs/security.md). Without a bundle nobody is asked."""

    bundle: str = option(
        "",
        "Path of this node's bundle, relative to this file: key, certificate, whom to trust, the "
        "swarm's name, the node's id and seeds.",
        flag="--bundle",
    )
    revocations: str = option(
        "",
        "Path of a list of revocations, relative to this file, read when it changes: the "
        "authority's revocations.txt. Nodes tell each other the newest anyway.",
    )


class PeerEntry(Section):
    """One node of the swarm as ``peers.toml`` lists it."""

    id: str = option(..., "The node's id.", pattern=ID_PATTERN)
    name: str = option(
        "", "Its name for people, where the id is that of a key.", pattern=r"^$|" + ID_PATTERN
    )
    address: str = option(
        ..., "Where it is reached: http://HOST:PORT, https over TLS.", max_length=512
    )

    @field_validator("address")
    @classmethod
    def _is_an_origin(cls, address: str) -> str:
        from urllib.parse import urlsplit

        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = None
        surplus = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("http", "https") or not parts.hostname or port is None or surplus:
            raise ValueError(f"{address!r} is no address; write it as http://HOST:PORT")
        return address.rstrip("/")
