"""The kinds of faults, each with one line, and how often they happened.

Invariant: the set is closed: a fault that is counted under another name is a ``KeyError``, so no
fault goes unnoticed for a misspelling. Knows nothing of nodes and networks: both count here.
"""

from __future__ import annotations

from collections import Counter

FAULTS = {
    "loss": "a push was lost on its way there; its sender noticed",
    "reply_loss": "the answer to a push was lost, after the push was merged",
    "duplicate": "a push came a second time",
    "overtaken": "a push came after a later one of the same sender",
    "cut": "a push or an answer went into a cut wire",
    "partition": "two groups were cut from one another",
    "one_way": "a wire was cut in one direction and not in the other",
    "kill": "a process was killed, and its machine lost what was not synced",
    "unsynced": "a crash took a write that the disk had not synced",
    "slow_disk": "a disk began to take its time until a write is safe",
    "wipe": "a disk was replaced by an empty one",
    "stop": "a node was stopped in good order",
    "restart": "a node was started again",
    "late": "a node was started after the others",
    "pause": "a process was stopped as SIGSTOP does",
    "slow": "a machine began to compute at another speed",
    "skew": "a clock on the wall was set off",
}


class Fired(Counter[str]):
    """How often each fault of ``FAULTS`` happened; any other name is a ``KeyError``.

    >>> fired = Fired()
    >>> fired["kill"] += 1
    >>> fired["murder"] += 1
    Traceback (most recent call last):
        ...
    KeyError: 'no fault murder; declare it in FAULTS'
    """

    def __setitem__(self, kind: str, count: int) -> None:
        """Set a count; ``+=`` comes here too."""
        if kind not in FAULTS:
            raise KeyError(f"no fault {kind}; declare it in FAULTS")
        super().__setitem__(kind, count)
