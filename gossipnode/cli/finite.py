"""Numbers on the command line that a sum may hold: neither infinite nor NaN."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click


class FiniteFloat(click.FloatRange):
    """A number in a range, and finite: NaN is in no order, so it passes every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; fails with a usage error, as do all types of click's."""
        number: float = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
