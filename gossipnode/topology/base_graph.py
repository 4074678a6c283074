"""The Base-(k+1) graph: for any number of nodes, exact averaging in few rounds of degree k.

Invariant: every round's W is symmetric and doubly stochastic, no node has more than k neighbours
in it, and the product of a period is J = 11ᵀ/n to rounding. Sockets, clocks, files and randomness
may not enter.

How it works. n = Σ a_l b^p_l in base b = k + 1, largest power first; V_l is a set of a_l b^p_l
nodes, made of a_l blocks. First each V_l averages itself (*hyper-hypercube*: numbers in mixed
radix, one digit a round). Then V_1 pulls the mean of all the rest onto the global mean: each of
the rest links to one node in each block of V_1, so that the rest's mean becomes the global one and
each block's mean too. V_1's blocks average themselves while V_2 does the same with what is left.

Source: Takezawa, Sato, Bao, Niwa, Yamada, NeurIPS 2023 (algorithms 1 to 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from gossipnode.errors import ConfigError
from gossipnode.topology.mixing import Mixing


class Link(NamedTuple):
    """An edge of one round: w_ij = w_ji = ``weight``."""

    i: int
    j: int
    weight: float


Round = list[Link]


def base_graph(nodes: int, peers: int = 1) -> list[Mixing]:
    """Return one period of W for ``nodes`` >= 1 and at most ``peers`` = k >= 1 neighbours a round.

    At most 2 log_{k+1}(n) + 2 rounds; one round without messages where there is one node.
    """
    if peers < 1:
        raise ConfigError(f"{peers} peers", key="topology.peers", allowed="1 or more")
    everyone = range(nodes)
    rounds = min(_split(everyone, peers), _factored(everyone, peers), key=len)
    return [_mixing(nodes, links) for links in rounds] or [_mixing(nodes, [])]


def _mixing(nodes: int, links: Round) -> Mixing:
    i = [end for link in links for end in (link.i, link.j)]
    j = [end for link in links for end in (link.j, link.i)]
    return Mixing.from_entries(nodes, i, j, [link.weight for link in links for _ in range(2)])


@cache
def smooth_factors(n: int, largest: int) -> tuple[int, ...] | None:
    """Return the fewest factors of ``n``, each from 2 to ``largest``; None where there are none.

    >>> smooth_factors(24, 4), smooth_factors(1, 2), smooth_factors(10, 3)
    ((4, 3, 2), (), None)
    """
    if n == 1:
        return ()
    found = [
        (factor, *rest)
        for factor in range(min(n, largest), 1, -1)
        if n % factor == 0 and (rest := smooth_factors(n // factor, largest)) is not None
    ]
    return min(found, key=len, default=None)


def _hyper_hypercube(members: Sequence[int], peers: int) -> list[Round]:
    """Average ``members`` exactly: round by round, those that differ in one digit alone."""
    factors = smooth_factors(len(members), peers + 1)
    assert factors is not None, "only for a number without a prime factor above k + 1"
    rounds = []
    stride = 1
    for factor in factors:
        links = []
        for place, i in enumerate(members):
            digit = place // stride % factor
            # Each pair once: with the members of the group whose digit is above.
            links += [
                Link(i, members[place + step * stride], 1.0 / factor)
                for step in range(1, factor - digit)
            ]
        rounds.append(links)
        stride *= factor
    return rounds


def _split(members: Sequence[int], peers: int) -> list[Round]:
    """Average ``members``, any number of them, by their digits in base k + 1."""
    if smooth_factors(len(members), peers + 1) is not None:
        return _hyper_hypercube(members, peers)
    sets = _sets(members, peers + 1)
    wholes = [[i for block in blocks for i in block] for blocks in sets]
    rounds = _side_by_side([_hyper_hypercube(whole, peers) for whole in wholes])
    later: list[list[Round]] = []
    for place, blocks in enumerate(sets[:-1]):
        rest = [i for whole in wholes[place + 1 :] for i in whole]
        share = len(blocks[0]) / (len(wholes[place]) + len(rest))
        pull = [Link(i, block[k], share) for k, i in enumerate(rest) for block in blocks]
        # Blocks that are done wait for the sets after them: rounds 0 to `place` are theirs.
        averaging = _side_by_side([_hyper_hypercube(block, peers) for block in blocks])
        later.append([*([] for _ in range(place)), pull, *averaging])
    return rounds + _side_by_side(later)


def _sets(members: Sequence[int], base: int) -> list[list[list[int]]]:
    """Return V_1, V_2, ... as lists of blocks of equal size, a power of ``base`` each."""
    digits = []
    n = len(members)
    while n:
        n, digit = divmod(n, base)
        digits.append(digit)
    sets, taken = [], 0
    for power in range(len(digits) - 1, -1, -1):
        size = base**power
        blocks = []
        for _ in range(digits[power]):
            blocks.append(list(members[taken : taken + size]))
            taken += size
        if blocks:
            sets.append(blocks)
    return sets


def _factored(members: Sequence[int], peers: int) -> list[Round]:
    """Average ``members`` = p groups of q, p without prime factors above k + 1, then across."""
    n = len(members)
    p = max(d for d in range(1, n + 1) if n % d == 0 and smooth_factors(d, peers + 1) is not None)
    q = n // p
    groups = [members[g * q : (g + 1) * q] for g in range(p)]
    inside = _side_by_side([_split(group, peers) for group in groups])
    across = [_hyper_hypercube(members[offset::q], peers) for offset in range(q)]
    return inside + _side_by_side(across)


def _side_by_side(schedules: Sequence[list[Round]]) -> list[Round]:
    """Run schedules of separate nodes at the same time; the shorter ones then rest."""
    length = max(map(len, schedules), default=0)
    return [
        [link for rounds in schedules if k < len(rounds) for link in rounds[k]]
        for k in range(length)
    ]
