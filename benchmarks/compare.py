"""Tell what got slower between two runs of the suite: ``python -m benchmarks.compare OLD NEW``.

Invariant: it tells and judges nothing: the exit code is 0 however much slower it got.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.figures import described, spelled

# Two runs on one busy machine differ by about this much without any change.
THRESHOLD = 0.15
# What a machine decides; where it differs, absolute figures cannot be compared.
MACHINE = ("cores", "cpu", "memory_gb", "python")


class Change(NamedTuple):
    """A figure in both runs; ``worse`` is 1.3 where it got worse by 30 %, 1/1.3 where better."""

    benchmark: str
    what: str
    old: float
    new: float
    unit: str
    worse: float


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the figures that both runs have, the worst change first.

    A figure that is not positive has no ratio and is left out.
    """
    before = {(f["benchmark"], f["key"]): f for f in old["figures"]}
    found = []
    for figure in new["figures"]:
        was = before.get((figure["benchmark"], figure["key"]))
        if was is None or was["value"] <= 0 or figure["value"] <= 0:
            continue
        ratio = figure["value"] / was["value"]
        worse = ratio if figure["better"] == "less" else 1 / ratio
        found.append(
            Change(
                figure["benchmark"], figure["what"], was["value"], figure["value"],
                figure["unit"], worse,
            )
        )  # fmt: skip
    return sorted(found, key=lambda change: -change.worse)


def missing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys that only the old run has, with their benchmark."""
    there = {(f["benchmark"], f["key"]) for f in new["figures"]}
    return [
        f"{f['benchmark']}.{f['key']}"
        for f in old["figures"]
        if (f["benchmark"], f["key"]) not in there
    ]


def report(old: Mapping[str, Any], new: Mapping[str, Any], threshold: float) -> str:
    """Return the comparison for people."""
    lines = []
    here, there = old["machine"], new["machine"]
    if any(here.get(name) != there.get(name) for name in MACHINE):
        lines += [
            "Not the same machine, so only ratios can be compared:",
            f"  old: {described(here)}",
            f"  new: {described(there)}",
        ]
    if old.get("quick") != new.get("quick"):
        lines.append("One of the runs is quick, the other full.")
    found = changes(old, new)
    for title, chosen in (
        ("slower or larger", [c for c in found if c.worse > 1 + threshold]),
        ("faster or smaller", [c for c in reversed(found) if c.worse < 1 / (1 + threshold)]),
    ):
        lines.append(f"{len(chosen)} of {len(found)} figures {title} by more than {threshold:.0%}")
        for c in chosen:
            values = f"{spelled(c.old)} → {spelled(c.new)} {c.unit}".strip()
            lines.append(f"  {c.benchmark}: {c.what}: {values} (×{c.new / c.old:.2f})")
    gone = missing(old, new)
    if gone:
        lines.append(f"in the old run alone: {', '.join(gone)}")
    return "\n".join(lines)


@click.command()
@click.argument("old", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--threshold", default=THRESHOLD, show_default=True, help="0.15 for 15 %.")
def main(old: Path, new: Path, threshold: float) -> None:
    """Tell which figures of NEW are worse than those of OLD."""
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    print(report(one, other, threshold))


if __name__ == "__main__":
    main()
