"""The token of readers of a node's pages, as an option of the verbs that read them."""

from __future__ import annotations

import click

from gossipnode.configfile import expanded
from gossipnode.errors import NetworkError
from gossipnode.network import ToldError
from gossipnode.network.tokens import read_token

readers_token_option = click.option(
    "--status-token-file",
    "token_file",
    metavar="FILE",
    envvar="GOSSIPNODE_NETWORK_STATUS_TOKEN_FILE",
    default="",
    help="A file with the token that the node wants of its readers (network.status_token_file).",
)


def hinted(error: NetworkError) -> str:
    """Return what ``error`` says and, where a node wants its readers' token, how to show it."""
    wants_token = isinstance(error, ToldError) and error.status == 401
    return f"{error}{'; name the file with its token: --status-token-file' * wants_token}"


def token_in(token_file: str) -> str:
    """Return the token, the empty one for no file; raises ``ConfigError``."""
    return read_token(expanded(token_file)) if token_file else ""
