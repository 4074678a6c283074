"""What every command's process is given first: three open standard streams, and a quiet end.

Invariant: from ``main``'s first line on, a signal ends the process without a traceback, and no
socket or file gets a descriptor below 3. Nothing but the standard library may be imported here.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import TextIO

ENDING = (signal.SIGINT, signal.SIGTERM)


def open_standard_streams() -> None:
    """Open the null device on each of descriptors 0 to 2 that is closed, and ``sys``'s streams.

    A program started with a stream closed would get a socket in its place, and uvloop, rightly,
    does not close those.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor is this one, since those below are open.
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == descriptor, "another thread opens files"
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def write_no_more(stream: TextIO | None = None) -> None:
    """Send what goes to ``stream`` from here on to nowhere: it could not be written.

    Without one it is standard output. Python would try what is left once more at its end, and fail
    with a code of its own.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, (stream or sys.stdout).fileno())
    os.close(nowhere)


def end_at_once_on_signals() -> None:
    """End this process with 130 on Ctrl-C and with 143 on SIGTERM, without a word.

    For the time when nothing has to be put in order, imports above all: an exception there turns
    up in other people's code. Who has something to put in order installs handlers of its own, or
    calls ``raise_on_signals``. A forked child dies of the signal itself.
    """
    owner = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        os._exit(128 + number)

    for number in ENDING:
        signal.signal(number, end)


def raise_on_signals() -> None:
    """Let signals raise, so that ``finally`` runs: Ctrl-C KeyboardInterrupt, SIGTERM SystemExit.

    Does nothing where ``end_at_once_on_signals`` was not called: in somebody else's program.
    """

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        # asyncio.run recognises this handler, and cancels its task instead.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, leave)


def rest_the_collector() -> None:
    """Collect no garbage until ``wake_the_collector``: imports make next to none.

    What they do make, 100,000 objects of a node's, would be looked at again and again as it
    grows: a sixth of the time until a node is ready.
    """
    gc.disable()


def wake_the_collector() -> None:
    """Collect garbage again, but never look at what exists by now: it stays to the end.

    Later collections are short for it: 40 ms that a node's loop would stand still are 1. Does
    nothing where ``rest_the_collector`` was not called: in somebody else's program.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
