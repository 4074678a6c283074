"""docs/config.md, written from the options: ``python -m gossipnode.cli.reference``.

Invariant: the page is this module's output to the letter; a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from gossipnode.cli import algorithms, describe
from gossipnode.config import Config
from gossipnode.config.listing import Option, options
from gossipnode.registry import ALGORITHMS

HEAD = (
    "| key | default | unit | range or choices | flag | environment | meaning |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)

INTRODUCTION = """\
# Options

This page is generated: `python -m gossipnode.cli.reference > docs/config.md`.

Every option can be given in four places; a later one overrides an earlier one:

1. its default;
2. `node.toml` (`gossipnode init` writes one), as `key = value` in the table of its section;
3. its environment variable;
4. the command line: its flag, or `--set section.key=value` for every option.

An unknown table, key, variable or flag is an error that names the nearest spelling. `swarm`
runs with other defaults where a short experiment needs them: see `gossipnode swarm --help`.
"""


def reference() -> str:
    """Return the page."""
    everything = list(options(""))
    parts = [INTRODUCTION]
    for section in Config.model_fields:
        mine = [option for option in everything if option.section == section]
        parts.append(f"## [{section}]\n\n{describe.section_help(section)}\n\n{_table(mine)}")
        parts += _algorithms() if section == "algorithm" else []
    return "\n".join(parts)


def _algorithms() -> Iterator[str]:
    """Yield what several algorithms share, once, then the options of each."""
    yield (
        "What each algorithm is for, and what it needs, is told in [algorithms.md](algorithms.md). "
        "An option of\nanother algorithm than that of `name` is an error.\n"
    )
    shared = algorithms.shared()
    for base, owners in shared.items():
        title = describe.summary(base).rstrip(".")
        whose = ", ".join(f"`{owner}`" for owner in owners)
        yield f"### {title}\n\nOptions of {whose}.\n\n{_table(algorithms.declared(base))}"
    for name in ALGORITHMS:
        own = list(algorithms.declared(algorithms.options_of(name)))
        if own:
            yield f"### {name}\n\n{_table(own)}"


def _table(found: Iterable[Option]) -> str:
    return "\n".join([HEAD, *map(_row, found)]) + "\n"


def _row(option: Option) -> str:
    named = option.key == "algorithm.name"
    return describe.cells(
        [
            f"`{option.name}`",
            f"`{describe.default_of(option.field)}`",
            option.unit,
            "those of [algorithms.md](algorithms.md)" if named else describe.allowed(option),
            f"`{option.flag}`" if option.flag else "",
            f"`{option.env}`",
            option.field.description or "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
