"""Every option of a node, declared once, with unit, range, default and help.

The sections are declared in this folder, an algorithm's options beside its code. Flags, environment
names, ``gossipnode init`` and ``docs/config.md`` are generated from them. Layers, weakest first:
defaults, ``node.toml``, environment, flags. The invariant: a ``Config`` that exists is valid;
whatever is wrong with one raises ``ConfigError`` that names where it was written, the key, and what
would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from gossipnode.config.exchange import (
    CHANGING,
    DIRECTED,
    OWN_WEIGHTS,
    CodecOptions,
    GraphName,
    TopologyOptions,
)
from gossipnode.config.learning import DataOptions, TaskOptions, TrainingOptions
from gossipnode.config.membership import (
    ID_PATTERN,
    NodeOptions,
    PeerEntry,
    SwarmOptions,
    TrustOptions,
)
from gossipnode.config.network import DEFAULT_PORT, NetworkOptions
from gossipnode.config.presence import MembershipOptions
from gossipnode.config.running import CheckpointOptions, LogOptions, RunOptions
from gossipnode.config.soundness import complaints
from gossipnode.options import AlgorithmOptions, Section
from gossipnode.registry import DEFAULT_ALGORITHM, algorithm_class, table_spelt_out

__all__ = [
    "CHANGING",
    "DEFAULT_PORT",
    "DIRECTED",
    "ID_PATTERN",
    "OWN_WEIGHTS",
    "CheckpointOptions",
    "CodecOptions",
    "Config",
    "DataOptions",
    "GraphName",
    "LogOptions",
    "MembershipOptions",
    "NetworkOptions",
    "NodeOptions",
    "PeerEntry",
    "RunOptions",
    "SwarmOptions",
    "TaskOptions",
    "TopologyOptions",
    "TrainingOptions",
    "TrustOptions",
]


def _named(value: Any) -> Any:
    """Read a table as the options of the algorithm that it names."""
    if not isinstance(value, Mapping):
        return value
    table = table_spelt_out({"name": DEFAULT_ALGORITHM, **value})
    return algorithm_class(table["name"]).Options.model_validate(table)


class Config(Section):
    """All options of one node. Construct it directly, or with ``configfile.load_config``."""

    node: NodeOptions = NodeOptions()
    swarm: SwarmOptions = SwarmOptions()
    task: TaskOptions = TaskOptions()
    data: DataOptions = DataOptions()
    training: TrainingOptions = TrainingOptions()
    algorithm: Annotated[SerializeAsAny[AlgorithmOptions], BeforeValidator(_named)] = Field(
        default_factory=lambda: algorithm_class(DEFAULT_ALGORITHM).Options()
    )
    topology: TopologyOptions = TopologyOptions()
    codec: CodecOptions = CodecOptions()
    network: NetworkOptions = NetworkOptions()
    membership: MembershipOptions = MembershipOptions()
    trust: TrustOptions = TrustOptions()
    run: RunOptions = RunOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    log: LogOptions = LogOptions()

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> Config:
        for complaint in complaints(self):
            raise ValueError(complaint)
        return self
