"""How many examples a property gets: few where they are the same in each run, many where drawn."""

from __future__ import annotations

from hypothesis import settings


def examples(repeated: int, drawn: int) -> settings:
    """Return the settings of a costly property: ``repeated`` in each `make test`, ``drawn`` in
    each `make test-long`, which draws new ones.
    """
    count = repeated if settings.default.derandomize else drawn
    return settings(max_examples=count, deadline=None)
