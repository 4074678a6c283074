"""``gossipnode version``: what matters when two nodes do not understand each other."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

import click

from gossipnode import __version__
from gossipnode.cli.app import OK, notes


@click.command(epilog=notes(OK, examples=["gossipnode version", "gossipnode version --json"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Print the versions of gossipnode, its wire format, Python, numpy and aiohttp."""
    from gossipnode.wire.frame import VERSION

    versions = {
        "gossipnode": __version__,
        "wire": str(VERSION),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "aiohttp": version("aiohttp"),
    }
    if as_json:
        click.echo(json.dumps(versions))
    else:
        for name, text in versions.items():
            click.echo(f"{name:<11}{text}")
