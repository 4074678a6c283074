"""SIGHUP where there is a terminal, where it goes away, and under nohup."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import GOSSIPNODE, PATIENCE_S, free_ports, get, until


class Node:
    """A node in a session of its own; ``before`` runs in the new process, ahead of the program."""

    def __init__(self, folder: Path, before: Callable[[], object], stdin: int) -> None:
        (port,) = free_ports(1)
        self.log, self.url = folder / "node.log", f"http://127.0.0.1:{port}"
        arguments = [
            "start", "--port", str(port), "--data-dir", str(folder / "data"), "--algorithm",
            "gossip", "--period-s", "0.05",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*GOSSIPNODE, *arguments], stdin=stdin, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=before,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def hang_up(self) -> None:
        self.popen.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def running(
    folder: Path, before: Callable[[], object], stdin: int = subprocess.DEVNULL
) -> Iterator[Node]:
    node = Node(folder, before, stdin)
    try:
        until(lambda: get(f"{node.url}/readyz"), "it is ready")
        yield node
        assert "Traceback" not in node.said()
    finally:
        if node.popen.poll() is None:
            node.popen.kill()
        node.popen.wait(PATIENCE_S)


def test_a_terminal_that_goes_away_stops_the_node_and_a_signal_reloads_it(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:

        def take_it() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        with running(tmp_path, take_it, slave) as node:
            os.close(slave)
            slave = -1
            node.hang_up()
            until(lambda: "node.reloaded" in node.said(), "it reads its files anew")
            assert node.popen.poll() is None
            os.close(master)
            master = -1
            assert node.popen.wait(PATIENCE_S) == 0
            assert "signal=SIGHUP" in node.said()
            assert list((tmp_path / "data").glob("*.safetensors"))
    finally:
        for descriptor in (master, slave):
            if descriptor >= 0:
                os.close(descriptor)


def test_without_a_terminal_it_reloads_and_under_nohup_nothing_happens(tmp_path: Path) -> None:
    with running(tmp_path, lambda: None) as node:
        node.hang_up()
        until(lambda: "node.reloaded" in node.said(), "it reads its files anew")
        node.popen.terminate()
        assert node.popen.wait(PATIENCE_S) == 0
    with running(tmp_path, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as node:
        node.hang_up()
        node.popen.terminate()  # in this order: the first is dealt with before the second
        assert node.popen.wait(PATIENCE_S) == 0
        assert "node.reloaded" not in node.said()
