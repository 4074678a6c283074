"""What an all-reduce lets in: no more than a step of this node asks for, from whom it asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_learner import plain_config

from gossipnode.algorithms.all_reduce import EVERYBODY, AllReduce
from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.errors import PeerError

OPTIONS: Any = plain_config(algorithm__name="allreduce").algorithm


class Bystander:
    """What an all-reduce sees of its node when a message comes; three nodes, seven params."""

    id, ids, nodes, round = "n1", ("n0", "n1", "n2"), 3, 0
    params = np.zeros(7)

    def is_expected(self, peer: str) -> bool:
        return True

    def count(self, what: str, amount: int = 1) -> None:
        pass


def sent(sender: str, phase: int, piece: tuple[int, int] | None = None, **more: Any) -> Arrival:
    index = {"kind": "range", "start": piece[0], "stop": piece[1]} if piece else {"kind": "all"}
    parts = more.pop("parts", {"sum": np.zeros(7)})
    return Arrival(
        sender, Purpose.MODEL, 0, 0, parts,
        phase=phase, index=index, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("form", "arrival"),
    [
        ("ring", sent("n2", 0, (0, 2))),  # it comes from n0
        ("ring", sent("n0", 0, (0, 3))),  # a wrong range
        ("ring", sent("n0", 1, (0, 2))),  # that of another step
        ("ring", sent("n0", 4, (0, 2))),  # there are four steps
        ("ring", sent("n0", 3)),
        ("naive", sent("n0", 0)),
        ("naive", sent("n0", 0, (0, 2))),
        ("server", sent("n0", 0)),  # n0 is the hub, not n1
        ("server", sent("n2", 1)),
        ("server", sent("n0", 2)),
        ("naive", sent("n0", EVERYBODY, (0, 2))),
    ],
)
def test_what_no_step_asks_for_is_refused(form: Any, arrival: Arrival) -> None:
    reduce, node = AllReduce(OPTIONS, form), Bystander()
    with pytest.raises(PeerError):
        reduce.receive(node, arrival)  # type: ignore[arg-type]
    assert not reduce.mailbox.box


def test_what_the_steps_ask_for_is_taken() -> None:
    for form, arrival in (
        ("ring", sent("n0", 0, (0, 2))),
        ("ring", sent("n0", 2, (2, 4))),
        ("ring", sent("n2", EVERYBODY)),
        ("server", sent("n0", 1)),
        ("naive", sent("n2", EVERYBODY)),
    ):
        reduce: Any = AllReduce(OPTIONS, form)  # type: ignore[arg-type]
        reduce.receive(Bystander(), arrival)
        assert len(reduce.mailbox.box) == 1
