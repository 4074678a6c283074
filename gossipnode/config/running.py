"""Options of how long a node runs, what it keeps, and what it says."""

from __future__ import annotations

from typing import Literal

from gossipnode.options import Section, option


class RunOptions(Section):
    """How long, and what is measured on the way."""

    rounds: int = option(
        0,
        "Rounds (periods of gossip) to run; 0: until stopped.",
        unit="rounds",
        flag="--rounds",
        ge=0,
        le=2**53,
    )
    duration_s: float = option(
        0.0, "Time to run; 0: until stopped.", unit="s", flag="--duration-s", ge=0, le=10**9
    )
    linger: bool = option(
        False, "Keep serving the model when the rounds are done, until stopped.", flag="--linger"
    )
    evaluate_every: int = option(
        10,
        "Rounds between two measurements of loss and accuracy; 0: only at the end.",
        unit="rounds",
        flag="--evaluate-every",
        ge=0,
        le=2**53,
    )
    history_max: int = option(
        10_000,
        "Measurements kept in memory; older ones are thinned out.",
        unit="rows",
        ge=2,
        le=10**7,
    )
    drain_deadline_s: float = option(
        20.0, "Time for a clean stop, all in all.", unit="s", ge=0, le=3600
    )


class CheckpointOptions(Section):
    """What survives a power cut."""

    enabled: bool = option(True, "Write checkpoints; without them a restart begins anew.")
    every_s: float = option(
        30.0,
        "Time between two checkpoints; what was merged since the last one is lost in a crash. "
        "0: only when stopping.",
        unit="s",
        flag="--checkpoint-every-s",
        ge=0,
        le=86_400,
    )
    keep: int = option(3, "Checkpoints kept.", unit="files", ge=1, le=1000)
    fresh: bool = option(
        False, "Begin anew although checkpoints exist (they are kept).", flag="--fresh"
    )


class LogOptions(Section):
    """What the node says."""

    level: Literal["debug", "info", "warning", "error"] = option(
        "info", "Least level that is written.", flag="--log-level"
    )
    format: Literal["text", "json"] = option(
        "text", "One line an event, for people or for machines.", flag="--log-format"
    )
    # A reason for a refusal has up to 512 characters; a line with ten such fields 5 KiB.
    value_chars_max: int = option(
        512, "Longest value in a line; what is longer is cut.", unit="characters", ge=64, le=65_536
    )
