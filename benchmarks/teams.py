"""Teams of processes that work in blocks when told to, so that contenders can take turns.

Invariant: between two blocks every process waits, asleep, in a read of standard input; the time
of a block is the parent's, from the word "go" until the last of the team has come back. A team
ends with its context, however that ends.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).parents[1]
START_S = 120.0
BLOCK_S = 120.0
END_S = 20.0
# One BLAS thread a process, as a swarm has: more would fight for the cores.
THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class TeamError(Exception):
    """A process of a team ended or did not come back in time."""


def environment() -> dict[str, str]:
    """Return the environment of a measured process: this repository, one BLAS thread."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GOSSIPNODE_")}
    return {**kept, **THREADS, "PYTHONPATH": str(ROOT)}


# -- in the worker --------------------------------------------------------------------------------


class Gate:
    """The worker's end: takes over standard output, so that nothing else is written there."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        os.dup2(2, 1)

    def arrive(self) -> str:
        """Say that the block is done, and wait; returns the next command, "" at the end."""
        os.write(self._out, b".")
        return os.read(0, 1).decode()

    def tell(self, text: str) -> None:
        """Leave last words."""
        os.write(self._out, text.encode())


# -- in the parent --------------------------------------------------------------------------------


class Team:
    """Processes that run ``words`` each, in a module's worker role; enter it to start them.

    ``inherited`` gives each a listening socket, whose number is put behind its words.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        *,
        python: str = sys.executable,
        inherited: Sequence[socket.socket] = (),
    ) -> None:
        self._commands, self._python, self._inherited = commands, python, inherited
        self._processes: list[subprocess.Popen[bytes]] = []
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end

    def __enter__(self) -> Self:
        try:
            for number, words in enumerate(self._commands):
                handed = self._inherited[number : number + 1]
                self._processes.append(
                    subprocess.Popen(
                        [self._python, *words, *(str(one.fileno()) for one in handed)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=self._errors,
                        env=environment(),
                        cwd=ROOT,
                        pass_fds=[one.fileno() for one in handed],
                    )
                )
            self._await_all(START_S)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def go(self, command: str = "g") -> float:
        """Have the team do a block; returns the seconds until the last had done it."""
        began = time.perf_counter()
        for process in self._processes:
            assert process.stdin is not None
            os.write(process.stdin.fileno(), command.encode())
        self._await_all(BLOCK_S)
        return time.perf_counter() - began

    def last_words(self) -> list[str]:
        """Tell the team that it is over; returns what each of them had to say."""
        told = []
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            told.append(process.stdout.read().decode())
        return told

    def _await_all(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        waiting = {p.stdout.fileno(): p for p in self._processes if p.stdout is not None}
        while waiting:
            left_s = deadline - time.monotonic()
            readable, _, _ = select.select(list(waiting), [], [], max(left_s, 0.0))
            if not readable:
                raise TeamError(f"no answer within {seconds:.0f} s: {self._said()}")
            for descriptor in readable:
                if os.read(descriptor, 1) != b".":
                    raise TeamError(f"ended before its time: {self._said()}")
                del waiting[descriptor]

    def _said(self) -> str:
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "nothing was said"

    def _end(self) -> None:
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._errors.close()
