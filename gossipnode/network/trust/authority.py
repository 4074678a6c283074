"""The swarm's authority: a folder with a key that decides who belongs to the swarm.

``ca.key`` (private), ``ca.crt``, ``nodes.json`` (whom it has issued what) and ``revocations.txt``.
It talks to nobody: keep it on a machine that is no node, or on none that is always on. Invariant:
the key never leaves the folder, the counter of the revocations never goes back, and an id that was
revoked is never issued again.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError, PeerError, StorageError, nearest_spelling
from gossipnode.network.trust import files
from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.identity import (
    authority_certificate,
    certificate_for,
    certificate_from,
    key_from,
    member_of,
    new_key,
    pem_of,
)
from gossipnode.network.trust.revocations import Revocations

AUTHORITY_TTL = datetime.timedelta(days=3650)
NODE_TTL = datetime.timedelta(days=365)
BYTES_MAX = 64 * 2**20  # of nodes.json: 200 bytes a node


@dataclass(frozen=True, slots=True)
class Issued:
    """One node of the register; ``address`` may be empty, ``expires`` is ISO 8601 in UTC."""

    id: str
    name: str
    address: str
    expires: str
    revoked: bool = False

    @property
    def entry(self) -> PeerEntry | None:
        """The node as a peer list has it; None without an address."""
        if not self.address:
            return None
        return PeerEntry(id=self.id, name=self.name, address=self.address)


class Authority:
    """The authority in a folder; ``create`` or ``open`` it. All methods block."""

    def __init__(
        self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
    ) -> None:
        self.folder, self._key, self.certificate = folder, key, certificate
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        self.swarm = str(names[0].value)

    @classmethod
    def create(
        cls,
        folder: Path,
        swarm: str,
        now: datetime.datetime,
        ttl: datetime.timedelta = AUTHORITY_TTL,
    ) -> Self:
        """Make an authority; raises ``ConfigError`` where there is one, and ``StorageError``."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be made: {error.strerror}; name another folder with --ca"
            ) from None
        with files.locked(folder):
            if (folder / "ca.key").exists():
                raise ConfigError(
                    "there is an authority already; another one needs another folder (--ca)",
                    file=str(folder),
                )
            key = new_key()
            authority = cls(folder, key, authority_certificate(swarm, key, ttl, now))
            files.write(folder / "ca.crt", pem_of(authority.certificate))
            authority._keep([])
            authority._publish(Revocations.sign(swarm, 0, frozenset(), key))
            # Last: where this is, everything is.
            files.write(folder / "ca.key", pem_of(key), files.PRIVATE)
        return authority

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what ``create`` made; raises ``ConfigError``."""
        key_path, path = folder / "ca.key", folder / "ca.crt"
        if not key_path.exists():
            raise ConfigError(
                "there is no authority here; make one with gossipnode ca create SWARM, or name its "
                "folder with --ca",
                file=str(folder),
            )
        files.require_private(key_path)
        try:
            key = key_from(files.read(key_path, 2**16))
            certificate = certificate_from(files.read(path, 2**16))
        except ValueError as error:
            raise ConfigError(str(error), file=str(folder)) from None
        if certificate.public_key() != key.public_key():
            raise ConfigError("ca.key is not the key of ca.crt", file=str(folder))
        return cls(folder, key, certificate)

    def nodes(self) -> list[Issued]:
        """Return whom it has issued a certificate, in the order of the first; ``ConfigError``."""
        path = self.folder / "nodes.json"
        try:
            rows: Any = json.loads(files.read(path, BYTES_MAX))
            return [Issued(**row) for row in rows]
        except (ValueError, TypeError):
            raise ConfigError("is no list of nodes", file=str(path)) from None

    def peers(self) -> tuple[PeerEntry, ...]:
        """Return the nodes that have an address and are not revoked: a peer list."""
        entries = [each.entry for each in self.nodes() if not each.revoked]
        return tuple(entry for entry in entries if entry is not None)

    def revocations(self) -> Revocations:
        """Return the newest list; raises ``ConfigError``."""
        path = self.folder / "revocations.txt"
        try:
            return Revocations.parse(files.read(path, 2**21), self.swarm, self._key.public_key())
        except PeerError as error:
            raise ConfigError(error.reason, file=str(path)) from None

    def issue(
        self,
        requests: Sequence[tuple[str, str]],
        now: datetime.datetime,
        ttl: datetime.timedelta = NODE_TTL,
    ) -> list[Bundle]:
        """Return bundles for new nodes, (name, address) each; an address may be empty.

        The seeds of each are all nodes that have an address, these included. Raises
        ``ConfigError`` where a name is taken.
        """
        with files.locked(self.folder):
            nodes = self.nodes()
            taken = {each.name for each in nodes if not each.revoked}
            made = []
            for name, address in requests:
                if name in taken:
                    raise ConfigError(
                        f"{name} is the name of another node; renew its certificate with --renew, "
                        "revoke it, or choose another name",
                        key="NAME",
                    )
                taken.add(name)
                key = new_key()
                certificate = self._sign(name, key.public_key(), ttl, now)
                made.append((key, certificate))
                nodes.append(_issued(certificate, address))
            self._keep(nodes)
        seeds = tuple(e for each in nodes if not each.revoked and (e := each.entry))
        return [
            Bundle("authority", member_of(cert), key, cert, (self.certificate,), seeds)
            for key, cert in made
        ]

    def forget(self, ids: Collection[str]) -> None:
        """Strike nodes whose bundles were never written; raises ``StorageError``."""
        with files.locked(self.folder):
            self._keep([each for each in self.nodes() if each.id not in ids])

    def renew(
        self, bundle: Bundle, now: datetime.datetime, ttl: datetime.timedelta = NODE_TTL
    ) -> Bundle:
        """Return the bundle with a new certificate for the same key, and today's seeds.

        Raises ``ConfigError`` where it is not this authority's, or revoked.
        """
        member = bundle.member
        with files.locked(self.folder):
            nodes = self.nodes()
            known = {each.id: each for each in nodes}
            if bundle.mode != "authority" or bundle.trusted != (self.certificate,):
                raise ConfigError(f"{member.name} is no node of this authority", key="--renew")
            if member.id in self.revocations().ids:
                raise ConfigError(
                    f"{member.name} ({member.id}) was revoked, and its key stays so; issue a new "
                    "bundle under this name",
                    key="--renew",
                )
            certificate = self._sign(member.name, bundle.key.public_key(), ttl, now)
            address = known[member.id].address if member.id in known else ""
            renewed = {**known, member.id: _issued(certificate, address)}
            self._keep(list(renewed.values()))
        seeds = tuple(e for each in renewed.values() if not each.revoked and (e := each.entry))
        return Bundle(
            "authority", member_of(certificate), bundle.key, certificate, bundle.trusted, seeds
        )

    def revoke(self, who: str) -> tuple[Issued, Revocations]:
        """Shut out a node, by id or by name; raises ``ConfigError`` where there is none."""
        with files.locked(self.folder):
            nodes = self.nodes()
            found = [each for each in nodes if who in (each.id, each.name)]
            node = next((each for each in found if not each.revoked), found[0] if found else None)
            if node is None:
                names = [word for each in nodes for word in (each.name, each.id)]
                raise ConfigError(
                    f"{who} is no node of this swarm", key="ID",
                    nearest=nearest_spelling(who, names),
                )  # fmt: skip
            before = self.revocations()
            if node.id in before.ids:
                return node, before
            ids = before.ids | {node.id}
            # The list first: a crash between the two leaves a node shut out, not let in.
            revocations = Revocations.sign(self.swarm, before.counter + 1, ids, self._key)
            self._publish(revocations)
            gone = Issued(node.id, node.name, node.address, node.expires, revoked=True)
            self._keep([gone if each.id == node.id else each for each in nodes])
        return gone, revocations

    def messenger(self, now: datetime.datetime) -> Bundle:
        """Return a bundle for a few minutes, with which the authority itself reaches nodes."""
        key = new_key()
        certificate = self._sign("authority", key.public_key(), datetime.timedelta(minutes=10), now)
        return Bundle("authority", member_of(certificate), key, certificate, (self.certificate,))

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        ttl: datetime.timedelta,
        now: datetime.datetime,
    ) -> x509.Certificate:
        if now >= self.certificate.not_valid_after_utc:
            raise ConfigError(
                "the authority's own certificate has expired: make another in a folder of its own "
                "(gossipnode ca create SWARM --ca FOLDER), and new bundles for all",
                file=str(self.folder),
            )
        return certificate_for(self.swarm, name, key, ttl, now, self._key, self.certificate)

    def _keep(self, nodes: Sequence[Issued]) -> None:
        text = json.dumps([asdict(each) for each in nodes], indent=1)
        files.write(self.folder / "nodes.json", text + "\n", files.PRIVATE)

    def _publish(self, revocations: Revocations) -> None:
        files.write(self.folder / "revocations.txt", revocations.text)


def self_signed(
    swarm: str, name: str, address: str, now: datetime.datetime,
    ttl: datetime.timedelta = AUTHORITY_TTL,
) -> Bundle:  # fmt: skip
    """Return a bundle of the second mode: an identity that signs itself, and trusts nobody yet."""
    key = new_key()
    certificate = certificate_for(swarm, name, key.public_key(), ttl, now, key)
    member = member_of(certificate)
    seeds = (PeerEntry(id=member.id, name=name, address=address),) if address else ()
    return Bundle("pinned", member, key, certificate, (), seeds)


def _issued(certificate: x509.Certificate, address: str) -> Issued:
    member = member_of(certificate)
    return Issued(member.id, member.name, address, member.not_after.isoformat(timespec="seconds"))
