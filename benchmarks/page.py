"""Put a run's figures into docs/performance.md: ``python -m benchmarks.page runs/bench-full.json``.

Invariant: only what stands between a benchmark's marks is replaced, and what a run did not measure
stays as it was; the words around the tables are people's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import HEAD, Figure, described, line
from benchmarks.teams import ROOT

PAGE = ROOT / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the table of each benchmark that the run measured, and what it ran on."""
    for name in dict.fromkeys(entry["benchmark"] for entry in run["figures"]):
        rows = [
            line(Figure(**{field: entry[field] for field in Figure._fields}))
            for entry in run["figures"]
            if entry["benchmark"] == name
        ]
        here = f"On {described(run['machine'])}, {run['machine']['time'][:10]}."
        yield name, "\n".join([here, "", HEAD, *rows])


def filled(page: str, run: Mapping[str, Any]) -> str:
    """Return ``page`` with the run's tables between its marks."""
    found = dict(tables(run))

    def fill(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        return f"{start}\n{found[name]}\n\n{end}" if name in found else match.group()

    return MARKED.sub(fill, page)


@click.command()
@click.argument("run", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(run: Path) -> None:
    """Put the figures of RUN, a JSON file of the suite, into docs/performance.md."""
    found = json.loads(run.read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
