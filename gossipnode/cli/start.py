"""``gossipnode start``: one node, until it is done or stopped.

Invariant: what is wrong with the options is told before anything listens; standard output gets
two lines, that the node is ready and how another machine joins it; standard error gets the log
and, where something ends the node, one line that tells what.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from gossipnode import logs
from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import (
    DIVERGED,
    INTERRUPTED,
    NETWORK,
    OK,
    STORAGE,
    UNEXPECTED,
    USAGE,
    notes,
)  # fmt: skip
from gossipnode.cli.entering import Entry, enter, find_swarm, own_options
from gossipnode.cli.flags import (
    OptionsCommand,
    config_options,
    read_config,
    split_flags,
    with_options,
)
from gossipnode.cli.process import write_no_more
from gossipnode.cli.resident import release_startup_pages
from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import expanded, load_peers
from gossipnode.errors import ConfigError
from gossipnode.learning.prepare import forget_loaded_data
from gossipnode.network import HttpNode, serve
from gossipnode.node.place import find_place, host_id

log = logging.getLogger("gossipnode.cli.start")

EVERYWHERE = "0.0.0.0"  # noqa: S104 - with a bundle alone
WILDCARDS = (EVERYWHERE, "::")
# When what only starting needed is given back: the first requests have come by then.
SETTLED_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is settled before the node is made."""

    config: Config
    peers: Sequence[PeerEntry]
    entry: Entry | None = None


@click.command(
    cls=OptionsCommand,
    epilog=notes(
        OK, UNEXPECTED, USAGE, NETWORK, STORAGE, DIVERGED, INTERRUPTED,
        examples=[
            "gossipnode start --peers peers.example.toml --id alpha",
            "gossipnode start --config node.toml",
            "gossipnode start --bundle alpha.bundle",
            "gossipnode start --join http://10.0.0.5:7946 --insecure --bind 0.0.0.0",
        ],
    ),
)  # fmt: skip
@click.option(
    "--join",
    "urls",
    type=NODE_URL,
    metavar="URL",
    multiple=True,
    help="Any node of a running gossip swarm: take over the swarm's options (yours override them), "
    "some peers and its current model. Repeatable: the first that answers counts. A name that "
    "stands for many addresses is all of them.",
)
@config_options()
def command(
    urls: Sequence[str],
    config_path: Path | None,
    settings: Sequence[str],
    **flags: Any,
) -> int:
    """Run a node until its rounds are done or it is stopped.

    SIGTERM and Ctrl-C stop it cleanly: it finishes its step and writes a checkpoint; a second
    one ends it at once. The log goes to standard error. With --id and a peers.toml whose entry
    for this node is on loopback, address and port come from that entry.
    """
    plan = _plan(urls, config_path, settings, split_flags(flags))
    config = plan.config
    logs.configure(config.log.level, config.log.format, value_chars_max=config.log.value_chars_max)
    find_place(config, plan.peers)  # raises what is wrong with the peer list or the graph

    def ready(node: HttpNode) -> None:
        forget_loaded_data()  # the node has its own share of it
        if plan.entry is not None:
            enter(node, plan.entry)
        address = node.address or node.url
        # On loopback it is where the node listens, whatever its entry in the peer list says.
        here = node.url if _is_loopback(urlsplit(node.url).hostname or "") else address
        dashboard = here if node.trust is None else node.status_url
        _announce(f"ready: {node.id} at {node.url} (dashboard: {dashboard}/)")
        is_pinned = node.trust is not None and node.trust.bundle.mode == "pinned"
        _announce(how_to_join(config, address, is_pinned=is_pinned))
        forget_loaded_data()  # a lone node keeps its own share only
        # Not yet: whoever waits for /readyz would wait for this too, and then for the pages again.
        asyncio.get_running_loop().call_later(SETTLED_S, release_startup_pages)

    def failed(error: Exception) -> None:
        # The log cuts long values, and its lines are for programs.
        click.echo(f"error: {error or type(error).__name__}", err=True)

    # Whoever reads the log as text reads that line too: once is enough.
    in_log = config.log.format != "text"
    return int(serve(config, peers=plan.peers, on_ready=ready, on_error=failed, logs_reason=in_log))


def _announce(line: str) -> None:
    """Write a line to standard output; a node lives on where that cannot be written."""
    try:
        click.echo(line)
    except OSError as error:
        write_no_more()
        logs.event(log, logging.WARNING, "ready.untold", reason=error.strerror)


def _plan(
    urls: Sequence[str], path: Path | None, settings: Sequence[str], flags: dict[str, Any]
) -> Plan:
    alone: Plan | ConfigError | None = None
    if urls:
        own = own_options(path, settings, flags)
    else:
        try:
            own, peers = settled(path, settings, flags)
            alone = Plan(own, peers)
        except ConfigError as error:  # some options may be of the swarm to which it comes back
            own, alone = own_options(path, settings, flags), error
    logs.configure(own.log.level, own.log.format, value_chars_max=own.log.value_chars_max)
    entry = asyncio.run(find_swarm(urls, own))
    if isinstance(alone, ConfigError) and entry is None:
        raise alone
    plan = alone if entry is None else _entering(entry, path, settings, flags)
    assert isinstance(plan, Plan), "without URLs there is one, or an entry"
    _warn_if_out_of_reach(plan.config, plan.peers)
    return plan


def settled(
    path: Path | None, settings: Sequence[str], flags: dict[str, Any]
) -> tuple[Config, Sequence[PeerEntry]]:
    """Return the config of a node that joins nobody, and its peers; raises ``ConfigError``."""
    config = read_config(path, settings, flags)
    peers: Sequence[PeerEntry] = load_peers(config.swarm.peers) if config.swarm.peers else ()
    if config.trust.bundle:
        config, peers = _trusting(config, peers)
    return _placed(config, peers), peers


def _entering(
    entry: Entry, path: Path | None, settings: Sequence[str], flags: dict[str, Any]
) -> Plan:
    """Return what to start where a swarm is entered: those whom it knows are in no peer list."""
    config = read_config(path, settings, flags, entry.options)
    peers: Sequence[PeerEntry] = ()
    if config.trust.bundle:
        config, peers = _trusting(config, ())
    joined = entry.joined
    if joined is not None:
        config, met = joined.place(config, is_back=entry.page is not None)
        entry = replace(entry, met=met)
        share = config.data.share
        logs.event(log, logging.INFO, "swarm.joined", url=joined.url, peers=len(met), share=share)
    return Plan(_placed(config, entry.met or peers), peers, entry)


def _trusting(config: Config, peers: Sequence[PeerEntry]) -> tuple[Config, Sequence[PeerEntry]]:
    """Return swarm, id and peers as the bundle has them; raises ``ConfigError``."""
    from gossipnode.network.trust.bundle import read_bundle
    from gossipnode.network.trust.trust import settle

    bundle, _ = read_bundle(expanded(config.trust.bundle))
    return settle(config, peers, bundle)


def _placed(config: Config, peers: Sequence[PeerEntry]) -> Config:
    """Fill in address and port where nobody gave them: from the own entry, or from the system."""
    given, entry = config.network.model_fields_set, _entry_of(config, peers)
    changes: dict[str, Any] = {}
    if entry is not None and not {"bind", "port"} & given:
        address = urlsplit(entry.address)
        assert address.hostname is not None  # PeerEntry has seen to it
        changes["network.port"] = address.port
        if _is_loopback(address.hostname):
            changes["network.bind"] = address.hostname
        elif config.trust.bundle:
            changes["network.bind"] = EVERYWHERE  # closed to strangers, so open to the network
    elif entry is not None and "port" not in given:
        changes["network.port"] = urlsplit(entry.address).port
    elif config.trust.bundle and "bind" not in given:
        hosts = [urlsplit(peer.address).hostname or "" for peer in peers]
        if not all(_is_loopback(host) for host in hosts):
            changes["network.bind"] = EVERYWHERE
    config = with_options(config, changes)
    changes, bind = {}, config.network.bind
    if entry is None and bind in WILDCARDS and not config.network.advertise and config.network.port:
        host = asyncio.run(own_address(bind))
        host = f"[{host}]" if ":" in host else host
        scheme = "https" if config.trust.bundle else "http"
        changes["network.advertise"] = f"{scheme}://{host}:{config.network.port}"
    return with_options(config, changes)


def _entry_of(config: Config, peers: Sequence[PeerEntry]) -> PeerEntry | None:
    node_id = config.node.id or host_id()
    return next((peer for peer in peers if peer.id == node_id), None)


def _warn_if_out_of_reach(config: Config, peers: Sequence[PeerEntry]) -> None:
    entry = _entry_of(config, peers)
    advertised = config.network.advertise or (entry.address if entry else "")
    if not advertised or not _is_loopback(config.network.bind):
        return
    if not _is_loopback(urlsplit(advertised).hostname or ""):
        click.echo(
            f"warning: peers dial {advertised}, but this node listens on {config.network.bind} "
            "alone; "
            + (
                "add --bind 0.0.0.0"
                if config.trust.bundle
                else "give it a bundle (docs/security.md) or, on a network where you trust "
                "everybody, add --insecure --bind 0.0.0.0"
            ),
            err=True,
        )


def how_to_join(config: Config, address: str, *, is_pinned: bool = False) -> str:
    """Return what to do on another machine, as a command where one suffices.

    ``is_pinned`` tells that the bundle is of no authority, so that nobody can issue another one.
    """
    if is_pinned:
        then = "start all again"
        if config.topology.graph == "random":
            then = f"there: gossipnode start --bundle NAME.bundle --join {address}"
        return (
            f"to add a node: make it an identity (gossipnode id NAME --swarm {config.swarm.name} "
            "--address HOST:PORT), have it and the others trust each other (gossipnode trust add), "
            f"and {then}"
        )
    if config.topology.graph != "random":
        fixed = f"to add a node: this swarm's graph ({config.topology.graph}) is fixed; "
        if config.trust.bundle and not config.swarm.peers:
            return fixed + (
                "issue the node a bundle with an address (gossipnode ca issue NAME=HOST:PORT), "
                "renew the others' (--renew FILE) and start all again"
            )
        return fixed + "add the node to peers.toml on every node and start all again"
    if config.trust.bundle:
        return (
            "to add a node: issue it a bundle (gossipnode ca issue NAME), and there: "
            f"gossipnode start --bundle NAME.bundle --join {address}"
        )
    host = urlsplit(address).hostname or ""
    if _is_loopback(host):
        return (
            f"join from this machine: gossipnode start --join {address} --id NAME --port 0 "
            "(from another one: start this node with --insecure --bind 0.0.0.0)"
        )
    everywhere = "::" if ":" in host else EVERYWHERE  # who dials IPv6 is dialled by it
    return (
        f"join from another machine: gossipnode start --join {address} --insecure "
        f"--bind {everywhere}"
    )


async def own_address(bind: str) -> str:
    """Return the address from which this machine reaches others; sends nothing."""
    # Connecting a datagram socket only looks up the route. The addresses are of the blocks that
    # are kept for documentation.
    target = "2001:db8::1" if bind == "::" else "192.0.2.1"
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(target, 9)
        )
    except OSError:
        return host_id()  # no route anywhere: the name is the best guess that is left
    try:
        return str(transport.get_extra_info("sockname")[0])
    finally:
        transport.close()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
