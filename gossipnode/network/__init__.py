"""HTTP server and client, and the node in the real world: the only room that opens a socket."""

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
