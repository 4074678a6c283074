"""Files that people carry about, and lists that nodes hand on: what guards them is made to hold.

A digest or a signature would turn away every input that was changed. So whatever is read is read as
it is, and once more with its guard made anew.
"""

from __future__ import annotations

import base64
import datetime
import tempfile
import warnings
from pathlib import Path

import xxhash
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from gossipnode.errors import PeerError, StorageError
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import Bundle, read_bundle
from gossipnode.network.trust.identity import member_of, pem_of
from gossipnode.network.trust.revocations import Revocations
from gossipnode.node.membership.book import Contact, Page, page_bytes, parse_page

_folder = tempfile.TemporaryDirectory(prefix="gossipnode-fuzz-")
_file = Path(_folder.name) / "file.bundle"
_file.touch(0o600)
_KEY = ec.derive_private_key(20_261_121, ec.SECP256R1())
_IDS = ("a" * 26, "b2" * 13)


def read_bundle_bytes(data: bytes) -> object:
    _file.write_bytes(data)
    return read_bundle(_file)


def read_revocations(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    try:
        return Revocations.parse(text, "swarm", _KEY.public_key())
    except PeerError:
        body = text.rpartition("signature ")[0]
        found = Revocations.parse(f"{body}signature AAAA\n", "swarm", _Signed())  # type: ignore[arg-type]
        assert all(len(each) == 26 for each in found.ids)
        return found


class _Signed:
    """A key that has signed everything."""

    def verify(self, *_: object) -> None:
        pass


def read_book(data: bytes) -> object:
    try:
        return parse_page(data)
    except StorageError:
        title, _, text = data.partition(b"\n")
        words = title.rpartition(b" ")[0]
        return parse_page(words + f" {xxhash.xxh3_128_hexdigest(text)}\n".encode() + text)


def _issued() -> list[Bundle]:
    """Return bundles of one authority, made anew: no key is kept in the repository."""
    now = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
    authority = Authority.create(Path(_folder.name) / "ca", "swarm", now)
    return authority.issue([("a", "http://10.0.0.1:1"), ("b", "")], now)


_BUNDLES = _issued()
BUNDLES = tuple(bundle.text().encode() for bundle in _BUNDLES)
CERTIFICATES = tuple(bundle.certificate.public_bytes(Encoding.DER) for bundle in _BUNDLES)
# As a stranger may show one: the authority's own, which names no node.
AUTHORITY = _BUNDLES[0].trusted[0].public_bytes(Encoding.DER)


def read_certificate(data: bytes) -> object:
    with warnings.catch_warnings():  # of serial numbers that will be refused some day
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return member_of(data)


def with_authority(certificate: bytes) -> bytes:
    """Return a bundle whose authority has another certificate, given as DER."""
    pem = base64.encodebytes(certificate).decode()
    text = _BUNDLES[0].text()
    before = pem_of(_BUNDLES[0].trusted[0])
    assert text.count(before) == 1
    made = f"-----BEGIN CERTIFICATE-----\n{pem}-----END CERTIFICATE-----\n"
    return text.replace(before, made).encode()


REVOCATIONS = Revocations.sign("swarm", 3, frozenset(_IDS), _KEY).text.encode()
BOOK = page_bytes(
    Page(
        options={"swarm": {"name": "swarm"}, "node": {"id": "a"}},
        joined=True,
        through=("http://10.0.0.1:7946",),
        contacts=(
            Contact(id="b", address="http://10.0.0.2:7946", heard=1.7e9),
            Contact(id="c", address="http://[2a00::1]:7946"),
        ),
    )
)
