"""What the network can tell of a node: names, firewalls, certificates, clocks, and how it is seen.

Each peer is asked step by step (name, connection, answer), since the step that fails says whose
fault it is. Invariant: whatever a peer answers is text of a stranger's: bounded and escaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from gossipnode.config import PeerEntry
from gossipnode.errors import GossipNodeError
from gossipnode.logs import bounded
from gossipnode.network.client import Heard, HttpClient
from gossipnode.network.doctor.findings import STEP_S, Finding, failed, ok, warning
from gossipnode.network.doctor.patient import (
    Patient,
    called,
    host_and_port,
    number_of,
    numbers_of,
    table_of,
)
from gossipnode.network.view import DIAL_S, dial
from gossipnode.network.view import PATH as VIEW_PATH
from gossipnode.node.addresses import is_loopback, is_loopback_number, may_dial

# Clocks of machines that ask a time server differ by milliseconds.
CLOCK_S = 5.0
# A certificate holds from so long before it was made.
CLOCK_TRUST_S = 3600.0
TEXT_CHARS_MAX = 200


@dataclass
class Looked:
    """What looking at one peer gave: findings, how it sees this node, and its clock less ours."""

    name: str
    findings: list[Finding]
    view: dict[str, Any]
    offset_s: float | None = None


class Stop(Exception):  # noqa: N818 - no error: a step has found what keeps the next from any sense
    """What is wrong is known."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(finding.said)


async def look(patient: Patient, client: HttpClient, url: str, entry: PeerEntry | None) -> Looked:
    """Look at the peer ``entry``, or at whoever is at ``url``; raises ``TimeoutError``."""
    name = called(entry) if entry is not None else url
    check = f"peer {name}" if entry is not None else url
    looked = Looked(name, [], {})
    try:
        await _resolved(patient, check, url)
        await _connected(check, url)
        await _answered(patient, client, check, url, looked)
        if entry is not None:
            _is_meant(patient, check, url, entry, looked.view)
        looked.findings.append(await _ready(client, check, url))
    except Stop as stop:
        looked.findings.append(stop.finding)
    return looked


async def _resolved(patient: Patient, check: str, url: str) -> None:
    host, _ = host_and_port(url)
    try:
        numbers = await numbers_of(host)
    except TimeoutError:
        said = f"{host}: the name server did not answer within {STEP_S:g} s"
        advice = "look at the name server of this machine, or list numbers in place of names"
        raise Stop(failed(check, said, advice)) from None
    if not numbers:
        advice = "correct it in the peer list, or the name server (or /etc/hosts)"
        raise Stop(failed(check, f"the name {host} does not resolve", advice))
    own = patient.advertised or "http://192.0.2.1:1"  # one that is not loopback
    if all(may_dial(number, own) for number in numbers):
        return
    where = f"{host} stands for {', '.join(numbers)}" if numbers != [host] else host
    if any(may_dial(number, "http://127.0.0.1:1") for number in numbers):
        if patient.others and not is_loopback(own):
            said = f"{where}, which is this machine itself"
            advice = (
                "give it the address that others reach (often a line of /etc/hosts is to blame)"
            )
            raise Stop(failed(check, said, advice))
        return
    said = f"{where}, which is link-local, or another address that no peer has"
    raise Stop(failed(check, said, "give it an address that all machines reach"))


async def _connected(check: str, url: str) -> None:
    """Connect and hang up. A refusal comes from the machine, silence from a firewall."""
    host, port = host_and_port(url)
    try:
        async with asyncio.timeout(STEP_S):
            outcome = await dial(host, port)
    except TimeoutError:
        said = f"{url}: no answer within {STEP_S:g} s"
        advice = f"a firewall drops it, or the machine is off: let TCP port {port} in there"
        raise Stop(failed(check, said, advice)) from None
    if outcome == "refused":
        said = f"{url}: connection refused: the machine is there, and nobody listens on that port"
        raise Stop(failed(check, said, "start the node there, or correct the port in its address"))
    if outcome != "connected":
        said = f"{url}: no way leads there"
        raise Stop(failed(check, said, "look at the address, and at the routes of both machines"))


async def _answered(
    patient: Patient, client: HttpClient, check: str, url: str, looked: Looked
) -> None:
    """Ask how it sees this node; of what cannot tell (an older one, or pages), its status."""
    port = patient.port if patient.listener is not None or patient.is_running else 0
    query = f"?port={port}" if port else ""
    began, at = time.time(), time.monotonic()
    try:
        heard = await client.ask("POST", f"{url}{VIEW_PATH}{query}", STEP_S + DIAL_S)
        took_s = time.monotonic() - at
        if heard.status in (404, 405):
            began, at = time.time(), time.monotonic()
            heard = await client.ask("GET", f"{url}/v1/status", STEP_S)
            took_s = time.monotonic() - at
    except GossipNodeError as error:
        raise Stop(failed(check, f"{url}: {error}", _mend(url, str(error)))) from None
    found = table_of(heard)
    if heard.status == 503 and found.get("code") == "busy":
        looked.findings.append(
            warning(check, f"{url} is dialling others back just now", "ask again in a moment")
        )
    elif heard.status != 200 or "node_id" not in found or "swarm" not in found:
        reason = bounded(found.get("reason", ""), TEXT_CHARS_MAX)
        told = f": {reason}" if reason else ", and is no gossipnode"
        said = f"{url} answers HTTP {heard.status}{told}"
        raise Stop(failed(check, said, _mend(url, reason)))
    looked.view = found
    looked.offset_s = _offset_s(found, heard, began, took_s)


def _offset_s(found: dict[str, Any], heard: Heard, began: float, took_s: float) -> float | None:
    """Return the peer's clock less ours, in seconds; None where it does not tell the time."""
    from email.utils import parsedate_to_datetime

    told = number_of(found.get("time"))
    if told is not None:
        # Told before it dials back, so as the question arrives.
        return told - began - min(took_s, 1.0) / 2
    try:
        # Whole seconds, cut off.
        there = parsedate_to_datetime(heard.headers["Date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        return None
    return there - began - took_s / 2


def _mend(url: str, reason: str) -> str:
    if "TLS" in reason or "certificate" in reason or url.startswith("https:"):
        return "compare the bundles of both nodes: docs/security.md has what each refusal means"
    if "token" in reason:
        return "name the file with its token: --status-token-file"
    return "look whether that is the node's address, and at its log"


def _is_meant(
    patient: Patient, check: str, url: str, entry: PeerEntry, view: dict[str, Any]
) -> None:
    if view.get("node_id", entry.id) != entry.id:
        said = f"at {url} is the node {bounded(view['node_id'], 64)}, and not {entry.id}"
        raise Stop(failed(check, said, "correct the peer list"))
    swarm = patient.config.swarm.name
    if view.get("swarm", swarm) != swarm:
        said = f"it takes part in the swarm {bounded(view['swarm'], 64)}, and this node in {swarm}"
        raise Stop(failed(check, said, "give both the same swarm.name"))


async def _ready(client: HttpClient, check: str, url: str) -> Finding:
    try:
        heard = await client.ask("GET", f"{url}/readyz", STEP_S)
    except GossipNodeError as error:
        return failed(check, f"{url}/readyz: {error}", "look at the log of that node")
    found = table_of(heard)
    if heard.status != 200:
        reason = bounded(found.get("reason", f"HTTP {heard.status}"), TEXT_CHARS_MAX)
        advice = "wait until it has started, or look at its log"
        return warning(check, f"{url} is not ready: {reason}", advice)
    if "degraded" in found:
        said = f"{url} writes no checkpoints: {bounded(found['degraded'], TEXT_CHARS_MAX)}"
        return warning(check, said, "look after the disk of that machine")
    return ok(check, f"{url} answers, and is ready")


def clock(patient: Patient, all_looked: list[Looked]) -> list[Finding]:
    """Compare this machine's clock with the peers': the median is believed."""
    check = "clock"
    offsets = {one.name: one.offset_s for one in all_looked if one.offset_s is not None}
    if not offsets:
        return []
    middle = median(offsets.values())
    if abs(middle) > CLOCK_S:
        side = "behind" if middle > 0 else "ahead"
        said = f"this machine's clock is {abs(middle):,.0f} s {side} ({len(offsets)} asked)"
        state = failed if patient.trust and abs(middle) > CLOCK_TRUST_S else warning
        return [state(check, said, "let both machines ask a time server (chrony, timesyncd)")]
    off = [f"{name} by {s:+,.0f} s" for name, s in offsets.items() if abs(s) > CLOCK_S]
    if off:
        advice = "let those machines ask a time server (chrony, timesyncd)"
        return [warning(check, f"clocks that differ from this one: {', '.join(off)}", advice)]
    # A header has whole seconds, and the way there and back is not halved exactly.
    return [ok(check, f"within {max(1.0, abs(middle)):.0f} s of {len(offsets)} asked")]


def _arrivals(patient: Patient) -> int | None:
    """Return how many connections came to the port that is held; None where the node has it."""
    if patient.listener is None:
        return None
    count = 0
    while True:
        try:
            connection, _ = patient.listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


async def seen(patient: Patient, all_looked: list[Looked]) -> list[Finding]:
    """Say how the peers see this node, and whether they could dial it back."""
    if patient.listener is None and not patient.is_running:
        return []  # whoever they dial is not this node
    host, port = host_and_port(patient.advertised)
    numbers: list[str] = []
    with contextlib.suppress(TimeoutError):  # which the check of the address tells
        numbers = await numbers_of(host) if host else []
    arrivals = _arrivals(patient)
    found = []
    for one in all_looked:
        if "from" not in one.view:
            continue
        finding = _dialled(one, patient.advertised, (host, port), numbers)
        if finding.state == "ok" and one.view.get("outcome") == "connected" and arrivals == 0:
            said = f"{one.name} reached somebody at {_place(one.view)}, and it was not this machine"
            finding = failed(finding.check, said, "correct the address: it is of another machine")
        found.append(finding)
    return found


def _dialled(one: Looked, advertised: str, own: tuple[str, int], numbers: list[str]) -> Finding:
    """Judge one peer's view. ``own`` is the advertised host and port, ``numbers`` the host's."""
    view, check = one.view, f"seen by {one.name}"
    origin, place, outcome = bounded(view["from"], 64), _place(view), view.get("outcome")
    comes = f"it comes from {origin}"
    if outcome is None:
        advice = "ask from a machine that is a peer, or with the bundle of this node"
        return warning(check, f"{comes}, and was not dialled back", advice)
    if outcome == "connected" and not _is_same(view, own, numbers):
        said = f"{comes}, was reached at {place}, and peers are told {advertised}"
        return warning(check, said, f"right {_elsewhere(own[0])}; else correct --advertise")
    if outcome == "connected":
        return ok(check, f"{comes}, and was reached at {place}")
    if is_loopback_number(own[0]) and not _is_same(view, own, numbers):
        said = f"{comes}, dialled back at {place} in vain, and peers are told {advertised}"
        return warning(check, said, f"right {_elsewhere(own[0])}; else correct --advertise")
    said, advice = {
        "refused": ("nobody listened there", "listen where peers dial: --bind 0.0.0.0, --port"),
        "timeout": (
            "there was no answer",
            f"let TCP port {own[1]} in, at this machine's firewall or the router's",
        ),
    }.get(str(outcome), ("no way leads there", "correct the address that peers are told"))
    return failed(check, f"{comes}; dialled back at {place}, {said}", advice)


def _elsewhere(own_host: str) -> str:
    """Say where a node rightly comes from another address than ``own_host``, which peers dial."""
    # Whatever dials 127.0.0.3 comes from 127.0.0.1, unless it binds to another: a peer that
    # dials that back has tried no way to this node.
    if is_loopback_number(own_host):
        return "where nodes of one machine have loopback addresses of their own"
    return "behind a router or with two networks"


def _is_same(view: dict[str, Any], own: tuple[str, int], numbers: list[str]) -> bool:
    dialled = view.get("dialled")
    return (
        isinstance(dialled, list)
        and len(dialled) == 2
        and dialled[0] in (own[0], *numbers)
        and dialled[1] == own[1]
    )


def _place(view: dict[str, Any]) -> str:
    dialled = view.get("dialled")
    if not isinstance(dialled, list) or len(dialled) != 2:
        return "an address that it does not tell"
    return bounded(f"{dialled[0]}:{dialled[1]}", TEXT_CHARS_MAX)
