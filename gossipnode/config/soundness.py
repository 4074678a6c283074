"""Which options do not go together: the algorithm beside graph, codec, training and dtype.

Invariant: an algorithm is judged by its ``Needs`` and its declarations, never by its name. What one
section can get wrong by itself is checked in that section.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gossipnode.config.exchange import DIRECTED, ROW_STOCHASTIC

if TYPE_CHECKING:
    from gossipnode.config import Config


def complaints(config: Config) -> Iterator[str]:
    """Yield what the algorithm needs and the config does not give, with what would be right."""
    needs, name, topology = config.algorithm.needs(), config.algorithm.called, config.topology
    graph = topology.graph
    if needs.graph and graph == "random":
        yield (
            f"algorithm {name} needs fixed neighbours, but topology.graph is random; choose "
            "ring, torus, complete, … or algorithm gossip"
        )
    steps = config.training.local_steps if "local_steps" in config.training.model_fields_set else 1
    if needs.gradient and steps != 1:
        yield (
            f"algorithm {name} takes one gradient a round, but training.local_steps is {steps}: "
            "change that line of [training] to local_steps = 1 (--local-steps 1), or leave it "
            "out; a larger training.batch_size uses more samples"
        )
    directed = topology.directed or graph in DIRECTED
    if (needs.symmetric and directed) or (needs.static and topology.changes):
        yield (
            f"algorithm {name} needs a W that is symmetric and the same in every round, which "
            f"that of {graph} is not; choose ring, torus, hypercube, random_regular, …"
        )
    if needs.weights == "doubly" and graph in ROW_STOCHASTIC:
        yield (
            f"algorithm {name} needs a doubly stochastic W, and the columns of that of {graph} do "
            "not add to one; choose el_oracle, ring, torus, …"
        )
    if not needs.rounds and topology.changes:
        yield (
            f"topology.graph {graph} changes with the round, and algorithm {name} has no rounds "
            "in common; choose random or a graph that stays, such as random_regular or "
            "d_equi_static"
        )
    if needs.weights == "column" and config.task.dtype in ("float16", "bfloat16"):
        yield (
            f"algorithm {name} adds up all that it hands out, and {config.task.dtype} cannot hold "
            "such sums; choose task.dtype float32 or float64"
        )
    yield from _unsound(config)
    if needs.weights == "any" and topology.lazy:
        yield (
            f"topology.lazy is for algorithms that mix with W, which {name} does not; "
            "algorithm.merge_weight of gossip is how much a model counts"
        )


def _unsound(config: Config) -> Iterator[str]:
    """Yield why the codec cannot be used here, and what would serve."""
    codec, algorithm, dtype = config.codec, config.algorithm, config.task.dtype
    if codec.name == "none":
        return
    if codec.name not in algorithm.codecs:
        reason = algorithm.unsound(codec.name)
        yield f"codec {codec.name} is not for algorithm {algorithm.called}: {reason}"
    elif not codec.feedback and codec.name not in algorithm.unbiased:
        reason = algorithm.unsound_without_feedback(codec.name)
        yield f"codec.feedback = false is not for algorithm {algorithm.called} here: {reason}"
    elif codec.adaptive and not algorithm.adapts_bits:
        yield (
            f"codec.adaptive is not for algorithm {algorithm.called}, whose nodes do not tell each "
            "other how fast they are: set codec.bits, or choose algorithm choco"
        )
    if dtype in ("float16", "bfloat16"):
        yield (
            f"task.dtype is {dtype}, which codec {codec.name} does not take; choose task.dtype "
            "float32, or leave [codec] out: such params have half the bytes already"
        )
