"""The files in deploy/ fit the program: ports, names, deadlines, exit codes, commands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_docs import parse

from gossipnode import Config, Node, load_peers
from gossipnode.config import DEFAULT_PORT
from gossipnode.config.listing import options
from gossipnode.network import ExitCode
from gossipnode.network.daemon import CLOSE_S

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE, UNIT, DOCKERFILE = (
    DEPLOY / name for name in ("docker-compose.yml", "gossipnode.service", "Dockerfile")
)
# What a clean stop takes at most, but for the last checkpoint.
STOP_S = Config().run.drain_deadline_s + CLOSE_S


def unit() -> dict[str, dict[str, list[str]]]:
    """Return the unit's sections; a key that occurs twice has two values."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def test_the_unit_starts_a_node_that_systemd_can_watch():
    service = unit()["Service"]
    assert service["Type"] == ["notify"]
    program, *arguments = service["ExecStart"][0].split()
    assert program.endswith("/gossipnode")
    assert parse(arguments).command_path == "gossipnode start"
    assert float(service["WatchdogSec"][0]) > 0
    assert float(service["TimeoutStopSec"][0]) >= STOP_S + 10


def test_the_unit_does_not_restart_what_a_person_must_mend():
    service = unit()["Service"]
    assert service["Restart"] == ["on-failure"]
    given_up = {int(code) for code in service["RestartPreventExitStatus"][0].split()}
    assert given_up == {ExitCode.CONFIG, ExitCode.STORAGE, ExitCode.DIVERGED}


def test_the_unit_keeps_its_state_where_it_may_write():
    service = unit()["Service"]
    assert service["StateDirectory"] == ["gossipnode"]
    settings = dict(entry.split("=", 1) for entry in service["Environment"])
    assert settings["GOSSIPNODE_NODE_DATA_DIR"] == "%S/gossipnode"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("CapabilityBoundingSet", ""),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("RestrictNamespaces", "yes"),
        ("SystemCallArchitectures", "native"),
    ],
)
def test_the_unit_is_hardened(key, value):
    assert unit()["Service"][key] == [value]


def systemd_version() -> int:
    program = shutil.which("systemd-analyze")
    if program is None:
        return 0
    text = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    found = re.match(r"systemd (\d+)", text)
    return int(found[1]) if found else 0


@pytest.mark.skipif(systemd_version() < 250, reason="needs systemd-analyze 250 or newer")
def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    # verify wants the program to be there; everything else is as it stands.
    copy = tmp_path / "gossipnode.service"
    text = UNIT.read_text(encoding="utf-8")
    copy.write_text(text.replace("/opt/gossipnode/bin/gossipnode", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    # Exposure goes from 0 to 10; the threshold is in tenths.
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy)],
        capture_output=True,
        text=True,
    )
    assert rated.returncode == 0, rated.stdout[-200:]


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the compose file")
    parsed: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return parsed


def test_the_five_containers_are_the_five_peers():
    # Light on purpose: it needs no YAML library, which the project has no other use for.
    text = COMPOSE.read_text(encoding="utf-8")
    peers = load_peers(DEPLOY / "peers.toml")
    ids = [peer.id for peer in peers]
    assert len(ids) == 5
    services = text.split("\nservices:\n")[1].split("\nnetworks:\n")[0]
    assert re.findall(r"^  (\S+):$", services, flags=re.MULTILINE) == ids
    assert re.findall(r"GOSSIPNODE_NODE_ID: (\S+)", services) == ids
    assert [peer.address for peer in peers] == [f"http://{i}:{DEFAULT_PORT}" for i in ids]
    ports = re.findall(r'ports: \["(\S+)"\]', services)
    assert ports == [f"127.0.0.1:{7950 + i}:{DEFAULT_PORT}" for i in range(5)]
    mounts = re.findall(r"- ./peers.toml:(\S+):ro", services)
    command = json.loads(re.findall(r"command: (\[.*\])", text)[0])
    assert mounts == [command[command.index("--peers") + 1]] * 5
    volumes = re.findall(r"- (\S+):/data$", services, flags=re.MULTILINE)
    assert volumes == re.findall(r"^  (\S+):$", text.split("\nvolumes:\n")[1], flags=re.MULTILINE)


def test_the_containers_command_is_one_of_ours_and_says_that_it_is_insecure():
    text = COMPOSE.read_text(encoding="utf-8")
    (command,) = re.findall(r"command: (\[.*\])", text)
    context = parse(json.loads(command))
    assert context.command_path == "gossipnode start"
    assert context.params["network__insecure"] is True
    (grace,) = re.findall(r"stop_grace_period: (\d+)s", text)
    assert float(grace) >= STOP_S + 10


def test_the_compose_file_is_what_it_looks_like():
    tree = compose()
    for name, service in tree["services"].items():
        assert service["environment"]["GOSSIPNODE_NODE_ID"] == name
        assert service["environment"]["GOSSIPNODE_RUN_LINGER"] == "true"
        assert service["cap_drop"] == ["ALL"]


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="needs docker compose",
)
def test_docker_accepts_the_compose_file():
    done = subprocess.run(
        ["docker", "compose", "-f", str(COMPOSE), "config", "--quiet"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def several() -> list[Any]:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the files")
    scaled = yaml.safe_load((DEPLOY / "swarm-of-one-service.yml").read_text(encoding="utf-8"))
    pods = yaml.safe_load_all((DEPLOY / "headless-service.yaml").read_text(encoding="utf-8"))
    return [scaled, *pods]


def test_nodes_of_one_service_join_by_the_services_own_name_and_our_port():
    scaled, service, pods = several()
    ((name, node),) = scaled["services"].items()
    container = pods["spec"]["template"]["spec"]["containers"][0]
    for line, host in ((node["command"], name), (container["args"], service["metadata"]["name"])):
        context = parse(line)
        assert context.command_path == "gossipnode start"
        assert context.params["urls"] == (f"http://{host}:{DEFAULT_PORT}",)
        assert context.params["network__insecure"] is True
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert pods["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == pods["spec"]["selector"]["matchLabels"]
    assert float(node["stop_grace_period"].rstrip("s")) >= STOP_S + 10
    assert pods["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= STOP_S + 10
    known = {option.env for option in options()}
    names = [*node["environment"], *(each["name"] for each in container["env"])]
    assert set(names) <= known


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions; continuation lines are joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines if line]


def test_the_image_runs_as_nobody_in_particular():
    last_stage = instructions()[[name for name, _ in instructions()].index("FROM") + 1 :]
    said = dict(last_stage)
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", said["USER"])
    assert said["EXPOSE"] == str(DEFAULT_PORT)
    assert said["VOLUME"] == "/data"
    assert "GOSSIPNODE_NODE_DATA_DIR=/data" in said["ENV"]
    assert json.loads(said["ENTRYPOINT"]) == ["gossipnode"]
    assert [name for name, _ in instructions()].count("FROM") == 2


def health_check() -> list[str]:
    (said,) = (text for name, text in instructions() if name == "HEALTHCHECK")
    program: list[str] = json.loads(said[said.index("[") :])
    assert program[0] == "python"
    return [sys.executable, *program[1:]]


def asked(port: int) -> int:
    environment = {**os.environ, "GOSSIPNODE_NETWORK_PORT": str(port)}
    return subprocess.run(health_check(), env=environment, capture_output=True).returncode


async def test_the_health_check_knows_a_ready_node_from_a_draining_and_an_absent_one(tmp_path):
    config = Config.model_validate(
        {
            "node": {"id": "a", "data_dir": str(tmp_path)},
            "algorithm": {"name": "gossip"},
            "topology": {"graph": "random"},
            "network": {"port": 0},
        }
    )
    async with Node(config) as node:
        port = int(node.url.rpartition(":")[2])
        assert await asyncio.to_thread(asked, port) == 0
        await node.drain()
        assert await asyncio.to_thread(asked, port) == 1
    assert await asyncio.to_thread(asked, port) == 1


def test_environment_names_in_the_unit_are_options():
    known = {option.env for option in options()}
    names = [entry.split("=")[0] for entry in unit()["Service"]["Environment"]]
    ours = [name for name in names if name.startswith("GOSSIPNODE_")]
    assert ours
    assert set(ours) <= known
