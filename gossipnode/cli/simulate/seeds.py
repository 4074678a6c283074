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
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from gossipnode.cli.app import UNEXPECTED, exit_code
from gossipnode.cli.lifeline import end_with_parent
from gossipnode.errors import GossipNodeError

PIPE_BYTES = 65536
Answer = dict[str, Any]


@dataclass(slots=True)
class Worker:
    """A child that works on job ``number``; ``answer`` grows as it is read from ``pipe``."""

    number: int
    pid: int
    pipe: int
    answer: bytearray = field(default_factory=bytearray)


def cores() -> int:
    """Return how many processes may run at once here."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(
    jobs: Sequence[Callable[[], Answer]], at_once: int
) -> Generator[tuple[int, Answer], None, None]:
    """Yield (number of the job, its answer) as they finish.

    A job that fails answers ``{"error": text, "code": exit code}``. Leaving the iteration early
    kills the workers that are left.
    """
    lifeline, hold = os.pipe()
    waiting = list(enumerate(jobs))
    workers: dict[int, Worker] = {}
    sys.stdout.flush()
    sys.stderr.flush()
    # What exists now lives as long as the workers: the collector must not touch its pages.
    gc.collect()
    gc.freeze()
    try:
        with selectors.DefaultSelector() as selector:
            while waiting or workers:
                while waiting and len(workers) < at_once:
                    worker = _fork(*waiting.pop(0), lifeline, hold)
                    workers[worker.pipe] = worker
                    selector.register(worker.pipe, selectors.EVENT_READ)
                for key, _ in selector.select():
                    worker = workers[key.fd]
                    data = os.read(worker.pipe, PIPE_BYTES)
                    worker.answer += data
                    if not data:
                        selector.unregister(worker.pipe)
                        del workers[worker.pipe]
                        yield worker.number, _ended(worker)
    finally:
        for worker in workers.values():
            os.kill(worker.pid, signal.SIGKILL)
            _ended(worker)
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
        # Out of the terminal's foreground group: Ctrl-C is for the parent, who then kills us.
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


def _ended(worker: Worker) -> Answer:
    """Reap a worker whose pipe has ended, and return what it answered."""
    os.close(worker.pipe)
    status = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
    if not worker.answer:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else "ended early"
        return {"error": how, "code": UNEXPECTED}
    answer: Answer = json.loads(worker.answer)
    return answer
