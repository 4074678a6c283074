"""The nodes' models, fetched and summed up: mean model, consensus distance, loss and accuracy.

Invariant: summing up holds three vectors, however many nodes there are.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy

from gossipnode.errors import GossipNodeError
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.tasks import Evaluation
from gossipnode.network import HttpClient

# A model file is its tensors and a header: layout, feature names and statistics as JSON.
HEADER_BYTES_MAX = 16 * 2**20
FETCH_TIMEOUT_S = 30.0


class Spread:
    """Mean and consensus distance of vectors of shape (d,), each added once and not kept.

    The first vector is the origin of the sums, so that nearly equal vectors lose no digits: what
    is squared is of the size of their differences.

    >>> spread = Spread()
    >>> for x in ([1.0, 0.0], [3.0, 0.0]):
    ...     spread.add(np.array(x))
    >>> spread.mean.tolist(), spread.distance
    ([2.0, 0.0], 1.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin: Array | None = None
        self._sum: Any = 0.0
        self._squares = 0.0

    def add(self, params: Array) -> None:
        """Take one vector into account; does not alter or keep it, but for a copy of the first."""
        if self._origin is None:
            self._origin = params.astype(np.float64)
        difference = params - self._origin
        self._sum = self._sum + difference
        self._squares += float(difference @ difference)
        self.count += 1

    @property
    def mean(self) -> Array:
        """The mean, in float64."""
        assert self._origin is not None, "no vector has been added"
        mean: Array = self._origin + self._sum / self.count
        return mean

    @property
    def distance(self) -> float | None:
        """sqrt(1/n Σ‖x_i − x̄‖²); None without vectors."""
        if not self.count:
            return None
        offset = self._sum / self.count
        return math.sqrt(max(self._squares / self.count - float(offset @ offset), 0.0))


@dataclass(slots=True)
class Models:
    """What the nodes had learnt: a status and an evaluation for each that answered, by id."""

    spread: Spread = field(default_factory=Spread)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


async def collect(
    client: HttpClient, nodes: Mapping[str, str], learner: Learner, models: Models
) -> None:
    """Fetch status and model of each of ``nodes`` (address by id), one after the other.

    Fills ``models`` as it goes, so that what interrupts it leaves the part that is done. A node
    that does not answer is left out.
    """
    for node_id, address in nodes.items():
        try:
            status = await client.get_json(f"{address}/v1/status", FETCH_TIMEOUT_S)
            data = await _fetch(client, address, learner.layout)
        except GossipNodeError:
            continue  # it died on the way; whoever watches the processes tells how
        params = params_of(data, learner.layout)
        evaluation = await asyncio.to_thread(learner.evaluate, params)
        models.spread.add(params)
        models.statuses[node_id], models.evaluations[node_id] = status, evaluation
        models.facts = models.facts or facts_of(data)


async def distance_now(
    client: HttpClient, addresses: Sequence[str], layout: Layout
) -> float | None:
    """Return the consensus distance of models fetched at about the same moment."""
    answers = await asyncio.gather(
        *(_fetch(client, address, layout) for address in addresses), return_exceptions=True
    )
    spread = Spread()
    for answer in answers:
        if isinstance(answer, bytes):
            spread.add(params_of(answer, layout))
        elif not isinstance(answer, GossipNodeError):
            raise answer
    return spread.distance


def params_of(data: bytes, layout: Layout) -> Array:
    """Return params, shape (d,), of a safetensors file's bytes that has this layout."""
    params = layout.zeros()
    views = layout.views(params)
    for name, tensor in safetensors.numpy.load(data).items():
        views[name][...] = tensor
    return params


def facts_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file's bytes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


async def _fetch(client: HttpClient, address: str, layout: Layout) -> bytes:
    limit = layout.nbytes + HEADER_BYTES_MAX
    return await client.get_bytes(f"{address}/v1/model", limit, FETCH_TIMEOUT_S)
