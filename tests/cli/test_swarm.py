"""``gossipnode swarm`` as people run it: real processes, deaths, signals, and what is left."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from cli_processes import Command, is_running, wait_for
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.cli import app
from gossipnode.cli.results.plot import draw
from gossipnode.cli.results.spread import Spread
from gossipnode.cli.swarm.summary import text_of
from gossipnode.configfile import load_config
from gossipnode.learning.modelfile import learner_for_model, load_model

KEYS = {
    "nodes", "accuracy", "loss", "consensus_distance", "rounds", "bytes_sent", "bytes_saved",
    "wall_s", "start_s", "round_s", "rss_bytes_max", "pss_bytes_mean", "failed_nodes", "seed",
    "topology", "algorithm", "out", "interrupted",
}  # fmt: skip
ENDLESS = ["swarm", "-n", "4", "--rounds", "0", "--out", "run", "--no-plot", "--json"]


def summary_of(command: Command) -> dict:
    """The one line on standard output, which must be the kept summary too."""
    text = command.out.read_text()
    assert text.count("\n") == 1, text + command.err.read_text()
    assert (command.out.parent / "run" / "summary.json").read_text() == text
    return json.loads(text)


def measured(command: Command, round_: int) -> bool:
    """Whether progress has been told of a round of at least ``round_``."""
    return any(shown >= round_ for shown in shown_rounds(command))


def shown_rounds(command: Command) -> list[int]:
    """The rounds in the lines of progress."""
    rounds = [line.split("round ")[1] for line in lines(command) if "round " in line]
    return [int(text.split()[0].split("/")[0]) for text in rounds]


def lines(command: Command) -> list[str]:
    return command.err.read_text().splitlines(keepends=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of four nodes, done."""
    folder = tmp_path_factory.mktemp("swarm")
    line = ["swarm", "-n", "4", "--rounds", "10", "--seed", "3", "--out", "run", "--json"]
    with Command(folder, *line) as command:
        code = command.end()
    assert code == app.OK, command.err.read_text()
    return command


def test_the_summary_is_whole_and_plausible(run):
    told = summary_of(run)
    assert told.keys() == KEYS
    assert told["interrupted"] is False
    assert (told["nodes"], told["rounds"], told["seed"]) == (4, 10, 3)
    assert (told["topology"], told["algorithm"], told["failed_nodes"]) == ("ring", "dpsgd", [])
    for spread in (told["accuracy"], told["loss"]):
        assert 0 < spread["min"] <= spread["mean"] <= spread["max"]
    assert 0.7 < told["accuracy"]["mean"] <= 1  # chance is 0.1
    assert 0 < told["consensus_distance"] < 2
    # Ten rounds, two neighbours each, 650 float32 params and a header.
    assert 4 * 10 * 2 * 2600 <= told["bytes_sent"] <= 4 * 10 * 2 * 3600
    assert 0 < told["start_s"] < told["wall_s"] < 60
    assert 0 < told["round_s"] < told["wall_s"]
    assert 2**20 < told["pss_bytes_mean"] < told["rss_bytes_max"] < 2**28


def test_the_folder_holds_what_the_run_was_and_found(run):
    folder = run.out.parent / "run"
    told = summary_of(run)
    logs = {f"node-{i:02}.log" for i in range(4)}
    assert {path.name for path in folder.iterdir()} == logs | {
        "config.toml", "history.jsonl", "summary.json", "model.safetensors", "plot.png",
    }  # fmt: skip
    assert (folder / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert load_config(folder / "config.toml").run.rounds == 10
    assert tomllib.loads((folder / "config.toml").read_text())["swarm"]["seed"] == 3
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert {(row["node"], row["round"]) for row in rows} == {
        (f"node-{i}", round_) for i in range(4) for round_ in (0, 10)
    }
    # What the nodes measured last is what the parent measured on their models.
    last = [row["accuracy"] for row in rows if row["round"] == 10]
    assert told["accuracy"]["mean"] == pytest.approx(np.mean(last), abs=1e-9)


def test_the_mean_model_is_a_model(run):
    params, facts = load_model(run.out.parent / "run" / "model.safetensors")
    learner = learner_for_model(facts, data="digits", test_fraction=0.2)
    assert facts["nodes"] == "4"
    assert learner.evaluate(params).accuracy == pytest.approx(
        summary_of(run)["accuracy"]["mean"], abs=0.1
    )


def test_a_folder_that_holds_a_run_is_not_overwritten(run, monkeypatch, capsys):
    monkeypatch.chdir(run.out.parent)
    before = (run.out.parent / "run" / "summary.json").read_bytes()
    assert app.run(["swarm", "--out", "run"]) == app.USAGE
    assert "another run" in capsys.readouterr().err
    assert (run.out.parent / "run" / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--topology hypercube -n 6", "power of two"),
        ("--algorithm dpsgd --topology random", "random"),
        ("--data csv:nowhere.csv", "nowhere.csv"),
        ("--partition shards:x", "shards"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_forked(line, hint, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert app.run(["swarm", *line.split()]) == app.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert hint in error
    assert not list(tmp_path.iterdir())


def test_a_killed_node_is_told_at_once_and_the_rest_finish(tmp_path):
    line = ["swarm", "-n", "4", "--rounds", "400", "--out", "run", "--no-plot", "--json"]
    history = tmp_path / "run" / "history.jsonl"
    row = '{"node": "node-1", "round": 10,'
    with Command(tmp_path, *line) as command:
        # Round 10: its neighbours have heard of it, so they do not wait for it to start.
        wait_for(lambda: history.exists() and row in history.read_text(), "node-1's round 10")
        os.kill(command.children()[1], signal.SIGKILL)
        wait_for(lambda: "killed by SIGKILL" in command.err.read_text(), "the news")
        assert command.process.poll() is None, "it was over already: nothing is shown"
        assert command.end() == app.SOME_FAILED
    told = summary_of(command)
    assert told["failed_nodes"] == [{"id": "node-1", "how": "killed by SIGKILL"}]
    assert told["rounds"] == 400
    assert told["accuracy"]["min"] > 0.8
    # How far the dead one came holds nobody's display up, and its loss is in no mean.
    *_, last = lines(command)
    assert f"round 400/400  loss {told['loss']['mean']:.4f}" in last
    assert "3 of 4 nodes" in last


def test_a_history_that_cannot_be_written_ends_the_run_and_the_rest_is_kept(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").symlink_to("/dev/full")
    with Command(tmp_path, *ENDLESS) as command:
        assert command.end() == app.STORAGE
    assert summary_of(command)["interrupted"]
    *_, last = lines(command)
    assert last == "error: run/history.jsonl: cannot be written: No space left on device"
    assert "Traceback" not in command.err.read_text()


def test_gossip_runs_with_a_short_period_of_its_own(tmp_path):
    line = ["swarm", "-n", "3", "--algorithm", "gossip", "--rounds", "20", "--out", "run"]
    with Command(tmp_path, *line, "--no-plot", "--json") as command:
        assert command.end() == app.OK, command.err.read_text()
    told = summary_of(command)
    assert (told["topology"], told["algorithm"], told["rounds"]) == ("random", "gossip", 20)
    assert load_config(tmp_path / "run" / "config.toml").algorithm.period_s == 0.02


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_sums_up_what_there_is_and_ends_all_nodes(tmp_path, number):
    with Command(tmp_path, *ENDLESS) as command:
        wait_for(lambda: measured(command, 10), "round 10")
        children = command.children()
        command.signal(number)
        assert command.end() == app.INTERRUPTED
    told = summary_of(command)
    assert told["failed_nodes"] == []
    assert told["interrupted"] is True
    # Nothing that was shown on the way says more than the summary.
    assert 10 <= max(shown_rounds(command)) <= told["rounds"]
    assert told["accuracy"]["min"] > 0.5
    assert len(children) == 4
    assert not any(is_running(pid) for pid in children)


def test_nodes_do_not_outlive_a_parent_that_is_killed(tmp_path):
    with Command(tmp_path, *ENDLESS) as command:
        children = wait_for(lambda: len(command.children()) == 4 and command.children(), "4 nodes")
        wait_for(lambda: measured(command, 0), "the first measurement")
        command.signal(signal.SIGKILL)
        command.end()
        wait_for(lambda: not any(is_running(pid) for pid in children), "the children to end")


def test_nodes_do_not_outlive_a_parent_that_is_killed_while_it_forks(tmp_path):
    with Command(tmp_path, *ENDLESS) as command:
        children = wait_for(command.children, "the first node")
        command.signal(signal.SIGKILL)
        command.end()
        wait_for(lambda: not any(is_running(pid) for pid in children), "the children to end")


def test_nodes_share_the_parents_single_thread_when_forked(tmp_path, monkeypatch):
    """A thread in the parent would leave its locks to the children for ever."""

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def fork() -> int:
        assert threads() == before, "the parent has made a thread"
        raise KeyError("fork")

    monkeypatch.chdir(tmp_path)
    before = threads()
    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(KeyError, match="fork"):
        app.run(["swarm", "-n", "2", "--out", "run"])


# As the parent does it, but for the fork; the learner is made where the data is loaded.
LIFE_OF_A_NODE = """
import asyncio, sys
from gossipnode import Config, Node
from gossipnode.cli.results import first_learner
from gossipnode.cli.swarm.child import import_what_nodes_do
from gossipnode.config import PeerEntry
from gossipnode.network.service import loop_factory

entry = PeerEntry(id="a", address="http://127.0.0.1:9")
options = {"run": {"rounds": 2}, "network": {"port": 0}, "checkpoint": {"enabled": False}}
config = Config.model_validate({**options, "node": {"id": "a"}})
learner = first_learner(config, [entry])
import_what_nodes_do()
before = set(sys.modules)

async def live():
    async with Node(config, peers=[entry], learner=learner) as node:
        await node.run()
        assert node.status().round == 2

with asyncio.Runner(loop_factory=loop_factory()) as runner:
    runner.run(live())
print(*set(sys.modules) - before)
"""


def test_a_node_imports_nothing_after_the_fork():
    """A hundred nodes would each take the time for it, and the memory."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE_OF_A_NODE], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    late = [name for name in done.stdout.split() if not name.startswith("encodings.")]
    assert late == []


def test_a_system_without_room_for_the_nodes_is_told(tmp_path, monkeypatch, capsys):
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fork", fork)
    assert app.run(["swarm", "-n", "2", "--out", "run"]) == app.USAGE
    assert "0 nodes only: Resource temporarily unavailable" in capsys.readouterr().err


def test_what_is_shown_last_agrees_with_the_summary(run):
    told, shown = summary_of(run), lines(run)
    assert shown[0] == "starting 4 nodes …"
    assert f"round 10/10  loss {told['loss']['mean']:.4f}" in shown[-1]
    assert f"distance {told['consensus_distance']:.3g}  4 nodes" in shown[-1]


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run of which no node has survived: columns of very different sizes, a large step."""
    folder = tmp_path_factory.mktemp("diverged")
    rows = [f"{i}e9,{i * 7}e9,{i * 3}e9" for i in range(1, 300)]
    (folder / "t.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    line = ["swarm", "-n", "4", "--data", "csv:t.csv", "--task", "linear", "--label", "label"]
    line += ["--set", "training.learning_rate=1000", "--rounds", "50", "--out", "run", "--no-plot"]
    with Command(folder, *line) as command:
        code = command.end()
    return command, code


def test_when_all_nodes_diverge_the_exit_code_and_the_parent_say_so(diverged):
    command, code = diverged
    assert code == app.DIVERGED, command.err.read_text()
    deaths = [line for line in lines(command) if " died: " in line]
    assert len(deaths) == 4
    assert all("lower training.learning_rate" in line for line in deaths)


def test_a_summary_without_nodes_shows_no_empty_figures(diverged):
    text = diverged[0].out.read_text()
    assert text.count("lower training.learning_rate") == 4
    assert "memory" not in text
    assert not re.search(r"(^| )-( |;|$)", text, re.MULTILINE)


def test_an_interrupted_run_is_called_that(run):
    told = {**summary_of(run), "interrupted": True, "rounds": 135, "nodes": 1}
    first = text_of(told).splitlines()[0]
    assert first.startswith("1 node, dpsgd on ring, seed 3: interrupted; the least round")
    assert " is 135, reached in " in first


# -- the sums --------------------------------------------------------------------------------------


@given(
    st.integers(1, 6).flatmap(
        lambda d: st.lists(
            st.lists(st.floats(-1e3, 1e3), min_size=d, max_size=d), min_size=1, max_size=9
        )
    )
)
def test_spread_is_mean_and_consensus_distance(vectors):
    spread = Spread()
    for vector in vectors:
        spread.add(np.array(vector))
    x = np.array(vectors)
    mean = x.mean(axis=0)
    expected = np.sqrt(((x - mean) ** 2).sum(axis=1).mean())
    np.testing.assert_allclose(spread.mean, mean, atol=1e-9)
    assert spread.distance == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_spread_of_nearly_equal_vectors_keeps_its_digits():
    base = np.full(1000, 1e3)
    spread = Spread()
    for sign in (1, -1):
        spread.add(base + sign * 1e-7)
    assert spread.distance == pytest.approx(1e-7 * np.sqrt(1000), rel=1e-5)
    assert Spread().distance is None


def test_a_plot_without_accuracy_or_distance_is_drawn(tmp_path):
    rows = [{"round": r, "loss": 1.0 / (r + 1), "accuracy": None} for r in range(3)]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw([tmp_path / "h.jsonl"], [], "title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_with_tls_the_same_is_learnt_and_nobody_is_refused(run, tmp_path):
    line = ["swarm", "-n", "4", "--rounds", "10", "--seed", "3", "--out", "run", "--json"]
    with Command(tmp_path, *line, "--tls", "--set", "algorithm.deadline_s=30") as command:
        assert command.end() == app.OK, command.err.read_text()
    told, plain = summary_of(command), summary_of(run)
    assert told["failed_nodes"] == []
    # In rounds nothing depends on who is faster: the numbers are the same, but for what was missed.
    assert told["loss"]["mean"] == pytest.approx(plain["loss"]["mean"], rel=0.02)
    said = "".join(path.read_text() for path in (tmp_path / "run").glob("node-*.log"))
    assert "https://127.0.0.1:" in said
    assert "connection.refused" not in said
    rows = [json.loads(row) for row in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert {row["node"] for row in rows} == {f"node-{i}" for i in range(4)}
    for private in [*(tmp_path / "run/ca").glob("*.bundle"), tmp_path / "run/ca/ca.key"]:
        assert private.stat().st_mode & 0o077 == 0


def test_tls_and_a_graph_of_ids_do_not_go_together(tmp_path):
    (tmp_path / "edges").write_text("node-0 node-1\n")
    line = ["swarm", "-n", "2", "--tls", "--topology", "explicit", "--set", "topology.edges=edges"]
    with Command(tmp_path, *line) as command:
        assert command.end() == app.USAGE
    assert "which --tls makes anew" in command.err.read_text()
