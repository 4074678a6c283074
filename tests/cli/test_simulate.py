"""``gossipnode simulate``: what it tells and keeps, that a seed is a run, and that it is true."""

from __future__ import annotations

import json
import os
import signal
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_processes import Command, is_running, wait_for
from cli_simulations import KEYS, rounds_told, rows, simulated, without_time
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.cli import app
from gossipnode.cli.simulate.conditions import Conditions
from gossipnode.cli.simulate.outcome import mean_and_spread
from gossipnode.configfile import load_config
from gossipnode.learning.modelfile import load_model

CHURNING = [
    "-n", "6", "--algorithm", "gossip", "--rounds", "40", "--latency", "0.05", "--jitter", "0.05",
    "--loss", "0.05", "--step-s", "0.02", "--stragglers", "0.34:3", "--churn", "20:5",
    "--checkpoint-every-s", "4", "--bandwidth", "1Mbit:10Mbit",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_summary_is_whole_and_exact_where_it_can_be(capsys, folder):
    """A round is five steps of 10 ms and 40 ms on the wire; 20 rounds on a ring of four."""
    found = simulated(
        capsys, "-n", "4", "--rounds", "20", "--latency", "0.04", "--step-s", "0.01",
        "--target-accuracy", "0.8", "--set", "run.evaluate_every=1",
    )  # fmt: skip
    assert found.keys() == KEYS
    assert (found["nodes"], found["rounds"], found["faults"], found["down"]) == (4, 20, {}, [])
    assert found["round_s"] == pytest.approx(0.09, abs=1e-6)
    # The last push is answered 40 ms after it has arrived.
    assert found["virtual_s"] == pytest.approx(20 * 0.09 + 0.04, abs=1e-6)
    assert found["messages"] == found["delivered"] == 4 * 2 * 20
    each = found["bytes_per_node"]
    assert each["mean"] * 4 == found["bytes_sent"]
    assert 40 * 2600 < each["min"] <= each["max"] < 40 * 3600  # 650 float32 and a header
    by_round: dict[int, list[float]] = {}
    for row in rows(folder / "run"):
        by_round.setdefault(row["round"], []).append(row["accuracy"])
        assert row["virtual_s"] == pytest.approx(row["round"] * 0.09, abs=1e-6)
    reached = min(r for r, values in by_round.items() if statistics.fmean(values) >= 0.8)
    assert found["time_to_accuracy_s"] == pytest.approx(reached * 0.09, abs=1e-6)
    assert statistics.fmean(by_round[20]) == pytest.approx(found["accuracy"]["mean"], abs=1e-12)


def test_a_target_out_of_reach_is_not_reached(capsys):
    assert (
        simulated(capsys, "--rounds", "2", "--target-accuracy", "1")["time_to_accuracy_s"] is None
    )


def test_people_are_told_in_virtual_time_and_get_a_plot(capsys, folder):
    line = "simulate -n 3 --rounds 30 --latency 1 --loss 0.1 --target-accuracy 0.7 --out run"
    assert app.run(line.split()) == app.OK
    told = capsys.readouterr()
    assert "30 rounds in" in told.out
    assert "of virtual time" in told.out
    for word in ("accuracy 0.7", "a node sent", "messages", "faults", "loss ", "trace"):
        assert f"\n{word}" in told.out or f" {word}" in told.out, word
    *_, last = told.err.splitlines()
    assert "round 30/30" in last
    assert float(last.split()[0]) >= 30  # at least a second of latency a round
    names = {path.name for path in (folder / "run").iterdir()}
    assert names == {
        "config.toml", "history.jsonl", "model.safetensors", "plot.png", "summary.json",
    }  # fmt: skip
    params, facts = load_model(folder / "run" / "model.safetensors")
    assert facts["nodes"] == "3"
    assert params.shape == (650,)


# -- a seed is a run ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_seed_another(capsys, folder):
    one = simulated(capsys, *CHURNING, "--seed", "1", "--out", "one")
    again = simulated(capsys, *CHURNING, "--seed", "1", "--out", "again")
    other = simulated(capsys, *CHURNING, "--seed", "2", "--out", "other")
    assert without_time(one) == without_time(again)
    assert rows(folder / "one") == rows(folder / "again")
    models = [load_model(folder / name / "model.safetensors") for name in ("one", "again")]
    assert np.array_equal(models[0][0], models[1][0])
    assert models[0][1] == models[1][1]
    assert other["trace_hash"] != one["trace_hash"]
    assert one["faults"].keys() == {"kill", "loss", "restart", "slow"}
    assert one["accuracy"]["mean"] > 0.7


def test_objects_in_place_of_frames_give_the_same_run(capsys, folder):
    line = "--algorithm gossip --latency 0.05 --jitter 0.1 --bandwidth 1Mbit --loss 0.1"
    frames = simulated(capsys, *line.split(), "--rounds", "20", "--out", "frames")
    objects = simulated(
        capsys, *line.split(), "--rounds", "20", "--engine", "objects", "--out", "objects"
    )
    assert objects.pop("engine") == "objects"
    assert frames.pop("engine") == "events"
    assert without_time(frames) == without_time(objects)
    assert "--engine objects" in (folder / "objects" / "config.toml").read_text()
    models = [load_model(folder / name / "model.safetensors") for name in ("frames", "objects")]
    assert np.array_equal(models[0][0], models[1][0])


def test_the_kept_config_and_command_play_the_run_again(capsys, folder):
    one = simulated(capsys, *CHURNING, "--seed", "5", "--set", "swarm.seed=3", "--out", "one")
    head = (folder / "one" / "config.toml").read_text().splitlines()[0]
    program, verb, path, *flags = head.removeprefix("# ").split()
    assert (program, verb, path) == ("gossipnode", "simulate", "config.toml")
    again = simulated(capsys, "one/config.toml", *flags, "--out", "again")
    assert without_time(one) == without_time(again)


def test_a_run_is_played_again_from_its_own_folder(capsys, folder, monkeypatch):
    """The command in the copy names no folder, so it is run there: all paths must still lead."""
    (folder / "sub").mkdir()
    (folder / "sub" / "swarm.toml").write_text(
        '[topology]\ngraph = "explicit"\nedges = "friends.txt"\n[data]\nsource = "npz:x.npz"\n'
        'standardize = "mean.json"\n[task]\nkind = "linear"\n'
    )
    edges = [f"node-{i} node-{i + 1}\n" for i in range(3)]
    (folder / "sub" / "friends.txt").write_text("".join(edges))
    x = np.random.default_rng(0).normal(size=(50, 2))
    np.savez("x.npz", x=x, y=x.sum(axis=1))
    told = {"feature_names": ["x0", "x1"], "mean": [0.0, 0.0], "scale": [1.0, 2.0]}
    (folder / "mean.json").write_text(json.dumps(told))
    one = simulated(capsys, "sub/swarm.toml", "-n", "4", "--rounds", "3", "--out", "one")
    monkeypatch.chdir(folder / "one")
    again = simulated(capsys, "config.toml", "-n", "4", "--out", "again")
    assert without_time(one) == without_time(again)


def test_many_seeds_are_the_single_ones_with_mean_and_spread(capsys, folder):
    together = simulated(capsys, *CHURNING, "--seed", "3", "--seeds", "3", "--out", "all")
    assert together["seeds"] == [3, 4, 5]
    assert together["failed_seeds"] == []
    for number, run in enumerate(together["runs"]):
        seeds = ["--seed", str(3 + number), "--set", f"swarm.seed={number}"]
        alone = simulated(capsys, *CHURNING, *seeds, "--out", f"one{number}")
        assert without_time(run) == without_time(alone)
        assert (folder / "all" / f"seed-{3 + number}" / "history.jsonl").exists()
    means = [run["accuracy"]["mean"] for run in together["runs"]]
    assert together["accuracy"]["mean"] == pytest.approx(np.mean(means))
    assert together["accuracy"]["std"] == pytest.approx(np.std(means, ddof=1))
    assert len({run["trace_hash"] for run in together["runs"]}) == 3


def test_a_seed_that_fails_is_told_and_the_code_is_its_own(capsys, folder):
    line = "--seeds 2 --rounds 50 --learning-rate 1e6 --task linear --data csv:rows.csv --label y"
    x = np.random.default_rng(0).normal(size=(50, 2))
    text = "".join(f"{a},{b},{a + 2 * b}\n" for a, b in x)
    (folder / "rows.csv").write_text("a,b,y\n" + text)
    found = simulated(capsys, *line.split(), code=app.DIVERGED)
    assert [one["seed"] for one in found["failed_seeds"]] == [0, 1]
    assert all("learning_rate" in one["how"] for one in found["failed_seeds"])
    assert found["accuracy"] is None


# -- what it takes and refuses --------------------------------------------------------------------


def test_it_takes_the_config_and_the_peers_that_deploy(capsys, folder):
    (folder / "conf").mkdir()
    (folder / "conf" / "node.toml").write_text(
        '[node]\nid = "beta"\n[swarm]\npeers = "peers.toml"\n[run]\nrounds = 3\nlinger = true\n'
        '[network]\nport = 7946\nbind = "0.0.0.0"\ninsecure = true\n[topology]\n'
        'graph = "explicit"\n[topology.neighbours]\n'
        'alpha = ["beta"]\nbeta = ["alpha", "gamma"]\ngamma = ["beta"]\n'
    )
    (folder / "conf" / "peers.toml").write_text(
        "".join(
            f'[[peer]]\nid = "{name}"\naddress = "http://10.0.0.{i}:7946"\n'
            for i, name in enumerate(("alpha", "beta", "gamma"), 1)
        )
    )
    found = simulated(capsys, "conf/node.toml")
    assert (found["nodes"], found["rounds"], found["messages"]) == (3, 3, 3 * 4)
    assert {row["node"] for row in rows(folder / "run")} == {"alpha", "beta", "gamma"}
    again = simulated(capsys, "--config", "run/config.toml", "--out", "again")
    assert again["trace_hash"] == found["trace_hash"]
    assert simulated(capsys, "--topology", "ring", "--rounds", "1", "--out", "n")["nodes"] == 8


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--rounds 0", "--duration-s"),
        ("--stragglers 0.1:5", "--step-s"),
        ("--stragglers 2:5 --step-s 1", "out of range"),
        ("--stragglers 5 --step-s 1", "SHARE:FACTOR"),
        ("--churn 10", "UP_S:DOWN_S"),
        ("--churn 10:0", "out of range"),
        ("--churn nan:1", "out of range"),
        ("--bandwidth fast", "100Mbit"),
        ("--bandwidth 10", "'10' is 10 bits a second: say 10Mbit, or the unit"),
        ("--bandwidth 1M:2M:3M", "UP:DOWN"),
        ("--loss 1", "loss"),
        ("--topology hypercube -n 6", "power of two"),
        ("node.toml", "node.toml"),
        ("a.toml --config b.toml", "once"),
        ("--partition shards:x", "shards"),
        ("--rounds 0 --duration-s 60", "--latency"),
        ("--rounds 0 --duration-s 60 --loss 0.5 --step-s 1 --local-steps 0", "--step-s"),
        ("--rounds 0 --duration-s 60 --latency 1 -n 1", "--step-s"),
        ("--rounds 0 --duration-s 20 --latency 1e-12", "--rounds"),
        ("--rounds 0 --duration-s 1e9 --bandwidth 1T", "--rounds"),
        ("--rounds 0 --duration-s 20 --algorithm gossip --period-s 1e-9", "--rounds"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_kept(line, hint, capsys, folder):
    assert app.run(["simulate", *line.split()]) == app.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert hint in error
    assert not list(folder.iterdir())


def test_one_node_is_one(capsys):
    assert app.run(["simulate", "-n", "1", "--rounds", "1", "--no-plot", "--out", "run"]) == app.OK
    assert "1 simulated node, dpsgd" in capsys.readouterr().err


def test_divergence_has_its_exit_code(capsys):
    line = "simulate --task linear --data npz:x.npz --learning-rate 1e6 --rounds 500 --out run"
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.normal(size=(80, 3)), y=rng.normal(size=80))
    assert app.run(line.split()) == app.DIVERGED
    assert "learning_rate" in capsys.readouterr().err


def test_time_may_be_the_budget_and_churn_heeds_it(capsys):
    line = ["--algorithm", "gossip", "--rounds", "0", "--duration-s", "30", "-n", "4"]
    assert simulated(capsys, *line, "--out", "a")["virtual_s"] == pytest.approx(30)
    found = simulated(capsys, *line, "--churn", "10:2", "--out", "b")
    assert found["virtual_s"] == pytest.approx(30)
    assert found["faults"]["kill"] > 2


def test_churn_ends_with_the_last_nodes_last_round(capsys, folder):
    """A round is five steps of 10 ms; nobody is killed in the second that twenty of them take."""
    line = ["-n", "4", "--rounds", "20", "--step-s", "0.01", "--set", "run.evaluate_every=1"]
    found = simulated(capsys, *line, "--churn", "600:60")
    assert found["virtual_s"] == pytest.approx(20 * 0.05, abs=1e-6)
    assert (found["rounds"], found["faults"]) == (20, {})
    simulated(capsys, *line, "--out", "undisturbed")
    assert rows(folder / "run") == rows(folder / "undisturbed")
    churned = simulated(capsys, *CHURNING, "--out", "churned")
    last = max(row["virtual_s"] for row in rows(folder / "churned") if row["round"] == 40)
    assert churned["virtual_s"] == last


def test_without_checkpoints_churn_forgets(capsys, folder):
    """A node that is killed begins anew, so rounds are measured again from the first."""
    line = [*CHURNING, "--set", "run.evaluate_every=1"]
    kept = simulated(capsys, *line, "--out", "kept")
    lost = simulated(capsys, *line, "--set", "checkpoint.enabled=false", "--out", "lost")
    assert lost["faults"]["kill"] > 0 < kept["faults"]["kill"]

    def begun(name: str) -> int:
        return sum(row["round"] == 0 for row in rows(folder / name))

    assert begun("lost") == 6 + lost["faults"]["restart"]
    assert begun("kept") < 6 + kept["faults"]["restart"] / 2


def test_with_membership_the_nodes_find_out_who_is_down(capsys):
    line = ["--algorithm", "gossip", "--rounds", "30", "-n", "5", "--churn", "60:20"]
    without = simulated(capsys, *line, "--out", "without")
    assert (without["control_bytes_sent"], without["peers_down"]) == (0, 0)
    found = simulated(capsys, *line, "--membership", "--out", "with")
    assert found["faults"] == without["faults"]
    assert found["control_bytes_sent"] > 0
    assert 0 < found["peers_down"] <= 4 * found["faults"]["kill"], "each by its four peers at most"
    assert 0 < found["delivered"] <= found["messages"], "questions are no pushes"
    command = (Path("with") / "config.toml").read_text().splitlines()[0]
    assert "--membership" in command.split()


@pytest.mark.parametrize("line", ["--latency 1", "--step-s 1", "--bandwidth 1Mbit", "--jitter 1"])
def test_time_may_be_the_budget_of_rounds_that_take_some(line, capsys):
    found = simulated(capsys, "--rounds", "0", "--duration-s", "20", "-n", "3", *line.split())
    assert found["rounds"] > 2
    assert found["virtual_s"] < 60


# -- processes ------------------------------------------------------------------------------------

ENDLESS = ["simulate", "-n", "4", "--rounds", "100000000", "--latency", "1", "--json", "--no-plot"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_sums_up_what_there_is(folder, number):
    with Command(folder, *ENDLESS, "--out", "run") as command:
        wait_for(lambda: rounds_told(command), "progress")
        command.signal(number)
        assert command.end() == app.INTERRUPTED
    found = json.loads(command.out.read_text())
    assert found["rounds"] >= 10
    assert found["virtual_s"] >= 10
    assert (folder / "run" / "model.safetensors").exists()


def test_an_interrupt_sums_up_the_seeds_that_there_are(folder):
    with Command(folder, *ENDLESS, "--seeds", "30", "--out", "run") as command:
        wait_for(lambda: rounds_told(command), "progress")
        command.signal(signal.SIGINT)
        assert command.end() == app.INTERRUPTED
    found = json.loads(command.out.read_text())
    assert json.loads((folder / "run" / "summary.json").read_text()) == found
    assert 1 <= len(found["seeds"]) < 30
    assert max(run["rounds"] for run in found["runs"]) >= 10
    assert found["accuracy"]["mean"] > 0.1
    for seed in found["seeds"]:
        assert (folder / "run" / f"seed-{seed}" / "model.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_do_not_outlive_their_parent(folder, number):
    with Command(folder, *ENDLESS, "--seeds", "4", "--out", "run") as command:
        children = wait_for(command.children, "a worker")
        wait_for(lambda: rounds_told(command), "progress")
        command.signal(number)
        assert command.end() == (app.INTERRUPTED if number == signal.SIGINT else -number)
        wait_for(lambda: not any(is_running(pid) for pid in children), "the workers to end")


def test_a_worker_that_is_killed_is_told_and_the_rest_count(folder):
    line = ["simulate", "-n", "4", "--rounds", "400", "--latency", "1", "--json", "--no-plot"]
    with Command(folder, *line, "--seeds", "2", "--out", "run") as command:
        children = wait_for(command.children, "a worker")
        os.kill(children[0], signal.SIGKILL)
        assert command.end() == app.SOME_FAILED
    found = json.loads(command.out.read_text())
    assert found["failed_seeds"] == [{"seed": 0, "how": "killed by SIGKILL"}]
    assert found["seeds"] == [1]


# -- agreement with processes ---------------------------------------------------------------------


def swarm_of_processes(folder: Path, out: str, *words: str) -> Any:
    with Command(folder, "swarm", *words, "--json", "--no-plot", "--out", out) as command:
        assert command.end() == app.OK, command.err.read_text()
    return json.loads(command.out.read_text())


@pytest.mark.parametrize("form", ["atc", "cta"])
def test_synchronous_models_are_those_of_real_processes(capsys, folder, form):
    line = ["-n", "4", "--rounds", "12", "--form", form, "--dtype", "float64", "--partition"]
    line += ["dirichlet:0.5", "--set", "swarm.seed=4", "--set", "run.evaluate_every=3"]
    real = swarm_of_processes(folder, "real", *line)
    virtual = simulated(capsys, *line, "--latency", "0.05", "--jitter", "0.05", "--out", "virtual")
    one, _ = load_model(folder / "real" / "model.safetensors")
    other, _ = load_model(folder / "virtual" / "model.safetensors")
    # Models are added in the order in which they come, so the last digits may differ.
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)
    assert virtual["consensus_distance"] == pytest.approx(real["consensus_distance"], rel=1e-12)

    def measured(name: str) -> dict[tuple[str, int], tuple[float, float, int]]:
        return {
            (row["node"], row["round"]): (row["loss"], row["train_loss"] or 0.0, row["age"])
            for row in rows(folder / name)
        }

    real_rows, virtual_rows = measured("real"), measured("virtual")
    assert real_rows.keys() == virtual_rows.keys()
    for key, values in real_rows.items():
        assert virtual_rows[key] == pytest.approx(values, rel=1e-12), key


def test_gossip_is_as_good_as_that_of_real_processes(capsys, folder):
    """Real time is no seed: the real accuracy must be one that a seed could have given.

    Of eight seeds, a ninth is outside mean ± 6.5·std·sqrt(1 + 1/8) once in 3000 times (Student's
    t with 7 degrees of freedom).
    """
    line = ["-n", "6", "--algorithm", "gossip", "--rounds", "25", "--set", "run.evaluate_every=5"]
    line += ["--period-s", "0.1", "--partition", "dirichlet:0.5"]
    real = swarm_of_processes(folder, "real", *line)
    virtual = simulated(capsys, *line, "--seeds", "8", "--latency", "0.001", "--out", "virtual")
    for name in ("accuracy", "loss"):
        spread = virtual[name]
        assert spread["std"] > 0
        off = abs(real[name]["mean"] - spread["mean"])
        assert off < 6.5 * spread["std"] * (1 + 1 / 8) ** 0.5, name


# -- conditions -----------------------------------------------------------------------------------

NAMES = [f"n{i}" for i in range(50)]


@given(st.floats(0.0, 1.0, exclude_min=True), st.integers(0, 2**32))
def test_stragglers_are_the_share_that_was_asked_for(share, seed):
    slow = Conditions(stragglers=(share, 2.0)).slow(NAMES, seed)
    assert len(set(slow)) == len(slow) == max(1, round(share * 50))
    assert slow == Conditions(stragglers=(share, 9.0)).slow(NAMES, seed)


def test_churn_has_its_means_in_order_and_a_stream_for_each_node():
    def first(count: int, names: list[str]) -> list[tuple[float, str]]:
        changes = Conditions(churn=(10.0, 2.0)).changes(names, 3)
        return [next(changes) for _ in range(count)]

    events = first(20_000, NAMES)
    assert [instant for instant, _ in events] == sorted(instant for instant, _ in events)
    gaps: dict[int, list[float]] = {0: [], 1: []}
    for name in NAMES:
        instants = [0.0, *(instant for instant, who in events if who == name)]
        for number, (a, b) in enumerate(pairwise(instants)):
            gaps[number % 2].append(b - a)
    for number, mean in ((0, 10.0), (1, 2.0)):
        # The mean of n exponentials has a standard deviation of mean/sqrt(n).
        assert statistics.fmean(gaps[number]) == pytest.approx(
            mean, abs=5 * mean / len(gaps[number]) ** 0.5
        )
    few = [event for event in first(20, NAMES[:2]) if event[1] == "n0"]
    assert few == [event for event in events if event[1] == "n0"][: len(few)]


def test_flags_say_what_the_conditions_are():
    whole = Conditions(0.05, 0.01, (1e6, 1e7), 0.1, 0.5, (0.25, 3.0), (600.0, 60.0))
    assert " ".join(whole.flags()) == (
        "--latency 0.05 --jitter 0.01 --bandwidth 1000000:10000000 --loss 0.1 --step-s 0.5 "
        "--stragglers 0.25:3 --churn 600:60"
    )
    assert whole.link.up_bytes_s == 125_000
    assert whole.link.down_bytes_s == 1_250_000
    assert Conditions().flags() == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_mean_and_spread_are_those_of_the_sample(values):
    found = mean_and_spread([*values, None])
    assert found is not None
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-5)
    assert mean_and_spread([None]) is None


def test_the_config_that_is_kept_is_the_one_that_ran(capsys, folder):
    simulated(capsys, "--rounds", "1", "--set", "swarm.seed=9", "--topology", "torus", "-n", "9")
    kept = load_config(folder / "run" / "config.toml")
    assert (kept.swarm.seed, kept.topology.graph, kept.run.rounds) == (9, "torus", 1)
