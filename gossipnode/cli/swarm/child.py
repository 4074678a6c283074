"""The life of a forked node: from the fork to the end of the process.

Invariant: control never returns into the parent's code, and the process ends when the parent
does, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gossipnode import logs
from gossipnode.cli.lifeline import end_with_parent
from gossipnode.cli.swarm.seats import Seat
from gossipnode.config import Config, PeerEntry
from gossipnode.logs import bounded
from gossipnode.network import HttpNode, serve
from gossipnode.network.service import loop_factory
from gossipnode.node.measuring import median
from gossipnode.node.membership.membership import part_classes

log = logging.getLogger("gossipnode.cli.swarm")

# A report is written to the pipe whole only if it has at most 4096 bytes.
ERROR_CHARS_MAX = 2000


def import_what_nodes_do() -> None:
    """Import what a node imports no earlier than it begins."""
    loop_factory()
    part_classes()


def be_node(
    index: int,
    config: Config,
    peers: Sequence[PeerEntry],
    seat: Seat,
    output: Path,
    report: int,
    lifeline: int,
) -> NoReturn:
    """Run a node in this forked child and end the process; never returns into the parent's code."""
    code = 1
    try:
        # Out of the terminal's foreground group: Ctrl-C is for the parent, who asks us to stop.
        os.setpgid(0, 0)
        _redirect(output)
        logs.configure(
            config.log.level, config.log.format, value_chars_max=config.log.value_chars_max
        )
        end_with_parent(lifeline)
        # libuv starts four threads at the first name it looks up; a node looks up few.
        os.environ.setdefault("UV_THREADPOOL_SIZE", "1")
        tasks: list[asyncio.Task[None]] = []  # the loop itself holds them weakly

        def tell(**facts: Any) -> None:
            with contextlib.suppress(BrokenPipeError):  # the parent is gone, and so are we soon
                os.write(report, json.dumps({"node": index, **facts}).encode() + b"\n")

        def ready(node: HttpNode) -> None:
            tell(state="ready", **_told_by(node))
            # Here, not in the task: what happens before the task first runs counts as well.
            tasks.append(asyncio.create_task(_tell_states(node, node.subscribe(), tell)))

        def measured(row: dict[str, Any]) -> None:
            tell(row=row)

        def failed(error: Exception) -> None:
            tell(error=bounded(error or type(error).__name__, ERROR_CHARS_MAX))

        code = serve(
            config,
            peers=peers,
            listener=seat.listener,
            status_listener=seat.status_listener,
            on_ready=ready,
            on_measurement=measured,
            on_error=failed,
        )
    except Exception:
        log.exception("node.bug")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def _tell_states(
    node: HttpNode, events: asyncio.Queue[dict[str, Any]], tell: Callable[..., None]
) -> None:
    while True:
        event = await events.get()
        if event["event"] == "state":
            tell(state=event["state"], **_told_by(node))


def _told_by(node: HttpNode) -> dict[str, Any]:
    """Return what the summary needs of a node: a report's size must not grow with the swarm."""
    sent, saved = (node.counters.get(f"bytes_{what}") for what in ("sent", "saved"))
    return {"bytes_sent": sent, "bytes_saved": saved, "round_s": median(node.round_times)}


def _redirect(output: Path) -> None:
    """Point standard input to nothing, and both outputs to a file."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    for descriptor, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(descriptor, target)
    os.close(nothing)
    os.close(file)
