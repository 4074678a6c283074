"""Hosts reach each other, or not, as the lab's verbs say; and nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from chaos.namespaces import NAMES, PREFIX, WHY_NOT, Lab

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

PORT = 7946
# A web server that says its first word when it listens.
SERVER = """
import http.server, json, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"from": self.client_address[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Page)
print("listening", flush=True)
server.serve_forever()
"""
CALL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
except OSError:
    sys.exit(1)
"""


@contextlib.contextmanager
def serving(lab: Lab, host: int) -> Iterator[None]:
    words = [*lab.inside(host), sys.executable, "-c", SERVER, lab.addresses[host], str(PORT)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield
        finally:
            process.kill()


def reaches(lab: Lab, host: int, other: int, within_s: float = 10.0) -> bool:
    words = [*lab.inside(host), sys.executable, "-c", CALL]
    words += [lab.addresses[other], str(PORT), str(within_s)]
    return subprocess.run(words, timeout=60, check=False).returncode == 0


def left() -> list[str]:
    mark = f"{PREFIX}-{os.getpid()}-"
    return [path.name for path in NAMES.iterdir() if path.name.startswith(mark)]


def test_verbs() -> None:
    with Lab([2, 1]) as lab, serving(lab, 0), serving(lab, 2):
        assert lab.get(0, PORT, "/") == {"from": lab.addresses[0]}
        assert reaches(lab, 1, 0)
        assert reaches(lab, 1, 2)
        lab.partition()
        assert not reaches(lab, 1, 2, 0.5)
        assert reaches(lab, 1, 0)  # its own side
        lab.heal()
        assert reaches(lab, 1, 2)
        lab.swallow(0)
        assert not reaches(lab, 1, 0, 0.5)
        assert lab.get(0, PORT, "/") is not None  # it is there, and cannot be heard
        lab.release(0)
        assert reaches(lab, 1, 0)
        lab.move(1, "10.77.0.99")
        assert reaches(lab, 1, 0)
    assert left() == []


def test_silence_is_no_refusal() -> None:
    with Lab([1, 1]) as lab, serving(lab, 1):
        began = time.monotonic()
        assert not reaches(lab, 0, 1 - 1, 10.0)  # nobody listens there: told at once
        assert time.monotonic() - began < 8
        assert reaches(lab, 0, 1)
        lab.partition()
        began = time.monotonic()
        assert not reaches(lab, 0, 1, 1.0)
        assert time.monotonic() - began >= 1.0


def test_nothing_is_left_after_an_error_nor_of_a_process_that_was_killed() -> None:
    with contextlib.suppress(KeyError), Lab([2]):
        assert len(left()) == 3
        raise KeyError
    assert left() == []
    code = (
        "import json, os, sys; sys.path.insert(0, 'tests')\n"
        "from chaos.namespaces import Lab\n"
        "Lab([1]).__enter__(); print(json.dumps(os.getpid()), flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    orphan = f"{PREFIX}-{json.loads(done.stdout)}-0"
    assert (NAMES / orphan).exists()
    with Lab([1]):
        assert not (NAMES / orphan).exists()
