"""How nodes divide one common training set among themselves.

Invariant: the shares depend on the targets, the number of nodes, the scheme and the seed alone, so
that each node computes its own; all schemes but ``sample`` give an exact cover (every sample in
exactly one). No file or global randomness may enter.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import ConfigError, nearest_spelling

Indices = NDArray[np.intp]

PARTITIONS: Final = "iid, dirichlet:ALPHA, shards:K, classes:K, quantity:BETA, sample:K"

# Samples that a Dirichlet share has at least, where there are enough, and how often the draw is
# repeated for it. Small alpha times nodes may never meet it: see ``dirichlet``.
SHARE_MIN: Final = 10
DRAWS_MAX: Final = 100


def parse_partition(text: str) -> tuple[str, float]:
    """Return the scheme's name and its value (0 for iid); ConfigError for any other form.

    >>> parse_partition("dirichlet:0.1"), parse_partition("iid")
    (('dirichlet', 0.1), ('iid', 0.0))
    """
    name, separator, number = text.partition(":")
    names = ("iid", "dirichlet", "shards", "classes", "quantity", "sample")
    try:
        value = float(number) if separator else 0.0
    except ValueError:
        value = -1.0
    whole = name not in ("shards", "classes", "sample") or value == int(value)
    if name not in names or (name == "iid") == bool(separator) or not whole:
        value = -1.0
    if not (0 < value <= 1e9 or text == "iid"):
        near = nearest_spelling(name, names)
        raise ConfigError(
            f"{text!r} is no partition" if near != name else f"{text!r} does not fit its form",
            key="data.partition",
            allowed=f"{PARTITIONS} (positive numbers, K whole)",
            nearest=near if near != name else None,
        )
    return name, value


def partition(targets: NDArray[Any], nodes: int, scheme: str, seed: int) -> list[Indices]:
    """Return each node's sample positions, ascending, by ``scheme`` (see ``parse_partition``).

    iid: equal sizes (± 1). dirichlet, classes, shards: by class, see the functions below.
    quantity: sizes from Dir(β), at least 1. sample: K drawn by each node for itself, so that more
    nodes can learn than there are samples. ``targets`` has shape (m,); ``nodes`` ≥ 1. Raises
    ConfigError where the samples do not suffice or the targets are no classes.
    """
    assert nodes >= 1
    name, value = parse_partition(scheme)
    if name == "sample":
        return [sample(len(targets), int(value), seed, node) for node in range(nodes)]
    if len(targets) < nodes:
        raise _refusal(scheme, f"{len(targets)} training samples for {nodes} nodes")
    if name in ("dirichlet", "classes") and targets.dtype.kind == "f":
        raise _refusal(scheme, "the targets are numbers, not classes")
    rng = np.random.default_rng(seed)
    match name:
        case "iid":
            shares = np.array_split(rng.permutation(len(targets)), nodes)
        case "dirichlet":
            shares = dirichlet(targets, nodes, value, rng)
        case "shards":
            shares = shards(targets, nodes, int(value), rng)
        case "classes":
            shares = classes(targets, nodes, int(value), rng)
        case _:
            proportions = rng.dirichlet(np.full(nodes, value))
            cuts = _cuts(proportions, len(targets) - nodes) + np.arange(1, nodes)
            shares = np.split(rng.permutation(len(targets)), cuts)
    return [np.sort(share) for share in shares]


def sample(samples: int, k: int, seed: int, node: int) -> Indices:
    """Return the positions of the ``k`` samples that ``node`` draws, none of them twice."""
    if k > samples:
        raise _refusal(f"sample:{k}", f"{samples} training samples")
    return np.sort(np.random.default_rng([seed, node]).choice(samples, k, replace=False))


def dirichlet(
    targets: NDArray[Any], nodes: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    """Divide each class by proportions from Dir(α); a node with a fair share gets no more.

    Repeats the draw until each node has min(10, m / nodes / 2) samples, a hundred times at most;
    the last draw is then mended by moving random samples from the largest shares.
    Source: Hsu, Qi, Brown, arXiv 1909.06335; the cap and the repetition as is usual in code.
    """
    least = max(1, min(SHARE_MIN, len(targets) // nodes // 2))
    shares: list[Indices] = []
    for _ in range(DRAWS_MAX):
        shares = _dirichlet_draw(targets, nodes, alpha, rng)
        if min(len(share) for share in shares) >= least:
            return shares
    for node in range(nodes):
        while len(shares[node]) < least:
            giver = max(range(nodes), key=lambda other: len(shares[other]))
            moved = int(rng.integers(len(shares[giver])))
            shares[node] = np.append(shares[node], shares[giver][moved])
            shares[giver] = np.delete(shares[giver], moved)
    return shares


def shards(
    targets: NDArray[Any], nodes: int, per_node: int, rng: np.random.Generator
) -> list[Indices]:
    """Sort by target, cut into nodes · K shards of equal size (± 1) and deal K to each node.

    Source: McMahan et al., AISTATS 2017, section 3.
    """
    count = nodes * per_node
    if count > len(targets):
        raise _refusal(f"shards:{per_node}", f"{len(targets)} samples for {count} shards")
    order = rng.permutation(len(targets))
    cut = np.array_split(order[np.argsort(targets[order], kind="stable")], count)
    dealt = rng.permutation(count).reshape(nodes, per_node)
    return [np.concatenate([cut[shard] for shard in hand]) for hand in dealt]


def classes(
    targets: NDArray[Any], nodes: int, per_node: int, rng: np.random.Generator
) -> list[Indices]:
    """Give each node exactly K classes, round-robin over the shuffled classes.

    The holders of a class divide it equally (± 1), so that each of them needs a sample of it.
    """
    scheme = f"classes:{per_node}"
    found, members = np.unique(targets, return_inverse=True)
    if per_node > len(found):
        raise _refusal(scheme, f"only {len(found)} classes occur")
    if nodes * per_node < len(found):
        raise _refusal(scheme, f"{nodes} nodes leave some of {len(found)} classes to nobody")
    order = rng.permutation(len(found))
    # K successive entries of a cycle of at least K classes are distinct.
    held = order[np.arange(nodes * per_node) % len(found)].reshape(nodes, per_node)
    hands: list[list[Indices]] = [[] for _ in range(nodes)]
    for index in range(len(found)):
        holders = np.flatnonzero((held == index).any(axis=1))
        samples = rng.permutation(np.flatnonzero(members == index))
        if len(samples) < len(holders):
            raise _refusal(
                scheme, f"{len(samples)} samples of class {found[index]} for {len(holders)} nodes"
            )
        for holder, part in zip(holders, np.array_split(samples, len(holders)), strict=True):
            hands[holder].append(part)
    return [np.concatenate(hand) for hand in hands]


def _dirichlet_draw(
    targets: NDArray[Any], nodes: int, alpha: float, rng: np.random.Generator
) -> list[Indices]:
    hands: list[list[Indices]] = [[] for _ in range(nodes)]
    sizes = np.zeros(nodes, np.int64)
    for target in np.unique(targets):
        samples = rng.permutation(np.flatnonzero(targets == target))
        room = sizes < len(targets) / nodes
        proportions = np.where(room, rng.dirichlet(np.full(nodes, alpha)), 0.0)
        if not proportions.sum() > 0:  # small alpha may leave all to nodes that are full
            proportions = room.astype(np.float64)
        parts = np.split(samples, _cuts(proportions / proportions.sum(), len(samples)))
        for node, part in enumerate(parts):
            hands[node].append(part)
            sizes[node] += len(part)
    return [np.concatenate(hand) for hand in hands]


def _cuts(proportions: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return where to cut ``count`` items so that the parts have these proportions, rounded."""
    return np.round(np.cumsum(proportions)[:-1].clip(0, 1) * count).astype(np.int64)


def _refusal(scheme: str, reason: str) -> ConfigError:
    return ConfigError(f"{scheme} is impossible: {reason}", key="data.partition")
