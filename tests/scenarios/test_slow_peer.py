"""One peer on a slow line: what goes to the others goes as if it were not there."""

from __future__ import annotations

from typing import Any

from setting import learning

from gossipnode.simulation import Link

# Nodes push twice a second and give up on a push after two.
SLOW = Link(latency_s=1.5)
TOO_SLOW = Link(latency_s=10.0)

Delivery = tuple[float, str, str]


def deliveries_beside(slow: Link | None) -> tuple[list[Delivery], list[Delivery]]:
    """Return what the seven others sent in a minute: to n3, whose line is ``slow``, and elsewhere.

    A delivery is its instant, its sender and its receiver. What n3 sends is left out: the
    acknowledgements come over its slow line.
    """
    found: tuple[list[Delivery], list[Delivery]] = [], []
    with learning("gossip", topology__graph="complete") as swarm:
        delivered = swarm.delivered

        def note(receiver: str, message: Any, outcome: str) -> None:
            if message.sender != "n3":
                instant = round(swarm.time, 9)
                found[receiver != "n3"].append((instant, message.sender, receiver))
            delivered(receiver, message, outcome)

        swarm.delivered = note  # type: ignore[method-assign]
        if slow is not None:
            for sender in swarm.nodes:
                swarm.network.set_link(sender, "n3", slow)
        swarm.run(60)
    return found


def test_pushes_to_the_others_arrive_at_the_very_instants():
    its_own, others = deliveries_beside(None)
    its_own_slowly, others_beside = deliveries_beside(SLOW)
    assert 0 < len(its_own_slowly) < len(its_own)
    assert len(others) > 500
    assert others_beside == others


def test_a_peer_that_is_given_up_holds_nobody_up():
    its_own, others = deliveries_beside(None)
    nothing, others_beside = deliveries_beside(TOO_SLOW)
    assert not nothing
    # Whoever would have pushed to it pushes to somebody else, and at the same instant.
    assert len(others_beside) >= len(others)
    instants = {(instant, sender) for instant, sender, _ in its_own + others}
    assert {(instant, sender) for instant, sender, _ in others_beside} <= instants
