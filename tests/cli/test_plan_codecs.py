"""``plan --codec``: the bytes of a coded message before any is sent."""

import json
import math

import pytest

from gossipnode.cli import app
from gossipnode.cli.compressed import PLANNED
from gossipnode.codecs import CODECS


def found_by(capsys: pytest.CaptureFixture[str], line: str) -> dict:
    assert app.run([*line.split(), "--json"]) == app.OK
    return json.loads(capsys.readouterr().out)


def test_every_codec_but_lowrank_is_planned() -> None:
    assert set(PLANNED) == set(CODECS) - {"lowrank"}


@pytest.mark.parametrize(
    ("flags", "body", "values"),
    [
        ("sign", math.ceil(7850 / 8), 32),
        ("float16", 2 * 7850, 2),
        ("uniform --codec-bits 4", 7850 / 2, 8),
        ("qsgd --codec-levels 7", 7850 / 2, 8),
        ("randomk --codec-fraction 0.1", 4 * 785, 10),
    ],
)
def test_the_bytes_are_those_of_the_format(capsys, flags: str, body: float, values: float) -> None:
    codec = found_by(capsys, f"plan --params 7850 --codec {flags}")["codec"]
    assert abs(codec["body"] - body) <= 1
    assert codec["values"] == values
    assert codec["nbytes"] == codec["body"] + codec["header"]
    assert 250 < codec["header"] < 400


def test_positions_cost_no_more_than_their_entropy_and_a_tenth(capsys) -> None:
    codec = found_by(capsys, "plan --params 1000000 --codec topk --codec-fraction 0.01")["codec"]
    entropy = -(0.01 * math.log2(0.01) + 0.99 * math.log2(0.99)) * 1e6 / 8
    assert 4 * 10_000 + entropy * 0.98 < codec["body"] < 4 * 10_000 + entropy * 1.1
    assert codec["values"] == pytest.approx(100)


def test_choco_is_planned_on_graphs_that_stay_and_go_both_ways(capsys) -> None:
    found = found_by(capsys, "plan -n 16 --params 7850 --codec sign --rounds 3")
    rows = {row["scheme"]: row for row in found["schemes"]}
    compressed = {scheme for scheme in rows if scheme.startswith("CHOCO")}
    assert compressed == {"CHOCO sign, ring", "CHOCO sign, torus"}
    row = rows["CHOCO sign, ring"]
    assert row["total_bytes"] == 3 * 32 * found["codec"]["nbytes"]
    assert row["rounds_to_1e-3"] is None
    assert rows["D-PSGD, ring"]["total_bytes"] == 3 * 32 * 4 * 7850


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("plan --codec qsdg", "'qsgd'"),
        ("plan --codec none", "topk"),
        ("plan --codec lowrank", "simulate"),
        ("plan --codec qsgd --codec-levels 900", "--codec-levels"),
        ("plan --codec topk --codec-bits 3", "1, 4, 8, 16 or 32"),
        ("plan --codec-bits 3", "--codec"),
    ],
)
def test_a_codec_that_is_none_is_refused(capsys, line: str, words: str) -> None:
    assert app.run(line.split()) == app.USAGE
    assert words in capsys.readouterr().err
