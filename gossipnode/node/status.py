"""What a node tells about itself: the schema of ``/v1/status``.

Plain dataclasses, so that building one costs microseconds; the OpenAPI page is made from them.
Ages of contacts are seconds before the moment of the answer; times of day are ISO 8601 in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gossipnode.node.peers import PeerState

# A status is read once a second by whoever looks at a node. A peer costs some 20 us and 300 bytes
# of JSON, so these are 1.4 ms and 20 kB, whatever the size of the swarm; no neighbourhood that
# people draw is larger.
PEERS_SHOWN = 64


@dataclass(slots=True)
class PeerStatus:
    """One peer as this node sees it; ``name`` is for people, and may be empty.

    ``staleness`` is how many rounds it is behind this node (negative: ahead), null if never
    heard of. ``state_s`` is for how many seconds it has been suspect, down or left, or back from
    that; ``reason`` says why, or why it is not reached yet. ``refusal`` says why it last refused a
    push from here, ``refused_here`` why its last push was refused here. ``reached`` tells over
    whose lane it is pushed to: who cannot be dialled is reached over its own.
    """

    id: str
    name: str
    address: str
    state: PeerState
    reason: str
    neighbour: bool
    last_contact: str | None
    last_contact_s: float | None
    round: int | None
    age: int | None
    staleness: int | None
    pushes_sent: int
    pushes_received: int
    refusal: str
    refused_here: str
    state_s: float | None = None
    reached: Literal["", "our lane", "its lane"] = ""


@dataclass(slots=True)
class PeerPage:
    """Some of ``peers_total`` peers in the order of the peer list, those that were learnt last.

    ``next`` is what to ask for the page ``after``; null where this is the last one.
    """

    peers: list[PeerStatus]
    peers_total: int
    next: str | None


@dataclass(slots=True)
class PushStatus:
    """Counts since the node started."""

    sent: int = 0
    acknowledged: int = 0
    failed: int = 0
    replaced: int = 0
    received: int = 0
    merged: int = 0
    by_outcome: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    refused_by_peers: dict[str, int] = field(default_factory=dict)
    late_merged: int = 0
    late_dropped: int = 0
    missing_models: int = 0


@dataclass(slots=True)
class BytesStatus:
    """Bytes of frames since the node started; ``arriving`` is memory held for bodies now.

    Without codecs and low rank ``sent`` would be more by ``saved``. ``state`` is the memory of what
    the algorithm keeps besides the params: trackers, residuals, copies of neighbours.
    """

    sent: int = 0
    saved: int = 0
    received: int = 0
    arriving: int = 0
    state: int = 0
    resident: int | None = None


@dataclass(slots=True)
class TransferStatus:
    """A long body on its way: ``bytes`` of ``bytes_total`` are over.

    ``bytes_per_s`` is the mean since it began, or was continued.
    """

    peer: str
    direction: Literal["to", "from"]
    bytes: int
    bytes_total: int
    bytes_per_s: float


@dataclass(slots=True)
class NetworkStatus:
    """What the daemon's network is doing; nothing where the network is a model.

    ``loop_lag_s_max`` is how late the event loop has been at most since the node was ready, null
    where nobody measures that. ``connections_refused`` counts peers that got no further, by what
    was wrong. With trust ``certificate_ends`` tells when this node's certificate does, and
    ``revocations`` which list of who was shut out it has, and ``pages`` where its pages are.
    """

    lanes: int = 0
    loop_lag_s_max: float | None = None
    connections_refused: dict[str, int] = field(default_factory=dict)
    certificate_ends: str | None = None
    revocations: int | None = None
    pages: str | None = None
    transfers: list[TransferStatus] = field(default_factory=list)


@dataclass(slots=True)
class Status:
    """The whole status.

    ``age`` is in the memory, ``durable_age`` in a checkpoint: only that survives power loss.
    ``loss`` and ``accuracy`` are of the test samples, measured in round ``measured_round``.
    ``round_s`` is the median duration of the last rounds. ``swarm_loss`` is the mean of all nodes'
    training losses, ``swarm_steps_per_s`` and ``swarm_samples`` are their sums, as far as this node
    has heard; null without ``algorithm.swarm_metrics``. ``peers`` are at most ``PEERS_SHOWN`` of
    the ``peers_total``: neighbours and those in trouble before others. ``name`` is that of the
    certificate. ``duplicate_id`` is where another node was found that has this node's id.
    """

    node_id: str
    swarm: str
    algorithm: str
    state: str
    since: str
    reason: str
    started: str
    uptime_s: float
    address: str | None
    epoch: int
    versions: dict[str, str]
    task: str
    params: int
    dtype: str
    schema: str
    graph: str | None
    round: int
    rounds: int
    age: int
    durable_age: int
    loss: float | None
    accuracy: float | None
    train_loss: float | None
    measured_round: int | None
    samples: int
    round_s: float | None
    rounds_skipped: int
    peers_total: int
    peers_by_state: dict[PeerState, int]
    peers: list[PeerStatus]
    pushes: PushStatus
    bytes: BytesStatus
    checkpoint_error: str
    network: NetworkStatus = field(default_factory=NetworkStatus)
    swarm_loss: float | None = None
    swarm_steps_per_s: float | None = None
    swarm_samples: int | None = None
    name: str = ""
    duplicate_id: str = ""
