"""``gossipnode reload``: have a node of this machine read its bundle and revocations anew."""

from __future__ import annotations

import asyncio
import json

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import NETWORK, OK, USAGE, notes
from gossipnode.cli.readers import readers_token_option, token_in
from gossipnode.cli.status import DEFAULT_URL, escaped
from gossipnode.cli.tokens import administer, data_dir_option, owners_token
from gossipnode.network.admin import RELOAD

TIMEOUT_S = 10.0


@click.command(
    epilog=notes(
        OK, USAGE, NETWORK,
        examples=[
            "gossipnode reload http://127.0.0.1:7947",
            "gossipnode reload http://127.0.0.1:7947 --data-dir /var/lib/gossipnode --json",
        ],
    )
)  # fmt: skip
@click.argument("url", type=NODE_URL, default=DEFAULT_URL)
@data_dir_option
@readers_token_option
@click.option("--json", "as_json", is_flag=True, help="Print what holds now as one JSON object.")
def command(url: str, data_dir: str | None, token_file: str, as_json: bool) -> None:
    """Have the node whose pages are at URL read bundle, revocations and readers' token anew.

    New connections then show the new certificate; training goes on. So does SIGHUP. For whoever
    may read its folder, on its own machine.
    """
    owners = owners_token(url, data_dir, token_in(token_file))
    told = asyncio.run(administer(url, RELOAD, owners, TIMEOUT_S))
    if as_json:
        click.echo(json.dumps(told))
        return
    ends = told.get("certificate_ends")
    click.echo(
        f"{url} has read its files" + (f"; its certificate ends {escaped(ends)}" * bool(ends))
    )
