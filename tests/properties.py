"""How much is tried in each `make test`, and how much more in each `make test-long`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import settings


def examples(repeated: int, drawn: int) -> settings:
    """Return the settings of a costly property: ``repeated`` in each `make test`, ``drawn`` in
    each `make test-long`, which draws new ones.
    """
    count = repeated if settings.default.derandomize else drawn
    return settings(max_examples=count, deadline=None)


def longer(cases: Iterable[Any], but: Collection[Any]) -> list[Any]:
    """Return the cases of a costly test, all but a few of them for `make test-long` alone."""
    return [case if case in but else pytest.param(case, marks=pytest.mark.long) for case in cases]
