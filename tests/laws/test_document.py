"""docs/laws.md: every table on it is measured again and must come out as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/laws.md").read_text(encoding="utf-8")
SECTIONS = {
    int(number): text
    for number, text in re.findall(
        r"^## Law (\d+): (.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
}


def load_laws() -> ModuleType:
    """Import benchmarks/laws.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("laws", ROOT / "benchmarks/laws.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# One copy for all tests: what takes seconds is kept by it.
LAWS = load_laws()


def test_every_law_has_its_section() -> None:
    assert list(SECTIONS) == list(LAWS.LAWS) == list(range(1, 9))


@pytest.mark.parametrize("law", SECTIONS)
def test_figures_are_what_the_command_computes(law: int) -> None:
    shown = "\n".join(re.findall(r"^\|.*\|$", SECTIONS[law], re.MULTILINE))
    assert shown == LAWS.table(law)
