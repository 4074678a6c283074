"""The first moments of a process: closed standard streams, and signals while it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_processes import Command, wait_for

from gossipnode.cli import app

SWARM = ["swarm", "-n", "3", "--rounds", "5", "--out", "run", "--no-plot", "--json"]
SIMULATION = ["simulate", "-n", "3", "--rounds", "5", "--out", "run", "--no-plot", "--json"]
GOSSIPNODE = [sys.executable, "-m", "gossipnode.cli"]


def shell(folder: Path, redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command line with streams closed, as only a shell or a supervisor does it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *GOSSIPNODE, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_swarm_runs_with_streams_closed(tmp_path, closed):
    done = shell(tmp_path, closed, *SWARM)
    assert done.returncode == app.OK, done.stderr
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (told["rounds"], told["failed_nodes"]) == (5, [])
    assert "Traceback" not in done.stderr
    if ">" not in closed:
        assert json.loads(done.stdout) == told


def test_a_node_runs_with_standard_input_closed(tmp_path):
    line = ["start", "--algorithm", "gossip", "--port", "0", "--rounds", "2", "--data-dir", "data"]
    done = shell(tmp_path, "<&-", *line)
    assert done.returncode == app.OK, done.stderr
    assert done.stdout.startswith("ready: ")


@pytest.fixture
def unread():
    """Return the writing end of a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def run_into(folder: Path, *arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([*GOSSIPNODE, *arguments], cwd=folder, text=True, timeout=60, **streams)


@pytest.mark.parametrize("line", [["version"], ["start", "--help"], ["topology", "ring"]])
def test_output_that_nobody_reads_is_no_bug(tmp_path, unread, line):
    done = run_into(tmp_path, *line, stdout=unread)
    assert (done.returncode, done.stderr) == (app.OK, "")


def test_an_error_that_nobody_reads_keeps_its_code(tmp_path, unread):
    done = run_into(tmp_path, "status", "http://127.0.0.1:1", stderr=unread)
    assert done.returncode == app.NETWORK


@pytest.mark.parametrize("line", [["version"], ["start", "--help"], ["topology", "ring"]])
def test_output_on_a_full_disk_is_one_line_that_says_so(tmp_path, line):
    with Path("/dev/full").open("w") as full:
        done = run_into(tmp_path, *line, stdout=full)
    assert done.returncode == app.STORAGE
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_swarm_whose_summary_nobody_reads_is_kept(tmp_path, unread):
    done = run_into(tmp_path, *SWARM, stdout=unread)
    assert done.returncode == app.OK, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 5
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_simulation_without_room_for_its_history_says_so_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").symlink_to("/dev/full")
    done = run_into(tmp_path, *SIMULATION)
    assert done.returncode == app.STORAGE
    *_, last = done.stderr.splitlines()
    assert last == "error: run/history.jsonl: cannot be written: No space left on device"
    assert done.stderr.count("No space left") == 1


@pytest.mark.parametrize("is_full", [False, True], ids=["unread", "full"])
@pytest.mark.parametrize("line", [SWARM, SIMULATION], ids=["swarm", "simulate"])
def test_a_run_whose_progress_cannot_be_written_goes_on(tmp_path, unread, line, is_full):
    with Path("/dev/full").open("w") as full:
        done = run_into(tmp_path, *line, stderr=full if is_full else unread)
    assert done.returncode == app.OK
    assert json.loads(done.stdout)["rounds"] == 5
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds"] == 5


@pytest.mark.parametrize("is_full", [False, True])
def test_a_node_outlives_whoever_read_that_it_is_ready(tmp_path, unread, is_full):
    line = ["start", "--algorithm", "gossip", "--port", "0", "--rounds", "2", "--data-dir", "data"]
    with Path("/dev/full").open("w") as full:
        done = run_into(tmp_path, *line, stdout=full if is_full else unread)
    assert done.returncode == app.OK, done.stderr
    assert "node.error" not in done.stderr
    assert any(tmp_path.glob("data/*.safetensors"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_ends_without_a_traceback(tmp_path, number):
    with Command(tmp_path, "swarm", "-n", "4", "--rounds", "0", "--out", "run") as command:
        maps = Path(f"/proc/{command.pid}/maps")
        # numpy's library is mapped: in the middle of the imports.
        wait_for(lambda: "_multiarray_umath" in maps.read_text(), "numpy to be imported")
        command.signal(number)
        assert command.end() == 128 + number
    assert command.err.read_text().count("\n") <= 1
    assert "Traceback" not in command.err.read_text()


@pytest.mark.parametrize("sign", ["run", "run/history.jsonl", "run/node-00.log", "run/node-03.log"])
def test_ctrl_c_at_any_moment_of_the_start_leaves_no_traceback(tmp_path, sign):
    with Command(tmp_path, "swarm", "-n", "4", "--rounds", "0", "--out", "run") as command:
        wait_for((tmp_path / sign).exists, sign)
        command.signal(signal.SIGINT)
        assert command.end() == app.INTERRUPTED
    told = command.err.read_text()
    assert "Traceback" not in told
    assert "never awaited" not in told
    assert "Exception ignored" not in told


def test_a_forked_child_dies_of_the_signal_itself():
    code = (
        "import os, signal\n"
        "from gossipnode.cli.process import end_at_once_on_signals\n"
        "end_at_once_on_signals()\n"
        "pid = os.fork()\n"
        "os.kill(pid or os.getpid(), signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=environment
    )
    assert (done.stdout, done.stderr) == (f"-{signal.SIGTERM:d}\n", "")
