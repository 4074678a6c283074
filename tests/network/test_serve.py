"""``serve`` in a process: signals, systemd, exit codes, and a stop that keeps its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import config_of

from gossipnode.errors import (
    ConfigError,
    DataError,
    NetworkError,
    PeerError,
    StorageError,
    TrainingError,
)
from gossipnode.network import ExitCode, HttpNode, exit_code, serve, service

# A step takes 0.1 ms: half an hour of training in one call, which nothing can interrupt.
ENDLESS = {"local_steps": 1_000_000, "batch_size": 0}
SCRIPT = """
import sys
from gossipnode import logs
from gossipnode.config import Config
from gossipnode.network import serve
from gossipnode.network.world import DaemonWorld

train = DaemonWorld.train

def train_aloud(world, work, steps, **how):
    def aloud():
        print("training", file=sys.stderr, flush=True)
        return work()
    return train(world, aloud, steps, **how)

DaemonWorld.train = train_aloud
logs.configure("info", "text")
sys.exit(serve(Config.model_validate_json(sys.argv[1])))
"""


@contextlib.contextmanager
def process(folder: Path, **sections: Any) -> Iterator[subprocess.Popen[str]]:
    """A node in a process of its own; its log is in its standard error."""
    command = [sys.executable, "-c", SCRIPT, config_of(folder, **sections).model_dump_json()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_for_line(child: subprocess.Popen[str], word: str) -> str:
    assert child.stderr is not None
    for line in child.stderr:
        if word in line:
            return line
    raise AssertionError(f"the process ended without a word of {word}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_node_and_keeps_its_model(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "60000000")
        nodes: list[HttpNode] = []

        def ready(node: HttpNode) -> None:
            nodes.append(node)
            os.kill(os.getpid(), number)

        assert serve(config_of(tmp_path / "data"), on_ready=ready) is ExitCode.OK
        words = [supervisor.recv(999).split(b"\n")[0] for _ in range(4)]
    assert sorted(words) == [b"READY=1", b"STOPPING=1", b"STOPPING=1", b"WATCHDOG=1"]
    assert nodes[0].state == "stopped"
    assert list((tmp_path / "data").glob("*.safetensors"))
    # The handlers are gone, so whoever called serve has its own again.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_measurements_are_handed_on(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    config = config_of(
        tmp_path,
        algorithm={"name": "gossip", "period_s": 0.01},
        run={"rounds": 2, "evaluate_every": 1},
    )
    assert serve(config, on_measurement=rows.append) is ExitCode.OK
    assert [row["round"] for row in rows] == [0, 1, 2]


def test_a_port_in_use_is_a_network_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        network = {"port": other.getsockname()[1]}
        told: list[Exception] = []
        config = config_of(tmp_path, network=network)
        assert serve(config, on_error=told.append) is ExitCode.NETWORK
    assert [isinstance(error, NetworkError) for error in told] == [True]


def test_an_address_from_outside_is_a_config_error(tmp_path: Path) -> None:
    assert serve(config_of(tmp_path, network={"bind": "0.0.0.0"})) is ExitCode.CONFIG


def test_a_folder_in_use_is_a_storage_error(tmp_path: Path) -> None:
    codes: list[ExitCode] = []

    def ready(node: HttpNode) -> None:
        with process(tmp_path / "data") as child:
            wait_for_line(child, "node.error")
            codes.append(ExitCode(child.wait(20)))
        node.request_stop()

    assert serve(config_of(tmp_path / "data"), on_ready=ready) is ExitCode.OK
    assert codes == [ExitCode.STORAGE]


def test_divergence_has_its_own_code(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        algorithm={"name": "gossip", "period_s": 0.01},
        task={"l2": 1.0},
        training={"learning_rate": 1e6},  # each step multiplies the params by a million
        run={"rounds": 20},
    )
    assert serve(config) is ExitCode.DIVERGED


def test_a_node_that_may_not_begin_leaves_no_checkpoint(tmp_path: Path) -> None:
    def ready(_node: HttpNode) -> None:
        raise ConfigError("the swarm's model does not fit this node's data")

    # Else the next try, with the right data, would find a checkpoint of the wrong ones.
    assert serve(config_of(tmp_path), on_ready=ready) is ExitCode.CONFIG
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_bug_is_unexpected(tmp_path: Path) -> None:
    def ready(_node: HttpNode) -> None:
        raise ZeroDivisionError

    assert serve(config_of(tmp_path), on_ready=ready) is ExitCode.UNEXPECTED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 2),
        (NetworkError("x"), 3),
        (StorageError("x"), 4),
        (TrainingError("x"), 5),
        (PeerError("busy", "x"), 1),
        (KeyError("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_the_deadline_holds_even_while_a_step_goes_on(tmp_path: Path) -> None:
    with process(
        tmp_path,
        algorithm={"name": "gossip", "period_s": 0.01},
        training=ENDLESS,
        run={"drain_deadline_s": 0.2},
    ) as child:
        wait_for_line(child, "training")
        child.send_signal(signal.SIGTERM)
        wait_for_line(child, "run.cut")
        wait_for_line(child, "work.abandoned")
        assert child.wait(20) == ExitCode.OK
    # The step was given up halfway: what it left behind is of no one moment, and not kept.
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_second_signal_forces(tmp_path: Path) -> None:
    with process(
        tmp_path,
        algorithm={"name": "gossip", "period_s": 0.001},
        training=ENDLESS,
        run={"drain_deadline_s": 3600},
    ) as child:
        wait_for_line(child, "training")
        child.send_signal(signal.SIGTERM)
        wait_for_line(child, "node.asked_to_stop")
        child.send_signal(signal.SIGTERM)
        wait_for_line(child, "node.forced")
        assert child.wait(20) == ExitCode.FORCED


async def test_leaving_twice_and_asking_twice_is_harmless(tmp_path: Path) -> None:
    async with HttpNode(config_of(tmp_path)) as node:
        run = asyncio.create_task(node.run())
        node.request_stop()
        deadline = node._deadline
        node.request_stop()
        assert node._deadline == deadline
        await run
    await node.__aexit__(None, None, None)
    assert node.state == "stopped"


async def test_an_idle_node_has_no_threads_for_training(tmp_path: Path) -> None:
    async with HttpNode(config_of(tmp_path)) as node:
        assert not node.working
        assert node._daemon._trainer._thread is None


async def test_what_fails_at_start_leaves_no_socket(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    config = config_of(tmp_path, data={"source": "csv:/no/such/file.csv", "label": "y"})
    with pytest.raises((DataError, ConfigError)):
        async with HttpNode(config, listener=listener):
            raise AssertionError("unreachable")
    assert listener.fileno() == -1


def test_uvloop_is_used_where_there_is_one() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert service.loop_factory() is uvloop.new_event_loop
