"""The flags that choose a graph and its weights, for the verbs that look at graphs.

Invariant: a name and flags give the sequence that ``topology.build_sequence`` gives; nothing about
any one graph is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from gossipnode.errors import ConfigError, DataError
from gossipnode.topology.edgelist import parse_edges
from gossipnode.topology.sequences import SEQUENCES, GraphSequence, build_sequence, kinds
from gossipnode.topology.weights import RULES

# A complete graph of 4,000 nodes is 16 million edges and 1.5 GB.
COMPLETE_MAX = 4000

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = [
    click.Option(
        ["--weights"],
        type=click.Choice(["auto", *RULES]),
        default="auto",
        show_default=True,
        help="Rule for w_ij of a graph; auto: metropolis, or uniform where it is directed.",
    ),
    click.Option(["--lazy"], is_flag=True, help="Mix with (I + W)/2."),
    click.Option(
        ["--seed"],
        type=click.IntRange(0, 2**53),
        default=0,
        show_default=True,
        help="Of random graphs.",
    ),
    click.Option(["--degree"], type=int, help="Of random_regular and small_world; unset: 4."),
    click.Option(
        ["--probability"], type=float, help="Of an edge of erdos_renyi; unset: 2 ln n / n."
    ),
    click.Option(["--rows"], type=int, help="Of grid and torus; unset: as square as n allows."),
    click.Option(
        ["--radius"], type=float, help="Of random_geometric, in a unit square; unset: √(2 ln n/n)."
    ),
    click.Option(
        ["--rewiring"], type=float, help="Share of small_world's edges that lead far; unset: 0.1."
    ),
    click.Option(["--peers"], type=int, help="Of base: at most so many a round; unset: 1."),
    click.Option(["--draws"], type=int, help="Shifts of equi_static; unset: ⌈log₂ n⌉."),
    click.Option(["--step"], type=float, help="η of equi_dyn, above 0, at most 1; unset: 0.5."),
    click.Option(["--sends"], type=int, help="Of el: peers that a node sends to; unset: ⌊log₂ n⌋."),
    click.Option(
        ["--edges"],
        type=click.Path(dir_okay=False, path_type=Path),
        help="Edge list of an explicit graph: two names a line, # begins a comment.",
    ),
    click.Option(["--directed"], is_flag=True, help="The edges of FILE lead one way."),
]  # fmt: skip
KEYS = [str(option.name) for option in OPTIONS]


def graph_options(function: F) -> F:
    """Add the flags; their values arrive as keyword arguments named as in ``KEYS``."""
    kept = function.__dict__.setdefault("__click_params__", [])
    kept[:0] = reversed(OPTIONS)
    return function


def sequence_for(name: str, nodes: int | None, given: dict[str, Any]) -> GraphSequence:
    """Return the sequence that ``name``, a number of nodes and the values of ``KEYS`` describe.

    An explicit graph brings its number of nodes along. Raises ``ConfigError`` and ``DataError``.
    """
    options = {key: given[key] for key in KEYS}
    rule, path = options.pop("weights"), options.pop("edges")
    if name == "explicit":
        if path is None:
            raise ConfigError(
                "an explicit graph needs its edges",
                file="command line",
                key="--edges",
                allowed="a file of two names a line",
            )
        listed = parse_edges(_text(path), directed=options["directed"], file=str(path))
        if nodes not in (None, len(listed.ids)):
            raise ConfigError(
                f"{path} has {len(listed.ids)} nodes, not {nodes}", file="command line", key="-n"
            )
        nodes, options["edges"] = len(listed.ids), listed.neighbours
    if name == "complete" and (nodes or 0) > COMPLETE_MAX:
        raise ConfigError(
            f"a complete graph of {nodes} nodes does not fit in memory",
            file="command line",
            key="-n",
            allowed=f"up to {COMPLETE_MAX}",
        )
    return build_sequence(name, 16 if nodes is None else nodes, rule=rule, **options)


def serving(
    nodes: int, given: dict[str, Any], names: Iterable[str] | None = None
) -> tuple[list[GraphSequence], dict[str, str]]:
    """Return those of ``names`` (all) that ``nodes`` allow, and for the others why not.

    Those that bring their own weights ignore a rule for the rest.
    """
    found, without = [], {}
    for name in kinds() if names is None else names:
        if name == "explicit" and given["edges"] is None:
            continue
        try:
            rule = "auto" if name in SEQUENCES else given["weights"]
            found.append(sequence_for(name, nodes, {**given, "weights": rule}))
        except ConfigError as error:
            without[name] = str(error)
    return found, without


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"is no UTF-8 text at byte {error.start}", file=str(path)) from None
