"""``gossipnode peers``: whom a node knows, since when it has not heard of them, and why."""

from __future__ import annotations

import asyncio
import json

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import NETWORK, OK, USAGE, notes
from gossipnode.cli.readers import readers_token_option, token_in
from gossipnode.cli.status import DEFAULT_URL, fetch_peers, peer_lines


@click.command(
    epilog=notes(
        OK, USAGE, NETWORK,
        examples=["gossipnode peers", "gossipnode peers http://10.0.0.5:7946 --json"],
    )
)  # fmt: skip
@click.argument("url", type=NODE_URL, default=DEFAULT_URL)
@readers_token_option
@click.option("--json", "as_json", is_flag=True, help="Print the table as one JSON array.")
def command(url: str, token_file: str, as_json: bool) -> None:
    """Show all peers of the node at URL (this machine's): state, last contact, staleness."""
    peers = asyncio.run(fetch_peers(url, token_in(token_file)))
    click.echo(json.dumps(peers) if as_json else "\n".join(peer_lines(peers)))
