"""docs/algorithms.md and the [algorithm] section of docs/config.md: complete, current and true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from gossipnode.cli import algorithms, describe, reference
from gossipnode.config.listing import options
from gossipnode.configfile import load_config
from gossipnode.options import AlgorithmOptions, Facts
from gossipnode.registry import ALGORITHMS, FORMS

ROOT = Path(__file__).parents[2]
FACTS = [pytest.param(name, facts, id=f"{name}-{facts.form}") for name, facts in algorithms.forms()]


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    told = "run: python -m gossipnode.cli.algorithms > docs/algorithms.md"
    assert page == algorithms.page(), told


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_form_has_its_facts(name: str) -> None:
    field = algorithms.options_of(name).model_fields.get("form")
    forms = {""}
    if field is not None:
        assert get_origin(field.annotation) is Literal
        forms = set(get_args(field.annotation))
    assert {facts.form for facts in algorithms.options_of(name).facts} == forms


@pytest.mark.parametrize(("form", "name"), FORMS.items())
def test_every_name_of_a_form_is_in_the_table(form: str, name: str) -> None:
    assert form in {facts.form for facts in algorithms.options_of(name).facts}
    assert f"`name = {describe.toml(form)}`" in algorithms.page()


@pytest.mark.parametrize(("name", "facts"), FACTS)
def test_the_lines_of_the_table_choose_that_form(name: str, facts: Facts, tmp_path: Path) -> None:
    lines = algorithms.choice(name, facts.form)
    text = "\n".join(f"{key} = {describe.toml(value)}" for key, value in lines.items())
    (tmp_path / "node.toml").write_text(f"[algorithm]\n{text}\n")
    found = load_config(tmp_path / "node.toml").algorithm
    assert (found.name, getattr(found, "form", "")) == (name, facts.form)


@pytest.mark.parametrize(("name", "facts"), FACTS)
def test_a_row_has_a_cell_for_each_column_and_none_is_empty(name: str, facts: Facts) -> None:
    (row,) = (
        line
        for line in algorithms.page().splitlines()
        if line.startswith(f"| [{algorithms.label(name, facts.form)}](")
    )
    found = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    assert len(found) == len(algorithms.HEAD.splitlines()[0].split("|")[1:-1])
    assert all(found)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_of_an_algorithms_options_is_told_once_or_shared(name: str) -> None:
    model = algorithms.options_of(name)
    told = [option.name for option in algorithms.declared(model)]
    told += [o.name for base in algorithms.bases(model) for o in algorithms.declared(base)]
    expected = {option.name for option in options(name) if option.section == "algorithm"}
    assert set(told) == expected - {"name"}


def test_options_of_several_algorithms_are_told_once() -> None:
    page = reference.reference()
    assert page.count("| `deadline_s` |") == 1
    assert page.count("| `form` |") == sum(
        "form" in algorithms.options_of(name).model_fields for name in ALGORITHMS
    )


def test_what_is_shared_is_said_whose_it_is() -> None:
    for base, owners in algorithms.shared().items():
        assert base is not AlgorithmOptions
        assert len(owners) >= 1
        heading = f"### {describe.summary(base).rstrip('.')}\n"
        following = reference.reference().split(heading)[1].splitlines()[1]
        assert following == f"Options of {', '.join(f'`{owner}`' for owner in owners)}."
