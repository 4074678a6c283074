"""The event loop's lag: what is counted where, and that a loop that is held up is noticed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import get, until

from gossipnode.network import HttpNode
from gossipnode.network.lag import BOUNDS_S, LoopLag


@given(lags=st.lists(st.floats(0, 5) | st.sampled_from(BOUNDS_S)))
def test_a_bucket_counts_what_was_no_later_than_its_bound(lags: list[float]) -> None:
    lag = LoopLag()
    for one in lags:
        lag.add(one)
    assert list(lag.cumulative()) == [(b, sum(one <= b for one in lags)) for b in BOUNDS_S]
    assert lag.count == len(lags)
    assert lag.max_s == max(lags, default=0.0)
    assert lag.total_s == pytest.approx(sum(lags))


async def test_a_loop_that_is_held_up_is_late() -> None:
    lag = LoopLag(0.01)
    lag.start()
    await until(lambda: lag.count)
    held = time.monotonic() + 0.05
    while time.monotonic() < held:
        pass
    await until(lambda: lag.max_s >= 0.03)
    lag.stop()
    lag.stop()
    assert lag._timer is None


async def test_metrics_and_status_tell_of_it(node: HttpNode) -> None:
    await until(lambda: node.loop_lag.count)
    node.loop_lag.add(7.5)
    text = (await get(node.url, "/metrics")).body.decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    count = float(lines["gossipnode_loop_lag_seconds_count"])
    assert count >= 2
    assert float(lines['gossipnode_loop_lag_seconds_bucket{le="+Inf"}']) == count
    assert float(lines['gossipnode_loop_lag_seconds_bucket{le="1.0"}']) == count - 1
    assert float(lines["gossipnode_loop_lag_seconds_sum"]) >= 7.5
    assert (await get(node.url, "/v1/status")).json()["network"]["loop_lag_s_max"] == 7.5
