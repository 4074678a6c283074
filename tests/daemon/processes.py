"""Node processes as a user starts them, ended by their own ids on every way out."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

GOSSIPNODE = [sys.executable, "-m", "gossipnode.cli"]
# Generous: a busy machine may need it, and a test that passes never waits for it.
PATIENCE_S = 60.0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; all are held until all are found.

    They are none of those that the system gives out: before the node has bound its port, that could
    be the near end of some connection of another test.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = 12_000 + secrets.randbelow(18_000)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


def write_peers(folder: Path, names: Sequence[str], ports: Sequence[int]) -> None:
    """Write ``peers.toml``: nodes of this machine, without trust."""
    rows = (
        f'[[peer]]\nid = "{name}"\naddress = "http://127.0.0.1:{port}"\n'
        for name, port in zip(names, ports, strict=True)
    )
    (folder / "peers.toml").write_text("\n".join(rows))


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return the first true value of ``condition``; fails when none comes."""
    deadline = time.monotonic() + patience_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain until {what}"
        time.sleep(0.02)


def get(url: str) -> Any:
    """Return the JSON behind ``url``, or None while nobody answers or the answer is no 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.loads(response.read())
    except (urllib.error.URLError, OSError, TimeoutError):
        return None


class Process:
    """One ``gossipnode`` process, its log in a file; ``inside`` are words before the command."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        environment: dict[str, str],
        inside: Sequence[str] = (),
    ) -> None:
        self.log = log
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                [*inside, *GOSSIPNODE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=os.environ | environment,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def ended(self) -> int:
        """Return the exit code; negative is a signal."""
        return self.popen.wait(PATIENCE_S)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(PATIENCE_S)


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Callable[..., Process]]:
    """Yield a function that starts ``gossipnode ARGUMENTS``; all of them end with the block."""
    started: list[Process] = []
    environment = {"XDG_DATA_HOME": str(folder / "share"), "PYTHONUNBUFFERED": "1"}

    def start(*arguments: str, log: str = "node.log", inside: Sequence[str] = ()) -> Process:
        process = Process(list(arguments), folder / log, environment, inside)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.end()
