"""What lost messages do to each algorithm: Q16 with and without a tenth of the pushes lost.

``python -m benchmarks.losses [ALGORITHM ...]`` prints the table, ``--page docs/comparison.md`` puts
it there. Invariant: the nodes are the daemon's, in virtual time, with the options that they have by
default but for short deadlines; a push that fails is repeated once, as there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.page import MARKED
from benchmarks.published import distances, q16_rounds
from gossipnode.cli import algorithms, describe
from gossipnode.errors import GossipNodeError
from gossipnode.options import Facts

LOSS, ETA, ROUNDS, SEEDS = 0.1, 0.05, 600, (0, 1, 2)
# The mean over these last rounds: what a loss does comes and goes, a hundred hardly tell.
LAST = 300
# A message that is lost is missed: its repetition comes after the deadline.
DEADLINE_S = 0.1
HEAD = (
    "| algorithm | graph | ‖x̄ − x*‖ | with losses | Ξ | with losses |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


class Damage(NamedTuple):
    """‖x̄ − x*‖ and Ξ, of the last rounds, without losses and with them."""

    name: str
    graph: str
    distance: float
    distance_lossy: float
    spread: float
    spread_lossy: float
    failure: str = ""


def flags_of(name: str, facts: Facts) -> tuple[dict[str, Any], float]:
    """Return the options of a form on Q16, and its η: all with the same η/(1 − β)."""
    fields = algorithms.options_of(name).model_fields
    flags: dict[str, Any] = {
        f"algorithm__{k}": v for k, v in algorithms.choice(name, facts.form).items()
    }
    flags["topology__graph"] = algorithms.options_of(name).default_graph
    flags |= {
        f"algorithm__{key}": DEADLINE_S
        for key in ("deadline_s", "start_deadline_s")
        if key in fields
    }
    flags["network__push_timeout_s"] = DEADLINE_S
    momentum = fields["beta"].default if "beta" in fields else 0.0
    return flags, ETA * (1 - momentum)


def damage(name: str, facts: Facts) -> Damage:
    """Run one form without losses and, with several seeds, with them."""
    flags, eta = flags_of(name, facts)
    label, graph = algorithms.label(name, facts.form), flags["topology__graph"]
    distance, spread = at_the_end(q16_rounds(ROUNDS, eta, **flags))
    lossy = []
    for seed in SEEDS:
        try:
            lossy.append(at_the_end(q16_rounds(ROUNDS, eta, loss=LOSS, seed=seed, **flags)))
        except GossipNodeError as error:
            nothing = float("nan")
            return Damage(label, graph, distance, nothing, spread, nothing, str(error))
    far, apart = (statistics.fmean(values) for values in zip(*lossy, strict=True))
    return Damage(label, graph, distance, far, spread, apart)


def at_the_end(models: Any) -> tuple[float, float]:
    """Return ‖x̄ − x*‖ and Ξ, each its mean over the last rounds."""
    # A node that skipped a round was not measured in it.
    whole = [X for X in models[-LAST:] if np.isfinite(X).all()] or [models[-1]]
    found = [distances([X]) for X in whole]
    return statistics.fmean(d for d, _, _ in found), statistics.fmean(s for _, s, _ in found)


def line(found: Damage) -> str:
    """Return a row of the table."""
    figures = (found.distance, found.distance_lossy, found.spread, found.spread_lossy)
    cells = [found.name, found.graph, *(spelled(value) for value in figures)]
    if found.failure:
        cells[3] = f"ended: {found.failure}"
    return describe.cells(cells)


def spelled(value: float) -> str:
    """Return two digits, and nothing of what is rounding.

    >>> spelled(0.0853), spelled(3e-15), spelled(1.2e-6)
    ('0.085', '0', '1.2e-06')
    """
    return "0" if abs(value) < 1e-9 else f"{value:.2g}"


def chosen(names: Sequence[str]) -> Iterator[tuple[str, Facts]]:
    """Yield the forms of the algorithms named, or all."""
    for name, facts in algorithms.forms():
        if not names or {name, facts.form} & set(names):
            yield name, facts


def verdict(distance: float, lossy: float, plain: float, plain_lossy: float) -> str:
    """Return what the losses cost in a few words (``Facts.steady``), set beside ``dpsgd atc``.

    >>> verdict(0.085, 0.24, 0.085, 0.24), verdict(0.0, 0.5, 0.085, 0.24)
    ('like dpsgd', 'more than dpsgd')
    >>> verdict(0.17, 0.17, 0.085, 0.24), verdict(0.0, 0.03, 0.085, 0.24)
    ('none', 'little')
    """
    if not lossy > 1.1 * distance + 1e-3:
        return "none"
    if lossy <= max(plain, 1.25 * distance):
        return "little"
    # Seeds differ by a third or so: what is nearer than half as much again is not told apart.
    if lossy < plain_lossy / 1.5:
        return "less than dpsgd"
    return "like dpsgd" if lossy <= 1.5 * plain_lossy else "more than dpsgd"


def measured(page: Path) -> dict[str, tuple[float, float]]:
    """Return ‖x̄ − x*‖ of each form in a page's table, without losses and with them."""
    text = page.read_text(encoding="utf-8")
    (table,) = (match[0] for match in MARKED.finditer(text) if match[2] == "losses")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    found = [row for row in rows if len(row) > 1][2:]
    return {row[0]: (float(row[2]), float(row[3])) for row in found}


def put(page: Path, name: str, table: str) -> None:
    """Replace the table of that name in a page; raises ``ValueError`` where it has no place."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in MARKED.finditer(text) if match[2] == name]
    if len(found) != 1:
        raise ValueError(f"{page} has no place for {name}")
    (match,) = found
    text = f"{text[: match.start()]}{match[1]}\n{table}\n\n{match[3]}{text[match.end() :]}"
    page.write_text(text, encoding="utf-8")


@click.command()
@click.argument("names", metavar="[ALGORITHM]...", nargs=-1)
@click.option("--page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(names: Sequence[str], page: Path | None) -> None:
    """Measure what losing a tenth of the messages does."""
    lines = [HEAD]
    print(HEAD, flush=True)
    for name, facts in chosen(names):
        lines.append(line(damage(name, facts)))
        print(lines[-1], flush=True)
    if page is not None:
        put(page, "losses", "\n".join(lines))


if __name__ == "__main__":
    main()
