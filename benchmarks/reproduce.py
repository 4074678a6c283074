"""Figures that were computed or published elsewhere, beside ours.

``python -m benchmarks.reproduce`` prints all tables, with ``B4 C1`` behind it those two.
Invariant: nothing is left out where it does not agree; it ends with exit code 0 all the same, for
it reports and is no test.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import published_exact as exact
from benchmarks import published_learning as learning
from benchmarks import published_q16 as rest
from benchmarks.published import Row

HEAD = "| what | ours | reference | tolerance | |\n| --- | --- | --- | --- | --- |"
FIGURES: dict[str, Callable[[], Iterator[Row]]] = {
    "A1": exact.a1, "A2": exact.a2, "A3": exact.a3, "A4": exact.a4, "A5": exact.a5, "A6": exact.a6,
    "A11": exact.a11, "A13": exact.a13, "B4": rest.b4, "B5": rest.b5, "B6": rest.b6, "B7": rest.b7,
    "B10": exact.b10, "C1": learning.c1, "C4": learning.c4, "C11": learning.c11,
}  # fmt: skip
NAMES = [*list(FIGURES)[:-2], "C2", "C4", "C11"]


def verdict(row: Row) -> str:
    """Return what the last column says; the note only where it explains something.

    >>> verdict(Row("", 1.0, 1.0, 0)), verdict(Row("", 2.0, 1.0, 0.5)), verdict(Row("", 2, 1, None))
    ('ok', '**missed**', '')
    """
    if row.ours is None:
        return f"missing: {row.note}"
    if row.met is None:
        return ""
    return "ok" if row.met else f"**missed**{f', {row.note}' if row.note else ''}"


def spelled(value: float | None) -> str:
    """Return six digits, or all of a whole number.

    >>> spelled(0.12345678), spelled(67456), spelled(None)
    ('0.123457', '67456', '–')
    """
    if value is None:
        return "–"
    return str(int(value)) if value == int(value) and abs(value) >= 1 else f"{value:.6g}"


def line(row: Row) -> str:
    """Return a row of the table."""
    tolerance = (
        "" if row.tolerance is None else f"± {row.tolerance:g}" if row.tolerance else "exact"
    )
    cells = [row.what, spelled(row.ours), spelled(row.reference), tolerance, verdict(row)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.Choice(NAMES, case_sensitive=False))
@click.option(
    "--mnist",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the MNIST test set's IDX files, for C2.",
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Keep the figures here.")
def main(ids: Sequence[str], mnist: Path | None, path: Path | None) -> None:
    """Compare figures with what others computed."""
    kept: list[dict[str, Any]] = []
    missed = 0
    for name in ids or NAMES:
        began = time.monotonic()
        run = FIGURES.get(name) or (lambda: learning.c2(mnist))
        about = (run.__doc__ or learning.c2.__doc__ or "").splitlines()[0]
        print(f"\n{name}: {about}\n\n{HEAD}", flush=True)
        try:
            for row in run():
                print(line(row), flush=True)
                missed += row.met is False
                kept.append({"id": name, **row._asdict(), "met": row.met})
        except (ImportError, AttributeError) as error:
            print(f"missing: {error}")
            kept.append({"id": name, "missing": str(error)})
        print(f"\n{time.monotonic() - began:.1f} s", flush=True)
    told = [entry for entry in kept if entry.get("met") is not None]
    print(f"\n{len(told) - missed} of {len(told)} figures within their tolerance")
    if path is not None:
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
