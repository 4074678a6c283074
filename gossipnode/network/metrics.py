"""``GET /metrics``: the node's counters and gauges in Prometheus' text format.

Invariant: reading them changes nothing and keeps nothing; the registry lives for one answer.
prometheus_client is imported when first asked for: a node that nobody scrapes does not carry it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gossipnode.network.lag import LoopLag
from gossipnode.node.counters import HELP
from gossipnode.node.node import Node
from gossipnode.node.status import Status

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PREFIX = "gossipnode_"


def exposition(node: Node, lag: LoopLag | None = None) -> tuple[bytes, str]:
    """Return the page and its content type; with ``lag`` that of the event loop, too."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(node, lag))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Collector:
    """What prometheus_client asks for the metrics; its base class would only cost the import."""

    def __init__(self, node: Node, lag: LoopLag | None) -> None:
        self._node, self._lag = node, lag

    def collect(self) -> Iterator[Metric]:
        """Yield the counters, then the gauges of the status, then the event loop's lag."""
        yield from _counters(self._node)
        yield from _gauges(self._node)
        if self._lag is not None:
            yield _lag(self._lag)


def _counters(node: Node) -> Iterator[Metric]:
    from prometheus_client.metrics_core import CounterMetricFamily

    families: dict[str, CounterMetricFamily] = {}
    for name, labels, count in node.counters.items():
        family = families.get(name)
        if family is None:
            family = CounterMetricFamily(PREFIX + name, HELP[name], labels=list(labels))
            families[name] = family
        family.add_metric(list(labels.values()), count)
    yield from families.values()


def _gauges(node: Node) -> Iterator[Metric]:
    from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

    status = node.status()
    for name, text, value in _numbers(node, status):
        if value is not None:
            yield GaugeMetricFamily(PREFIX + name, text, value=float(value))
    peers = GaugeMetricFamily(PREFIX + "peers", "Peers by state.", labels=["state"])
    for state, count in status.peers_by_state.items():
        peers.add_metric([state], count)
    yield peers
    facts = ("node_id", "swarm", "algorithm", "task", "schema", "state")
    yield InfoMetricFamily(
        PREFIX + "node", "What this node is.", {fact: str(getattr(status, fact)) for fact in facts}
    )


def _lag(lag: LoopLag) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    buckets = [(str(bound), count) for bound, count in lag.cumulative()]
    return HistogramMetricFamily(
        PREFIX + "loop_lag_seconds",
        "How late a timer of the event loop fires, ten times a second.",
        buckets=[*buckets, ("+Inf", lag.count)],
        sum_value=lag.total_s,
    )


def _numbers(node: Node, status: Status) -> Iterator[tuple[str, str, float | None]]:
    yield "ready", "1 if the node takes part, else 0.", node.ready
    yield (
        "degraded",
        "1 while checkpoints cannot be written, else 0.",
        bool(status.checkpoint_error),
    )
    yield "uptime_seconds", "Time since the node started.", status.uptime_s
    yield "round", "The round or period under way.", status.round
    yield "age", "Local steps in the model in memory.", status.age
    yield "durable_age", "Local steps in the model that survives power loss.", status.durable_age
    yield "loss", "Loss on the test samples, when last measured.", status.loss
    yield "accuracy", "Share of the test samples that are right, 0 to 1.", status.accuracy
    yield "train_loss", "Loss on the last training batches.", status.train_loss
    yield "round_seconds", "Median duration of the last rounds.", status.round_s
    yield "params", "Parameters of the model.", status.params
    yield "samples", "Training samples of this node.", status.samples
    yield "lanes", "Lanes that are open.", status.network.lanes
    ends = status.network.certificate_ends
    yield (
        "certificate_ends_timestamp_seconds",
        "When the node's certificate ends, in seconds since 1970.",
        None if ends is None else datetime.datetime.fromisoformat(ends).timestamp(),
    )
    yield "arriving_bytes", "Memory held for bodies that are arriving.", status.bytes.arriving
    yield "state_bytes", "Memory of what the algorithm keeps besides params.", status.bytes.state
    yield "resident_bytes", "Resident memory of the process.", status.bytes.resident
