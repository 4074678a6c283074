"""docs/config.md, written from the options: ``python -m gossipnode.cli.reference``.

Invariant: the page is this module's output to the letter; a test compares them.
"""

from __future__ import annotations

import sys

from gossipnode.cli import describe
from gossipnode.config import Config
from gossipnode.configfile import Option, options

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
    everything = list(options())
    parts = [INTRODUCTION]
    for section in Config.model_fields:
        rows = [_row(option) for option in everything if option.section == section]
        parts.append(
            f"## [{section}]\n\n{describe.section_help(section)}\n\n"
            "| key | default | unit | range or choices | flag | environment | meaning |\n"
            "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def _row(option: Option) -> str:
    owners = list(describe.variants(option))
    note = f" ({owners[0]} only)" if owners[0] and len(owners) == 1 else ""
    allowed = ", ".join(f"`{word}`" for word in describe.choices(option))
    cells = [
        f"`{option.name}`{note}",
        f"`{describe.default_text(option)}`",
        option.unit,
        allowed or describe.range_text(option) or describe.kind(option),
        f"`{option.flag}`" if option.flag else "",
        f"`{option.env}`",
        option.field.description or "",
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
