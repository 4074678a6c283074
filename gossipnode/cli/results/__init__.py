"""What every run on this machine has, real or simulated: a folder, a summary, a mean model.

Invariant: ``summary.json`` holds exactly what ``--json`` prints, and a folder holds one run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from gossipnode.cli import describe
from gossipnode.cli.columns import decimal
from gossipnode.cli.flags import with_options
from gossipnode.cli.results import plot
from gossipnode.cli.results.spread import Spread
from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, StorageError
from gossipnode.learning.learner import Learner
from gossipnode.learning.modelfile import save_model
from gossipnode.learning.params import Layout
from gossipnode.node.learners import learner_for
from gossipnode.node.place import find_place

Summary = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

# Facts of a node's model that its swarm's mean does not have.
OF_ONE_NODE = ("node", "layout", "schema")


def run_options(function: F) -> F:
    """Add ``--out``, ``--json`` and ``--no-plot``."""
    for decorate in (
        click.option("--no-plot", is_flag=True, help="Do not draw plot.png."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print the summary as one JSON object."
        ),
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for the results; must not hold a run. Default: runs/<time in UTC>.",
        ),
    ):
        function = decorate(function)
    return function


def first_learner(config: Config, entries: Sequence[PeerEntry]) -> Learner:
    """Load the data, which all nodes then share; whatever is wrong is found here, once."""
    first = with_options(config, {"node.id": entries[0].id})
    return learner_for(first, find_place(first, entries))


def new_folder(out: Path | None) -> Path:
    """Make the run's folder; raises ``ConfigError`` where another run is kept."""
    path = out or Path("runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    if any((path / name).exists() for name in ("config.toml", "compare.toml")):
        raise ConfigError("holds another run; choose another folder", file=str(path), key="--out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be made: {error.strerror}") from None
    return path


def config_text(config: Config, command: str) -> str:
    """Return the options as TOML that ``--config`` reads again, below the ``command`` they ran.

    Paths are absolute: the text lies in another folder than that from which they were given.
    """
    lines = [f"# {command}"]
    if config.algorithm.needs().gradient:
        # Who reads the file cannot tell a default from what was asked for, which would be refused.
        config = with_options(config, {"training.local_steps": 1})
    for section, entries in _with_absolute_paths(config).model_dump(mode="json").items():
        lines += ["", f"[{section}]"]
        lines += [f"{k} = {describe.toml(v)}" for k, v in entries.items() if v is not None]
    return "\n".join(lines) + "\n"


def _with_absolute_paths(config: Config) -> Config:
    def absolute(path: str) -> str:
        return str(expanded(path).resolve()) if path else path

    kind, colon, path = config.data.source.partition(":")
    standardize = config.data.standardize
    return with_options(
        config,
        {
            "swarm.peers": absolute(config.swarm.peers),
            "topology.edges": absolute(config.topology.edges),
            "data.source": kind + colon + absolute(path),
            "data.standardize": (
                standardize if standardize in ("none", "local") else absolute(standardize)
            ),
        },
    )


def write(path: Path, text: str) -> None:
    """Write a text file; raises ``StorageError``."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def to_json(summary: Summary) -> str:
    """Return the summary as one line of JSON."""
    return json.dumps(summary, ensure_ascii=False)


def least_to_greatest(values: Sequence[float]) -> dict[str, float] | None:
    """Return mean, least and greatest for the summary; None of nothing.

    >>> least_to_greatest([1.0, 3.0])
    {'mean': 2.0, 'min': 1.0, 'max': 3.0}
    """
    if not values:
        return None
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def fact(name: str, text: str) -> str:
    """Return one line of a summary for people."""
    return f"{name:<20}{text}"


def learnt(summary: Summary) -> list[str]:
    """Return how good the models are and how far apart, for people."""
    lines = []
    for name in ("accuracy", "loss"):
        spread = summary[name]
        if spread is not None:
            low, high = decimal(spread["min"]), decimal(spread["max"])
            lines.append(fact(name, f"{decimal(spread['mean'])} ({low} to {high})"))
    if summary["consensus_distance"] is not None:
        lines.append(fact("consensus distance", f"{summary['consensus_distance']:.4g}"))
    return lines


def progress_words(
    round_: int, rounds: int, rows: Iterable[Mapping[str, Any]], distance: float | None
) -> list[str]:
    """Return how far and how good the nodes are by their newest ``rows``, for a line of progress.

    >>> progress_words(3, 20, [{"loss": 1.0}, {"loss": 2.0}], 0.25)
    ['round 3/20', 'loss 1.5000', 'distance 0.25']
    """
    rows = list(rows)
    words = [f"round {round_}" + (f"/{rounds}" if rounds else "")]
    for name in ("loss", "accuracy"):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            words.append(f"{name} {decimal(statistics.fmean(values))}")
    if distance is not None:
        words.append(f"distance {distance:.3g}")
    return words


def keep_mean(folder: Path, spread: Spread, layout: Layout, facts: Mapping[str, str]) -> None:
    """Write the mean of the final models, with what using it needs; nothing where there is none."""
    if not spread.count:
        return
    kept = {k: v for k, v in facts.items() if k not in OF_ONE_NODE}
    kept["nodes"] = str(spread.count)
    save_model(folder / "model.safetensors", spread.mean.astype(layout.dtype), layout, kept)


def draw(
    folder: Path, histories: Sequence[Path], distances: Iterable[tuple[int, float]], title: str
) -> None:
    """Draw ``plot.png``, or say what is missing for it."""
    _drawn(lambda: plot.draw(histories, distances, title, folder / "plot.png"))


def draw_comparison(folder: Path, curves: Mapping[str, Sequence[Any]], title: str) -> None:
    """Draw ``plot.png`` of several variants, or say what is missing for it."""
    _drawn(lambda: plot.draw_comparison(curves, title, folder / "plot.png"))


def _drawn(draw_it: Callable[[], None]) -> None:
    try:
        draw_it()
    except ImportError:
        click.echo("no plot: matplotlib is not installed (gossipnode[plot])", err=True)
