"""``gossipnode simulate`` of a file with [[compare]] tables: each is the run that it says."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from gossipnode.cli import app
from gossipnode.cli.simulate import compare

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare.toml"
CODECS = EXAMPLE.with_name("codecs.toml")
COMMON = """
[data]
partition = "shards:2"
[training]
local_steps = 1
[run]
rounds = 12
evaluate_every = 3
"""
TABLES = """
[[compare]]
name = "D-PSGD"

[[compare]]
name = "D2, torus"
algorithm.name = "d2"
topology.graph = "torus"
topology.lazy = true
run.rounds = 6

[[compare]]
name = "gossip"
algorithm = { name = "gossip", period_s = 0.5 }
topology.graph = "random"
"""
# The same variants as command lines of their own.
LINES = {
    "D-PSGD": "",
    "D2, torus": "--algorithm d2 --topology torus --set topology.lazy=true --rounds 6",
    "gossip": "--algorithm gossip --period-s 0.5 --topology random",
}
ON_WIRES = ["-n", "4", "--latency", "0.03", "--step-s", "0.01", "--target-accuracy", "0.3"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare.toml").write_text(COMMON + TABLES)
    (tmp_path / "plain.toml").write_text(COMMON)
    return tmp_path


def compared(capsys: pytest.CaptureFixture[str], *words: str, code: int = app.OK) -> Any:
    line = ["simulate", "compare.toml", *words, "--json", "--no-plot", "--out", "out"]
    assert app.run(line) == code
    told = capsys.readouterr().out
    assert Path("out", "summary.json").read_text() == told
    return json.loads(told)


def alone(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> Any:
    line = ["simulate", "plain.toml", *LINES[name].split(), *words, "--json", "--no-plot"]
    assert app.run([*line, "--out", f"alone-{compare.slug(name)}"]) == app.OK
    return json.loads(capsys.readouterr().out)


def without_time(run: Any) -> Any:
    return {key: value for key, value in run.items() if key not in ("wall_s", "out")}


def test_each_variant_is_the_run_that_its_options_say(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, *ON_WIRES)
    assert [row["name"] for row in found["compare"]] == list(LINES)
    for row in found["compare"]:
        (run,) = row["runs"]
        assert without_time(run) == without_time(alone(capsys, row["name"], *ON_WIRES))
    assert [row["algorithm"] for row in found["compare"]] == ["dpsgd", "d2", "gossip"]
    assert [row["rounds"] for row in found["compare"]] == [12, 6, 12]


def test_seeds_are_those_of_each_run_and_the_lines_their_means(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = compared(capsys, *ON_WIRES, "--seeds", "2", "--seed", "5")
    assert found["seeds"] == [5, 6]
    for row in found["compare"]:
        assert [(run["seed"], run["swarm_seed"]) for run in row["runs"]] == [(5, 0), (6, 1)]
        means = [run["accuracy"]["mean"] for run in row["runs"]]
        assert row["accuracy"]["mean"] == pytest.approx(statistics.fmean(means))
        assert row["accuracy"]["min"] == min(run["accuracy"]["min"] for run in row["runs"])
        sent = [run["bytes_per_node"]["mean"] for run in row["runs"]]
        assert row["bytes_per_node"]["mean"] == pytest.approx(statistics.fmean(sent))


def test_the_target_is_told_in_rounds_seconds_and_bytes(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (row, *_) = compared(capsys, *ON_WIRES)["compare"]
    (run,) = row["runs"]
    history = (folder / "out" / "1-d-psgd" / "history.jsonl").read_text().splitlines()
    by_round: dict[int, list[dict[str, Any]]] = {}
    for line in history:
        by_round.setdefault(json.loads(line)["round"], []).append(json.loads(line))
    at = min(
        r for r, rows in by_round.items() if statistics.fmean(x["accuracy"] for x in rows) >= 0.3
    )
    assert row["rounds_to_accuracy"]["mean"] == at
    assert row["time_to_accuracy_s"]["mean"] == run["time_to_accuracy_s"]
    # Two neighbours, a frame each: in lockstep all have sent as much a round.
    per_round = run["bytes_per_node"]["mean"] / 12
    assert row["bytes_to_accuracy"]["mean"] == pytest.approx(per_round * at, rel=0.02)


def test_a_target_out_of_reach_is_never_reached(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, "-n", "4", "--target-accuracy", "1")
    for row in found["compare"]:
        assert (row["reached_target"], row["time_to_accuracy_s"]) == (0, None)


def test_people_get_a_table_a_plot_and_the_file(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert app.run(["simulate", "compare.toml", *ON_WIRES, "--out", "out"]) == app.OK
    told = capfd.readouterr()
    head, *rows = told.out.splitlines()[1:5]
    assert head.split()[:3] == ["accuracy", "worst", "node"]
    assert [row.startswith(name) for row, name in zip(rows, LINES, strict=True)] == [True] * 3
    assert "D2, torus, seed 0: " in told.err
    assert (folder / "out" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out" / "compare.toml").read_text() == COMMON + TABLES
    assert (folder / "out" / "2-d2-torus" / "config.toml").exists()
    assert app.run(["simulate", "compare.toml", "--out", "out"]) == app.USAGE
    assert "holds another run" in capfd.readouterr().err


def test_the_command_line_goes_over_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, "-n", "4", "--rounds", "2")
    assert [row["rounds"] for row in found["compare"]] == [2, 2, 2]


def test_matrices_are_compared_by_rounds_alone(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    graphs = "".join(
        f"[[compare]]\nname = '{g}'\ntopology.graph = '{g}'\n" for g in ("ring", "star")
    )
    (folder / "compare.toml").write_text(f"{COMMON}\n{graphs}")
    line = ["simulate", "compare.toml", "-n", "5", "--engine", "matrix", "--out", "out"]
    assert app.run(line) == app.OK
    capsys.readouterr()
    rows = json.loads((folder / "out" / "summary.json").read_text())["compare"]
    assert [row["topology"] for row in rows] == ["ring", "star"]
    assert all(row["virtual_s"] is None and row["accuracy"]["mean"] > 0.1 for row in rows)
    assert rows[1]["bytes_per_node"]["mean"] > 0
    assert (folder / "out" / "plot.png").exists()


def test_what_fails_is_told_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    x = "".join(f"{i % 7},{i % 5},{i % 7 + 2 * (i % 5)}\n" for i in range(50))
    (folder / "rows.csv").write_text("a,b,y\n" + x)
    (folder / "compare.toml").write_text(
        '[task]\nkind = "linear"\n[data]\nsource = "csv:rows.csv"\nlabel = "y"\n[run]\n'
        'rounds = 40\n[[compare]]\nname = "tame"\ntraining.learning_rate = 0.01\n'
        '[[compare]]\nname = "wild"\ntraining.learning_rate = 1e6\n'
    )
    tame, wild = compared(capsys, "-n", "2", code=app.SOME_FAILED)["compare"]
    assert (tame["failed"], wild["runs"]) == ([], [])
    assert "learning_rate" in wild["failed"][0]
    assert tame["loss"]["mean"] < 1


@pytest.mark.parametrize(
    ("table", "hints"),
    [
        ("topology.graph = 'ring'", ["[[compare]] 1", "name"]),
        ("name = 'D-PSGD'\n[[compare]]\nname = 'D-PSGD'", ["[[compare]] 2", "above"]),
        ("name = 'a'\ntopology.grpah = 'ring'", ["[[compare]] 1 'a'", "grpah", "graph"]),
        ("name = 'a'\ntopologie.graph = 'ring'", ["[[compare]] 1 'a'", "'topology'"]),
        ("name = 'a'\nrounds = 3", ["[[compare]] 1 'a'", "rounds"]),
        ("name = 'a'\nrun.rounds = 'many'", ["[[compare]] 1 'a'", "run.rounds"]),
        ("name = 'a'\ndata.partition = 'iid'", ["[[compare]] 1 'a'", "data.partition", "same"]),
        ("name = 'a'\nalgorithm.name = 'fedavgg'", ["[[compare]] 1 'a'", "algorithm.name"]),
        ("name = 'a'\nalgorithm.period_s = 1", ["[[compare]] 1 'a'", "period_s"]),
        ("name = 'a'\ntopology.graph = 'random'", ["[[compare]] 1 'a'", "fixed neighbours"]),
        ("name = 'a'\nalgorithm.name = 'd2'\ntopology.weights = 'best_constant'",
         ["[[compare]] 1 'a'", "least eigenvalue"]),
    ],
)  # fmt: skip
def test_errors_name_table_and_key(
    table: str, hints: list[str], capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "compare.toml").write_text(f"{COMMON}\n[[compare]]\n{table}\n")
    assert app.run(["simulate", "compare.toml", "-n", "16", "--out", "out"]) == app.USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for hint in ["compare.toml", *hints]:
        assert hint in error
    assert not (folder / "out").exists()


def test_a_single_bracket_is_told_of(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "compare.toml").write_text("[compare]\nname = 'a'\n")
    assert app.run(["simulate", "compare.toml"]) == app.USAGE
    assert "double brackets" in capsys.readouterr().err


def test_a_node_does_not_start_from_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["start", "--config", "compare.toml"]) == app.USAGE
    error = capsys.readouterr().err
    assert "compare" in error
    assert "simulate" in error


def test_the_example_is_a_comparison() -> None:
    assert len(compare.variants(EXAMPLE)) >= 4


def test_the_example_of_codecs_sends_less_by_each_of_them(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    line = ["simulate", str(CODECS), "-n", "4", "--rounds", "6", "--engine", "objects"]
    assert app.run([*line, "--json", "--out", "out"]) == app.OK
    plain, *others = json.loads(capsys.readouterr().out)["compare"]
    assert (folder / "out" / "plot.png").exists()
    assert len(others) == 6
    assert (plain["name"], plain["algorithm"]) == ("D-PSGD", "dpsgd")
    assert not any(row["failed"] for row in (plain, *others))
    for row in others:
        assert row["bytes_per_node"]["mean"] < 0.6 * plain["bytes_per_node"]["mean"]


def test_a_mean_curve_has_the_rounds_that_every_run_measured() -> None:
    one = [compare.Moment(r, 0.1 * r, 1.0, 100.0 * r, 1.0 * r) for r in (0, 2, 4, 6)]
    other = [compare.Moment(r, 0.3 * r, None, 100.0 * r, None) for r in (0, 2, 4)]
    assert compare.mean_curve([one, other]) == [
        compare.Moment(0, 0.0, 1.0, 0.0, 0.0),
        compare.Moment(2, pytest.approx(0.4), 1.0, 200.0, 2.0),
        compare.Moment(4, pytest.approx(0.8), 1.0, 400.0, 4.0),
    ]
