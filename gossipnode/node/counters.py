"""Counters that only grow: the numbers behind /metrics and the status.

Plain integers, so that the node core needs no metrics library; ``network`` exports them.
"""

from __future__ import annotations

from collections.abc import Iterator

# name -> help; the closed set, so that a misspelt name is a KeyError and not a new series.
HELP = {
    "pushes_sent": "Frames handed to the network, repeats included.",
    "pushes_acknowledged": "Pushes that a peer answered with anything but a refusal.",
    "pushes_failed": "Pushes that nobody answered.",
    "pushes_replaced": "Models never sent because a newer one took their place.",
    "pushes_refused_by_peer": "Pushes that a peer refused, by its code.",
    "pushes_received": "Frames that arrived and were let in.",
    "pushes_merged": "Arrivals by what became of them.",
    "pushes_refused": "Arrivals refused, by code.",
    "bytes_sent": "Bytes of the frames sent; HTTP headers are not counted.",
    "bytes_received": "Bytes of the frames let in; HTTP headers are not counted.",
    "bytes_saved": "Bytes that codecs and low rank kept out of the frames sent, repeats included: "
    "without them, bytes_sent would be so much more.",
    "local_steps": "Local SGD steps taken in this life.",
    "rounds": "Rounds or periods closed in this life.",
    "rounds_skipped": "Rounds passed over to catch up with the neighbours.",
    "restarts": "Times that trackers and the like began anew, after a model was missed somewhere.",
    "metrics_resyncs": "Times that the swarm's means began anew, after a model was missed.",
    "resyncs": "Times that a neighbour was sent everything, since differences had been lost.",
    "taken_back": "Exchanges undone, since the neighbour had missed its half of them.",
    "missing_models": "Neighbours' models that a round closed without.",
    "fallbacks": "All-reduces that ended with everybody sending to everybody.",
    "rounds_without_mass": "Rounds without training, since this node had next to no mass.",
    "mass_owed": "Sums not taken, since their sender went back to before what was taken.",
    "late_merged": "Models that came after their round and were merged.",
    "late_dropped": "Models that came after their round and were dropped.",
    "waiting_refused": "Models that waited for the active side and could then not be merged.",
    "controls_sent": "Questions about who is there, by their word; answers are not counted.",
    "controls_received": "The same of peers, by their word.",
    "control_bytes_sent": "Bytes of the frames of questions and answers about who is there.",
    "peers_suspected": "Times a peer was given up on until heard of again.",
    "peers_down": "Times a suspicion has stood, so that a peer was taken for down.",
    "peers_left": "Times a peer said that it stops.",
    "peers_returned": "Times a peer was heard of that had been taken for down, or had left.",
    "probes_failed": "Peers that did not answer in time, so that others were asked to ask them.",
    "suspicions_refuted": "Times others suspected this node, and it contradicted.",
    "duplicate_ids": "Times another node was found to run with this node's id.",
    "checkpoints_written": "Checkpoints that reached the disk.",
    "checkpoint_failures": "Checkpoints that did not.",
    "checkpoints_damaged": "Checkpoints found damaged at the start, and put aside.",
    "connections_cut": "Connections that a limit ended, by which.",
    "requests_refused": "Requests for pages that were refused, by reason.",
    "lanes_opened": "Lanes that this node opened.",
    "lanes_accepted": "Lanes that peers opened.",
    "lanes_closed": "Lanes that have ended, for whatever reason.",
    "lanes_broken": "Lanes that ended with a push of this node unanswered.",
    "lanes_refused": "Lanes asked for in vain; their peers are pushed to by POST.",
    "lane_pushes": "Pushes sent over a lane.",
    "lane_resumes": "Pushes continued on a lane where another one broke.",
    "connections_refused": "Connections of peers that got no further, by what was wrong.",
    "lane_fallbacks": "Pushes sent by POST for want of a lane.",
}

Label = tuple[str, str]


class _Zeros(dict[str, int]):
    """Counts that are 0 until they move: thirty of them a node would be a kilobyte of nothing."""

    def __missing__(self, name: str) -> int:
        if name not in HELP:
            raise KeyError(name)
        return 0


class Counters:
    """Counts by name and at most one label."""

    def __init__(self) -> None:
        self._plain = _Zeros()
        self._labelled: dict[tuple[str, Label], int] = {}

    def add(self, name: str, amount: int = 1, label: Label | None = None) -> None:
        """Add ``amount`` ≥ 0 to a counter of ``HELP``."""
        assert name in HELP, f"no counter {name}"
        if label is None:
            self._plain[name] += amount
        else:
            key = name, label
            self._labelled[key] = self._labelled.get(key, 0) + amount

    def get(self, name: str, label: Label | None = None) -> int:
        """Return a counter; 0 if it never moved."""
        if label is None:
            return self._plain[name]
        return self._labelled.get((name, label), 0)

    def by_label(self, name: str) -> dict[str, int]:
        """Return the counts of ``name`` by label value."""
        return {
            label[1]: count for (key, label), count in sorted(self._labelled.items()) if key == name
        }

    def items(self) -> Iterator[tuple[str, dict[str, str], int]]:
        """Yield (name, labels, count), unlabelled names even at 0."""
        labelled = {key for key, _ in self._labelled}
        for name in HELP:
            if name not in labelled:
                yield name, {}, self.get(name)
        for (name, label), count in self._labelled.items():
            yield name, {label[0]: label[1]}, count
