"""The bundle: one file that makes a process a certain node of a certain swarm.

TOML with the private key, the certificate, whom to trust, the swarm's name, and seeds: nodes to
begin with. Two modes: ``authority``, where ``trusted`` is the swarm's authority; and ``pinned``,
where it is the friends' own self-signed certificates, one by one. Invariant: a ``Bundle`` that
exists fits together: key, certificate, id, swarm, and whoever signed it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from gossipnode.config import ID_PATTERN, PeerEntry
from gossipnode.configfile import read_toml
from gossipnode.errors import ConfigError, PeerError, nearest_spelling
from gossipnode.network.trust import files
from gossipnode.network.trust.identity import (
    Member,
    certificate_from,
    id_of,
    is_signed_by,
    key_from,
    member_of,
    pem_of,
)
from gossipnode.options import Section, option

# Some 700 bytes a pinned friend and 150 a seed: room for a thousand of both.
BYTES_MAX = 2**20

# What a common name in a certificate may have.
NAME_CHARS_MAX = 64

Mode = Literal["authority", "pinned"]
T = TypeVar("T")

HEADER = """\
# A gossipnode bundle. PRIVATE: whoever has this file is this node. Nobody else may read it.
# gossipnode start --bundle THIS_FILE
"""


class _Layout(Section):
    """The file, key by key."""

    format: Literal[1] = option(..., "The version of this file's layout.")
    mode: Mode = option(..., "Whom to trust: an authority, or pinned certificates.")
    swarm: str = option(..., "The swarm's name.", pattern=ID_PATTERN, max_length=NAME_CHARS_MAX)
    name: str = option(
        ..., "The node's name, for people.", pattern=ID_PATTERN, max_length=NAME_CHARS_MAX
    )
    id: str = option(..., "The node's id.", pattern=r"^[a-z2-7]{26}$")
    key: str = option(..., "The private key, PEM.")
    certificate: str = option(..., "The node's certificate, PEM.")
    trusted: tuple[str, ...] = option(..., "The authority's or the friends' certificates, PEM.")
    seed: tuple[PeerEntry, ...] = option((), "Nodes to begin with.")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a node needs to be itself. ``seeds`` may list the node itself."""

    mode: Mode
    member: Member
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    trusted: tuple[x509.Certificate, ...]
    seeds: tuple[PeerEntry, ...] = ()

    @property
    def authority_key(self) -> ec.EllipticCurvePublicKey | None:
        """The public key of the swarm's authority, where there is one."""
        if self.mode == "pinned":
            return None
        key = self.trusted[0].public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey), "checked when it was read"
        return key

    @property
    def pinned(self) -> dict[str, x509.Certificate]:
        """The friends' certificates by id; none where there is an authority."""
        if self.mode == "authority":
            return {}
        return {member_of(certificate).id: certificate for certificate in self.trusted}

    def with_friend(self, certificate: x509.Certificate, seed: PeerEntry | None) -> Bundle:
        """Return the bundle with a pinned certificate more, or in place of an older one."""
        member = member_of(certificate)
        pinned = {**self.pinned, member.id: certificate}
        seeds = self.seeds
        if seed is not None:
            seeds = (*(one for one in seeds if one.id != seed.id), seed)
        return replace(self, trusted=tuple(pinned.values()), seeds=seeds)

    def without_friend(self, node_id: str) -> Bundle:
        """Return the bundle without that pinned certificate and that seed."""
        return replace(
            self,
            trusted=tuple(c for i, c in self.pinned.items() if i != node_id),
            seeds=tuple(one for one in self.seeds if one.id != node_id),
        )

    def text(self) -> str:
        """Return the file's text."""
        lines = [HEADER, "format = 1"]
        for name, value in (
            ("mode", self.mode),
            ("swarm", self.member.swarm),
            ("name", self.member.name),
            ("id", self.member.id),
        ):
            lines.append(f"{name} = {json.dumps(value)}")
        lines.append(f'key = """\n{pem_of(self.key)}"""')
        lines.append(f'certificate = """\n{pem_of(self.certificate)}"""')
        trusted = ",\n".join(f'"""\n{pem_of(certificate)}"""' for certificate in self.trusted)
        lines.append(f"trusted = [\n{trusted}\n]\n")
        lines += [seed_text(seed, "seed") for seed in self.seeds]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the file, for its owner alone; raises ``StorageError``."""
        files.write(path, self.text(), files.PRIVATE)


def seed_text(seed: PeerEntry, table: str) -> str:
    """Return one node as a table of a list, as peers.toml and bundles have it."""
    lines = [f"[[{table}]]", f"id = {json.dumps(seed.id)}"]
    if seed.name:
        lines.append(f"name = {json.dumps(seed.name)}")
    return "\n".join([*lines, f"address = {json.dumps(seed.address)}", ""])


def read_bundle(path: Path) -> tuple[Bundle, list[str]]:
    """Read a bundle; return it and warnings. Raises ``ConfigError`` with what is wrong, and where.

    A certificate that has expired is not refused here: renewing it needs the file.
    """
    warning = files.require_private(path)
    files.read(path, BYTES_MAX)  # bounded before it is parsed
    tree = read_toml(path)
    try:
        layout = _Layout.model_validate(tree)
    except ValidationError as error:
        raise _told(error, path) from None
    return _fitted(layout, path), [warning] if warning else []


def check_dates(bundle: Bundle, path: Path, now: datetime.datetime) -> None:
    """Raise ``ConfigError`` where the certificate holds no longer, or not yet."""
    member = bundle.member
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    if now >= member.not_after:
        again = (
            f"gossipnode ca issue --renew {path}" if bundle.mode == "authority" else "gossipnode id"
        )
        raise ConfigError(
            f"the certificate of {member.name} has expired on {member.not_after:%Y-%m-%d %H:%M} "
            f"UTC, and {clock}: make another with {again}, or set the clock",
            file=str(path),
            key="certificate",
        )
    if now < member.not_before:
        raise ConfigError(
            f"the certificate of {member.name} holds from {member.not_before:%Y-%m-%d %H:%M} UTC "
            f"on, and {clock}: set the clock",
            file=str(path),
            key="certificate",
        )


def _fitted(layout: _Layout, path: Path) -> Bundle:
    key = _read(key_from, layout.key, path, "key")
    certificate = _read(certificate_from, layout.certificate, path, "certificate")
    trusted = tuple(
        _read(certificate_from, pem, path, f"trusted.{number}")
        for number, pem in enumerate(layout.trusted)
    )
    try:
        member = member_of(certificate)
    except PeerError as error:
        raise ConfigError(error.reason, file=str(path), key="certificate") from None
    wrong: tuple[str, str] | None = None
    if id_of(key.public_key()) != member.id:
        wrong = "key", "is not the key that the certificate is for"
    elif member.id != layout.id:
        wrong = "id", f"is {layout.id}, but the certificate is of {member.id}"
    elif member.swarm != layout.swarm:
        wrong = "swarm", f"is {layout.swarm}, but the certificate is of swarm {member.swarm}"
    elif member.name != layout.name:
        wrong = "name", f"is {layout.name}, but the certificate is of {member.name}"
    elif layout.mode == "authority":
        wrong = _authority_fault(certificate, trusted)
    else:
        wrong = _pins_fault(member, trusted)
    if wrong is not None:
        raise ConfigError(wrong[1], file=str(path), key=wrong[0])
    return Bundle(layout.mode, member, key, certificate, trusted, layout.seed)


def _authority_fault(
    certificate: x509.Certificate, trusted: tuple[x509.Certificate, ...]
) -> tuple[str, str] | None:
    if len(trusted) != 1:
        return "trusted", f"has {len(trusted)} certificates; an authority has one"
    if not is_signed_by(certificate, trusted[0]):
        return "trusted", "is not the authority that signed the certificate"
    if not isinstance(trusted[0].public_key(), ec.EllipticCurvePublicKey):
        return "trusted", "is no certificate on an elliptic curve"
    return None


def pin_fault(member: Member, certificate: x509.Certificate) -> str:
    """Return why ``member`` cannot trust this friend's certificate; empty if it can."""
    try:
        friend = member_of(certificate)
    except PeerError as error:
        return error.reason
    if not is_signed_by(certificate, certificate):
        return "is no certificate that signs itself"
    if friend.swarm != member.swarm:
        return f"is of swarm {friend.swarm}, and {member.name} of {member.swarm}"
    return "is this node's own certificate" if friend.id == member.id else ""


def _pins_fault(member: Member, trusted: tuple[x509.Certificate, ...]) -> tuple[str, str] | None:
    for number, certificate in enumerate(trusted):
        fault = pin_fault(member, certificate)
        if fault:
            return f"trusted.{number}", fault
    return None


def _read(read: Callable[[str], T], pem: str, path: Path, key: str) -> T:
    try:
        return read(pem)
    except ValueError as error:
        raise ConfigError(str(error), file=str(path), key=key) from None


def _told(error: ValidationError, path: Path) -> ConfigError:
    """Return the first complaint with its key; never what a key's value was, it may be secret."""
    complaints = error.errors(include_url=False, include_context=False, include_input=False)
    complaints.sort(key=lambda complaint: complaint["type"] != "extra_forbidden")
    first = complaints[0]
    key = ".".join(str(step) for step in first["loc"])
    nearest = None
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is missing"
    elif first["type"] == "extra_forbidden":
        message, nearest = "unknown key", nearest_spelling(key, _Layout.model_fields)
    return ConfigError(message, file=str(path), key=key, nearest=nearest)
