"""Tokens on a command line: the file that has one is named, never the token itself.

Invariant: the owner's token goes to this machine alone.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlsplit

import click

from gossipnode.cli.status import fetch
from gossipnode.config import ID_PATTERN, Config
from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.logs import bounded
from gossipnode.network import HttpClient, NoNodeError
from gossipnode.network.answers import json_value
from gossipnode.network.tokens import ADMIN_FILE, read_token
from gossipnode.network.world import data_folder
from gossipnode.node.addresses import is_loopback


async def administer(url: str, path: str, token: str, timeout_s: float) -> dict[str, Any]:
    """POST to ``path`` of the node at ``url``; raises ``NetworkError`` with its reason."""
    async with HttpClient(token=token) as client:
        heard = await client.ask("POST", f"{url}{path}", timeout_s)
    try:
        told = json_value(heard.body)
        if heard.status not in (200, 202):
            raise NetworkError(f"{url}: {bounded(told['reason'], 600)}")
        return dict(told)
    except (ValueError, KeyError, TypeError):
        raise NoNodeError(url) from None


def owners_token(url: str, data_dir: str | None, readers: str) -> str:
    """Return the admin token of the node at ``url``; raises ``ConfigError`` and ``NetworkError``.

    ``data_dir`` is the node's folder; without it the node says who it is, to whoever has the
    ``readers`` token if it wants one, and its folder is the one that such a node has by default.
    """
    if not is_loopback(url):
        raise ConfigError(f"{url} is not on this machine; ask there", key="URL")
    if urlsplit(url).scheme != "http":
        raise ConfigError("peers are answered there; name the port of the pages", key="URL")
    if data_dir:
        return read_token(expanded(data_dir) / ADMIN_FILE)
    status = asyncio.run(fetch(url, readers))
    swarm, node_id = str(status.get("swarm")), str(status.get("node_id"))
    if not (re.fullmatch(ID_PATTERN, swarm) and re.fullmatch(ID_PATTERN, node_id)):
        raise NoNodeError(url)
    config = Config.model_validate({"swarm": {"name": swarm}})
    try:
        return read_token(data_folder(config, node_id) / ADMIN_FILE)
    except ConfigError as error:
        raise ConfigError(f"{error}; name the folder of the node with --data-dir") from None


data_dir_option = click.option(
    "--data-dir",
    envvar="GOSSIPNODE_NODE_DATA_DIR",
    help="The node's folder, where it was started with one: its token is there.",
)
