"""Telling systemd how the daemon is, over the datagram socket that it names.

Invariant: without ``NOTIFY_SOCKET`` nothing happens, and a supervisor that does not listen is no
reason to fail.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from gossipnode.logs import event

log = logging.getLogger("gossipnode.network.systemd")


class Notifier:
    """Sends states to the supervisor named in ``environment`` (the process's by default).

    ``watchdog_s`` is the time between two signs of life, half of what systemd allows, or None
    where it wants none.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of Linux's abstract names.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environment)

    def ready(self, status: str = "") -> None:
        """Say that start-up is over."""
        self._send("READY=1", status)

    def stopping(self, status: str = "") -> None:
        """Say that the daemon is stopping."""
        self._send("STOPPING=1", status)

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def status(self, status: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send("", status)

    def _send(self, state: str, status: str = "") -> None:
        if not self._address:
            return
        line = " ".join(status.split())  # a line break would begin another variable
        text = "\n".join(part for part in (state, f"STATUS={line}" if line else "") if part)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            event(log, logging.DEBUG, "systemd.unreachable", reason=error.strerror)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return half of WATCHDOG_USEC in seconds, if it is meant for this process."""
    text = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not text.isdecimal() or int(text) == 0:
        return None
    return int(text) / 2e6
