"""An algorithm of another package: found by its entry point, and run as any other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
MODULE = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)[0]
PYPROJECT = tomllib.loads(
    re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)[0]
)
PATIENCE_S = 60


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the path with the page's package, as an installer would leave it."""
    folder = tmp_path / "site"
    project = PYPROJECT["project"]
    told = folder / "relay-1.0.dist-info"
    told.mkdir(parents=True)
    (folder / "relay.py").write_text(MODULE)
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    (told / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def path_with(site: Path) -> dict[str, str]:
    """Return the environment that a user of the package has."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GOSSIPNODE_")}
    before = environment.get("PYTHONPATH")
    return environment | {"PYTHONPATH": os.pathsep.join([str(site), *([before] if before else [])])}


def gossipnode(site: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "gossipnode.cli", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=site.parent,
        env=path_with(site),
    )
    assert done.returncode == code, done.stderr
    return done


def summary(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


LEARNT = ["--algorithm", "relay", "--rounds", "30", "--json", "--no-plot"]


def test_its_project_file_is_whole() -> None:
    """Whatever ``pip install .`` asks for is there, and the module is among what it packs."""
    assert PYPROJECT["build-system"]["build-backend"] == "setuptools.build_meta"
    assert any(need.startswith("setuptools") for need in PYPROJECT["build-system"]["requires"])
    assert PYPROJECT["project"]["dependencies"] == ["gossipnode"]
    assert PYPROJECT["tool"]["setuptools"]["py-modules"] == ["relay"]
    assert PYPROJECT["project"]["entry-points"] == {
        "gossipnode.algorithms": {"relay": "relay:Relay"}
    }


def test_it_runs_in_virtual_time(site: Path) -> None:
    found = summary(gossipnode(site, "simulate", "-n", "8", "--latency", "0.01", *LEARNT))
    assert (found["algorithm"], found["rounds"], found["messages"]) == ("relay", 30, 8 * 30)
    assert found["topology"] == "ring"
    assert found["accuracy"]["min"] > 0.8
    # The period is the option's default.
    assert 30 <= found["virtual_s"] < 31


def test_it_runs_as_processes(site: Path) -> None:
    line = ["swarm", "-n", "2", "--period-s", "0.02", *LEARNT]
    found = summary(gossipnode(site, *line))
    assert (found["algorithm"], found["rounds"], found["failed_nodes"]) == ("relay", 30, [])
    assert found["accuracy"]["min"] > 0.8


def test_its_options_are_checked_and_shown_as_any_others(site: Path) -> None:
    (site.parent / "node.toml").write_text('[algorithm]\nname = "relay"\nperiod_s = 0\n')
    error = gossipnode(site, "simulate", "node.toml", code=2).stderr
    assert "node.toml: algorithm.period_s" in error
    assert (
        "fixed neighbours"
        in gossipnode(
            site, "simulate", "--algorithm", "relay", "--topology", "random", code=2
        ).stderr
    )
    assert "relay" in gossipnode(site, "start", "--help").stdout


def test_without_the_package_there_is_no_such_algorithm(site: Path) -> None:
    (site / "relay-1.0.dist-info" / "entry_points.txt").unlink()
    assert "relay" in gossipnode(site, "simulate", *LEARNT, code=2).stderr


def test_one_that_cannot_be_loaded_is_told_by_its_place(site: Path) -> None:
    (site / "relay.py").write_text("import nothing_of_that_name\n")
    error = gossipnode(site, "simulate", *LEARNT, code=2).stderr
    assert error.count("\n") == 1
    assert "relay:Relay" in error
    assert "nothing_of_that_name" in error


def test_the_pages_of_this_package_speak_of_its_own_algorithms_alone(site: Path) -> None:
    for module in ("algorithms", "reference"):
        command = [sys.executable, "-m", f"gossipnode.cli.{module}"]
        told = [
            subprocess.run(
                command, capture_output=True, timeout=PATIENCE_S, env=environment, check=True
            ).stdout
            for environment in (path_with(site), None)
        ]
        assert told[0] == told[1]
        assert len(told[0]) > 1000
