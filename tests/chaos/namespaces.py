"""Hosts with addresses of their own on this machine: network namespaces, veth and bridges.

Each host is a namespace; each group of hosts has a switch, which is a bridge, and one wire joins
the switches. Taking that down is a partition as hosts see it when a cable between buildings breaks:
packets vanish, no interface of theirs goes down, nobody tells them. Needs root and ``ip``;
``WHY_NOT`` tells what is missing. Invariant: whatever was made is removed on every way out, and
what a run that was killed had left is removed by the next one. No address of this machine's own
network is touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

HOSTS_MAX = 16
PREFIX = "gnlab"
NAMES = Path("/run/netns")
CLONE_NEWNET = 0x40000000
GET_TIMEOUT_S = 3.0


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _missing() -> str:
    """Return why there can be no namespaces here, or "" if there can."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip"
    name = f"{PREFIX}-{os.getpid()}-try"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "name", "va", "type", "veth", "peer", "name", "vb")
            _ip("-n", name, "link", "add", "name", "vc", "type", "bridge")
        finally:
            _ip("netns", "del", name)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces here: {error}"
    return ""


WHY_NOT = _missing()


class Lab:
    """Groups of hosts, ``groups[g]`` of them each; enter it to make them.

    Host i, counted through, is at ``addresses[i]``.
    """

    def __init__(self, groups: Sequence[int]) -> None:
        assert sum(groups) <= HOSTS_MAX
        assert len(groups) <= 2, "one wire joins two switches"
        self.groups = groups
        self.addresses = [f"10.77.0.{i + 1}" for i in range(sum(groups))]
        self._switch = f"{PREFIX}-{os.getpid()}-sw"
        self._hosts = [f"{PREFIX}-{os.getpid()}-{i}" for i in range(sum(groups))]

    def __enter__(self) -> Self:
        _sweep()
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        for group in range(len(self.groups)):
            _ip("-n", self._switch, "link", "add", "name", f"br{group}", "type", "bridge")
            _ip("-n", self._switch, "link", "set", f"br{group}", "up")
        if len(self.groups) == 2:
            wire = ["link", "add", "name", "wire0", "type", "veth", "peer", "name", "wire1"]
            _ip("-n", self._switch, *wire)
            for end in (0, 1):
                _ip("-n", self._switch, "link", "set", f"wire{end}", "master", f"br{end}", "up")
        places = [group for group, count in enumerate(self.groups) for _ in range(count)]
        for i, (host, group) in enumerate(zip(self._hosts, places, strict=True)):
            _ip("netns", "add", host)
            wire = ["link", "add", "name", f"p{i}", "type", "veth", "peer", "name", "eth0"]
            _ip("-n", self._switch, *wire, "netns", host)
            _ip("-n", self._switch, "link", "set", f"p{i}", "master", f"br{group}", "up")
            _ip("-n", host, "link", "set", "lo", "up")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "address", "add", f"{self.addresses[i]}/24", "dev", "eth0")

    def _remove(self) -> None:
        for name in [*self._hosts, self._switch]:
            with contextlib.suppress(OSError):
                _ip("netns", "del", name)

    # -- verbs ------------------------------------------------------------------------------------

    def partition(self) -> None:
        """Let nothing pass between the two groups."""
        _ip("-n", self._switch, "link", "set", "wire0", "down")

    def heal(self) -> None:
        """Join the groups again."""
        _ip("-n", self._switch, "link", "set", "wire0", "up")

    def swallow(self, host: int) -> None:
        """Let everything to and from a host vanish; its own interface stays up."""
        _ip("-n", self._switch, "link", "set", f"p{host}", "nomaster")

    def release(self, host: int, group: int = 0) -> None:
        """Let it through again, at the switch of ``group``."""
        _ip("-n", self._switch, "link", "set", f"p{host}", "master", f"br{group}")

    def move(self, host: int, address: str) -> None:
        """Give a host another address; the one before is gone, and with it its connections."""
        _ip("-n", self._hosts[host], "address", "flush", "dev", "eth0")
        _ip("-n", self._hosts[host], "address", "add", f"{address}/24", "dev", "eth0")
        self.addresses[host] = address

    def inside(self, host: int) -> list[str]:
        """Return the words before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._hosts[host]]

    def get(self, host: int, port: int, path: str) -> Any:
        """Return the JSON at the host's own address, asked from there; None without a 200."""
        connection = http.client.HTTPConnection(self.addresses[host], port, timeout=GET_TIMEOUT_S)
        try:
            with _entered(self._hosts[host]):
                connection.connect()  # the socket stays in the namespace that it was made in
            connection.request("GET", path)
            response = connection.getresponse()
            return json.loads(response.read()) if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@contextlib.contextmanager
def _entered(name: str) -> Iterator[None]:
    """Let this thread, and no other one, be in a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, (NAMES / name).open() as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                raise AssertionError("this thread is lost in another namespace")


def _sweep() -> None:
    """Remove what processes have left that are no more."""
    names = [path.name for path in NAMES.iterdir()] if NAMES.is_dir() else []
    for name in names:
        found = re.fullmatch(rf"{PREFIX}-(\d+)-\w+", name)
        if found and not Path(f"/proc/{found.group(1)}").exists():
            with contextlib.suppress(OSError):
                _ip("netns", "del", name)
