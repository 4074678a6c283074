"""``gossipnode stop``: end a node of this machine cleanly, without its process id."""

from __future__ import annotations

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import NETWORK, OK, USAGE, notes
from gossipnode.cli.finite import FiniteFloat
from gossipnode.cli.readers import readers_token_option, token_in
from gossipnode.cli.status import DEFAULT_URL
from gossipnode.cli.tokens import administer, data_dir_option, owners_token
from gossipnode.errors import NetworkError
from gossipnode.network.admin import STOP
from gossipnode.network.sources import PORTS
from gossipnode.network.view import DIAL_S, dial

LOOK_S = 0.1


@click.command(
    epilog=notes(
        OK, USAGE, NETWORK,
        examples=[
            "gossipnode stop",
            "gossipnode stop http://127.0.0.1:7947 --data-dir /var/lib/gossipnode",
        ],
    )
)  # fmt: skip
@click.argument("url", type=NODE_URL, default=DEFAULT_URL)
@data_dir_option
@readers_token_option
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended.")
@click.option(
    "--timeout-s",
    type=FiniteFloat(0.1, 3600),
    default=60.0,
    show_default=True,
    help="How long to wait. [s]",
)
def command(url: str, data_dir: str | None, token_file: str, wait: bool, timeout_s: float) -> None:
    """Stop the node whose pages are at URL: it finishes its step and writes a checkpoint.

    For whoever may read its folder, on its own machine.
    """
    owners = owners_token(url, data_dir, token_in(token_file))
    asyncio.run(administer(url, STOP, owners, timeout_s))
    if not wait:
        click.echo(f"{url} stops")
        return
    asyncio.run(_gone(url, timeout_s))
    click.echo(f"{url} has stopped")


async def _gone(url: str, timeout_s: float) -> None:
    """Return once nobody listens at ``url``; raises ``NetworkError`` where somebody still does.

    That it does not answer means nothing: the machine may be busy, and the last checkpoint not
    written.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DIAL_S):
                if await dial(host, port) == "refused":
                    return
        await asyncio.sleep(LOOK_S)
    raise NetworkError(f"{url}: it was asked to stop, and still listens after {timeout_s:g} s")
