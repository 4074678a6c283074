"""The node as others see it: status, model facts, and what a joining node adopts."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossipnode import __version__
from gossipnode.algorithms.base import Outcome
from gossipnode.node.measuring import median
from gossipnode.node.peers import Peer
from gossipnode.node.place import share_of
from gossipnode.node.status import (
    PEERS_SHOWN,
    BytesStatus,
    PeerPage,
    PeerStatus,
    PushStatus,
    Status,
)
from gossipnode.wire.frame import VERSION
from gossipnode.wire.members import MEMBERS_MAX

if TYPE_CHECKING:
    from gossipnode.node.node import Node

# Sections that all nodes of a swarm share, and the keys of them that are a node's own business.
SHARED = (
    "swarm",
    "task",
    "data",
    "training",
    "algorithm",
    "topology",
    "codec",
    "membership",
)
OWN = {("swarm", "peers"), ("data", "share")}


def build_status(node: Node) -> Status:
    """Return the status of this moment."""
    last = node.measurements.last or {}
    started = node.has_started
    loss, steps_per_s, samples = node.algorithm.swarm_means() or (None, None, None)
    return Status(
        node_id=node.id,
        swarm=node.config.swarm.name,
        algorithm=node.algorithm.called,
        state=node.state,
        since=iso(node.since),
        reason=node.reason,
        started=iso(node.started_at),
        uptime_s=round(node.time() - node.life_began, 3) if node.started_at else 0.0,
        address=node.address,
        epoch=node.epoch,
        versions=versions(),
        task=node.config.task.kind,
        params=node.layout.size if started else 0,
        dtype=node.config.task.dtype,
        schema=node.layout.schema if started else "",
        graph=node.place.graph,
        round=node.round,
        rounds=node.config.run.rounds,
        age=node.age if started else 0,
        durable_age=node.durable_age,
        loss=last.get("loss"),
        accuracy=last.get("accuracy"),
        train_loss=last.get("train_loss"),
        measured_round=last.get("round"),
        samples=node.learner.samples if started else 0,
        round_s=median(node.round_times),
        rounds_skipped=node.counters.get("rounds_skipped"),
        peers_total=len(node.peers),
        peers_by_state=node.peers.states,
        peers=[_peer_status(node, p) for p in node.peers.first(node.neighbours, PEERS_SHOWN)],
        pushes=_push_status(node),
        bytes=BytesStatus(
            sent=node.counters.get("bytes_sent"),
            saved=node.counters.get("bytes_saved"),
            received=node.counters.get("bytes_received"),
            arriving=node.inbox.inflight_bytes if started else 0,
            state=sum(array.nbytes for array in node.algorithm.state()[0].values()),
            resident=resident_bytes(),
        ),
        checkpoint_error=node.checkpoint_error,
        swarm_loss=loss,
        swarm_steps_per_s=None if steps_per_s is None else steps_per_s * node.nodes,
        swarm_samples=None if samples is None else round(samples * node.nodes),
        duplicate_id=node.membership.duplicate_id if node.membership is not None else "",
    )


def build_peer_page(node: Node, after: str, limit: int) -> PeerPage:
    """Return at most ``limit`` peers behind ``after``; raises ``KeyError`` where that is none."""
    found = node.peers.page(after, limit + 1)
    rows = [_peer_status(node, peer) for peer in found[:limit]]
    return PeerPage(rows, len(node.peers), rows[-1].id if len(found) > limit else None)


def model_facts(node: Node) -> dict[str, str]:
    """Return the metadata of a model file: all that using the model needs besides its tensors."""
    return {
        "swarm": node.config.swarm.name,
        "algorithm": node.algorithm.called,
        "node": node.id,
        "round": str(node.round),
        "age": str(node.age),
        "gossipnode": __version__,
        "task": json.dumps(node.learner.describe()),
    }


def build_shared_config(node: Node) -> dict[str, Any]:
    """Return the options that all nodes of the swarm share, and some of them with their address.

    ``shares`` are those that the common data was divided into.
    """
    shares = share_of(node.config, node.place)[1]
    return {"config": shared_options(node), "shares": shares, "peers": _some_peers(node)}


def shared_options(node: Node) -> dict[str, dict[str, Any]]:
    """Return the options that all nodes of the swarm share, by section."""
    dumped = node.config.model_dump(mode="json")
    return {
        section: {k: v for k, v in dumped[section].items() if (section, k) not in OWN}
        for section in SHARED
    }


def _some_peers(node: Node) -> list[dict[str, str]]:
    """Return at most ``MEMBERS_MAX`` nodes to begin with, this one among them.

    Of more listed ones a choice at random: not all newcomers are to begin with the same.
    """
    name_of, shuffle = node.directory.name_of, node.membership and node.membership.shuffle
    own = [] if node.address is None else [(node.id, node.address)]
    room = MEMBERS_MAX - len(own)
    if shuffle:
        learnt = [(entry.id, entry.address) for entry in shuffle.told(room)]
    else:
        learnt = [(peer.id, peer.address) for peer in node.peers.learnt[:room]]
    listed = [(entry.id, entry.address) for entry in node.directory if entry.id != node.id]
    if len(listed) + len(learnt) > room:
        learnt = learnt[: max(room - len(listed), room // 2)]
        chosen = np.random.default_rng().permutation(len(listed))[: room - len(learnt)]
        listed = [listed[int(number)] for number in chosen]
    rows = [*listed, *learnt, *own]
    return [{"id": i, "name": name_of(i), "address": address} for i, address in rows]


def versions() -> dict[str, str]:
    """Return the versions that matter when two nodes do not understand each other."""
    return {"gossipnode": __version__, "wire": str(VERSION), "python": platform.python_version()}


def iso(seconds: float) -> str:
    """Return a time of day as ISO 8601 in UTC; empty for 0."""
    return (
        datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else ""
    )


def resident_bytes() -> int | None:
    """Return the memory that this process holds; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * 4096


def _peer_status(node: Node, peer: Peer) -> PeerStatus:
    known = peer.round >= 0
    silent_s = None if peer.heard_at is None else node.time() - peer.heard_at
    return PeerStatus(
        id=peer.id,
        name=node.directory.name_of(peer.id),
        address=peer.address,
        state=peer.state,
        reason=peer.reason,
        neighbour=peer.id in node.neighbours,
        last_contact=None if silent_s is None else iso(node.world.wall_time() - silent_s),
        last_contact_s=None if silent_s is None else round(silent_s, 3),
        round=peer.round if known else None,
        age=peer.age if known else None,
        staleness=node.round - peer.round if known else None,
        pushes_sent=peer.pushes_sent,
        pushes_received=peer.pushes_received,
        refusal=peer.refusal,
        refused_here=peer.refused_here,
        state_s=None if peer.since is None else round(node.time() - peer.since, 3),
    )


def _push_status(node: Node) -> PushStatus:
    get, by_label = node.counters.get, node.counters.by_label
    outcomes = by_label("pushes_merged")
    merged = (Outcome.MERGED, Outcome.BUFFERED, Outcome.LATE)
    return PushStatus(
        sent=get("pushes_sent"),
        acknowledged=get("pushes_acknowledged"),
        failed=get("pushes_failed"),
        replaced=get("pushes_replaced"),
        received=get("pushes_received"),
        merged=sum(outcomes.get(outcome.value, 0) for outcome in merged),
        by_outcome=outcomes,
        refused=by_label("pushes_refused"),
        refused_by_peers=by_label("pushes_refused_by_peer"),
        late_merged=get("late_merged"),
        late_dropped=get("late_dropped"),
        missing_models=get("missing_models"),
    )
