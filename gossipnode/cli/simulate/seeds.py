"""Many seeds side by side: a forked worker a seed, as many at once as there are cores.

Invariant: workers share with the parent what was loaded before the fork, answer with one line
of JSON on a pipe of their own, and never outlive the parent.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gossipnode.cli.app import INTERRUPTED, UNEXPECTED, exit_code
from gossipnode.cli.lifeline import end_with_parent
from gossipnode.errors import GossipNodeError

PIPE_BYTES = 65536
# After an interrupt: measuring what there is must not keep the user waiting.
SALVAGE_S = 5.0
Answer = dict[str, Any]


@dataclass(slots=True)
class Worker:
    """A child that works on job ``number``; ``answer`` grows as it is read from ``pipe``."""

    number: int
    pid: int
    pipe: int
    answer: bytearray = field(default_factory=bytearray)

    def has_ended(self) -> bool:
        """Read on; whether that was all."""
        data = os.read(self.pipe, PIPE_BYTES)
        self.answer += data
        return not data


class Interrupt:
    """Ctrl-C while this is entered: the first makes ``bell`` readable, the second raises.

    A handler that raised each time would lose what was just read from a worker.
    """

    def __init__(self) -> None:
        self.came = False
        self.bell, self._ring = os.pipe()

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        os.close(self.bell)
        os.close(self._ring)

    def _received(self, *_: object) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        os.write(self._ring, b"!")


def cores() -> int:
    """Return how many processes may run at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(
    jobs: Sequence[Callable[[], Answer]], at_once: int, interrupt: Interrupt
) -> Generator[tuple[int, Answer], None, None]:
    """Yield (number of the job, its answer) as they finish.

    A job that fails answers ``{"error": text, "code": exit code}``. After an ``interrupt`` no job
    begins, and those under way get SIGINT and ``SALVAGE_S`` to answer. Leaving the iteration early
    kills the workers that are left.
    """
    lifeline, hold = os.pipe()
    waiting = list(enumerate(jobs))
    workers: dict[int, Worker] = {}
    deadline: float | None = None
    sys.stdout.flush()
    sys.stderr.flush()
    # What exists now lives as long as the workers: the collector must not touch its pages.
    gc.collect()
    gc.freeze()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(interrupt.bell, selectors.EVENT_READ)
            while workers or (waiting and not interrupt.came):
                while waiting and len(workers) < at_once and not interrupt.came:
                    worker = _fork(*waiting.pop(0), lifeline, hold)
                    workers[worker.pipe] = worker
                    selector.register(worker.pipe, selectors.EVENT_READ)
                for key, _ in selector.select(deadline and max(deadline - time.monotonic(), 0.0)):
                    if key.fd == interrupt.bell:
                        selector.unregister(interrupt.bell)
                        deadline = _ask_to_end(workers.values())
                    elif (worker := workers[key.fd]).has_ended():
                        selector.unregister(worker.pipe)
                        yield worker.number, _ended(workers.pop(worker.pipe))
                if deadline and time.monotonic() >= deadline:
                    break
        for pipe in list(workers):
            yield _killed(workers.pop(pipe))
    finally:
        for worker in workers.values():
            _killed(worker)
        os.close(lifeline)
        os.close(hold)


def _fork(number: int, job: Callable[[], Answer], lifeline: int, hold: int) -> Worker:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.close(hold)
        _be_worker(job, write, lifeline)
    os.close(write)
    return Worker(number, pid, read)


def _be_worker(job: Callable[[], Answer], write: int, lifeline: int) -> NoReturn:
    """Do the job in this forked child and end the process."""
    try:
        # Out of the terminal's foreground group: Ctrl-C is for the parent, who tells us. A run
        # heeds it while there is something to end; before and after, it must harm no summary.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.setpgid(0, 0)
        end_with_parent(lifeline)
        try:
            answer = job()
        except GossipNodeError as error:
            answer = {"error": str(error), "code": exit_code(error)}
        except Exception as error:  # noqa: BLE001 - told here and to the parent
            traceback.print_exc()
            answer = {"error": str(error), "code": UNEXPECTED}
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _ask_to_end(workers: Iterable[Worker]) -> float:
    """Interrupt the workers, and return until when they may answer, in monotonic seconds."""
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    return time.monotonic() + SALVAGE_S


def _ended(worker: Worker) -> Answer:
    """Reap a worker whose pipe has ended, and return what it answered."""
    os.close(worker.pipe)
    status = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
    if status or not worker.answer:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else "ended early"
        return {"error": how, "code": UNEXPECTED}
    answer: Answer = json.loads(worker.answer)
    return answer


def _killed(worker: Worker) -> tuple[int, Answer]:
    """Kill and reap a worker, and return what there is to say of its job."""
    os.kill(worker.pid, signal.SIGKILL)
    os.close(worker.pipe)
    os.waitpid(worker.pid, 0)
    how = f"interrupted, and not summed up within {SALVAGE_S:g} s"
    return worker.number, {"error": how, "code": INTERRUPTED}
