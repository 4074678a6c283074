"""``gossipnode trust``: which friends' self-signed certificates a node trusts.

Invariant: a bundle is replaced at once or left as it was; an authority's bundles are left alone,
since there the authority decides.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossipnode.cli.app import OK, STORAGE, USAGE, notes
from gossipnode.cli.ca import now
from gossipnode.cli.columns import columns
from gossipnode.cli.names import secure_address
from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError, nearest_spelling

if TYPE_CHECKING:
    from gossipnode.network.trust.bundle import Bundle

bundle_option = click.option(
    "--bundle",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="This node's bundle, as `gossipnode id` wrote it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def command() -> None:
    """Say which self-signed certificates a node trusts, one by one.

    A node reads its bundle when it starts, and when it is told to reload.
    """


@command.command(
    epilog=notes(
        OK, USAGE, STORAGE,
        examples=["gossipnode trust add beta.crt --address 10.0.0.2:7946 --bundle alpha.bundle"],
    )
)  # fmt: skip
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--address", metavar="HOST:PORT", help="Where this node reaches the friend.")
@bundle_option
@json_option
def add(file: Path, address: str | None, path: Path, as_json: bool) -> None:
    """Trust the friend whose certificate is in FILE.

    Compare the id that is told with the one that the friend sees: FILE may have been changed on
    its way.
    """
    from gossipnode.network.trust import files
    from gossipnode.network.trust.bundle import pin_fault
    from gossipnode.network.trust.identity import certificate_from, member_of

    bundle = _pinned(path)
    try:
        certificate = certificate_from(files.read(file, 2**16))
    except ValueError as error:
        raise ConfigError(str(error), file=str(file)) from None
    fault = pin_fault(bundle.member, certificate)
    if fault:
        raise ConfigError(fault, file=str(file))
    friend = member_of(certificate)
    reach = secure_address(address) if address else ""
    seed = PeerEntry(id=friend.id, name=friend.name, address=reach) if reach else None
    bundle.with_friend(certificate, seed).write(path)
    if as_json:
        click.echo(json.dumps({"id": friend.id, "name": friend.name, "address": reach or None}))
    else:
        click.echo(f"{path}: trusts {friend.name}, id {friend.id}")


@command.command(
    epilog=notes(
        OK, USAGE, STORAGE, examples=["gossipnode trust remove beta --bundle alpha.bundle"]
    )
)  # fmt: skip
@click.argument("who", metavar="ID")
@bundle_option
@json_option
def remove(who: str, path: Path, as_json: bool) -> None:
    """Trust the friend with that ID, or name, no longer, from the next start or reload on."""
    bundle = _pinned(path)
    friends = _friends(bundle)
    found = [i for i, name in friends.items() if who in (i, name)]
    if len(found) != 1:
        words = [*friends, *friends.values()]
        raise ConfigError(
            f"{who} is the name of {len(found)} friends; give the id" if found
            else f"{who} is no friend of {bundle.member.name}",
            file=str(path), key="ID", nearest=nearest_spelling(who, words) if not found else None,
        )  # fmt: skip
    bundle.without_friend(found[0]).write(path)
    if as_json:
        click.echo(json.dumps({"id": found[0], "name": friends[found[0]]}))
    else:
        click.echo(f"{path}: no longer trusts {friends[found[0]]}, id {found[0]}")


@command.command(
    epilog=notes(OK, USAGE, examples=["gossipnode trust show --bundle alpha.bundle"])
)  # fmt: skip
@bundle_option
@json_option
def show(path: Path, as_json: bool) -> None:
    """Show who a bundle is, and whom it trusts."""
    from gossipnode.network.trust.bundle import read_bundle

    bundle, warnings = read_bundle(path)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    member, friends = bundle.member, _friends(bundle)
    if as_json:
        told = {
            "swarm": member.swarm,
            "id": member.id,
            "name": member.name,
            "expires": member.not_after.isoformat(),
            "mode": bundle.mode,
            "friends": [{"id": i, "name": name} for i, name in friends.items()],
            "seeds": [seed.model_dump() for seed in bundle.seeds],
        }
        click.echo(json.dumps(told))
        return
    click.echo(f"{member.name}, id {member.id}, swarm {member.swarm}")
    end = "holds until" if now() < member.not_after else "has expired on"
    click.echo(f"{end} {member.not_after:%Y-%m-%d %H:%M} UTC")
    if bundle.mode == "authority":
        click.echo("trusts whom the swarm's authority has issued a bundle")
    else:
        addresses = {seed.id: seed.address for seed in bundle.seeds}
        table = [[name, i, addresses.get(i, "-")] for i, name in friends.items()]
        lines = columns(["trusts", "id", "address"], table)
        click.echo("\n".join(lines) if friends else "trusts nobody yet")


def _friends(bundle: Bundle) -> dict[str, str]:
    from gossipnode.network.trust.identity import member_of

    return {i: member_of(certificate).name for i, certificate in bundle.pinned.items()}


def _pinned(path: Path) -> Bundle:
    from gossipnode.network.trust.bundle import read_bundle

    bundle, _ = read_bundle(path)
    if bundle.mode != "pinned":
        raise ConfigError(
            "is of an authority, which decides whom to trust; gossipnode id makes bundles of the "
            "other kind",
            file=str(path),
        )
    return bundle
