"""What all tests of processes share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def hangups_are_not_ignored() -> Iterator[None]:
    """Let what is started heed SIGHUP also where the tests run under nohup: to ignore is inherited.

    What handles it here is not, and leaves the tests as deaf to it as they were.
    """
    before = signal.getsignal(signal.SIGHUP)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)
