"""``gossipnode simulate --engine matrix``: what the events give, to rounding, and for thousands."""

from __future__ import annotations

import json
import signal
import statistics

import numpy as np
import pytest
from cli_processes import Command, wait_for
from cli_simulations import KEYS, rounds_told, rows, simulated, without_time

from gossipnode.cli import app
from gossipnode.learning.modelfile import load_model


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What time, network and faults alone give a meaning to.
OF_EVENTS = {
    "virtual_s", "time_to_accuracy_s", "target_accuracy", "round_s", "delivered",
    "control_bytes_sent", "peers_down", "faults", "down", "trace_hash",
}  # fmt: skip
# What the order of a sum may change in the last digits.
FIGURES = {"accuracy", "loss", "consensus_distance"}


@pytest.mark.parametrize(
    "line",
    [
        "--form atc --topology ring --partition dirichlet:0.5",
        "--form cta --topology exponential --momentum 0.5 --local-steps 2",
        "--form atc --topology star --set data.test_fraction=0",
        "--form atc --task mlp",
    ],
)
def test_both_engines_give_the_same_files(line, capsys, folder):
    words = [*line.split(), "-n", "8", "--rounds", "21", "--dtype", "float64"]
    events = simulated(capsys, *words, "--out", "events")
    matrix = simulated(capsys, *words, "--engine", "matrix", "--out", "matrix")
    assert matrix.keys() == KEYS - OF_EVENTS | {"mean_model", "measured_nodes"}
    for key in matrix.keys() - {"engine", "out", "wall_s", "mean_model", "measured_nodes"}:
        close = pytest.approx(events[key], rel=1e-10) if key in FIGURES else events[key]
        assert matrix[key] == close, key
    (one, facts), (other, other_facts) = (
        load_model(folder / name / "model.safetensors") for name in ("events", "matrix")
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)
    assert facts == other_facts

    def measured(name: str) -> dict[tuple[str, int], tuple[float, float, float, int]]:
        return {
            (row["node"], row["round"]): (
                row["loss"], row["accuracy"] or 0.0, row["train_loss"] or 0.0, row["age"]
            )
            for row in rows(folder / name)
            if row["node"] is not None
        }  # fmt: skip

    by_events, by_matrix = measured("events"), measured("matrix")
    assert by_events.keys() == by_matrix.keys()
    assert {round_ for _, round_ in by_matrix} == {0, 10, 20, 21}
    for place, values in by_events.items():
        assert by_matrix[place] == pytest.approx(values, rel=1e-10), place


def test_of_many_nodes_some_are_measured_and_the_mean(capsys, folder):
    line = "-n 250 --partition sample:20 --rounds 10 --topology torus"
    found = simulated(capsys, "--engine", "matrix", *line.split())
    assert (found["nodes"], found["measured_nodes"]) == (250, 100)
    assert found["messages"] == 250 * 4 * 10
    seen = [row for row in rows(folder / "run") if row["node"] is not None]
    assert len(seen) == 2 * 100
    names = {row["node"] for row in seen}
    assert len(names) == 100
    assert {"node-0", "node-249"} <= names
    *_, of_mean = rows(folder / "run")
    assert of_mean == {
        "node": None,
        "round": 10,
        "mean_model_loss": found["mean_model"]["loss"],
        "mean_model_accuracy": found["mean_model"]["accuracy"],
        "consensus_distance": pytest.approx(found["consensus_distance"], rel=1e-6),
    }
    last = [row["accuracy"] for row in seen if row["round"] == 10]
    assert found["accuracy"]["mean"] == pytest.approx(statistics.fmean(last))


def test_the_matrix_is_told_in_words_and_plotted(capsys, folder):
    line = "simulate --engine matrix -n 120 --partition sample:20 --rounds 30 --out run"
    assert app.run(line.split()) == app.OK
    told = capsys.readouterr()
    for word in ("30 rounds in", "measured            100 nodes", "mean model", "a node sent"):
        assert word in told.out, word
    assert "virtual" not in told.out
    assert "round 30/30" in told.err.splitlines()[-1]
    assert (folder / "run" / "plot.png").exists()
    line += " --task quadratic --data npz:q.npz -n 4"
    np.savez("q.npz", A=np.eye(3), b=np.arange(3.0))
    assert app.run([*line.replace("--out run", "--out other").split()]) == app.OK
    assert "mean model          loss" in capsys.readouterr().out


def test_the_matrix_has_seeds_and_plays_again(capsys, folder):
    line = "--engine matrix -n 8 --rounds 5 --topology erdos_renyi --partition dirichlet:0.5"
    together = simulated(capsys, *line.split(), "--seeds", "3", "--out", "all")
    assert together["seeds"] == [0, 1, 2]
    assert together["virtual_s"] is None
    for number, run in enumerate(together["runs"]):
        kept = folder / "all" / f"seed-{number}" / "config.toml"
        program, verb, _, *flags = kept.read_text().splitlines()[0].removeprefix("# ").split()
        assert (program, verb) == ("gossipnode", "simulate")
        again = simulated(capsys, str(kept), *flags, "--out", f"again{number}")
        assert without_time(again) | {"seed": number} == without_time(run)
    assert len({run["loss"]["mean"] for run in together["runs"]}) == 3


def test_the_matrix_diverges_with_an_exit_code_of_its_own(capsys):
    line = "simulate --engine matrix --learning-rate 1e6 --task linear --data npz:x.npz --out run"
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.normal(size=(80, 3)), y=rng.normal(size=80))
    assert app.run(line.split()) == app.DIVERGED
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["events", "objects", "matrix"])
def test_a_history_that_cannot_be_written_is_told_once_whatever_the_engine(
    engine: str, folder, capsys
):
    (folder / "run").mkdir()
    (folder / "run" / "history.jsonl").symlink_to("/dev/full")
    words = ["--engine", engine, "-n", "3", "--rounds", "20", "--no-plot", "--out", "run"]
    assert app.run(["simulate", *words]) == app.STORAGE
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "No space" in line]
    assert told == "error: run/history.jsonl: cannot be written: No space left on device"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--latency 0.1", "--latency or --engine events"),
        ("--loss 0.1 --step-s 1", "--loss, --step-s"),
        ("--churn 10:1 --bandwidth 1M", "--bandwidth, --churn"),
        ("--seed 1", "swarm.seed"),
        ("--target-accuracy 0.9", "--target-accuracy"),
        ("--target-accuracy 0", "--target-accuracy"),
        ("--algorithm gossip", "asynchronous"),
        ("--algorithm gradient_tracking", "more than W"),
        ("--codec float16", "codec.name"),
        ("--codec randomk", "none, or --engine events"),
        ("--duration-s 60", "run.duration_s"),
        ("--rounds 0", "run.rounds"),
    ],
)
def test_what_a_matrix_cannot_honour_is_refused(line, hint, capsys, folder):
    assert app.run(["simulate", "--engine", "matrix", *line.split()]) == app.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert hint in error
    assert not list(folder.iterdir())


def test_an_interrupt_sums_up_the_matrix(folder):
    line = ["simulate", "--engine", "matrix", "--rounds", "100000000", "--json", "--out", "run"]
    with Command(folder, *line) as command:
        wait_for(lambda: rounds_told(command), "progress")
        command.signal(signal.SIGINT)
        assert command.end() == app.INTERRUPTED
    found = json.loads(command.out.read_text())
    assert found["rounds"] >= 10
    assert found["rounds"] == rows(folder / "run")[-1]["round"]
    assert (folder / "run" / "model.safetensors").exists()
