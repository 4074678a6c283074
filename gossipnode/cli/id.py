"""``gossipnode id``: an identity that signs itself, for a handful of friends without an authority.

Invariant: nothing is overwritten.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from gossipnode.cli.app import OK, STORAGE, USAGE, notes
from gossipnode.cli.ca import make_folder, now
from gossipnode.cli.names import named, secure_address
from gossipnode.errors import ConfigError


@click.command(
    epilog=notes(
        OK, USAGE, STORAGE,
        examples=["gossipnode id alpha --swarm friends --address 10.0.0.1:7946"],
    )
)  # fmt: skip
@click.argument("name")
@click.option("--swarm", default="swarm", show_default=True, help="The swarm's name.")
@click.option("--address", metavar="HOST:PORT", help="Where the friends reach this node.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the files. Unset: this one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str, swarm: str, address: str | None, out: Path, as_json: bool) -> None:
    """Make NAME.bundle, which is private, and NAME.crt, which is for the friends.

    Each friend adds the others' .crt files with `gossipnode trust add`. Where there are more than
    a few, an authority is less work: `gossipnode ca create`.
    """
    from gossipnode.network.trust import files
    from gossipnode.network.trust.authority import self_signed
    from gossipnode.network.trust.identity import pem_of

    reach = secure_address(address) if address else ""
    bundle = self_signed(named(swarm, "--swarm"), named(name, "NAME"), reach, now())
    private, public = out / f"{name}.bundle", out / f"{name}.crt"
    for path in (private, public):
        if path.exists():
            raise ConfigError(
                "is there already; another identity needs another name", file=str(path)
            )
    make_folder(out)
    bundle.write(private)
    files.write(public, pem_of(bundle.certificate))
    if as_json:
        told = {"id": bundle.member.id, "bundle": str(private), "certificate": str(public)}
        click.echo(json.dumps(told))
        return
    click.echo(f"{name} has the id {bundle.member.id}")
    click.echo(f"wrote {private}, which is private, and {public}, for your friends")
    click.echo(f"next: gossipnode trust add FRIEND.crt --address HOST:PORT --bundle {private}")
