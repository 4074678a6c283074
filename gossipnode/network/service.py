"""The daemon's process: signals, systemd, and the exit code that it ends with.

Invariant: a first SIGTERM or Ctrl-C stops the node cleanly, a second one at once; SIGHUP has it
read its files anew. Whatever ends the node is
told in the log, and by the exit code.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from gossipnode.config import Config, PeerEntry
from gossipnode.errors import (
    ConfigError,
    DataError,
    GossipNodeError,
    NetworkError,
    StorageError,
    TrainingError,
)
from gossipnode.logs import event
from gossipnode.network.daemon import HttpNode
from gossipnode.network.gate import allow_descriptors
from gossipnode.network.systemd import Notifier

log = logging.getLogger("gossipnode.network.service")


class ExitCode(IntEnum):
    """What a ``gossipnode`` process ends with."""

    OK = 0
    UNEXPECTED = 1
    CONFIG = 2
    NETWORK = 3
    STORAGE = 4
    DIVERGED = 5
    FORCED = 130


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that stands for ``error``.

    >>> exit_code(NetworkError("the port is in use")).name
    'NETWORK'
    """
    for kind, code in (
        ((ConfigError, DataError), ExitCode.CONFIG),
        ((NetworkError,), ExitCode.NETWORK),
        ((StorageError,), ExitCode.STORAGE),
        ((TrainingError,), ExitCode.DIVERGED),
    ):
        if isinstance(error, kind):
            return code
    return ExitCode.UNEXPECTED


def serve(
    config: Config,
    *,
    peers: Sequence[PeerEntry] | None = None,
    listener: socket.socket | None = None,
    status_listener: socket.socket | None = None,
    on_ready: Callable[[HttpNode], None] | None = None,
    on_measurement: Callable[[dict[str, Any]], None] | None = None,
    on_error: Callable[[Exception], None] | None = None,
    logs_reason: bool = True,
) -> ExitCode:
    """Run a node until it is done or signalled, and return the process's exit code.

    Blocks; call it in the main thread, with logging configured. SIGTERM and SIGINT stop it
    cleanly, a second one at once. ``on_ready`` gets the started node, ``on_measurement`` each
    history row; both run in the event loop. ``on_error`` gets what ended the node, if anything did;
    ``logs_reason`` is false where it tells it beside the log, which then need not.
    """
    allow_descriptors()
    code = ExitCode.OK
    node = None
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            node = HttpNode(config, peers=peers, listener=listener, status_listener=status_listener)
            node.on_measurement = on_measurement
            runner.run(_serve(node, on_ready))
    except Exception as error:
        code = exit_code(error)
        reason = {"reason": error} if logs_reason else {}
        event(log, logging.ERROR, "node.error", **reason, exit_code=int(code))
        if code is ExitCode.UNEXPECTED:
            log.exception("node.bug")
        if on_error is not None:
            on_error(error)
    if node is not None and node.working:
        # Python would wait at exit for a thread that the deadline has given up on.
        event(log, logging.WARNING, "work.abandoned", id=node.id)
        _exit(code)
    return code


async def _serve(node: HttpNode, on_ready: Callable[[HttpNode], None] | None) -> None:
    notifier = Notifier()
    handled = _handle_signals(node, notifier)
    watchdog = asyncio.create_task(_watchdog(node, notifier))
    try:
        async with node:
            notifier.ready(f"{node.id} at {node.url}")
            if on_ready is not None:
                try:
                    on_ready(node)
                except Exception as error:
                    node.fail(error)
                    raise
            await node.run()
            notifier.stopping("writing the last checkpoint")
    finally:
        watchdog.cancel()
        for number in handled:
            asyncio.get_running_loop().remove_signal_handler(number)


def _handle_signals(node: HttpNode, notifier: Notifier) -> tuple[signal.Signals, ...]:
    """Install the handlers and return their signals; none outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return ()
    loop = asyncio.get_running_loop()
    asked: list[signal.Signals] = []
    had_terminal = _has_terminal()

    def handle(number: signal.Signals) -> None:
        asked.append(number)
        if len(asked) > 1:
            event(log, logging.ERROR, "node.forced", id=node.id, signal=number.name)
            _exit(ExitCode.FORCED)
        event(log, logging.INFO, "node.asked_to_stop", id=node.id, signal=number.name)
        notifier.stopping(f"asked to stop by {number.name}")
        node.request_stop()

    def hang_up() -> None:
        if had_terminal and not _has_terminal():
            handle(signal.SIGHUP)  # the terminal has gone, and that was the sign of it
        else:
            reloads.add(task := loop.create_task(_reload(node)))
            task.add_done_callback(reloads.discard)

    reloads: set[asyncio.Task[None]] = set()
    numbers = [signal.SIGTERM, signal.SIGINT]
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup stays what it is
        loop.add_signal_handler(signal.SIGHUP, hang_up)
        numbers.append(signal.SIGHUP)
    return tuple(numbers)


async def _reload(node: HttpNode) -> None:
    try:
        await node.reload()
    except GossipNodeError as error:
        event(log, logging.ERROR, "reload.failed", id=node.id, reason=error)


def _has_terminal() -> bool:
    """Whether this process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def _watchdog(node: HttpNode, notifier: Notifier) -> None:
    """Give systemd signs of life; that this coroutine runs is the proof."""
    while notifier.watchdog_s is not None and node.state != "failed":
        notifier.alive()
        await asyncio.sleep(notifier.watchdog_s)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one: it halves the cost of a small push."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _exit(code: ExitCode) -> None:
    """End the process at once, with the log written."""
    logging.shutdown()
    os._exit(code)
