"""Workers side by side: what they answer, and what an interrupt leaves of them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from gossipnode.cli.app import INTERRUPTED, UNEXPECTED
from gossipnode.cli.simulate import seeds
from gossipnode.cli.simulate.seeds import Interrupt, side_by_side


def answering(**answer: Any) -> dict[str, Any]:
    return answer


def stubborn() -> dict[str, Any]:
    """A job that never sees that it is to end."""
    while True:
        time.sleep(60)


def test_answers_of_any_size_come_with_their_number():
    jobs = [lambda n=n: answering(text="x" * n) for n in (0, 70_000, 300_000)]
    with Interrupt() as interrupt:
        found = dict(side_by_side(jobs, 2, interrupt))
    assert {number: len(answer["text"]) for number, answer in found.items()} == {
        0: 0, 1: 70_000, 2: 300_000,
    }  # fmt: skip


def test_a_job_that_is_killed_has_not_answered():
    def die() -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return answering(alive=True)

    with Interrupt() as interrupt:
        assert list(side_by_side([die], 1, interrupt)) == [
            (0, {"error": "killed by SIGKILL", "code": UNEXPECTED})
        ]


def test_who_does_not_heed_an_interrupt_is_killed_and_no_job_begins(monkeypatch):
    monkeypatch.setattr(seeds, "SALVAGE_S", 0.3)
    jobs = [lambda: answering(done=1), stubborn, stubborn, lambda: answering(done=2)]
    with Interrupt() as interrupt:
        answers = side_by_side(jobs, 2, interrupt)
        assert next(answers) == (0, {"done": 1})
        os.kill(os.getpid(), signal.SIGINT)
        began = time.monotonic()
        left = list(answers)
        assert 0.3 <= time.monotonic() - began < 10
    assert [number for number, _ in left] in ([1], [1, 2])
    assert {answer["code"] for _, answer in left} == {INTERRUPTED}


def test_a_second_interrupt_is_final():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
