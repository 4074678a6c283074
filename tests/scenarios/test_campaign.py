"""Whatever comes together in a storm, the checkers find nothing, and the swarm recovers."""

from __future__ import annotations

from functools import partial

import pytest
from campaign import ALGORITHMS, sources, weathered


@pytest.mark.parametrize("seed", [2, 19, 23, 24])
def test_a_swarm_weathers_a_storm(seed, tmp_path):
    weathered(seed, partial(sources, tmp_path))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, 10 * len(ALGORITHMS), len(ALGORITHMS)))
def test_every_algorithm_weathers_its_storms(first, tmp_path):
    for seed in range(first, first + len(ALGORITHMS)):
        weathered(seed, partial(sources, tmp_path))
