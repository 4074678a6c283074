"""What a node does: one file an algorithm, and the registry that the config's names point into."""

from __future__ import annotations

from gossipnode.algorithms.base import Algorithm
from gossipnode.algorithms.correction import Correction
from gossipnode.algorithms.dpsgd import DPSGD
from gossipnode.algorithms.gossip_learning import GossipLearning
from gossipnode.algorithms.gradient_tracking import GradientTracking
from gossipnode.algorithms.momentum import Momentum
from gossipnode.config import (
    Config,
    CorrectionOptions,
    DpsgdOptions,
    GossipOptions,
    GradientTrackingOptions,
    MomentumOptions,
)


def build_algorithm(config: Config) -> Algorithm:
    """Return the algorithm that ``config.algorithm`` names, with its options."""
    options, tau = config.algorithm, config.training.local_steps
    match options:
        case DpsgdOptions():
            return DPSGD(options, tau)
        case GossipOptions():
            return GossipLearning(options, tau)
        case GradientTrackingOptions():
            return GradientTracking(options)
        case CorrectionOptions():
            return Correction(options)
        case MomentumOptions():
            return Momentum(options)
