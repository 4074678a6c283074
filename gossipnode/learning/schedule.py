"""Learning-rate schedules: the factor on the learning rate by number of local steps done.

Invariant: a schedule is a pure function of the step number, so that a restart needs no state.
Nothing but the standard library may enter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from gossipnode.errors import ConfigError, nearest_spelling

Schedule = Callable[[int], float]
"""Maps the number of local steps done (0, 1, …) to a factor in [0, 1]."""

SCHEDULES: Final = ("constant", "step", "inverse_sqrt", "cosine")


def schedule(name: str, *, steps: int = 1000, factor: float = 0.5) -> Schedule:
    """Return the schedule called ``name``.

    constant: 1. step: ``factor`` to the power of t // ``steps``. inverse_sqrt: 1/√(1 + t/steps).
    cosine: half a cosine from 1 at step 0 to ``factor`` at step ``steps`` and there it stays.
    Raises ConfigError for another name.

    >>> [schedule("step", steps=10, factor=0.5)(t) for t in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    assert steps >= 1
    match name:
        case "constant":
            return lambda _: 1.0
        case "step":
            return lambda t: factor ** (t // steps)
        case "inverse_sqrt":
            return lambda t: 1 / math.sqrt(1 + t / steps)
        case "cosine":
            return lambda t: (
                factor + (1 - factor) * (1 + math.cos(math.pi * min(t / steps, 1.0))) / 2
            )
    raise ConfigError(
        f"unknown schedule {name!r}",
        key="training.schedule",
        allowed=", ".join(SCHEDULES),
        nearest=nearest_spelling(name, SCHEDULES),
    )
