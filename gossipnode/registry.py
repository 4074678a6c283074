"""The names of the algorithms, and where each is found. Nothing is imported before it is named.

An algorithm is one file in ``algorithms`` (or in a package of somebody else) and one line here (or
one entry point there)::

    [project.entry-points."gossipnode.algorithms"]
    mine = "my_package.mine:Mine"

Invariant: naming all of them loads none; a node pays for its own algorithm alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from gossipnode.errors import ConfigError, nearest_spelling

DEFAULT_ALGORITHM = "dpsgd"
ENTRY_POINTS = "gossipnode.algorithms"

ALGORITHMS = {
    "dpsgd": "gossipnode.algorithms.dpsgd:DPSGD",
    "gossip": "gossipnode.algorithms.gossip_learning:GossipLearning",
    "partial_gossip": "gossipnode.algorithms.partial_gossip:PartialGossip",
    "adpsgd": "gossipnode.algorithms.adpsgd:ADPSGD",
    "gradient_tracking": "gossipnode.algorithms.gradient_tracking:GradientTracking",
    "correction": "gossipnode.algorithms.correction:Correction",
    "momentum": "gossipnode.algorithms.momentum:Momentum",
    "push_sum": "gossipnode.algorithms.push_sum:PushSum",
    "push_sum_gossip": "gossipnode.algorithms.push_sum_gossip:PushSumGossip",
    "choco": "gossipnode.algorithms.choco:Choco",
    "power_gossip": "gossipnode.algorithms.power_gossip:PowerGossip",
    "relay_sum": "gossipnode.algorithms.relay_sum:RelaySum",
    "ssp": "gossipnode.algorithms.ssp:SSP",
    "momentum_tracking": "gossipnode.algorithms.momentum_tracking:MomentumTracking",
    "allreduce": "gossipnode.algorithms.psgd:AllReduceSGD",
    "powersgd": "gossipnode.algorithms.powersgd:PowerSGD",
    "gossip_pga": "gossipnode.algorithms.gossip_pga:GossipPGA",
    "federated": "gossipnode.algorithms.federated:Federated",
    "scaffold": "gossipnode.algorithms.scaffold:Scaffold",
    "fedbuff": "gossipnode.algorithms.fedbuff:FedBuff",
}
# Forms that have a name of their own: ``name = "d2"`` says ``name = "correction", form = "d2"``.
FORMS = {
    "d2": "correction",
    "exact_diffusion": "correction",
    "extra": "correction",
    "dsgt": "gradient_tracking",
    "diging": "gradient_tracking",
    "atc_gt": "gradient_tracking",
    "partitioned": "partial_gossip",
    "sampled": "partial_gossip",
    "qgm": "momentum",
    "decentlam": "momentum",
    "dmsgd": "momentum",
    "sgp": "push_sum",
    "overlap_sgp": "push_sum",
    "edm": "momentum_tracking",
    "pga": "gossip_pga",
    "aga": "gossip_pga",
    "fedsgd": "federated",
    "fedavg": "federated",
    "fedprox": "federated",
    "fedadam": "federated",
    "fedadagrad": "federated",
    "fedyogi": "federated",
}


def spelt_out(name: str) -> dict[str, str]:
    """Return the options that ``name`` stands for: the algorithm's name and, it may be, a form.

    >>> spelt_out("d2"), spelt_out("dpsgd")
    ({'name': 'correction', 'form': 'd2'}, {'name': 'dpsgd'})
    """
    return {"name": FORMS[name], "form": name} if name in FORMS else {"name": name}


def table_spelt_out(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``[algorithm]`` table with what its ``name`` stands for spelt out.

    Raises ``ConfigError`` where it names one form and asks for another.
    """
    if "name" not in table:
        return dict(table)
    named = spelt_out(str(table["name"]))
    if "form" in table and table["form"] != named.get("form", table["form"]):
        raise ConfigError(
            f"is {table['form']}, but algorithm.name is {table['name']}, a form itself: leave one "
            "of the two out",
            key="algorithm.form",
        )
    return {**table, **named}


@cache
def others() -> dict[str, str]:
    """Return the algorithms of other packages, by the entry points that are installed."""
    # Here, not above: it reads the metadata of everything installed.
    from importlib.metadata import entry_points

    found = entry_points(group=ENTRY_POINTS)
    return {entry.name: entry.value for entry in found if entry.name not in ALGORITHMS}


def algorithm_names() -> list[str]:
    """Return the names of all algorithms, those of this package first."""
    return [*ALGORITHMS, *others()]


def names_taken() -> list[str]:
    """Return all that ``algorithm.name`` may be: algorithms, and forms with their own names."""
    return [*algorithm_names(), *FORMS]


@cache
def algorithm_class(name: str) -> Any:
    """Return the class of an algorithm, importing its module.

    Its ``Options`` are a subclass of ``config.AlgorithmOptions``. Raises ``ConfigError`` for a name
    that nobody has taken, or whose module cannot be loaded.
    """
    place = ALGORITHMS.get(name) or others().get(name)
    if place is None:
        raise ConfigError(
            f"there is no algorithm {name!r}",
            key="algorithm.name",
            allowed=", ".join(names_taken()),
            nearest=nearest_spelling(str(name), names_taken()),
        )
    module, _, attribute = place.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"algorithm {name!r} cannot be loaded from {place}: {error}", key="algorithm.name"
        ) from error
