"""What a node with trust knows of its peers' addresses, and what its vigil watches for it.

Invariant: an address is of one id or of none; where two peers claim it, neither is believed.
"""

from __future__ import annotations

from collections.abc import Callable

from gossipnode.config import Config
from gossipnode.configfile import expanded
from gossipnode.network.trust.trust import Trust, bundle_of
from gossipnode.network.trust.vigil import Vigil
from gossipnode.network.world import DaemonWorld, data_folder
from gossipnode.node.node import Node
from gossipnode.node.peers import ABSENT


def vigil_for(node: Node, trust: Trust, world: DaemonWorld, cut: Callable[[], None]) -> Vigil:
    """Return the vigil of ``node``, not yet begun; ``cut`` cuts who counts no longer."""
    config = node.config
    watched = config.trust.revocations

    def askable() -> list[str]:
        shut_out = trust.revocations.ids
        return [p.address for p in node.peers if p.state not in ABSENT and p.id not in shut_out]

    return Vigil(
        trust,
        world.client,
        peers=askable,
        cut=cut,
        work=world.work,
        kept=data_folder(config, node.id) / "revocations.txt"
        if config.checkpoint.enabled
        else None,
        watched=expanded(watched) if watched else None,
    )


async def renewed(trust: Trust, config: Config, world: DaemonWorld, vigil: Vigil | None) -> None:
    """Read revocations and bundle anew; raises ``ConfigError``, and then the bundle stays."""
    if vigil is not None:
        vigil.reread()
    if config.trust.bundle:  # else it was handed in, and nobody knows from where
        trust.renew(await world.work(bundle_of, config, trust.wall_time))


def meet_seeds(node: Node, trust: Trust) -> None:
    """Take in the seeds of a renewed bundle that nobody here knows yet, where peers may come.

    On a fixed graph they have no place, and one that is known may have moved since. The last of
    two friends to reload finds the other: it trusts this one by then.
    """
    if node.algorithm.needs_graph:
        return
    for seed in trust.bundle.seeds:
        if seed.id != node.id and node.peers.get(seed.id) is None:
            node.passive.meet(seed.id, seed.address)


def id_at(node: Node, address: str) -> str | None:
    """Return the id of the peer at ``address``; None where nobody said.

    Where several learnt peers did, of whom only one can be right, it is the empty one that nobody
    has.
    """
    if not address.startswith("https:"):
        return None
    listed = node.directory.at(address)
    if listed is not None:
        return listed
    found = [peer.id for peer in node.peers.learnt if peer.address == address]
    return None if not found else found[0] if len(found) == 1 else ""
