"""Of whom the sums are that a node carries on: what is kept over some members misleads others.

``members_of`` tells the members of a swarm apart; ``Absent`` who of them took no part.
Invariant: members are the same for the same ids, in whatever order a peer list has them.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from gossipnode.algorithms.base import NodeInterface


def members_of(ids: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that tell these members from others.

    >>> members_of(["a", "b"]) == members_of(["b", "a"]) != members_of(["a"])
    True
    """
    return xxhash.xxh3_64_hexdigest("\n".join(sorted(ids)).encode())


def are_others(kept: str, ids: Iterable[str]) -> bool:
    """Tell whether ``kept``, of an earlier life, is of other members; "" tells nothing."""
    return kept not in ("", members_of(ids))


class Absent:
    """Which neighbours were missing ever since all began anew; ``names`` is None until a round was.

    Where they are the same in every round the others mix by a W of their own, symmetric and with
    rows that add up to one, and what they carry on is of nobody else: nothing has to begin anew.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self.names = None if names is None else frozenset(names)

    def leaves_error(self, node: NodeInterface, k: int, missing: frozenset[str]) -> bool:
        """Whether it leaves an error in what is carried on that ``missing`` are in round ``k``.

        So does one that may still come, and where W is not symmetric each that is missing: those
        who miss it make up for it, those whom it would have heard do not know.
        """
        if not missing and not self.names:
            self.names = missing
            return False
        is_one_way = node.row_at(k).weights.keys() != set(node.out_neighbours_at(k))
        if node.graph_changes or is_one_way or any(node.is_expected(j) for j in missing):
            return bool(missing)
        before, self.names = self.names, missing
        return before not in (None, missing)

    def state(self) -> list[str] | None:
        """Return what an ``Absent`` can be made of, as JSON."""
        return None if self.names is None else sorted(self.names)
