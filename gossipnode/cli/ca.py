"""``gossipnode ca``: the swarm's authority, in a folder of whoever runs the swarm.

Invariant: nothing is overwritten; the authority's key is used where its folder is, and sent
nowhere.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import NETWORK, OK, STORAGE, USAGE, notes
from gossipnode.cli.columns import columns, count
from gossipnode.cli.durations import DURATION
from gossipnode.cli.names import named, secure_address
from gossipnode.errors import ConfigError, NetworkError, StorageError

if TYPE_CHECKING:
    from gossipnode.network.trust.authority import Authority
    from gossipnode.network.trust.bundle import Bundle

TELL_S = 10.0
FOLDER = Path("ca")

folder_option = click.option(
    "--ca",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    show_default=True,
    help="The authority's folder.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def command() -> None:
    """Make a swarm's authority, issue bundles, revoke nodes.

    The authority is a folder with a key. Whoever has it decides who belongs to the swarm; keep it
    away from the nodes.
    """


@command.command(
    epilog=notes(
        OK, USAGE, STORAGE,
        examples=["gossipnode ca create digits", "gossipnode ca create digits --ca ~/digits-ca"],
    )
)  # fmt: skip
@click.argument("swarm")
@folder_option
@click.option("--ttl", type=DURATION, default="10y", show_default=True, help="How long it holds.")
@json_option
def create(swarm: str, folder: Path, ttl: datetime.timedelta, as_json: bool) -> None:
    """Make the authority of a new swarm called SWARM."""
    from gossipnode.network.trust.authority import Authority

    authority = Authority.create(folder, named(swarm, "SWARM"), now(), ttl)
    expires = authority.certificate.not_valid_after_utc
    if as_json:
        told = {"swarm": swarm, "folder": str(folder), "expires": expires.isoformat()}
        click.echo(json.dumps(told))
        return
    click.echo(f"made the authority of swarm {swarm} in {folder}, until {expires:%Y-%m-%d}")
    click.echo(
        f"{folder / 'ca.key'} decides who belongs to the swarm: keep it safe, and back it up"
    )
    click.echo(f"next: gossipnode ca issue{_at(folder)} NAME=HOST:PORT … (one for each node)")


@command.command(
    epilog=notes(
        OK, USAGE, STORAGE,
        examples=[
            "gossipnode ca issue alpha=10.0.0.1:7946 beta=10.0.0.2:7946",
            "gossipnode ca issue laptop --ttl 30d",
            "gossipnode ca issue --renew alpha.bundle",
        ],
    )
)  # fmt: skip
@click.argument("names", metavar="[NAME[=HOST:PORT]]...", nargs=-1)
@folder_option
@click.option("--ttl", type=DURATION, default="1y", show_default=True, help="How long they hold.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder for the bundles. Unset: this one.",
)
@click.option(
    "--renew",
    "renewed",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A bundle to give a new certificate, for the same id, in place; repeatable.",
)
@json_option
def issue(
    names: Sequence[str],
    folder: Path,
    ttl: datetime.timedelta,
    out: Path,
    renewed: Sequence[Path],
    as_json: bool,
) -> None:
    """Issue each NAME a bundle, NAME.bundle, with which a node of that name starts.

    With HOST:PORT, where the others reach it, it is a seed: every bundle lists all the nodes
    that have an address, those of this call included.
    """
    from gossipnode.network.trust.authority import Authority

    authority = Authority.open(folder)
    if not names and not renewed:
        raise ConfigError("name a node, or a bundle to --renew", key="NAME")
    requests = [_request(word) for word in names]
    paths = [_free(out / f"{name}.bundle") for name, _ in requests]
    # First, since more can be wrong with them: nobody is to be registered in vain.
    again = [(path, _renewed(authority, path, ttl)) for path in renewed]
    make_folder(out)
    new = list(zip(paths, authority.issue(requests, now(), ttl), strict=True))
    made = new + again
    _write(authority, new, again)
    if as_json:
        rows = [_row(path, bundle) for path, bundle in made]
        click.echo(json.dumps({"bundles": rows}))
        return
    for path, bundle in made:
        until = bundle.member.not_after
        click.echo(
            f"wrote {path}: {bundle.member.name}, id {bundle.member.id}, until {until:%Y-%m-%d}"
        )
    click.echo("carry each to its node, for that node's eyes alone, and start it there with:")
    click.echo(f"  gossipnode start --bundle {made[0][0].name}")


@command.command(
    epilog=notes(
        OK, USAGE, NETWORK, STORAGE,
        examples=[
            "gossipnode ca revoke alpha",
            "gossipnode ca revoke alpha --tell https://10.0.0.2:7946",
        ],
    )
)  # fmt: skip
@click.argument("who", metavar="ID")
@folder_option
@click.option(
    "--tell",
    "urls",
    multiple=True,
    type=NODE_URL,
    help="A node of the swarm to hand the list to, which tells the others; repeatable.",
)
@json_option
def revoke(who: str, folder: Path, urls: Sequence[str], as_json: bool) -> None:
    """Shut out the node with that ID, or name, for good.

    The list of the revoked is signed, and goes from node to node once one of them has it: told
    here, or from the file that its `trust.revocations` names. Saying it again tells it again.
    """
    from gossipnode.network.trust.authority import Authority

    authority = Authority.open(folder)
    node, revocations = authority.revoke(who)
    path = folder / "revocations.txt"
    asyncio.run(_tell(authority, urls, revocations.text))
    if as_json:
        told = {"id": node.id, "name": node.name, "counter": revocations.counter, "list": str(path)}
        click.echo(json.dumps(told))
        return
    click.echo(f"revoked {node.name}, id {node.id}: list {revocations.counter}, {path}")
    if not urls:
        again = f"gossipnode ca revoke {who}{_at(folder)} --tell https://HOST:PORT"
        click.echo(f"tell the swarm: {again}")


@command.command(
    epilog=notes(
        OK, USAGE,
        examples=["gossipnode ca show", "gossipnode ca show --peers > peers.toml"],
    )
)  # fmt: skip
@folder_option
@click.option("--peers", is_flag=True, help="Print a peers.toml of the nodes with an address.")
@json_option
def show(folder: Path, peers: bool, as_json: bool) -> None:
    """Show the authority, and whom it has issued what."""
    from gossipnode.network.trust.authority import Authority
    from gossipnode.network.trust.bundle import seed_text

    if peers and as_json:
        raise click.UsageError("--peers prints a peers.toml, and no JSON: leave one of them out")
    authority = Authority.open(folder)
    if peers:
        click.echo("\n".join(seed_text(peer, "peer") for peer in authority.peers()), nl=False)
        return
    nodes, revocations = authority.nodes(), authority.revocations()
    expires = authority.certificate.not_valid_after_utc
    if as_json:
        told = {
            "swarm": authority.swarm,
            "expires": expires.isoformat(),
            "revocations": revocations.counter,
            "nodes": [asdict(node) for node in nodes],
        }
        click.echo(json.dumps(told))
        return
    end = f"{'expired on' if expires <= now() else 'until'} {expires:%Y-%m-%d}"
    click.echo(f"swarm {authority.swarm}, {end}: {count(len(nodes), 'node')}")
    table = []
    for node in nodes:
        until = datetime.datetime.fromisoformat(node.expires)
        word = "revoked" if node.revoked else "expired" if until <= now() else ""
        table.append([node.name, node.id, node.address or "-", f"{until:%Y-%m-%d}", word])
    if nodes:
        click.echo("\n".join(columns(["name", "id", "address", "until", ""], table)))


async def _tell(authority: Authority, urls: Sequence[str], text: str) -> None:
    """Hand a list to all ``urls``, under a certificate of a few minutes.

    Raises ``NetworkError`` that names those that have not got it.
    """
    if not urls:
        return
    from gossipnode.network import HttpClient
    from gossipnode.network.trust.trust import Trust

    trust = Trust(authority.messenger(now()))
    failures = []
    async with HttpClient(trust.dialling, dates=lambda: trust.dates) as client:
        for url in urls:
            try:
                await client.send(f"{url}/v1/revocations", text.encode(), TELL_S)
            except NetworkError as error:
                failures.append(f"{url} has not got it: {error}")
    if failures:
        raise NetworkError(f"the list is signed, and {'; '.join(failures)}")


def now() -> datetime.datetime:
    """Return the time of day, to the second: certificates know no less."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _request(word: str) -> tuple[str, str]:
    name, equals, address = word.partition("=")
    return named(name, "NAME"), secure_address(address) if equals else ""


def _free(path: Path) -> Path:
    if path.exists():
        raise ConfigError(
            "is there already; --renew renews it; for a new one instead take it away",
            file=str(path),
        )
    return path


def make_folder(out: Path) -> None:
    """Make the folder that ``--out`` names; raises ``StorageError`` where that cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{out} cannot be made: {error.strerror}; name another folder with --out"
        ) from None


def _write(
    authority: Authority, new: Sequence[tuple[Path, Bundle]], again: Sequence[tuple[Path, Bundle]]
) -> None:
    try:
        for path, bundle in (*new, *again):
            bundle.write(path)
    except StorageError:
        # Their keys are nowhere: nobody will ever be these nodes, and their names are free.
        authority.forget([bundle.member.id for path, bundle in new if not path.exists()])
        raise


def _at(folder: Path) -> str:
    """Return what a command that is told needs, to find the authority there."""
    return "" if folder == FOLDER else f" --ca {shlex.quote(str(folder))}"


def _renewed(authority: Authority, path: Path, ttl: datetime.timedelta) -> Bundle:
    from gossipnode.network.trust.bundle import read_bundle

    bundle, _ = read_bundle(path)
    return authority.renew(bundle, now(), ttl)


def _row(path: Path, bundle: Bundle) -> dict[str, str]:
    member = bundle.member
    return {
        "file": str(path),
        "name": member.name,
        "id": member.id,
        "expires": member.not_after.isoformat(),
    }
