"""HTTP server and client, and the node in the real world: the only room that opens a socket.

Each name is imported on first use: a verb that asks a node something needs the client alone, which
is a third of the room.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gossipnode.network.client import HttpClient, NoNodeError, ToldError
    from gossipnode.network.daemon import HttpNode
    from gossipnode.network.server import ROUTES, Server
    from gossipnode.network.service import ExitCode, exit_code, serve

__all__ = [
    "ROUTES",
    "ExitCode",
    "HttpClient",
    "HttpNode",
    "NoNodeError",
    "Server",
    "ToldError",
    "exit_code",
    "serve",
]

_HOMES = {
    "client": ("HttpClient", "NoNodeError", "ToldError"),
    "daemon": ("HttpNode",),
    "server": ("ROUTES", "Server"),
    "service": ("ExitCode", "exit_code", "serve"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"gossipnode.network.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
