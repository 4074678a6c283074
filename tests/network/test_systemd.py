"""Notifications to a real datagram socket, by path and by abstract name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gossipnode.network.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = str(tmp_path / "notify") if request.param == "path" else f"@gossipnode-{os.getpid()}"
        listener.bind(name.replace("@", "\0") if name.startswith("@") else name)
        listener.settimeout(20)
        yield listener, name


def test_states_arrive_as_systemd_reads_them(supervisor: tuple[socket.socket, str]) -> None:
    listener, name = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("a at http://127.0.0.1:7946")
    assert listener.recv(999) == b"READY=1\nSTATUS=a at http://127.0.0.1:7946"
    notifier.alive()
    assert listener.recv(999) == b"WATCHDOG=1"
    notifier.status("two\nlines")
    assert listener.recv(999) == b"STATUS=two lines"
    notifier.stopping()
    assert listener.recv(999) == b"STOPPING=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_without_a_supervisor_nothing_happens(environment: dict[str, str]) -> None:
    Notifier(environment).ready()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_wants(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environment).watchdog_s == seconds
