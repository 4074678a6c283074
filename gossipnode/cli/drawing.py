"""Graphs as pictures.

Invariant: networkx and matplotlib are imported in here, when something is drawn, and draw to a
file without a display.
"""

from __future__ import annotations

import importlib
from math import ceil
from pathlib import Path
from typing import Any

from gossipnode.errors import ConfigError, StorageError
from gossipnode.topology.graph import Graph
from gossipnode.topology.sequences import GraphSequence

# More edges than that are a black disc.
NODES_MAX = 400
ROUNDS_MAX = 6
COLUMNS = 3
# On a circle the order of the numbers shows; what has no order is laid out by its edges.
BY_EDGES = {"grid", "torus", "star", "erdos_renyi", "random_regular", "random_geometric",
            "small_world", "explicit"}  # fmt: skip


def draw(sequence: GraphSequence, path: Path) -> int:
    """Draw ``sequence`` to ``path`` (PNG, SVG or PDF by its ending); return how many rounds.

    A panel for each round of a period, ``ROUNDS_MAX`` at most. Raises ``ConfigError`` where the
    graph is too large or a library is absent, ``StorageError`` where the file cannot be written.
    """
    if sequence.nodes > NODES_MAX:
        raise ConfigError(
            f"a picture of {sequence.nodes} nodes would show nothing",
            file="command line",
            key="--draw",
            allowed=f"up to {NODES_MAX} nodes",
        )
    nx, figures = _libraries()
    rounds = min(sequence.period or ROUNDS_MAX, ROUNDS_MAX)
    columns = min(rounds, COLUMNS)
    rows = ceil(rounds / columns)
    figure = figures.Figure(figsize=(4.5 * columns, 4.5 * rows), layout="constrained")
    places = None
    for k in range(rounds):
        axes = figure.add_subplot(rows, columns, k + 1)
        graph = sequence.graph(k)
        places = places or _layout(nx, graph)
        _draw_one(nx, graph, places, axes)
        title = f"{sequence.name}, {sequence.nodes} nodes"
        axes.set_title(title if sequence.is_static else f"{title}, round {k}")
        axes.set_axis_off()
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
    except ValueError as error:  # an ending that matplotlib does not know
        raise ConfigError(str(error), file="command line", key="--draw") from None
    return rounds


def _libraries() -> tuple[Any, Any]:
    """Return networkx and matplotlib.figure."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("networkx"), importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError(
            f"drawing needs {error.name or 'networkx'}",
            file="command line",
            key="--draw",
            allowed="pip install 'gossipnode[topology,plot]'",
        ) from None


def _layout(nx: Any, graph: Graph) -> Any:
    if graph.name not in BY_EDGES:
        return nx.circular_layout(range(graph.nodes))
    return nx.spring_layout(_edges(nx, graph), seed=0, iterations=200)


def _edges(nx: Any, graph: Graph) -> Any:
    found = nx.DiGraph() if graph.directed else nx.Graph()
    found.add_nodes_from(range(graph.nodes))
    found.add_edges_from((i, j) for i, row in enumerate(graph.out_neighbours) for j in row)
    return found


def _draw_one(nx: Any, graph: Graph, places: Any, axes: Any) -> None:
    small = graph.nodes <= 40
    nx.draw_networkx(
        _edges(nx, graph), places, ax=axes, with_labels=small, node_size=260 if small else 30,
        font_size=8, node_color="#9ecae1", edge_color="#555555",
        width=1.0 if small else 0.4, arrows=graph.directed,
    )  # fmt: skip
