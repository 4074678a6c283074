"""docs/topologies.md: every command on it is run again, every number in its table computed."""

import json
import re
from pathlib import Path

import pytest

from gossipnode.cli import app, describe
from gossipnode.config.listing import options
from gossipnode.topology import GRAPHS, SEQUENCES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/topologies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def output(line, capsys):
    program, *words = line.split()
    assert program == "gossipnode"
    assert app.run(words) == app.OK
    return capsys.readouterr().out


def test_the_page_shows_commands():
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize(("line", "shown"), BLOCKS, ids=[line for line, _ in BLOCKS])
def test_every_command_still_prints_what_is_shown(line, shown, capsys):
    assert output(line, capsys) == shown


def test_every_number_of_the_table(capsys):
    rows = re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", PAGE.split("## Weights")[0], re.MULTILINE)
    small, large = (
        {f["graph"]: f for f in json.loads(output(command, capsys))}
        for command in re.findall(r"`(gossipnode topology --compare -n \d+ --json)`", PAGE)
    )
    assert [name for name, _ in rows] == list(small) == list(large)
    assert {*small} == ({*GRAPHS} | {*SEQUENCES}) - {"explicit"}
    for name, text in rows:
        degree, *cells, purpose = text.split(" | ")
        a, b = small[name], large[name]
        degrees = [int(word) for word in degree.split("; ")]
        assert degrees == list(dict.fromkeys([a["degree"], b["degree"]])), name
        rhos = [f"{facts['rho']:.4f}" for facts in (a, b)]
        assert cells == [*rhos, *(rounds(facts) for facts in (a, b))], name
        assert purpose


def test_the_readme_has_a_row_for_every_graph():
    """Each name once, also `random`, which is none of these but what gossip starts with."""
    rows = re.findall(r"^\| (`.*?`) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    names = re.findall(r"`([a-z_]+)`", " ".join(rows))
    (option,) = [option for option in options() if option.key == "topology.graph"]
    known = describe.choices(option)
    assert sorted(name for name in names if name in known) == sorted(known)


def rounds(facts):
    if facts["exact_after"] is not None:
        return f"{facts['exact_after']}, exact"
    return f"{facts['rounds_predicted']:.0f}"
