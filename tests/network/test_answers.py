"""Values as answers: what a dataclass becomes, against the standard library's own way."""

from __future__ import annotations

from dataclasses import asdict

from gossipnode.network.answers import plain
from gossipnode.node.status import NetworkStatus, PeerPage, PeerStatus, PushStatus, TransferStatus


def test_a_dataclass_becomes_what_asdict_makes_of_it() -> None:
    peer = PeerStatus(
        "b", "", "http://10.0.0.7:7946", "alive", "", True, "2026-01-01T00:00:00Z", 0.5, 3, None,
        -1, 7, 0, "", "", reached="our lane",
    )  # fmt: skip
    transfer = TransferStatus("b", "to", 1, 2, 0.5)
    network = NetworkStatus(lanes=2, connections_refused={"timeout": 3}, transfers=[transfer] * 2)
    pushes = PushStatus(sent=1, by_outcome={"merged": 1})
    for record in (peer, PeerPage([peer, peer], 2, None), network, pushes):
        assert plain(record) == asdict(record)
    assert plain({"a": 1}) == {"a": 1}
