"""The tables of docs/comparison.md: that they compare what they say they do."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/ is in no package

from benchmarks import heterogeneity, losses
from gossipnode.cli import algorithms
from gossipnode.configfile import load_config
from gossipnode.options import Facts
from gossipnode.registry import FORMS

PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
EVERY = [
    pytest.param(name, facts, id=algorithms.label(name, facts.form))
    for name, facts in algorithms.forms()
]


@pytest.mark.parametrize(("name", "facts"), EVERY)
def test_losses_are_asked_of_every_form(name: str, facts: Facts) -> None:
    flags, eta = losses.flags_of(name, facts)
    config = load_config(flags={key.replace("__", "."): value for key, value in flags.items()})
    assert (config.algorithm.name, getattr(config.algorithm, "form", "")) == (name, facts.form)
    beta = getattr(config.algorithm, "beta", 0.0)
    assert eta / (1 - beta) == pytest.approx(losses.ETA)
    # A repetition, a deadline later, must come too late.
    assert config.network.push_timeout_s >= getattr(config.algorithm, "deadline_s", 0.0)
    assert list(losses.chosen([facts.form or name]))


@pytest.mark.parametrize(("name", "facts"), EVERY)
def test_facts_say_of_losses_what_was_measured(name: str, facts: Facts) -> None:
    found = losses.measured(PAGE)
    label = algorithms.label(name, facts.form)
    if label == "dpsgd atc":
        assert facts.steady == f"{found[label][1] / found[label][0]:.0f} times its own"
    else:
        assert facts.steady == losses.verdict(*found[label], *found["dpsgd atc"])


def test_a_loss_does_harm_where_nothing_makes_it_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "ROUNDS", 200)
    monkeypatch.setattr(losses, "LAST", 100)
    monkeypatch.setattr(losses, "SEEDS", (0,))
    found = losses.damage("correction", Facts("exact_diffusion", "", "", ""))
    assert found.distance < 1e-2 < found.distance_lossy
    assert "| exact_diffusion | ring |" in losses.line(found)


def test_rounds_that_a_node_left_out_are_not_measured() -> None:
    models = np.stack([np.full((16, 10), float(k)) for k in range(losses.LAST + 1)])
    models[-1, 3] = np.nan
    distance, spread = losses.at_the_end(models)
    assert math.isfinite(distance)
    assert spread == pytest.approx(0.0)


def test_a_table_goes_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- figures: one -->\nold\n<!-- end -->\nb\n<!-- figures: two -->\n<!-- end -->\n"
    )
    losses.put(page, "one", "| new |")
    assert page.read_text() == (
        "a\n<!-- figures: one -->\n\n| new |\n\n<!-- end -->\nb\n"
        "<!-- figures: two -->\n<!-- end -->\n"
    )
    with pytest.raises(ValueError, match="three"):
        losses.put(page, "three", "")


def test_methods_send_as_many_vectors_as_their_facts_say() -> None:
    told = {(name, facts.form): facts.vectors for name, facts in algorithms.forms()}
    for method in heterogeneity.METHODS:
        name = FORMS.get(method.name, method.name)
        model = load_config(
            flags={"algorithm.name": method.name}
            | {f"algorithm.{key}": value for key, value in method.options.items()}
        ).algorithm
        assert told[name, getattr(model, "form", "")] == str(method.vectors)
        assert hasattr(model, "beta") == method.beta


def test_all_methods_send_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heterogeneity, "ROUNDS", 12)
    sent = {}
    for place, method in enumerate(heterogeneity.METHODS):
        if method.name in ("dpsgd", "dsgt", "qgm") and not method.options:
            result = heterogeneity.run.__wrapped__(place, 0.5, 0)
            assert result is not None
            assert result.least <= result.mean <= 1
            sent[method.name] = result.bytes_sent
    # Two vectors in one frame save a header.
    assert sent["dsgt"] == pytest.approx(sent["dpsgd"], rel=0.06)
    assert sent["qgm"] == pytest.approx(sent["dpsgd"], rel=0.01)


def test_a_step_that_diverges_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {0.5: heterogeneity.Result(0.8, 0.7, 0.9, 0.1, 1e6), 1.0: None,
             0.25: heterogeneity.Result(0.6, 0.5, 0.9, 0.1, 1e6)}  # fmt: skip
    monkeypatch.setattr(heterogeneity, "run", lambda place, step, seed: found[step])
    assert heterogeneity.best_step(0, (0.25, 0.5, 1.0)) == 0.5
    text, results = heterogeneity.row(0, 1.0, ())
    assert "diverged" in text
    assert results == []
