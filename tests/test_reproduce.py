"""The comparison with figures of others: that it runs nodes, compares honestly and tells all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from q16 import q16, ring16

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is in no package

from benchmarks import published, reproduce
from benchmarks.published import Row

A, b, BEST = q16()


def told(*words: str, folder: Path) -> tuple[str, list[dict[str, object]]]:
    path = folder / "found.json"
    done = CliRunner().invoke(reproduce.main, [*words, "--json", str(path)])
    assert done.exit_code == 0, done.output
    return done.output, json.loads(path.read_text())


def test_figures_of_arithmetic_are_met(tmp_path: Path) -> None:
    text, rows = told("A1", "A2", "A4", "A5", "A6", "A13", "B10", folder=tmp_path)
    assert {row["id"] for row in rows} == {"A1", "A2", "A4", "A5", "A6", "A13", "B10"}
    assert all(row["met"] for row in rows)
    assert f"{len(rows)} of {len(rows)} figures within their tolerance" in text


def test_models_of_each_round_are_those_of_dense_matrices() -> None:
    rounds, eta = 30, 0.1
    found = published.q16_rounds(rounds, eta)
    X, W = np.zeros((16, 10)), ring16()
    for k in range(rounds + 1):
        np.testing.assert_allclose(found[k], X, rtol=0, atol=1e-12)
        X = W @ (X - eta * (np.einsum("nij,nj->ni", A, X) - b))


def test_what_is_measured_of_models_is_what_the_table_says() -> None:
    models = np.stack([np.tile(BEST + away, (16, 1)) for away in (1.0, 1e-3, 1e-9, 1e-9)])
    assert published.rounds_to(models, 1e-2) == 1
    assert published.rounds_to(models, 1e-8) == 2
    assert published.rounds_to(models, 1e-10) is None
    X = BEST + np.where(np.arange(16)[:, None] % 2, 0.5, -0.1)
    distance, spread, gap = published.distances([X])
    assert distance == pytest.approx(0.2 * np.sqrt(10))
    assert spread == pytest.approx(0.3 * np.sqrt(10))
    f = [np.mean([x @ A_i @ x / 2 - b_i @ x for A_i, b_i in zip(A, b, strict=True)])
         for x in (X.mean(0), BEST)]  # fmt: skip
    assert gap == pytest.approx(f[0] - f[1])


@pytest.mark.parametrize(
    ("ours", "tolerance", "met"),
    [(1.0, 0, True), (1.001, 0, False), (1.05, 0.1, True), (1.2, 0.1, False), (9, None, None),
     (None, 0.1, None), (float("nan"), 0.1, False), (np.float64(1.2), 0.1, False)],
)  # fmt: skip
def test_a_figure_is_met_within_its_tolerance(
    ours: float | None, tolerance: float | None, met: bool | None
) -> None:
    row = Row("", ours, 1.0, tolerance, "why")
    assert row.met is met
    assert ("missed" in reproduce.verdict(row)) == (met is False)


def test_what_cannot_be_measured_here_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, rows = told("C2", folder=tmp_path)
    assert len(rows) == 12
    assert all(row["ours"] is None and row["met"] is None for row in rows)
    assert text.count("missing: needs --mnist") == 12

    def absent() -> None:
        raise ImportError("no such module")

    monkeypatch.setitem(reproduce.FIGURES, "C4", absent)
    text, rows = told("C4", folder=tmp_path)
    assert "missing: no such module" in text
    assert rows == [{"id": "C4", "missing": "no such module"}]


def test_every_figure_has_its_name() -> None:
    assert {*reproduce.FIGURES, "C2"} == {*reproduce.NAMES}
