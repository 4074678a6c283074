"""Machines that share nothing but a network train one model together, with no server.

>>> from gossipnode import Config, Node          # doctest: +SKIP
>>> async with Node(Config()) as node:           # doctest: +SKIP
...     await node.run()

``Node`` and the rest are imported on first use: a program that only asks for the version, or a
child process that needs a part, does not pay for the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gossipnode.config import Config
    from gossipnode.configfile import load_config, load_peers
    from gossipnode.network.daemon import HttpNode as Node

__all__ = ["Config", "Node", "__version__", "load_config", "load_peers"]

_HOMES = {
    "Config": ("gossipnode.config", "Config"),
    "load_config": ("gossipnode.configfile", "load_config"),
    "load_peers": ("gossipnode.configfile", "load_peers"),
    "Node": ("gossipnode.network.daemon", "HttpNode"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
