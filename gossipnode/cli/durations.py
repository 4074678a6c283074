"""Durations as people write them: ``90d``, ``12h``, ``30m``.

Invariant: what passes is positive and at most a century.
"""

from __future__ import annotations

import datetime
import re

import click

UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
SECONDS_MAX = 100 * UNITS["y"]


class Duration(click.ParamType):  # type: ignore[type-arg] # generic in some versions only
    """A click type: a whole number and a unit."""

    name = "DURATION"

    def convert(
        self,
        value: str | datetime.timedelta,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime.timedelta:
        """Return the duration; fails with how to write it."""
        if isinstance(value, datetime.timedelta):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,9})([mhdwy])", value)
        seconds = int(match[1]) * UNITS[match[2]] if match else 0
        if not 0 < seconds <= SECONDS_MAX:
            self.fail(
                f"{value!r} is no duration; write 30m, 12h, 90d, 4w or 1y, at most 100y", param, ctx
            )
        return datetime.timedelta(seconds=seconds)


DURATION = Duration()
