"""What a machine can tell by itself of the node that is to run on it: ports, certificate, address.

Invariant: a port that is free is held only while the doctor looks, and nothing is sent but to
this node itself.
"""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, NetworkError, PeerError
from gossipnode.network.doctor.findings import Finding, aside, failed, ok, warning
from gossipnode.network.doctor.patient import (
    WILDCARDS,
    Patient,
    called,
    host_and_port,
    node_at,
    numbers_of,
)
from gossipnode.network.ports import (
    PortTakenError,
    bind,
    bind_pages,
    ports_beside,
    status_port,
)
from gossipnode.network.world import data_folder
from gossipnode.node.addresses import is_loopback, is_loopback_number, may_dial

if TYPE_CHECKING:
    from gossipnode.network.trust.bundle import Bundle
    from gossipnode.network.trust.trust import Trust

# An authority lasts ten years; a new one means new bundles for all.
AUTHORITY_SOON = datetime.timedelta(days=90)


async def ports(patient: Patient, urls: tuple[str, ...] = ()) -> list[Finding]:
    """Look at the port, and with trust at the one for the pages. ``urls`` are asked about, too.

    A free one is held in ``patient.listener``.
    """
    options = patient.config.network
    try:
        patient.listener = await bind(options, is_secure=patient.trust is not None)
    except ConfigError as error:
        return [failed("port", str(error), "correct network.bind, or give the node a bundle")]
    except PortTakenError as error:
        url = patient.url_at(_dialled(options.bind), options.port)
        found = await _taken(patient, "port", url, error, urls)
    except NetworkError as error:
        found = failed("port", str(error), "listen on an address of this machine: --bind, --port")
    else:
        found = ok("port", f"{options.bind}:{patient.port} is free")
    if patient.trust is None:
        return [found]
    return [found, await _pages(patient, urls)]


async def _pages(patient: Patient, urls: tuple[str, ...]) -> Finding:
    options, check = patient.config.network, "status port"
    port = status_port(options, ports_beside(patient.advertised, patient.peers))
    asked = options.model_copy(update={"status_port": port})
    try:
        listener = await bind_pages(asked)
    except ConfigError as error:
        return failed(check, str(error), "correct network.status_bind")
    except PortTakenError as error:
        host = _dialled(options.status_bind)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        found = await _taken(patient, check, url, error, urls)
        if found.state == "ok" or options.status_port is not None:
            return found
        advice = "choose one yourself with --status-port, so that others find the pages"
        said = f"{options.status_bind}:{port} is in use, so the pages will be on a free port"
        return warning(check, said, advice)
    except NetworkError as error:
        return failed(check, str(error), "correct --status-bind or --status-port")
    listener.close()
    return ok(check, f"{options.status_bind}:{port or 'any'} is free")


async def _taken(
    patient: Patient, check: str, url: str, error: PortTakenError, urls: tuple[str, ...]
) -> Finding:
    """Say who has a port that cannot be bound: the node itself, or somebody in its way."""
    async with patient.client(as_reader=True) as client:
        found = await node_at(client, url)
    # Whoever names no node but a URL means the one that is there.
    is_meant = url in urls and not patient.config.node.id
    if found is not None and (found == patient.id or is_meant):
        patient.is_running = True
        return ok(check, f"{url}: the node runs there")
    who = "" if found is None else f"; it is the node {found[:64]!a}"
    port_flag = "--port" if check == "port" else "--status-port"
    return failed(check, f"{error}{who}", f"stop what listens there, or start with {port_flag} N")


async def address(patient: Patient) -> list[Finding]:
    """Look at the address under which others are to dial this node, as far as seen from here."""
    advertised, check = patient.advertised, "address"
    if not advertised:
        said = "peers have no address for this node, which listens on all that this machine has"
        return [failed(check, said, "say where peers reach it: --advertise http://HOST:PORT")]
    host, port = host_and_port(advertised)
    numbers = await numbers_of(host)
    if not numbers:
        advice = "correct it in the peer list, or the name server (or /etc/hosts)"
        return [failed(check, f"{advertised}: the name {host} does not resolve here", advice)]
    told = f"{advertised} ({', '.join(numbers)})" if numbers != [host] else advertised
    strange = [number for number in numbers if not may_dial(number, "http://127.0.0.1:1")]
    if strange:
        said = f"{told}: {strange[0]} is link-local, or another address that no peer dials"
        return [failed(check, said, "advertise an address that the other machines reach")]
    remote = [e for e in patient.others if not is_loopback(e.address)]
    if remote and all(is_loopback_number(number) for number in numbers):
        said = f"{told} is this machine alone, and {called(remote[0])} is on another one"
        return [failed(check, said, "advertise an address that the other machines reach")]
    return [_fits(patient, told, numbers, port)]


def _fits(patient: Patient, told: str, numbers: list[str], port: int) -> Finding:
    """Say whether what this node listens on is what its address stands for."""
    options, check = patient.config.network, "address"
    local = options.bind == "localhost" or is_loopback_number(options.bind)
    if local and not any(is_loopback_number(number) for number in numbers):
        said = f"peers dial {told}, and this node listens on {options.bind} alone"
        other = "--bind 0.0.0.0" + ("" if patient.trust else ", with a bundle or --insecure")
        return failed(check, said, f"start it with {other}")
    if patient.port not in (0, port):
        said = f"peers dial {told}, and this node listens on port {patient.port}"
        return warning(check, said, f"unless a router passes port {port} on, start with --port N")
    if not any(_is_here(number) for number in numbers):
        said = f"{told} is no address of this machine"
        return warning(check, said, "correct it, unless a router passes that address on to here")
    return ok(check, f"peers dial {told}")


async def certificate(patient: Patient) -> list[Finding]:
    """Look at the bundle: from when to when it holds, its authority, and whether it was revoked."""
    check, config = "certificate", patient.config
    if patient.trust is not None:
        return await aside(_certificate, patient, patient.trust)
    if not config.network.insecure:
        return [ok(check, "no bundle: plain HTTP, on loopback alone")]
    said = "no bundle, and insecure: whoever reaches the port can push models"
    return [warning(check, said, "give it a bundle, unless you trust all of that network")]


def _certificate(patient: Patient, trust: Trust) -> list[Finding]:
    from gossipnode.network.trust import files
    from gossipnode.network.trust.bundle import check_dates

    check, path = "certificate", expanded(patient.config.trust.bundle)
    now = datetime.datetime.fromtimestamp(trust.wall_time(), datetime.UTC)
    try:
        check_dates(trust.bundle, path, now)
    except ConfigError as error:
        advice = "renew it with gossipnode ca issue --renew, or set this machine's clock"
        return [failed(check, str(error), advice)]
    found = _ends(trust.bundle, path, now) + _revocations(trust, patient)
    readable = files.require_private(path)
    if readable:
        found.append(warning(check, readable, f"chmod 600 {path}"))
    return found


def _ends(bundle: Bundle, path: Path, now: datetime.datetime) -> list[Finding]:
    from gossipnode.network.trust.trust import RENEW

    check, member = "certificate", bundle.member
    said = f"{member.name} ({member.id}) in {member.swarm}, until {member.not_after:%Y-%m-%d %H:%M}"
    found = [ok(check, said)]
    if member.not_after - now < RENEW:
        days = (member.not_after - now) // datetime.timedelta(days=1)
        advice = f"gossipnode ca issue --renew {path}"
        found = [warning(check, f"{said} UTC: {days} days are left", advice)]
    if bundle.mode == "authority":
        end = bundle.trusted[0].not_valid_after_utc
        if end - now < AUTHORITY_SOON:
            said = f"the swarm's authority ends on {end:%Y-%m-%d}"
            state = failed if end <= now else warning
            found.append(state(check, said, "make another authority, and new bundles for all"))
    elif not bundle.trusted:
        advice = "add friends with gossipnode trust add"
        found.append(warning(check, "it trusts nobody: no certificate is pinned", advice))
    return found


def _revocations(trust: Trust, patient: Patient) -> list[Finding]:
    """Read the lists of revocations on this machine, and say whether this node is on one."""
    from gossipnode.network.trust import files
    from gossipnode.network.trust.revocations import BYTES_MAX

    check, watched = "revocations", patient.config.trust.revocations
    kept = data_folder(patient.config, patient.id) / "revocations.txt"
    paths = [kept] if kept.exists() else []
    found = []
    for path in (*paths, *([expanded(watched)] if watched else [])):
        try:
            trust.adopt(files.read(path, BYTES_MAX))
        except (ConfigError, PeerError) as error:
            advice = "fetch the authority's revocations.txt anew, or take the file away"
            found.append(failed(check, f"{path}: {error}", advice))
    if trust.member.id in trust.revocations.ids:
        said = f"{trust.member.name} ({trust.member.id}) was revoked"
        advice = "ask whoever has the swarm's authority for a new bundle"
        found.append(failed(check, said, advice))
    return found


def _dialled(host: str) -> str:
    """Return where one dials what listens on ``host`` from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared


def _is_here(number: str) -> bool:
    """Whether an IP address is this machine's: others cannot be bound."""
    if number in WILDCARDS:
        return True
    family = socket.AF_INET6 if ":" in number else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((number, 0))
        except OSError:
            return False
    return True
