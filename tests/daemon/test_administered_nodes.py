"""Processes that are stopped and reloaded by verbs and signals, behind a readers' token."""

from __future__ import annotations

import datetime
import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Process, free_ports, get, processes, until

from gossipnode.cli import app
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import read_bundle

TOKEN = "a-token-of-20-letters"
Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Verb:
    """Run a verb here, as whoever started the node; return its code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.run(arguments)
        return (code, *capsys.readouterr())

    return run


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Running:
    """One node with a bundle, which ends in a day, and a readers' token."""

    def __init__(self, process: Process, url: str, authority: Authority, bundle: Path) -> None:
        self.process, self.url, self.authority, self.bundle = process, url, authority, bundle

    def ends(self) -> str:
        asked = urllib.request.Request(f"{self.url}/v1/status")
        asked.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return str(json.load(answer)["network"]["certificate_ends"])

    def renew(self, days: int) -> None:
        bundle, _ = read_bundle(self.bundle)
        self.authority.renew(bundle, now(), datetime.timedelta(days=days)).write(self.bundle)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    peers, pages = free_ports(2)
    token, bundle = tmp_path / "token", tmp_path / "a.bundle"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    authority = Authority.create(tmp_path / "ca", "digits", now())
    (made,) = authority.issue(
        [("a", f"https://127.0.0.1:{peers}")], now(), datetime.timedelta(days=1)
    )
    made.write(bundle)
    with processes(tmp_path) as start:
        process = start(
            "start", "--bundle", str(bundle), "--status-port", str(pages),
            "--status-token-file", str(token), "--algorithm", "gossip", "--period-s", "0.05",
        )  # fmt: skip
        url = f"http://127.0.0.1:{pages}"
        until(lambda: get(f"{url}/readyz"), "it is ready")
        yield Running(process, url, authority, bundle)
        assert TOKEN not in process.said()
        assert "Traceback" not in process.said()


def test_verbs_take_the_token_by_option_or_variable(
    running: Running, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, told = verb("status", running.url)
    assert code == app.NETWORK
    assert "HTTP 401" in told
    assert "--status-token-file" in told
    for name in ("status", "peers"):
        code, told, _ = verb(name, running.url, "--status-token-file", "token")
        assert code == app.OK
        assert name != "status" or f"\npages      {running.url}\n" in told
    with monkeypatch.context() as patched:
        patched.setenv("GOSSIPNODE_NETWORK_STATUS_TOKEN_FILE", "token")
        for name in ("status", "peers"):
            assert verb(name, running.url)[0] == app.OK
    code, told, _ = verb(
        "doctor", running.url, "--bundle", "a.bundle", "--status-token-file", "token",
        "--status-port", running.url.rpartition(":")[2], "--json",
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(told)["findings"]
    assert {row["check"]: row["state"] for row in found}["port"] == "ok", found
    assert code == app.OK, found


def test_a_renewed_certificate_is_used_after_reload_and_after_a_hangup(
    running: Running, verb: Verb
) -> None:
    before = running.ends()
    for days, by in ((10, "verb"), (20, "signal")):
        running.renew(days)
        assert running.ends() == before
        if by == "verb":
            code, told, error = verb("reload", running.url, "--status-token-file", "token")
            assert code == app.OK, error
            assert "has read its files; its certificate ends 20" in told
        else:
            running.process.signal(signal.SIGHUP)
        until(lambda ends=before: running.ends() > ends, f"the new one is used, by {by}")
        before = running.ends()
    running.bundle.write_text("}")
    running.process.signal(signal.SIGHUP)
    until(lambda: "reload.failed" in running.process.said(), "it says what is wrong")
    assert running.ends() == before


def test_stop_ends_it_cleanly_and_waits(running: Running, verb: Verb, tmp_path: Path) -> None:
    (token,) = (tmp_path / "share").rglob("admin.token")
    folder = ("--data-dir", str(token.parent))
    assert verb("stop", running.url, "--data-dir", "nowhere")[0] == app.USAGE
    assert verb("stop", running.url)[0] == app.NETWORK  # without the readers' token
    code, _, told = verb("stop", "http://192.0.2.1:1", *folder)
    assert (code, "is not on this machine" in told) == (app.USAGE, True)
    assert verb("stop", running.url, *folder) == (app.OK, f"{running.url} has stopped\n", "")
    assert running.process.ended() == 0
    assert "admin.stop" in running.process.said()
    assert token.read_text().strip() not in running.process.said()
    assert list(token.parent.glob("*.safetensors"))
    assert verb("stop", running.url, *folder)[0] == app.NETWORK  # nobody is there any more
