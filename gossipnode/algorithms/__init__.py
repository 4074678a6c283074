"""What a node does: one file an algorithm. ``gossipnode.registry`` has their names."""

from __future__ import annotations

from gossipnode.algorithms.base import Algorithm
from gossipnode.config import Config
from gossipnode.registry import algorithm_class


def build_algorithm(config: Config) -> Algorithm:
    """Return the algorithm that ``config.algorithm`` names, with its options."""
    made = algorithm_class(config.algorithm.name)(config.algorithm, config.training.local_steps)
    assert isinstance(made, Algorithm)
    made.called = config.algorithm.called
    return made
