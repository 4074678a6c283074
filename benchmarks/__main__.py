"""``python -m benchmarks``: the whole suite, one table, one JSON file.

Invariant: it always ends with exit code 0 unless it was called wrongly: a benchmark reports and is
no test.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import HEAD, described, line, machine, write
from benchmarks.suite import NAMES, AbsentError, entry, measured


@click.command()
@click.option("--quick/--full", default=True, show_default=True, help="Within 3 minutes, or 30.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Repeatable.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Keep the figures here.")
@click.option("--torch-python", default=sys.executable, help="An interpreter that has PyTorch.")
def main(quick: bool, only: Sequence[str], path: Path | None, torch_python: str) -> None:
    """Measure this machine and gossipnode on it, and print a table."""
    here, began = machine(), time.monotonic()
    print(described(here))
    figures: list[dict[str, Any]] = []
    absent: list[dict[str, str]] = []
    seconds: dict[str, float] = {}
    for benchmark, found in measured(only or NAMES, quick=quick, torch_python=torch_python):
        seconds[benchmark.name] = max(
            round(time.monotonic() - began - sum(seconds.values()), 1), 0.0
        )
        print(f"\n{benchmark.name}: {benchmark.about}\n", flush=True)
        if isinstance(found, AbsentError):
            print(f"{found}", flush=True)
            absent.append({"benchmark": benchmark.name, "reason": str(found)})
            continue
        print(HEAD)
        for figure in found:
            print(line(figure), flush=True)
            figures.append(entry(benchmark, figure))
    taken_s = round(time.monotonic() - began, 1)
    print(f"\n{taken_s:.0f} s {seconds}; load now {machine()['load']}")
    if path is not None:
        told = {
            "machine": here,
            "quick": quick,
            "taken_s": taken_s,
            "seconds": seconds,
            "figures": figures,
            "absent": absent,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, told)
        print(f"kept in {path}")


if __name__ == "__main__":
    main()
