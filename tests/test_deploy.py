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

from gossipnode import Config, Node
from gossipnode.cli.start import settled
from gossipnode.config import DEFAULT_PORT
from gossipnode.config.listing import options
from gossipnode.configfile import load_config
from gossipnode.network import ExitCode
from gossipnode.network.daemon import CLOSE_S
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import Bundle, read_bundle
from gossipnode.node.place import find_place

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


# Generous: a busy machine may need it.
PATIENCE_S = 300
NODES = [f"node-{i}" for i in range(5)]
PAGES = "7947"


def volumes_of(service: dict[str, Any]) -> dict[str, str]:
    """Return what a service mounts, by where; ``:ro`` is kept with the source."""
    rows = [text.split(":") for text in service["volumes"]]
    return {row[1]: ":".join([row[0], *row[2:]]) for row in rows}


def test_there_are_five_nodes_and_what_makes_their_bundles():
    tree = compose()
    assert list(tree["services"]) == ["bundles", *NODES]
    for i, name in enumerate(NODES):
        service = tree["services"][name]
        assert service["ports"] == [f"127.0.0.1:{7950 + i}:{PAGES}"]
        assert volumes_of(service) == {"/bundles": "bundles:ro", "/data": f"data-{i}"}
    named = {*(source.partition(":")[0] for s in tree["services"].values()
               for source in volumes_of(s).values())}  # fmt: skip
    assert named == {*tree["volumes"], "./bundles.sh"}


def test_all_containers_may_do_little():
    for service in compose()["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "network_mode" not in service or service["network_mode"] == "none"


def test_the_authority_runs_once_alone_and_first():
    services = compose()["services"]
    first = services.pop("bundles")
    assert (first["network_mode"], first["restart"]) == ("none", "no")
    assert "ports" not in first
    assert "networks" not in first
    mounts = volumes_of(first)
    script = first["entrypoint"][-1]
    assert mounts.pop(script) == "./bundles.sh:ro"
    assert mounts == {"/ca": "authority", "/bundles": "bundles"}
    made = dict(entry for entry in instructions() if "install -d" in entry[1])["RUN"]
    assert {"/ca", "/bundles", "/data"} <= {*made.split()}  # else the volumes would be root's
    swarm, *nodes = first["command"]
    assert nodes == [f"{name}={name}:{DEFAULT_PORT}" for name in NODES]
    assert swarm == "digits"
    for service in services.values():
        assert service["depends_on"] == {"bundles": {"condition": "service_completed_successfully"}}
        assert not any("authority" in source for source in volumes_of(service).values())
        assert service["restart"] == "unless-stopped"


def test_the_nodes_start_with_their_bundles_and_nothing_is_insecure(tmp_path):
    tree = compose()
    assert "insecure" not in COMPOSE.read_text(encoding="utf-8").lower()
    known = {option.env for option in options()}
    for name in NODES:
        service = tree["services"][name]
        context = parse(service["command"])
        assert context.command_path == "gossipnode start"
        assert context.params["trust__bundle"] == f"/bundles/{name}.bundle"
        environment = service["environment"]
        assert environment.keys() <= known
        assert environment["GOSSIPNODE_TRUST_REVOCATIONS"] == "/bundles/revocations.txt"
        assert environment["GOSSIPNODE_NETWORK_STATUS_BIND"] == "0.0.0.0"
        assert environment["GOSSIPNODE_NETWORK_STATUS_PORT"] == PAGES
        assert float(service["stop_grace_period"].removesuffix("s")) >= STOP_S + 10
        config = load_config(None, environment=environment, flags={})
        assert config.run.linger


class Bundles:
    """``bundles.sh`` as the service runs it, with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.bundles, programs = folder / "ca", folder / "bundles", folder / "bin"
        for each in (self.ca, self.bundles, programs):
            each.mkdir(mode=0o700)
        program = programs / "gossipnode"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gossipnode.cli "$@"\n')
        program.chmod(0o755)
        self.environment = {
            **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CA": str(self.ca),
            "BUNDLES": str(self.bundles),
        }  # fmt: skip

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            ["sh", str(DEPLOY / "bundles.sh"), *arguments],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def read(self) -> dict[str, Bundle]:
        paths = sorted(self.bundles.glob("*.bundle"))
        return {path.stem: read_bundle(path)[0] for path in paths}

    def counter(self) -> int:
        text = (self.bundles / "revocations.txt").read_text()
        return int(re.findall(r"^counter (\d+)$", text, re.MULTILINE)[0])


def test_the_service_makes_bundles_with_which_the_nodes_listen_where_the_ports_lead(
    tmp_path, monkeypatch
):
    made = Bundles(tmp_path)
    made.run(*compose()["services"]["bundles"]["command"])
    assert list(made.read()) == NODES
    assert made.counter() == 0
    for name, text in compose()["services"]["node-2"]["environment"].items():
        monkeypatch.setenv(name, str(text).replace("/bundles", str(made.bundles)))
    for name in NODES:
        bundle = made.bundles / f"{name}.bundle"
        config, peers = settled(None, [], {"trust.bundle": str(bundle)})
        network = config.network
        assert (network.bind, network.port) == ("0.0.0.0", DEFAULT_PORT)
        assert (network.status_bind, str(network.status_port)) == ("0.0.0.0", PAGES)
        # The same list in the same order for all: the ring.
        assert [(peer.name, peer.address) for peer in peers] == [
            (each, f"https://{each}:{DEFAULT_PORT}") for each in NODES
        ]
        find_place(config, peers)  # raises where the graph does not fit


@pytest.mark.long  # a dozen processes
def test_bundles_are_renewed_later_and_revoked_where_lost(tmp_path):
    made = Bundles(tmp_path)
    three = ["digits", *(f"{name}=10.0.0.{i}:7946" for i, name in enumerate("abc", 1))]
    made.run(*three)
    first = made.read()
    (made.bundles / "b.bundle").unlink()  # lost
    Authority.open(made.ca).revoke("c")  # by hand
    assert "c.bundle is left as it was" in made.run(*three, "d=10.0.0.4:7946")
    second = made.read()
    assert list(second) == ["a", "b", "c", "d"]
    same = {name for name in first if second[name].member.id == first[name].member.id}
    assert same == {"a", "c"}
    assert [seed.name for seed in second["a"].seeds] == ["a", "b", "d"]
    assert second["a"].certificate != first["a"].certificate
    assert second["c"].certificate == first["c"].certificate
    assert made.counter() == 2
    assert Authority.open(made.ca).revocations().ids == {
        first["b"].member.id, first["c"].member.id,
    }  # fmt: skip


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


def asked(port: int, name: str = "GOSSIPNODE_NETWORK_PORT") -> int:
    environment = {**os.environ, name: str(port)}
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
        assert await asyncio.to_thread(asked, port, "GOSSIPNODE_NETWORK_STATUS_PORT") == 0
        await node.drain()
        assert await asyncio.to_thread(asked, port) == 1
    assert await asyncio.to_thread(asked, port) == 1


def test_environment_names_in_the_unit_are_options():
    known = {option.env for option in options()}
    names = [entry.split("=")[0] for entry in unit()["Service"]["Environment"]]
    ours = [name for name in names if name.startswith("GOSSIPNODE_")]
    assert ours
    assert set(ours) <= known
