"""The harness of the benchmarks: figures, the suite's JSON, teams, the comparison of two runs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.topology import build_sequence

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is in no package

codecs = importlib.import_module("benchmarks.codecs")
compare = importlib.import_module("benchmarks.compare")
figures = importlib.import_module("benchmarks.figures")
gradients = importlib.import_module("benchmarks.gradients")
page = importlib.import_module("benchmarks.page")
push_rows = importlib.import_module("benchmarks.push_rows")
ring = importlib.import_module("benchmarks.ring")
suite = importlib.import_module("benchmarks.suite")
teams = importlib.import_module("benchmarks.teams")
whole = importlib.import_module("benchmarks.__main__")

Figure = figures.Figure
POSITIVE = st.floats(1e-6, 1e9)


def run_of(*told, **more):
    """A run of the suite as its JSON has it."""
    entries = [{"benchmark": "push", **figure._asdict()} for figure in told]
    return {"machine": figures.machine(), "quick": True, "figures": entries, "absent": [], **more}


@pytest.mark.parametrize(
    ("better", "value", "met"),
    [("less", 0.5, True), ("less", 0.6, False), ("more", 0.5, True), ("more", 0.4, False)],
)
def test_a_bar_is_met_from_the_right_side(better, value, met):
    figure = Figure("k", "a round", value, "", better, 0.5)
    assert figure.met is met
    assert ("missed" in figures.line(figure)) is not met


def test_without_a_bar_nothing_is_met_or_missed():
    figure = Figure("k", "a round", 3.0, "ms")
    assert figure.met is None
    assert figures.line(figure) == "| a round | 3 ms |  |"


def test_the_machine_is_described_in_json_and_in_words():
    here = json.loads(json.dumps(figures.machine()))
    assert here["cores"] >= 1
    assert here["packages"]["numpy"] == np.__version__
    for word in (here["cpu"], here["python"], f"numpy {np.__version__}"):
        assert word in figures.described(here)


def test_figures_are_read_as_they_were_written(tmp_path):
    told = [Figure("a", "one", 1.5, "ms"), Figure("b", "two", 2.5, "", "more", 2.0)]
    figures.present(told, tmp_path / "figures.json")
    assert figures.figures_of(json.loads((tmp_path / "figures.json").read_text())) == told


def test_figures_of_the_simulator_get_a_direction_and_a_bar():
    entry = {"key": "messages_gossip_objects", "what": "messages", "value": 9e3, "unit": "1/s"}
    (figure,) = figures.figures_of({"figures": [entry]}, suite.SIMULATOR_BARS)
    assert (figure.better, figure.bar, figure.met) == ("more", 20_000.0, False)


def test_rows_of_the_pushes_become_times_and_ratios_with_bars():
    rows = [
        {"what": "carried", "nbytes": 4_000_000, "way": way, "median_ms": ms, "ratio": ratio}
        for way, ms, ratio in (("raw", 1.0, 1.0), ("lane", 1.25, 0.8))
    ]
    raw, lane, ratio = figures.figures_of(rows, suite.PUSH_BARS)
    assert (raw.value, raw.unit, raw.better) == (1.0, "ms", "less")
    assert (lane.key, lane.value) == ("carried_4000000B_lane_median_ms", 1.25)
    assert (ratio.value, ratio.better, ratio.bar, ratio.met) == (0.8, "more", 0.9, False)
    assert len({raw.key, lane.key, ratio.key}) == 3


def test_of_a_push_of_1_gb_memory_and_lag_are_kept_and_tls_is_told_apart():
    found = {"base": 1e8, "peak": 3.1e9, "lag_ms": 25.0, "lag_ms_max": 30.0, "samples": 9}
    watched = push_rows.watched("merged", 10**9, "receiver", found, False)
    rows = [push_rows.row("carried", 10**8, "lane", [2.0], [1.6], tls) for tls in (False, True)]
    told = json.loads(json.dumps([row._asdict() for row in (watched, *rows)]))
    models, lag, _, plain, _, tls = figures.figures_of(told, suite.PUSH_BARS)
    assert (models.value, models.unit, models.bar, models.met) == (3.0, "models", 4.0, True)
    assert (lag.value, lag.unit, lag.better, lag.bar, lag.met) == (25.0, "ms", "less", 20.0, False)
    assert [(one.value, one.bar) for one in (plain, tls)] == [(0.8, 0.9), (0.8, 0.7)]
    assert len({one.key for one in (models, lag, plain, tls)}) == 4


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians():
    # A turn in which the machine was three times slower falls on both.
    assert figures.median_ratio([1.0, 6.0, 2.2], [2.0, 12.0, 4.0]) == 0.5


# -- comparing ------------------------------------------------------------------------------------


@given(old=POSITIVE, new=POSITIVE, better=st.sampled_from(["less", "more"]))
def test_worse_is_above_one_exactly_where_it_got_worse(old, new, better):
    (change,) = compare.changes(
        run_of(Figure("k", "it", old, "ms", better)), run_of(Figure("k", "it", new, "ms", better))
    )
    got_worse = new > old if better == "less" else new < old
    assert (change.worse > 1) is got_worse or change.worse == pytest.approx(1)


def test_the_worst_comes_first_and_what_is_alike_is_not_told():
    old = run_of(*(Figure(k, k, 100.0, "ms") for k in ("same", "bad", "worst", "better", "gone")))
    new = run_of(
        *(Figure(k, k, v, "ms") for k, v in
          (("same", 104.0), ("bad", 130.0), ("worst", 300.0), ("better", 50.0)))
    )  # fmt: skip
    text = compare.report(old, new, 0.15)
    lines = text.splitlines()
    assert lines[0] == "2 of 4 figures slower or larger by more than 15%"
    assert ["worst" in lines[1], "bad" in lines[2]] == [True, True]
    assert "×3.00" in lines[1]
    assert lines[3] == "1 of 4 figures faster or smaller by more than 15%"
    assert "same" not in text
    assert lines[-1] == "in the old run alone: push.gone"
    assert "Not the same machine" not in text


def test_another_machine_is_told():
    old = run_of(Figure("k", "it", 1.0, "ms"))
    other = run_of(Figure("k", "it", 1.0, "ms"))
    other["machine"] |= {"cores": 99}
    assert compare.report(old, other, 0.1).startswith("Not the same machine")


def test_the_comparison_ends_well_however_slow_it_got(tmp_path):
    for name, value in (("old", 1.0), ("new", 1000.0)):
        figures.write(tmp_path / name, run_of(Figure("k", "it", value, "ms")))
    result = CliRunner().invoke(compare.main, [str(tmp_path / "old"), str(tmp_path / "new")])
    assert result.exit_code == 0
    assert "push: it: 1 → 1,000 ms (×1000.00)" in result.output


# -- the suite ------------------------------------------------------------------------------------


def test_a_benchmark_that_fails_hangs_or_is_not_there_costs_its_own_lines_alone(
    tmp_path, monkeypatch
):
    broken = (
        suite.Benchmark("nowhere", "is not written", (1, 1)),
        suite.Benchmark("compare", "does not know --json", (60, 60)),
        suite.Benchmark("simulator", "takes longer than nothing", (0.01, 0.01)),
    )
    monkeypatch.setattr(suite, "BENCHMARKS", broken)
    monkeypatch.setattr(whole, "NAMES", [one.name for one in broken])
    path = tmp_path / "runs" / "figures.json"
    result = CliRunner().invoke(whole.main, ["--quick", "--json", str(path)])
    assert result.exit_code == 0, result.output
    told = json.loads(path.read_text())
    assert told.keys() == {"machine", "quick", "taken_s", "seconds", "figures", "absent"}
    assert told["figures"] == []
    nowhere, fails, hangs = (one["reason"] for one in told["absent"])
    assert nowhere == "not available"
    assert fails.startswith("failed: ")
    assert "--json" in fails
    assert hangs == "took longer than 0 s"
    assert all(reason in result.output for reason in (nowhere, fails, hangs))


@pytest.mark.parametrize("name", ["codecs", "ring", "processes", "slow_peer", "flood", "simulator"])
def test_a_benchmark_takes_what_the_suite_gives_it(name):
    command = importlib.import_module(f"benchmarks.{name}").main
    options = {word for option in command.params for word in option.opts}
    assert {"--quick", "--json"} <= options
    if next(one for one in suite.BENCHMARKS if one.name == name).takes_torch:
        assert "--torch-python" in options


def test_a_page_gets_the_figures_that_were_measured_and_keeps_the_others():
    place = "<!-- figures: {} -->\n{}\n<!-- end -->\n"
    old = f"# A\n{place.format('push', 'old')}B\n{place.format('ring', 'kept')}"
    new = page.filled(old, run_of(Figure("k", "a push", 2.0, "ms", "less", 1.0)))
    assert "| a push | 2 ms | ≤ 1, **missed** |" in new
    assert "old" not in new
    assert new.startswith("# A\n<!-- figures: push -->\n")
    assert new.endswith("B\n" + place.format("ring", "kept"))
    assert page.filled(new, run_of()) == new


def test_the_page_has_a_place_for_every_benchmark():
    names = [name for _, name, _ in page.MARKED.findall(page.PAGE.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(suite.NAMES)


# -- the contenders -------------------------------------------------------------------------------


def test_gloo_mixes_as_the_nodes_do():
    # benchmarks/gloo.py divides own and both neighbours' params by three.
    W = build_sequence("ring", ring.NODES).at(0).dense()
    eye = np.eye(ring.NODES)
    np.testing.assert_allclose(W, (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3, atol=1e-15)


def test_every_codec_is_measured_both_ways_beside_a_copy():
    found = list(codecs.measured(2000, 1))
    assert len({figure.key for figure in found}) == len(found) == 1 + 2 * len(codecs.CASES)
    assert found[0].what == "2,000 float32: copy"
    assert all(figure.value > 0 and figure.bar is None for figure in found)
    assert {name for name, _ in codecs.CASES.values()} == set(codecs.CODECS)


def test_every_contender_takes_the_same_step():
    one, again, other = (gradients.learner_of(7_850, i) for i in (2, 2, 3))
    models = [learner.initial_params(0) for learner in (one, again, other)]
    for learner, model in zip((one, again, other), models, strict=True):
        learner.train(model, 3)
    assert models[0].any()
    np.testing.assert_array_equal(models[0], models[1])
    assert (models[0] != models[2]).any()


WORKER = """
import sys
from benchmarks.teams import Gate
gate, did = Gate(), ""
while command := gate.arrive():
    if command == "x":
        sys.exit("it was told to fail")
    did += command
    print("not for the parent")
gate.tell(sys.argv[1] + did)
"""


def test_a_team_works_in_blocks_and_leaves_its_last_words():
    with teams.Team([["-c", WORKER, "a"], ["-c", WORKER, "b"]]) as team:
        assert all(team.go(command) > 0 for command in "gr")
        assert team.last_words() == ["agr", "bgr"]


def test_a_team_that_loses_a_member_says_so_and_leaves_nobody():
    with pytest.raises(teams.TeamError, match="it was told to fail"):  # noqa: SIM117
        with teams.Team([["-c", WORKER, "a"]]) as team:
            team.go("x")
    assert team._processes[0].returncode == 1
