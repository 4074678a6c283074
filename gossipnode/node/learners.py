"""The learner that a node's config describes, and what an algorithm asks of one.

Invariant: it depends on the config and the node's place alone, so every process that has both
makes the same one.
"""

from __future__ import annotations

from gossipnode.config import Config
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import Learner, build_learner
from gossipnode.node.place import Place, share_of


def learner_for(config: Config, place: Place) -> Learner:
    """Return the learner that the config describes, with this node's share of the data."""
    index, count = share_of(config, place)
    task, data, training = config.task, config.data, config.training
    return build_learner(
        task=task.kind,
        data=data.source,
        hidden=task.hidden,
        l2=task.l2,
        dtype=task.dtype,
        label=data.label or None,
        labels=data.classes,
        test_fraction=data.test_fraction,
        split_seed=data.split_seed,
        standardize=data.standardize,
        partition=data.partition,
        share_index=index,
        share_count=count,
        partition_seed=config.swarm.seed,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.nesterov,
        schedule=training.schedule,
        schedule_steps=training.schedule_steps,
        schedule_factor=training.schedule_factor,
        seed=config.swarm.seed,
    )


def check_learner(learner: Learner, config: Config) -> None:
    """Refuse a learner of somebody else's that lacks what the algorithm asks of it."""
    if config.algorithm.needs().gradient and not hasattr(learner, "gradient"):
        raise ConfigError(
            f"{config.algorithm.called} takes gradients, and {type(learner).__name__} hands out "
            "none: a learner for it has gradient() and step_size",
            key="algorithm.name",
            allowed="dpsgd, gossip, and all others that take local steps",
        )
