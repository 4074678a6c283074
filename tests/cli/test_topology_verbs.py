"""``topology`` and ``plan``: what they print, as text and as JSON, and how they refuse."""

import json
import sys

import pytest

from gossipnode.cli import app
from gossipnode.configfile import load_config
from gossipnode.topology.sequences import kinds


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def told(capsys, line):
    """Run one command line that must succeed; return what it printed."""
    assert app.run(line.split()) == app.OK, capsys.readouterr().err
    return capsys.readouterr().out


def told_json(capsys, line):
    return json.loads(told(capsys, f"{line} --json"))


def error_of(capsys, line):
    assert app.run(line.split()) == app.USAGE
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def test_a_ring(capsys):
    text = told(capsys, "topology ring -n 16 --params 100 --rounds 10")
    for expected in ("16 nodes, metropolis weights", "symmetric, doubly stochastic", "0.949253",
                     "0.050747", "predicted 132.6", "12.8 kB", "320 messages, 128 kB"):  # fmt: skip
        assert expected in text
    facts = told_json(capsys, "topology ring -n 16 --params 100 --bits 8 --rounds 10")
    assert facts["rho"] == pytest.approx(0.949253, abs=5e-7)
    assert (facts["degree"], facts["messages"], facts["bytes"]) == (2, 32, 3200)
    assert facts["bytes_all_rounds"] == 32_000
    assert facts["rounds_measured"] <= facts["rounds_predicted"] + 1
    assert facts["spectral_gap"] == 1 - facts["rho"]


def test_the_default_is_16_nodes(capsys):
    assert told_json(capsys, "topology star")["nodes"] == 16


def test_a_graph_that_is_exact_and_one_that_drifts(capsys):
    base = told_json(capsys, "topology base -n 25 --peers 1")
    assert (base["exact_after"], base["period"], base["rounds_measured"]) == (9, 9, 9)
    assert "9 (exact)" in told(capsys, "topology base -n 25")
    assert "the mean drifts" in told(capsys, "topology el_local -n 25")


def test_weights_and_lazy(capsys):
    best = told_json(capsys, "topology star -n 16 --weights best_constant")
    assert best["rho"] == pytest.approx(15 / 17, abs=1e-9)
    lazy = told_json(capsys, "topology complete -n 16 --lazy")
    assert (lazy["rho"], lazy["weights"]) == (pytest.approx(0.5), "lazy metropolis")


def test_comparing_those_named_and_all_that_serve(capsys):
    lines = told(capsys, "topology ring base --compare -n 13").splitlines()
    assert [line.split()[0] for line in lines] == ["graph", "ring", "base"]
    assert app.run(["topology", "--compare", "-n", "13", "--json"]) == app.OK
    printed = capsys.readouterr()
    names = [facts["graph"] for facts in json.loads(printed.out)]
    assert "el_oracle" in names
    assert not {"torus", "hypercube", "explicit"} & {*names}
    assert "without torus: " in printed.err
    ruled = told_json(capsys, "topology --compare -n 16 --weights uniform")
    assert {facts["weights"] for facts in ruled} == {"uniform", "own"}


def test_an_edge_list(capsys, tmp_path):
    (tmp_path / "friends.txt").write_text("ann bob\nbob cem\ncem dan\n", encoding="utf-8")
    facts = told_json(capsys, "topology explicit --edges friends.txt")
    assert (facts["nodes"], facts["messages"]) == (4, 6)
    assert "has 4 nodes, not 5" in error_of(capsys, "topology explicit --edges friends.txt -n 5")
    (tmp_path / "friends.txt").write_text("ann bob\nbob\n", encoding="utf-8")
    assert "friends.txt, row 2" in error_of(capsys, "topology explicit --edges friends.txt")
    assert "cannot be read" in error_of(capsys, "topology explicit --edges enemies.txt")
    (tmp_path / "friends.txt").write_bytes(b"\xff\xfe")
    assert "no UTF-8" in error_of(capsys, "topology explicit --edges friends.txt")


def test_laws(capsys):
    (law,) = told_json(capsys, "topology ring --law")
    assert law["exponent"] == pytest.approx(2, abs=0.02)
    assert law["constant"] == pytest.approx(law["theory"]["constant"], rel=1e-4)
    assert law["sizes"] == [8, 16, 32, 64, 128, 256, 512, 1024]
    assert "4π²/3 / n²" in told(capsys, "topology ring star --law")


@pytest.mark.parametrize("name", ["torus", "base", "exponential", "el_local"])
def test_drawing(name, capsys, tmp_path):
    assert app.run(f"topology {name} -n 9 --draw graph.png".split()) == app.OK
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    assert "graph.png: written" in capsys.readouterr().err


def test_drawing_that_cannot_be(capsys, monkeypatch):
    assert "up to 400 nodes" in error_of(capsys, "topology ring -n 500 --draw g.png")
    assert "not supported" in error_of(capsys, "topology ring --draw g.foo")
    assert "draws one graph" in error_of(capsys, "topology ring star --draw g.png")
    assert app.run(["topology", "ring", "--draw", "none/g.png"]) == app.STORAGE
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "networkx", None)
    text = error_of(capsys, "topology ring --draw g.png")
    assert "drawing needs networkx" in text
    assert "gossipnode[topology,plot]" in text


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("topology", "ring, chain"),
        ("topology rign", "'ring'"),
        ("topology torus -n 17", "16 or 18"),
        ("topology base --weights uniform", "auto"),
        ("topology explicit", "--edges"),
        ("topology --law rings", "'ring'"),
        ("topology --law --draw x.png", "no graph to --draw"),
        ("topology ring -n 0", "1<=x"),
        ("topology complete -n 5000", "up to 4000"),
        ("plan --up 10furlongs", "100Mbit"),
        ("plan --up 0Mbit", "100Mbit"),
        ("plan --within 60", "--up"),
        ("plan --topology rign", "'ring'"),
        ("plan -n 1", "2<=x"),
        ("plan --topology erdos_renyi --seed -1", "0<=x"),
        ("topology erdos_renyi --seed -1", "0<=x"),
        ("topology erdos_renyi --seed 9007199254740993", "<=9007199254740992"),
    ],
)
def test_refusals_help(line, hint, capsys):
    assert hint in error_of(capsys, line)


def scheme(found, name):
    (row,) = [row for row in found["schemes"] if row["scheme"] == name]
    return row


def test_lenet_in_a_minute(capsys):
    line = "plan --params 85098 --up 100Mbit --down 1Gbit --within 60"
    assert "2203 nodes can take part" in told(capsys, line)
    assert told_json(capsys, line)["server"] == {
        "within_s": 60, "receives": 22_033, "sends": 2_203, "participants": 2_203,
    }  # fmt: skip


def test_the_bill_of_a_thousand_rounds(capsys):
    line = "plan -n 200 --params 4950544 --rounds 1000 --price 0.03"
    server = next(li for li in told(capsys, line).splitlines() if li.startswith("parameter server"))
    assert server.endswith(" 110.65")
    found = scheme(told_json(capsys, line), "parameter server")
    assert found["busiest_price"] == pytest.approx(110.6533, abs=5e-5)


def test_messages_with_a_final_all_reduce(capsys):
    line = "plan -n 128 --topology random_regular --degree 8 --rounds 50 --final naive"
    found = told_json(capsys, line)
    assert scheme(found, "D-PSGD, random_regular")["messages"] == 67_456
    assert scheme(found, "naive all-reduce")["messages"] == 50 * 16_256  # has no need of a final
    assert "67456" in told(capsys, line)


def test_every_scheme_is_planned_and_the_time_is_the_busiest_links(capsys):
    found = told_json(capsys, "plan -n 16 --bytes 1e6 --up 8Mbit --latency 0.25")
    seconds = {row["scheme"]: row["round_s"] for row in found["schemes"]}
    assert seconds == {
        "parameter server": 16.5,
        "ring all-reduce": 30 / 16 + 7.5,
        "naive all-reduce": 15.25,
        "D-PSGD, ring": 2.25,
        "D-PSGD, torus": 4.25,
        "D-PSGD, exponential": 4.25,
        "D-PSGD, one_peer_exponential": 1.25,
        "gossip, random peers": 1.25,
        "gossip, ring": 1.25,
        "gossip, torus": 1.25,
        "gossip, exponential": 1.25,
    }
    mixing = {row["scheme"]: row["rounds_to_1e-3"] for row in found["schemes"]}
    assert mixing["ring all-reduce"] == 1
    assert mixing["D-PSGD, one_peer_exponential"] == 4
    assert mixing["D-PSGD, ring"] == pytest.approx(132.6, abs=0.05)
    assert mixing["gossip, ring"] is None


def test_only_what_nodes_would_run_is_planned(capsys):
    """Gossip has no rounds in common, so nodes refuse it on a graph that changes with them."""
    line = "plan -n 8" + "".join(f" --topology {name}" for name in kinds() if name != "explicit")
    schemes = {row["scheme"] for row in told_json(capsys, line)["schemes"]}
    assert {"gossip, ring", "gossip, d_equi_static", "D-PSGD, el_oracle"} <= schemes
    for scheme in schemes - {"gossip, random peers"}:
        family, _, graph = scheme.partition(", ")
        if graph:
            name = {"gossip": "gossip", "D-PSGD": "dpsgd"}[family]
            load_config(flags={"algorithm.name": name, "topology.graph": graph})


def test_a_mean_of_messages_is_no_long_fraction(capsys):
    text = told(capsys, "plan -n 9 --topology base")
    (row,) = [line for line in text.splitlines() if line.startswith("D-PSGD, base")]
    assert row.split()[2] == "7.1"
    found = told_json(capsys, "plan -n 9 --topology base")
    assert scheme(found, "D-PSGD, base")["messages"] == pytest.approx(50 / 7)


def test_graphs_nobody_asked_for_may_be_missing(capsys):
    assert app.run(["plan", "-n", "13"]) == app.OK
    printed = capsys.readouterr()
    assert "D-PSGD, torus" not in printed.out
    assert "without torus" in printed.err
    assert "price" not in printed.out
    assert "13" in error_of(capsys, "plan -n 13 --topology torus")


def test_large_numbers_are_readable(capsys):
    text = told(capsys, "plan -n 200 --params 4950544 --rounds 1000")
    assert " TB " in text
    assert "e+" not in text
