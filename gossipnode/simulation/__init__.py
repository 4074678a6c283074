"""The same node in virtual time: event loop, modelled network, faults, checkers.

Invariant: nothing here reads a clock, opens a socket or draws from global randomness, so that a
seed decides everything that happens.
"""

from gossipnode.simulation.network import Link
from gossipnode.simulation.swarm import SimulatedSwarm, SimulationError

__all__ = ["Link", "SimulatedSwarm", "SimulationError"]
