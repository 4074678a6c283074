"""What the simulated wires, machines and people are like: options, and what they come to.

Invariant: ``Conditions.flags`` says all of it again, so that a run can be replayed; each kind of
chance has a random stream of its own, beside the network's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import Any, TypeVar

import click
import numpy as np

from gossipnode.cli.bandwidth import bandwidth
from gossipnode.cli.finite import FiniteFloat
from gossipnode.simulation import Link

F = TypeVar("F", bound=Callable[..., Any])
Pair = tuple[float, float]

# Beside the streams of simulation.network, which count from 0.
STREAM_STRAGGLERS, STREAM_CHURN = 1000, 1001
BITS = 8


@dataclass(frozen=True, slots=True)
class Conditions:
    """Times in seconds, ``bandwidth`` (up, down) in bits a second, ``loss`` a share in [0, 1).

    ``stragglers`` is (share of the nodes, factor of their steps' time), ``churn`` (mean time up,
    mean time down). With ``membership`` nodes ask each other who is there, as the config has it.
    The names are those of the flags.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: Pair | None = None
    loss: float = 0.0
    step_s: float = 0.0
    stragglers: Pair | None = None
    churn: Pair | None = None
    membership: bool = False

    def travel_s(self, model_bytes: int) -> float:
        """Return how long a push is on its way in the mean, alone on its lines."""
        speeds = self.bandwidth or ()
        return self.latency + self.jitter / 2 + sum(model_bytes * BITS / bps for bps in speeds)

    @property
    def link(self) -> Link:
        """The wires, as the network's model takes them."""
        up, down = self.bandwidth or (0.0, 0.0)
        return Link(
            latency_s=self.latency,
            jitter_s=self.jitter,
            up_bytes_s=up / BITS,
            down_bytes_s=down / BITS,
            loss=self.loss,
        )

    def flags(self) -> list[str]:
        """Return the flags that say the same, without those at their default.

        >>> Conditions(latency=0.05, bandwidth=(1e7, 1e8)).flags()
        ['--latency', '0.05', '--bandwidth', '10000000:100000000']
        """
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is True:
                words.append("--" + field.name)
            elif value != field.default:
                parts = value if isinstance(value, tuple) else (value,)
                words += ["--" + field.name.replace("_", "-"), ":".join(map(_plain, parts))]
        return words

    def slow(self, names: Sequence[str], seed: int) -> list[str]:
        """Return who of ``names`` is a straggler: the share that was asked for, at least one."""
        if self.stragglers is None:
            return []
        rng = np.random.default_rng([seed, STREAM_STRAGGLERS])
        count = max(1, round(self.stragglers[0] * len(names)))
        return [names[i] for i in sorted(rng.choice(len(names), count, replace=False))]

    def changes(self, names: Sequence[str], seed: int) -> Iterator[tuple[float, str]]:
        """Yield (instant, name) for ever, in order: who goes down or, the next time, comes back.

        Times up and down are exponential, and each node draws them from a stream of its own.
        """
        if self.churn is None:
            return
        rngs = [np.random.default_rng([seed, STREAM_CHURN, i]) for i in range(len(names))]
        due = [(rng.exponential(self.churn[0]), i, 0) for i, rng in enumerate(rngs)]
        heapq.heapify(due)
        while True:
            instant, i, number = due[0]
            yield instant, names[i]
            wait = rngs[i].exponential(self.churn[(number + 1) % 2])
            heapq.heapreplace(due, (instant + wait, i, number + 1))


def conditions_options(function: F) -> F:
    """Add a flag for each field of ``Conditions``."""
    for decorate in (
        click.option(
            "--membership",
            is_flag=True,
            help="Let nodes ask each other who is there, as [membership] has it and deployed nodes "
            "do; without, they notice it by their pushes alone.",
        ),
        click.option(
            "--churn",
            callback=_pair("--churn", (inf, inf)),
            metavar="UP_S:DOWN_S",
            help="Kill each node after UP_S seconds, and start it again after DOWN_S, on average "
            "(exponential). What no checkpoint holds is lost.",
        ),
        click.option(
            "--stragglers",
            callback=_pair("--stragglers", (1.0, inf)),
            metavar="SHARE:FACTOR",
            help="Let this share of the nodes, at least one, take FACTOR times as long for a step.",
        ),
        click.option(
            "--step-s",
            type=FiniteFloat(0),
            default=0.0,
            show_default=True,
            help="Seconds that a local step takes.",
        ),
        click.option(
            "--loss",
            type=FiniteFloat(0, 1, max_open=True),
            default=0.0,
            show_default=True,
            help="Chance that a push is lost on its way.",
        ),
        click.option(
            "--bandwidth",
            callback=_bandwidth,
            metavar="UP[:DOWN]",
            help="Each node's line, shared by all that it sends and all that it receives, for "
            "example 10Mbit:100Mbit. Unset: without limit.",
        ),
        click.option(
            "--jitter",
            type=FiniteFloat(0),
            default=0.0,
            show_default=True,
            help="Largest extra latency, in seconds; drawn uniformly for each push.",
        ),
        click.option(
            "--latency",
            type=FiniteFloat(0),
            default=0.0,
            show_default=True,
            help="Seconds one way.",
        ),
    ):
        function = decorate(function)
    return function


def _bandwidth(context: click.Context, option: click.Parameter, text: str | None) -> Pair | None:
    if text is None:
        return None
    words = text.split(":")
    if len(words) > 2:
        raise click.BadParameter(f"{text!r}: say UP or UP:DOWN, for example 10Mbit:100Mbit")
    speeds = [bandwidth(context, option, word) or 0.0 for word in words]
    return speeds[0], speeds[-1]


def _pair(name: str, most: Pair) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Return a callback that reads two numbers, each positive and at most as in ``most``."""

    def read(_context: click.Context, option: click.Parameter, text: str | None) -> Pair | None:
        if text is None:
            return None
        try:
            first, second = (float(word) for word in text.split(":"))
        except ValueError:
            raise click.BadParameter(f"{text!r}: say {name} {option.metavar}") from None
        if not (0 < first <= most[0] and 0 < second <= most[1] and first + second < inf):
            raise click.BadParameter(f"{text!r}: out of range")
        return first, second

    return read


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else repr(value)
