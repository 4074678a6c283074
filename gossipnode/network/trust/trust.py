"""Whom a running node believes: its bundle, the revocations it has heard of, and the clock.

Invariant: every question about a peer is answered here, for each request anew, so that what was
right when a connection began does not stay right by itself. The list of revocations only grows
newer.
"""

from __future__ import annotations

import datetime
import logging
import ssl
import time
from asyncio import BaseTransport
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gossipnode.config import Config, PeerEntry
from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError, PeerError
from gossipnode.logs import event
from gossipnode.network.trust.bundle import Bundle, check_dates, read_bundle
from gossipnode.network.trust.contexts import context_of
from gossipnode.network.trust.handshakes import Context
from gossipnode.network.trust.identity import ID_CHARS, Member, member_of
from gossipnode.network.trust.names import parse_uri
from gossipnode.network.trust.revocations import Revocations
from gossipnode.network.trust.words import REASONS, StrangerError

log = logging.getLogger("gossipnode.network.trust")

# When to speak of a certificate that ends soon.
RENEW = datetime.timedelta(days=14)
# A node that runs speaks of it again so long before the end, and at the end.
REMIND_S = tuple(86_400.0 * days for days in (14, 7, 3, 1, 0))


class Trust:
    """What ``bundle`` makes of a node. ``wall_time`` is seconds since 1970."""

    def __init__(self, bundle: Bundle, wall_time: Callable[[], float] = time.time) -> None:
        self.wall_time = wall_time
        self.revocations = Revocations(bundle.member.swarm)
        self._take(bundle)
        self._ends: dict[str, float] = {}  # what the dates of certificates mean

    def _take(self, bundle: Bundle) -> None:
        self.bundle, self.member = bundle, bundle.member
        self._friends = frozenset(bundle.pinned) if bundle.mode == "pinned" else None
        self.serving: Context = context_of(bundle, serving=True)
        self.dialling: Context = context_of(bundle, serving=False)
        self.serving.judge = _require_sound
        self.dialling.judge = self._judge
        self._reminded = self._due()  # of what is due already, reading the bundle told

    def _due(self) -> int:
        """Return how many of ``REMIND_S`` are over."""
        left_s = self.member.not_after.timestamp() - self.wall_time()
        return sum(left_s <= each_s for each_s in REMIND_S)

    def remind(self) -> None:
        """Tell, once for each of ``REMIND_S``, that the own certificate is to be renewed."""
        before, self._reminded = self._reminded, self._due()
        if self._reminded > before:
            reason = f"the certificate ends on {self.member.not_after:%Y-%m-%d %H:%M} UTC; renew it"
            event(log, logging.WARNING, "trust.warning", reason=f"{reason}, and reload it")

    def renew(self, bundle: Bundle) -> None:
        """Be who ``bundle`` says, from the next handshake on.

        Raises ``ConfigError`` where that is another node, or one of another authority.
        """
        if (bundle.member.swarm, bundle.member.id) != (self.member.swarm, self.member.id):
            raise ConfigError(
                f"is now of the node {bundle.member.id} in {bundle.member.swarm}, and this one is "
                f"{self.member.id} in {self.member.swarm}: stop it, and start that one",
                key="trust.bundle",
            )
        if bundle.authority_key != self.bundle.authority_key:
            raise ConfigError(
                "is now of another authority: stop the node, and start it again",
                key="trust.bundle",
            )
        self._take(bundle)

    def adopt(self, text: str) -> bool:
        """Take a list of revocations; whether it is newer. Raises ``PeerError`` if it is none."""
        key = self.bundle.authority_key
        if key is None:
            raise PeerError(
                "unsupported_message", "certificates are pinned here; no authority revokes them"
            )
        found = Revocations.parse(text, self.member.swarm, key)
        if found.counter <= self.revocations.counter:
            return False
        self.revocations = found
        return True

    def fault_of(self, swarm: str, node_id: str) -> str:
        """Return why a proven peer may not take part, one of ``REASONS``; empty if it may."""
        if swarm != self.member.swarm:
            return "other_swarm"
        if self._friends is not None and node_id not in self._friends:
            return "unknown_authority"  # pinned no longer
        return "revoked" if node_id in self.revocations.ids else ""

    def peer_of(self, transport: BaseTransport | None) -> str:
        """Return the id of whoever is at the other end, now; raises ``StrangerError``."""
        return self.id_in(None if transport is None else transport.get_extra_info("peercert"))

    def id_in(self, certificate: Mapping[str, Any] | None) -> str:
        """Return the id of whoever showed ``certificate``, now; raises ``StrangerError``.

        TLS has seen to it that the certificate is the swarm's; whether it still counts is asked
        here.
        """
        if not certificate:
            raise StrangerError("no_certificate")
        names = [text for kind, text in certificate["subjectAltName"] if kind == "URI"]
        swarm, node_id = parse_uri(names[0])  # it is one: the handshake was judged
        fault = self.fault_of(swarm, node_id)
        if not fault and self.wall_time() >= self._end(certificate["notAfter"]):
            fault = "expired"
        if fault:
            raise StrangerError(fault, _told(fault, node_id))
        return node_id

    @property
    def dates(self) -> str:
        """From when to when the own certificate holds, and what time it is, for people."""
        now = datetime.datetime.fromtimestamp(self.wall_time(), datetime.UTC)
        times = [
            f"{at:%Y-%m-%d %H:%M}" for at in (self.member.not_before, self.member.not_after, now)
        ]
        return f"It holds from {times[0]} to {times[1]} UTC, and here it is {times[2]}"

    def _end(self, not_after: str) -> float:
        if not_after not in self._ends:
            if len(self._ends) > 4096:
                self._ends.clear()
            self._ends[not_after] = float(ssl.cert_time_to_seconds(not_after))
        return self._ends[not_after]

    def _judge(self, certificate: bytes, server_name: str | None) -> None:
        """Judge who answers; a server name that is an id is the one that was meant."""
        member = _is_sound(certificate)
        fault = self.fault_of(member.swarm, member.id)
        if fault:
            raise StrangerError(fault, f"this node refuses it: {_told(fault, member.id)}")
        meant = server_name or ""
        if len(meant) == ID_CHARS and meant.isalnum() and meant != member.id:
            raise StrangerError(
                "wrong_id", f"at this address is {member.id} ({member.name}), not {meant}"
            )


def trust_of(config: Config, wall_time: Callable[[], float] = time.time) -> Trust:
    """Return what ``trust.bundle`` makes of a node; raises ``ConfigError``."""
    return Trust(bundle_of(config, wall_time), wall_time)


def bundle_of(config: Config, wall_time: Callable[[], float] = time.time) -> Bundle:
    """Read ``trust.bundle``, and tell what is doubtful about it; raises ``ConfigError``."""
    path = expanded(config.trust.bundle)
    bundle, warnings = read_bundle(path)
    now = datetime.datetime.fromtimestamp(wall_time(), datetime.UTC)
    check_dates(bundle, path, now)
    left = bundle.member.not_after - now
    if left < RENEW:
        hours = left // datetime.timedelta(hours=1)
        warnings.append(f"the certificate of {path} ends in {hours} h; renew it, and reload it")
    for warning in warnings:
        event(log, logging.WARNING, "trust.warning", reason=warning)
    return bundle


def settle(
    config: Config, peers: Sequence[PeerEntry], bundle: Bundle
) -> tuple[Config, Sequence[PeerEntry]]:
    """Return config and peer list as the bundle has them, where nobody said otherwise.

    Raises ``ConfigError`` where somebody did, and the bundle says another thing.
    """
    member = bundle.member
    for section, key, value in (("swarm", "name", member.swarm), ("node", "id", member.id)):
        options = getattr(config, section)
        given = getattr(options, key)
        if key in options.model_fields_set and given and given != value:
            raise ConfigError(
                f"is {given}, but the bundle is of {value}; leave it out", key=f"{section}.{key}"
            )
    peers = peers or bundle.seeds
    for entry in peers:
        if not entry.address.startswith("https:"):
            raise ConfigError(
                f"{entry.address}: with a bundle all peers are reached by https; write "
                f"{entry.address.replace('http:', 'https:', 1)}",
                key="swarm.peers",
            )
    changed = {
        "swarm": config.swarm.model_copy(update={"name": member.swarm}),
        "node": config.node.model_copy(update={"id": member.id}),
    }
    return config.model_copy(update=changed), peers


def _is_sound(certificate: bytes) -> Member:
    """Return whose it is; raises ``StrangerError`` unless it names a node, by its key's hash."""
    try:
        return member_of(certificate)
    except PeerError as error:
        raise StrangerError("bad_certificate", error.reason) from None


def _require_sound(certificate: bytes, _: str | None) -> None:
    _is_sound(certificate)


def _told(fault: str, node_id: str) -> str:
    return REASONS[fault].replace("its certificate", f"the certificate of {node_id}")
