"""Stochastic gradient descent, with heavy-ball or Nesterov momentum.

Invariant: a step works in place and allocates nothing of a model's size after the first.
Nothing but numpy may enter; what the momentum buffer holds is all the state there is.
"""

from __future__ import annotations

import numpy as np

from gossipnode.learning.params import Array, add_scaled


class SGD:
    """m ← βm + g; x ← x − η(g + βm) with Nesterov's form, x ← x − ηm without, β in [0, 1).

    ``state`` is empty without momentum; with it, ``state["momentum"]`` is m, shape (d,), from
    the first step on. Source: Sutskever et al., ICML 2013. Differs from the source: the step η
    is applied to m and not kept inside it, so that a schedule acts at once.
    """

    def __init__(self, learning_rate: float, momentum: float = 0.0, nesterov: bool = False) -> None:
        assert 0 <= momentum < 1
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.nesterov = nesterov
        self.state: dict[str, Array] = {}

    def step(self, params: Array, gradient: Array, lr: float) -> None:
        """Apply one step of size ``lr`` to ``params``; overwrites ``gradient`` on the way."""
        direction = gradient
        if self.momentum:
            m = self.state.get("momentum")
            if m is None:
                m = self.state["momentum"] = np.zeros_like(params)
            m *= self.momentum
            m += gradient
            if self.nesterov:
                add_scaled(direction, m, self.momentum)
            else:
                np.copyto(direction, m)
        direction *= lr
        params -= direction
