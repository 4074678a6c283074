"""Edge lists as text: one edge a line, two names apart by blanks, ``#`` begins a comment.

Invariant: the same lines in any order give the same numbers to the same names. The text is handed
in: files may not enter.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossipnode.errors import DataError


@dataclass(frozen=True, slots=True)
class EdgeList:
    """``ids`` by number, and for each number the numbers that it sends to, ascending."""

    ids: tuple[str, ...]
    neighbours: tuple[tuple[int, ...], ...]


def parse_edges(text: str, *, directed: bool = False, file: str | None = None) -> EdgeList:
    """Read edges; names are numbered in order, by value where all are numbers.

    An edge that is listed twice counts once; undirected ones are listed at either end. Raises
    ``DataError`` with the row where a line is no edge, or where there is none at all.
    """
    edges: set[tuple[str, str]] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise DataError(f"{len(words)} words where an edge has two", file=file, row=number)
        if words[0] == words[1]:
            raise DataError(f"{words[0]!r} is joined to itself", file=file, row=number)
        edges.add((words[0], words[1]))
        if not directed:
            edges.add((words[1], words[0]))
    if not edges:
        raise DataError("there is no edge in it", file=file)
    names = {name for edge in edges for name in edge}
    numeric = all(name.isascii() and name.isdigit() for name in names)
    ids = sorted(names, key=lambda name: (int(name), name) if numeric else (0, name))
    place = {name: k for k, name in enumerate(ids)}
    rows: list[list[int]] = [[] for _ in ids]
    for a, b in edges:
        rows[place[a]].append(place[b])
    return EdgeList(tuple(ids), tuple(tuple(sorted(row)) for row in rows))
