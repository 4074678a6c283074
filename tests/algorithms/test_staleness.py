"""Staleness weights against the published values, and what every one of them must keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.algorithms.staleness import age_weight, staleness_function

DELTAS = (0, 1, 2, 4, 8, 16)
TABLE = {
    ("constant", None, None): (1, 1, 1, 1, 1, 1),
    ("polynomial", None, None): (1, 0.7071, 0.5774, 0.4472, 0.3333, 0.2425),
    ("polynomial", 0.5, None): (1, 0.7071, 0.5774, 0.4472, 0.3333, 0.2425),
    ("polynomial", 1.0, None): (1, 0.5, 0.3333, 0.2, 0.1111, 0.0588),
    ("hinge", None, None): (1, 1, 1, 1, 0.0244, 0.0083),
    ("hinge", 10, 4): (1, 1, 1, 1, 0.0244, 0.0083),
    ("hinge", 1, 0): (1, 0.5, 0.3333, 0.2, 0.1111, 0.0588),
    ("exponential", None, None): (1, 0.9048, 0.8187, 0.6703, 0.4493, 0.2019),
    ("exponential", 0.1, None): (1, 0.9048, 0.8187, 0.6703, 0.4493, 0.2019),
}
NAMES = ("constant", "polynomial", "hinge", "exponential")


@pytest.mark.parametrize("function", TABLE)
def test_equals_the_published_weights(function: tuple[str, float | None, float | None]) -> None:
    s = staleness_function(*function)
    assert [round(s(delta), 4) for delta in DELTAS] == list(TABLE[function])


@pytest.mark.parametrize("name", NAMES)
@given(
    a=st.one_of(st.none(), st.floats(1e-6, 1e3)),
    b=st.one_of(st.none(), st.floats(0, 1e3)),
    deltas=st.lists(st.floats(0, 2.0**53), min_size=2, max_size=10),
)
def test_falls_from_one_and_stays_above_zero(
    name: str, a: float | None, b: float | None, deltas: list[float]
) -> None:
    s = staleness_function(name, a, b)
    assert s(0) == 1.0
    values = [s(delta) for delta in sorted(deltas)]
    assert values == sorted(values, reverse=True)
    assert 0.0 <= values[-1] <= values[0] <= 1.0
    if name != "polynomial":  # (δ+1)^−a is below the smallest float at the far end
        assert values[-1] > 0.0


def test_an_unknown_function_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        staleness_function("logarithmic")


@given(st.integers(0, 2**53), st.integers(0, 2**53))
def test_age_weights_are_shares(own: int, other: int) -> None:
    assert 0.0 <= age_weight(own, other) <= 1.0
    assert age_weight(own, other) + age_weight(other, own) == pytest.approx(1.0, abs=1e-15)


def test_age_weight_of_beginners() -> None:
    assert age_weight(0, 0) == 0.5
    assert age_weight(0, 1) == 1.0
    assert age_weight(1, 0) == 0.0
    assert age_weight(1, 3) == 0.75
