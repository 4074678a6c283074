"""The whole examination: the machine first, then all peers side by side."""

from __future__ import annotations

import asyncio

from gossipnode.config import PeerEntry
from gossipnode.errors import GossipNodeError
from gossipnode.network.client import HttpClient
from gossipnode.network.doctor.findings import (
    CHECK_S,
    STEP_S,
    Finding,
    failed,
    ok,
    side_by_side,
    warning,
)
from gossipnode.network.doctor.folder import folder
from gossipnode.network.doctor.own import address, certificate, ports
from gossipnode.network.doctor.patient import Patient, called, table_of
from gossipnode.network.doctor.peers import Looked, clock, look, seen
from gossipnode.network.doctor.status import judged

# Each peer costs three connections. Of a larger swarm the first ones are looked at.
PEERS_MAX = 64


async def examine(patient: Patient, url: str = "") -> list[Finding]:
    """Return what is found about a node, its peers, and whoever is at ``url``.

    Takes little more than a minute, whatever hangs.
    """
    found = await side_by_side({"port": ports(patient, (url,))})
    try:
        found += await side_by_side(
            {
                "address": address(patient),
                "certificate": certificate(patient),
                "data folder": folder(patient),
            }
        )
        found += await _network(patient, url)
    finally:
        if patient.listener is not None:
            patient.listener.close()
    return found


async def _network(patient: Patient, url: str) -> list[Finding]:
    """Look at the peers and at ``url``, and at what they say of this node."""
    others = patient.others[:PEERS_MAX]
    async with patient.client() as client, patient.client(as_reader=True) as shown:
        tasks = [_look(patient, client, entry.address, entry) for entry in others]
        if url:
            tasks.append(_look(patient, shown, url, None))
        all_looked = await asyncio.gather(*tasks)
        found = [finding for one in all_looked for finding in one.findings]
        if url and all_looked[-1].view:
            found += await _status(shown, url)
    found += clock(patient, all_looked) + await seen(patient, all_looked)
    left = len(patient.others) - len(others)
    if left:
        found.append(ok("peers", f"the first {PEERS_MAX} were looked at, and {left} were not"))
    return found


async def _look(patient: Patient, client: HttpClient, url: str, entry: PeerEntry | None) -> Looked:
    name = called(entry) if entry is not None else url
    try:
        async with asyncio.timeout(CHECK_S):
            return await look(patient, client, url, entry)
    except TimeoutError:
        said, advice = f"{url}: no end within {CHECK_S:g} s", "look at that node's log"
        return Looked(name, [failed(f"peer {name}", said, advice)], {})


async def _status(client: HttpClient, url: str) -> list[Finding]:
    try:
        heard = await client.ask("GET", f"{url}/v1/status", STEP_S)
    except GossipNodeError as error:
        return [failed(url, f"{url}/v1/status: {error}", "look at that node's log")]
    if heard.status != 200:
        advice = "where it asks for a token, name the file with it: --status-token-file"
        return [warning(url, f"{url}/v1/status answers HTTP {heard.status}", advice)]
    return judged(url, table_of(heard))
