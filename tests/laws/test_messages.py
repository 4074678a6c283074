"""Law 8: what a round costs in messages, counted as they are delivered on the simulated wire.

51,200 messages take the simulator some seconds, so the run is the one that the document tells of.
"""

from __future__ import annotations

import numpy as np
from test_document import LAWS

from gossipnode.topology import costs


def test_messages_of_fifty_rounds() -> None:
    sent, rounds, X = LAWS.counted_messages()
    assert rounds == {50}
    assert len(sent) == 128
    assert set(sent.values()) == {8 * 50}
    assert sum(sent.values()) == 128 * 8 * 50 == 51_200
    # They did exchange: 0 … 127 have come to their mean. A random 8-regular graph has ρ < 0.8,
    # and 0.8⁵⁰ of the first distance, 418, is 6e-3.
    np.testing.assert_allclose(X[:, 0], 63.5, rtol=0, atol=6e-3)


def test_one_naive_all_reduce_more() -> None:
    final = costs.naive_all_reduce(128)
    assert final.messages == sum(1 for i in range(128) for j in range(128) if i != j) == 16_256
    assert 51_200 + final.messages == 67_456
