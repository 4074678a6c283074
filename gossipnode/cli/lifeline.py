"""A forked child's tie to its parent: when that ends, however it ends, so does the child."""

from __future__ import annotations

import os
import threading


def end_with_parent(lifeline: int) -> None:
    """End this process as soon as nobody holds the other end of the pipe ``lifeline``.

    A thread waits for it, so call this in the child, after the fork.
    """
    threading.Thread(target=_wait_and_end, args=(lifeline,), daemon=True).start()


def _wait_and_end(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(1)
