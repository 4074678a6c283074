"""``doctor`` as a command: what it prints, its exit codes, and that it needs no terminal."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gossipnode.cli import app
from gossipnode.config.listing import options
from gossipnode.network.doctor import patient
from gossipnode.node.membership.book import FILE, Page, page_bytes

Ran = tuple[int, str]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for option in options():
        monkeypatch.delenv(option.env, raising=False)
    monkeypatch.chdir(tmp_path)


def doctor(*words: str, capsys: pytest.CaptureFixture[str]) -> Ran:
    code = app.run(["doctor", "--data-dir", "data", *words])
    told = capsys.readouterr()
    assert told.err == ""
    return code, told.out


def rows(text: str) -> dict[str, Any]:
    told = json.loads(text)
    assert told["healthy"] == all(row["state"] != "failed" for row in told["findings"])
    return {row["check"]: row for row in told["findings"]}


def test_a_sound_machine_is_told_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = doctor("--port", "0", capsys=capsys)
    assert code == app.OK
    assert [line.split(": ")[0] for line in text.splitlines()] == [
        f"{'ok':<8} {check}"
        for check in ("config", "port", "address", "certificate", "data folder")
    ]


def test_a_fault_has_an_exit_code_and_an_advice_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient, "STEP_S", 0.3)  # what listens there does not answer
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, text = doctor("--port", port, capsys=capsys)
        assert code == app.NETWORK
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("failed   port: "))
        assert lines[at + 1].startswith(" " * 9 + "stop what listens there")
        code, text = doctor("--port", port, "--json", capsys=capsys)
        assert code == app.NETWORK
        assert rows(text)["port"]["state"] == "failed"


def test_the_same_flags_as_start_name_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as gone,
        socket.create_server(("127.0.0.1", 0)) as o,
    ):
        ports = gone.getsockname()[1], o.getsockname()[1]
    Path("peers.toml").write_text(
        "".join(
            f'[[peer]]\nid = "{name}"\naddress = "http://127.0.0.1:{port}"\n'
            for name, port in zip("ab", ports, strict=True)
        )
    )
    code, text = doctor("--peers", "peers.toml", "--id", "a", "--json", capsys=capsys)
    found = rows(text)
    assert code == app.NETWORK
    assert found["port"]["said"] == f"127.0.0.1:{ports[0]} is free"
    assert "connection refused" in found["peer b"]["said"]
    code, text = doctor(f"http://127.0.0.1:{ports[1]}", "--port", "0", "--json", capsys=capsys)
    assert code == app.NETWORK
    assert "connection refused" in rows(text)[f"http://127.0.0.1:{ports[1]}"]["said"]


@pytest.mark.parametrize(
    "words",
    [["--bundle", "missing.bundle"], ["--config", "missing.toml"], ["--peers", "missing.toml"],
     ["--rounds", "many"], ["--algorithm", "dpsgd"], ["--set", "topology.graph=ring"],
     ["--peers", "peers.toml", "--id", "c"], ["--config", "alone.toml"]],
)  # fmt: skip
def test_options_that_cannot_be_used_are_a_finding(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("peers.toml").write_text('[[peer]]\nid = "a"\naddress = "http://127.0.0.1:1"\n')
    Path("alone.toml").write_text('[swarm]\nname = "x"\n')  # dpsgd, on a ring of nobody
    assert app.run(["start", "--data-dir", "data", *words]) == app.USAGE
    capsys.readouterr()
    code, text = doctor(*words, "--json", capsys=capsys)
    assert code == app.USAGE
    assert rows(text)["config"]["state"] == "failed"


def test_who_comes_back_to_a_swarm_needs_no_place_in_a_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("node.toml").write_text('[node]\nid = "a"\n')
    Path("data").mkdir()
    Path("data", FILE).write_bytes(page_bytes(Page(joined=True, through=("http://127.0.0.1:1",))))
    code, text = doctor("--config", "node.toml", "--port", "0", capsys=capsys)
    assert code == app.OK, text


def test_an_address_is_told_once_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    code, text = doctor(url, "--port", "0", capsys=capsys)
    assert code == app.NETWORK
    (line,) = [line for line in text.splitlines() if url in line]
    assert line.startswith(f"failed   {url}: connection refused: ")


def test_an_expired_bundle_is_looked_at_and_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import datetime

    from gossipnode.network.trust.authority import Authority

    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    authority = Authority.create(Path("ca"), "digits", past)
    authority.issue([("a", "https://127.0.0.1:1")], past, datetime.timedelta(days=1))[0].write(
        Path("a.bundle")
    )
    words = "--bundle", "a.bundle", "--port", "0", "--status-port", "0", "--json"
    code, text = doctor(*words, capsys=capsys)
    assert code == app.NETWORK
    assert "has expired" in rows(text)["certificate"]["said"]


def test_it_needs_no_terminal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gossipnode.cli", "doctor", "--port", "0", "--data-dir", "data"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
