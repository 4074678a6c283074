"""``gossipnode doctor``: what keeps a node from starting, or from being reached.

Invariant: it needs no terminal, ends in time whatever hangs, and its exit code tells whether
anything has failed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import NETWORK, OK, USAGE, notes
from gossipnode.cli.entering import comes_back
from gossipnode.cli.flags import OptionsCommand, config_options, split_flags
from gossipnode.cli.start import settled
from gossipnode.cli.status import escaped
from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, DataError
from gossipnode.network.tokens import readers_token
from gossipnode.node.place import find_place

if TYPE_CHECKING:
    from gossipnode.network.doctor.findings import Finding
    from gossipnode.network.doctor.patient import Patient


@click.command(
    cls=OptionsCommand,
    epilog=notes(
        OK, USAGE, NETWORK,
        examples=[
            "gossipnode doctor --config node.toml",
            "gossipnode doctor --bundle alpha.bundle",
            "gossipnode doctor http://10.0.0.5:7946",
            "gossipnode doctor --peers peers.toml --id alpha --json",
        ],
        network="a check has failed",
    ),
)  # fmt: skip
@click.argument("url", type=NODE_URL, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
@config_options()
def command(
    url: str | None,
    as_json: bool,
    config_path: Path | None,
    settings: Sequence[str],
    **flags: Any,
) -> int:
    """Look at this machine's node, at its peers and, if given, at the node at URL.

    With the options of `start`: its ports, its address, its certificate, its clock, its data
    folder, and of each peer its name, the way there, and whether it can dial back. The node may
    run meanwhile, or not. Every check prints ok, warning or failed, and what to do.
    """
    from gossipnode.network.doctor.examine import examine
    from gossipnode.network.doctor.findings import failed, ok

    try:
        config, peers = settled(config_path, settings, split_flags(flags))
        patient = _patient(config, peers)
        # With neither it is this machine that is to be looked at, or URL.
        if peers or config_path or _names_graph(settings, split_flags(flags)):
            _require_place(config, peers)
    except (ConfigError, DataError) as error:
        found = [failed("config", str(error), "mend that first; nothing else was looked at")]
        code = USAGE
    else:
        found = [ok("config", f"{config_path or 'no file'}: all options can be used")]
        found += asyncio.run(examine(patient, url or ""))
        code = NETWORK if any(one.state == "failed" for one in found) else OK
    if as_json:
        rows = [asdict(one) for one in found]
        click.echo(json.dumps({"healthy": code == OK, "findings": rows}))
    else:
        click.echo("\n".join(line for one in found for line in _lines(one)))
    return code


def _names_graph(settings: Sequence[str], flags: dict[str, Any]) -> bool:
    """Whether the command line says what a node does, and so has a place for."""
    return any(key.startswith(("algorithm.", "topology.")) for key in (*flags, *settings))


def _require_place(config: Config, peers: Sequence[PeerEntry]) -> None:
    """Raise what ``start`` would, for want of a place in the graph."""
    try:
        find_place(config, peers)
    except ConfigError:
        if not comes_back(config):  # else the swarm says what graph there is
            raise


def _patient(config: Config, peers: Sequence[PeerEntry]) -> Patient:
    """Return whom to look at; raises ``ConfigError`` where the bundle cannot be used at all."""
    from gossipnode.network.doctor.patient import Patient

    token = readers_token(config)
    if not config.trust.bundle:
        return Patient(config, peers, token=token)
    from gossipnode.network.trust.bundle import read_bundle
    from gossipnode.network.trust.trust import Trust

    # Not trust_of, which refuses a certificate that has ended: here that is a finding.
    bundle, _ = read_bundle(expanded(config.trust.bundle))
    return Patient(config, peers, Trust(bundle), token)


def _lines(one: Finding) -> list[str]:
    """Return a finding for people: what was found, and below it what to do."""
    said = one.said.removeprefix(one.check).lstrip(" :") if "://" in one.check else one.said
    lines = [f"{one.state:<8} {one.check}: {escaped(said)}"]
    return lines if one.state == "ok" else [*lines, f"{'':<8} {escaped(one.advice)}"]
