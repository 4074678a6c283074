"""A node's identity: a key pair, and the certificate that names it.

The id of a node is the hash of its public key, so nobody can claim another's, and it stays when
the address or the certificate changes. A certificate has it in a URI among its alternative names,
``gossipnode://SWARM/ID``, and a name for people as its common name. Invariant: a ``Member`` that
exists has an id that is the hash of the key that the certificate is for.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gossipnode.config import ID_PATTERN
from gossipnode.errors import PeerError
from gossipnode.logs import bounded
from gossipnode.network.trust.names import parse_uri, uri_of

# 130 bits of SHA-256: to find another key with the same id takes 2^130 tries.
ID_CHARS = 26
# A certificate is valid from a little before it was made: clocks differ.
BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Member:
    """What a certificate says: whose it is, and from when to when (UTC) it holds."""

    swarm: str
    id: str
    name: str
    not_before: datetime.datetime
    not_after: datetime.datetime


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new key pair on P-256, which OpenSSL handles fastest."""
    return ec.generate_private_key(ec.SECP256R1())


def id_of(key: ec.EllipticCurvePublicKey) -> str:
    """Return the id of whoever has the private half: 26 characters of base32."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b32encode(hashlib.sha256(der).digest()).decode().lower()[:ID_CHARS]


# What cryptography says of certificates that somebody has put together, besides its own words.
_UNSOUND = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def is_signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the key of ``issuer`` has signed ``certificate``, and by the name that it has."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*_UNSOUND, InvalidSignature):
        return False
    return True


def member_of(certificate: x509.Certificate | bytes) -> Member:
    """Return whose certificate (or its DER) it is; raises ``PeerError``."""
    try:
        if isinstance(certificate, bytes):
            certificate = x509.load_der_x509_certificate(certificate)
        key = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        name = _name_of(certificate)
        dates = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except _UNSOUND as error:
        raise PeerError(
            "not_a_neighbour", f"the certificate names no node: {bounded(error)}"
        ) from None
    if len(uris) != 1 or not isinstance(key, ec.EllipticCurvePublicKey):
        raise PeerError("not_a_neighbour", "the certificate does not name exactly one node")
    swarm, node_id = parse_uri(uris[0])
    if node_id != id_of(key):
        raise PeerError("not_a_neighbour", "the certificate's id is not that of its key")
    return Member(swarm, node_id, name, *dates)


def certificate_for(
    swarm: str,
    name: str,
    key: ec.EllipticCurvePublicKey,
    ttl: datetime.timedelta,
    now: datetime.datetime,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None = None,
) -> x509.Certificate:
    """Return a certificate of a node, by ``issuer`` or, where there is none, signed by itself.

    It has all that OpenSSL's strict check (``VERIFY_X509_STRICT``) asks for.
    """
    assert re.match(ID_PATTERN, swarm)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key = key if issuer is None else signer.public_key()
    uri = x509.UniformResourceIdentifier(uri_of(swarm, id_of(key)))
    not_after = now + ttl if issuer is None else min(now + ttl, issuer.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )
    return builder.sign(signer, hashes.SHA256())


def authority_certificate(
    swarm: str, key: ec.EllipticCurvePrivateKey, ttl: datetime.timedelta, now: datetime.datetime
) -> x509.Certificate:
    """Return the certificate of the swarm's authority, which may sign nodes' and nothing else."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gossipnode swarm"),
            x509.NameAttribute(NameOID.COMMON_NAME, swarm),
        ]
    )
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + ttl)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def pem_of(thing: x509.Certificate | ec.EllipticCurvePrivateKey) -> str:
    """Return a certificate, or a key without a password, as PEM."""
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM).decode()
    return thing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def key_from(pem: str) -> ec.EllipticCurvePrivateKey:
    """Read a private key; raises ``ValueError`` that says what is wrong."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is no private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("is no key on an elliptic curve")
    return key


def certificate_from(pem: str) -> x509.Certificate:
    """Read a certificate; raises ``ValueError`` that says what is wrong."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except _UNSOUND:
        raise ValueError("is no certificate in PEM") from None


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name_of(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return bounded(found[0].value, 64) if found else ""
