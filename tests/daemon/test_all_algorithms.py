"""Every form of every algorithm, by four real processes: it ends well, and as the simulator says.

The forms are those of the registry, so that a new one is covered by being named there.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import processes

from gossipnode.cli import algorithms, app
from gossipnode.configfile import load_config
from gossipnode.learning.modelfile import load_model

ROUNDS = 8
# Of ten classes, by models that have seen eight rounds: far above one in ten.
LEARNT = 0.3
FORMS = [
    pytest.param(
        algorithms.choice(name, facts.form), facts.waits, id=algorithms.label(name, facts.form)
    )
    for name, facts in algorithms.forms()
]


def words_of(chosen: dict[str, str]) -> list[str]:
    """Return the command line that both engines run: four nodes, uneven digits, float64."""
    words = ["-n", "4", "--rounds", str(ROUNDS), "--dtype", "float64", "--learning-rate", "0.5"]
    words += ["--partition", "dirichlet:0.5", "--set", "swarm.seed=4", "--evaluate-every", "4"]
    for key, value in chosen.items():
        words += ["--set", f"algorithm.{key}={value}"]
    model = load_config(flags={f"algorithm.{k}": v for k, v in chosen.items()}).algorithm
    if "period_s" in type(model).model_fields:
        words += ["--set", "algorithm.period_s=0.05"]
    return words


@contextlib.contextmanager
def real(folder: Path, words: list[str]) -> Iterator[Callable[[], Any]]:
    """Start the words as processes; yield what waits for their summary: all must end well."""
    with processes(folder) as start:
        out = folder / "real"
        swarm = start("swarm", "--no-plot", "--out", str(out), *words, log="swarm.log")

        def ended() -> Any:
            assert swarm.ended() == 0, swarm.said()
            return json.loads((out / "summary.json").read_text())

        yield ended


def virtual(folder: Path, words: list[str]) -> Any:
    """Run the words in virtual time and return their summary."""
    line = ["simulate", "--no-plot", "--json", "--latency", "0.01", "--jitter", "0.01"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert app.run([*line, "--out", str(folder / "virtual"), *words]) == app.OK
    return json.loads((folder / "virtual" / "summary.json").read_text())


def measured(folder: Path) -> dict[tuple[str, int], float]:
    """Return each node's loss by its name and round."""
    rows = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return {(row["node"], row["round"]): row["loss"] for row in rows}


@pytest.mark.parametrize(("chosen", "waits"), FORMS)
def test_four_processes_end_well_and_as_the_simulator_says(
    tmp_path: Path, chosen: dict[str, str], waits: bool
) -> None:
    words = words_of(chosen)
    flags = {f"algorithm.{key}": value for key, value in chosen.items()}
    asked = load_config(flags=flags).algorithm
    # What meets what is decided by real time where nobody waits.
    exact = waits and asked.needs().rounds
    with real(tmp_path, words) as ended:
        expected = virtual(tmp_path, words) if exact else None  # meanwhile
        summary = ended()
    assert (summary["nodes"], summary["rounds"], summary["failed_nodes"]) == (4, ROUNDS, [])
    assert summary["accuracy"]["mean"] > LEARNT
    assert summary["bytes_sent"] > 0
    assert load_config(tmp_path / "real" / "config.toml").algorithm.called == asked.called
    if expected is None:
        return
    one, _ = load_model(tmp_path / "real" / "model.safetensors")
    other, _ = load_model(tmp_path / "virtual" / "model.safetensors")
    # Models are added up in the order in which they come, so the last digits may differ.
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)
    distance = summary["consensus_distance"]
    assert distance == pytest.approx(expected["consensus_distance"], rel=1e-10, abs=1e-13)
    losses = measured(tmp_path / "virtual")
    assert losses.keys() == measured(tmp_path / "real").keys()
    assert measured(tmp_path / "real") == pytest.approx(losses, rel=1e-11)
