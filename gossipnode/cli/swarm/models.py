"""The nodes' models, fetched and summed up: mean model, consensus distance, loss and accuracy.

Invariant: summing up holds three vectors, however many nodes there are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gossipnode.cli.results.spread import Spread
from gossipnode.errors import GossipNodeError
from gossipnode.learning.learner import Learner
from gossipnode.learning.params import Array, Layout
from gossipnode.learning.tasks import Evaluation
from gossipnode.learning.tensors import tensors_of
from gossipnode.network import HttpClient

# A model file is its tensors and a header: layout, feature names and statistics as JSON.
HEADER_BYTES_MAX = 16 * 2**20
FETCH_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Models:
    """What the nodes had learnt: a round and an evaluation for each that answered, by id."""

    spread: Spread = field(default_factory=Spread)
    rounds: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def least_round(self) -> int:
        """The round that every node that answered has done; 0 where none did."""
        return min(self.rounds.values(), default=0)


async def collect(
    client: HttpClient, nodes: Mapping[str, str], learner: Learner, models: Models
) -> None:
    """Fetch the model of each of ``nodes`` (address by id), one after the other.

    Fills ``models`` as it goes, so that what interrupts it leaves the part that is done. A node
    that does not answer is left out. No status is asked for: it lists all peers, which would make
    n² lines of n nodes.
    """
    for node_id, address in nodes.items():
        try:
            data = await _fetch(client, address, learner.layout)
        except GossipNodeError:
            continue  # it died on the way; whoever watches the processes tells how
        params = params_of(data, learner.layout)
        evaluation = await asyncio.to_thread(learner.evaluate, params)
        models.spread.add(params)
        facts = facts_of(data)
        models.rounds[node_id], models.evaluations[node_id] = int(facts["round"]), evaluation
        models.facts = models.facts or facts


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
    for name, tensor in tensors_of(data).items():
        views[name][...] = tensor
    return params


def facts_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file's bytes."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


async def _fetch(client: HttpClient, address: str, layout: Layout) -> bytes:
    limit = layout.nbytes + HEADER_BYTES_MAX
    return await client.get_bytes(f"{address}/v1/model", limit, FETCH_TIMEOUT_S)
