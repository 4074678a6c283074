"""Identities, the authority, bundles, revocations and contexts. OpenSSL judges the certificates."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st
from trusting import DAY, authority_in, bundle_of, contexts_of, now, shake

from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError, PeerError, StorageError
from gossipnode.network.trust import files
from gossipnode.network.trust.authority import Authority, self_signed
from gossipnode.network.trust.bundle import check_dates, read_bundle
from gossipnode.network.trust.identity import (
    certificate_for,
    certificate_from,
    id_of,
    member_of,
    new_key,
    pem_of,
)
from gossipnode.network.trust.names import parse_uri, uri_of
from gossipnode.network.trust.revocations import Revocations
from gossipnode.network.trust.trust import Trust


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_in(tmp_path / "ca")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_node_without_trust_does_not_load_cryptography() -> None:
    program = "import sys, gossipnode.network.daemon, gossipnode.cli.start; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "gossipnode.network.trust.handshakes" in loaded
    assert "cryptography" not in loaded


# -- identity -------------------------------------------------------------------------------------


def test_the_id_is_the_hash_of_the_public_key_in_the_uri(authority: Authority) -> None:
    bundle = bundle_of(authority, "alpha")
    spki = bundle.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    wanted = base64.b32encode(hashlib.sha256(spki).digest()).decode().lower()[:26]
    member = member_of(der(bundle.certificate))
    assert (member.id, member.swarm, member.name) == (wanted, "swarm", "alpha")
    names = bundle.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [f"gossipnode://swarm/{wanted}"]


@pytest.mark.parametrize(
    "uri",
    [
        "gossipnode://swarm/" + "a" * 25,
        "gossipnode://swarm/" + "a" * 27,
        "gossipnode://swarm/" + "A" * 26,
        "gossipnode://swarm/" + "a" * 26 + "\n",
        "gossipnode://swarm/x/" + "a" * 26,
        "gossipnode:///" + "a" * 26,
        "https://swarm/" + "a" * 26,
        "",
    ],
)
def test_other_uris_name_no_node(uri: str) -> None:
    with pytest.raises(PeerError, match="URI"):
        parse_uri(uri)


@given(st.text())
def test_no_text_breaks_the_parser_of_uris(text: str) -> None:
    with contextlib.suppress(PeerError):
        assert uri_of(*parse_uri(text)) == text


def test_an_id_that_is_not_its_keys_is_no_member(authority: Authority) -> None:
    mine, other = new_key(), new_key()
    uri = x509.UniformResourceIdentifier(uri_of("swarm", id_of(other.public_key())))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "thief")])
    builder = x509.CertificateBuilder(
        subject, subject, mine.public_key(), 1, now() - DAY, now() + DAY
    )
    signed = builder.add_extension(x509.SubjectAlternativeName([uri]), False).sign(
        mine, hashes.SHA256()
    )
    with pytest.raises(PeerError, match="not that of its key"):
        member_of(der(signed))


def test_what_is_no_certificate_of_a_node_is_told() -> None:
    with pytest.raises(PeerError, match="names no node"):
        member_of(b"\x30\x03abc")


# -- authority ------------------------------------------------------------------------------------


def test_a_certificate_of_a_version_that_there_is_not_is_told(authority: Authority) -> None:
    """OpenSSL hands such ones on; the library that reads them has an error of its own for it."""
    sound = der(authority.certificate)
    version = b"\xa0\x03\x02\x01"  # of X.509: 2 means 3
    assert sound.count(version + b"\x02") == 1
    strange = sound.replace(version + b"\x02", version + b"\x12")
    with pytest.raises(PeerError, match="names no node"):
        member_of(strange)
    lines = base64.encodebytes(strange).decode()
    with pytest.raises(ValueError, match="no certificate in PEM"):
        certificate_from(f"-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")


def test_the_keys_are_private_and_everything_is_whole(authority: Authority) -> None:
    folder = authority.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("ca.key", "nodes.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    bundle_of(authority, "alpha").write(folder / "alpha.bundle")
    assert stat.S_IMODE((folder / "alpha.bundle").stat().st_mode) == 0o600
    assert not list(folder.glob(".*.new"))
    again = Authority.open(folder)
    assert again.swarm == "swarm"
    assert [each.name for each in again.nodes()] == ["alpha"]


def test_no_second_authority_takes_the_place_of_the_first(authority: Authority) -> None:
    key = (authority.folder / "ca.key").read_text()
    with pytest.raises(ConfigError, match="authority already"):
        authority_in(authority.folder)
    assert (authority.folder / "ca.key").read_text() == key


def test_where_there_is_none_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gossipnode ca create"):
        Authority.open(tmp_path)


def test_an_authoritys_key_that_others_may_read_is_refused(authority: Authority) -> None:
    (authority.folder / "ca.key").chmod(0o604)
    with pytest.raises(ConfigError, match="chmod 600"):
        Authority.open(authority.folder)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_openssl_finds_nothing_wrong_in_its_strict_mode(
    authority: Authority, tmp_path: Path
) -> None:
    pem = tmp_path / "alpha.crt"
    pem.write_text(pem_of(bundle_of(authority, "alpha").certificate))
    for purpose in ("sslclient", "sslserver"):
        subprocess.run(
            [
                "openssl", "verify", "-x509_strict", "-purpose", purpose,
                "-CAfile", authority.folder / "ca.crt", pem,
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip


def test_a_name_is_given_once_and_free_again_after_its_revocation(authority: Authority) -> None:
    first = bundle_of(authority, "alpha")
    with pytest.raises(ConfigError, match="--renew"):
        authority.issue([("alpha", "")], now())
    authority.revoke("alpha")
    second = bundle_of(authority, "alpha")
    assert second.member.id != first.member.id


def test_the_seeds_are_all_that_have_an_address(authority: Authority) -> None:
    bundle_of(authority, "shy")
    first = bundle_of(authority, "alpha", address="https://10.0.0.1:7946")
    both = authority.issue(
        [("beta", "https://10.0.0.2:7946"), ("gamma", "https://10.0.0.3:7946")], now()
    )
    assert [seed.name for seed in first.seeds] == ["alpha"]
    for bundle in both:
        assert [seed.name for seed in bundle.seeds] == ["alpha", "beta", "gamma"]
        assert bundle.seeds[0].id == first.member.id
    authority.revoke(first.member.id)
    assert [peer.name for peer in authority.peers()] == ["beta", "gamma"]


def test_renewing_keeps_key_and_id(authority: Authority) -> None:
    old = bundle_of(authority, "alpha", address="https://10.0.0.1:7946", expired=True)
    new = authority.renew(old, now())
    assert new.member.id == old.member.id
    assert new.member.not_after > now() > old.member.not_after
    assert [each.name for each in authority.nodes()] == ["alpha"]
    authority.revoke("alpha")
    with pytest.raises(ConfigError, match="was revoked"):
        authority.renew(new, now())


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", "swarm", now(), ttl=DAY)
    (bundle,) = authority.issue([("alpha", "")], now(), ttl=30 * DAY)
    assert bundle.member.not_after == authority.certificate.not_valid_after_utc
    with pytest.raises(ConfigError, match="has expired"):
        authority.issue([("beta", "")], now() + 2 * DAY)


def test_two_that_issue_at_once_lose_nothing(authority: Authority) -> None:
    names = [f"node-{i}" for i in range(12)]
    workers = [
        threading.Thread(
            target=lambda name=name: Authority.open(authority.folder).issue([(name, "")], now())
        )
        for name in names
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(each.name for each in authority.nodes()) == sorted(names)


def test_whom_to_revoke_is_found_by_name_or_id_or_told(authority: Authority) -> None:
    alpha, beta = bundle_of(authority, "alpha"), bundle_of(authority, "beta")
    assert authority.revoke("alpha")[1].ids == {alpha.member.id}
    gone, revocations = authority.revoke(beta.member.id)
    assert gone.name == "beta"
    assert revocations.ids == {alpha.member.id, beta.member.id}
    assert revocations.counter == 2
    assert authority.revoke("beta")[1].counter == 2  # nothing new: nothing to spread
    with pytest.raises(ConfigError, match="did you mean 'alpha'"):
        authority.revoke("alhpa")


# -- files ----------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        files.write(path, "new")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_private_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.write(tmp_path / "key", "secret", files.PRIVATE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


# -- bundle ---------------------------------------------------------------------------------------


def test_a_bundle_is_read_as_it_was_written(authority: Authority, tmp_path: Path) -> None:
    bundle = bundle_of(authority, "alpha", address="https://10.0.0.1:7946")
    bundle.write(tmp_path / "alpha.bundle")
    again, warnings = read_bundle(tmp_path / "alpha.bundle")
    assert not warnings
    assert again.text() == bundle.text()
    assert again.member == bundle.member
    assert again.seeds == bundle.seeds


def test_who_may_read_it_decides(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "alpha.bundle"
    bundle_of(authority, "alpha").write(path)
    for mode in (0o604, 0o602, 0o644):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_bundle(path)
    path.chmod(0o640)
    assert "its group may read it" in read_bundle(path)[1][0]


def spoilt(text: str) -> dict[str, tuple[str, str]]:
    """Ways to spoil a bundle, with what must be told of each."""
    pem = r'"""\n-----BEGIN (?:CERTIFICATE|PRIVATE KEY)-----.*?"""'
    return {
        "no key": (re.sub(rf"key = {pem}", "", text, count=1, flags=re.DOTALL), "key: is missing"),
        "a key that is none": (
            re.sub(rf"key = {pem}", 'key = "secret"', text, count=1, flags=re.DOTALL),
            "key: is no private key",
        ),
        "no certificate": (
            re.sub(
                rf"\ncertificate = {pem}", '\ncertificate = "x"', text, count=1, flags=re.DOTALL
            ),
            "certificate: is no certificate",
        ),
        "another swarm": (text.replace('swarm = "swarm"', 'swarm = "other"'), "swarm: is other"),
        "another name": (text.replace('name = "alpha"', 'name = "beta"', 1), "name: is beta"),
        "another id": (re.sub(r"id = \"\w+\"", f'id = "{"a" * 26}"', text, count=1), "id: is aaa"),
        "no authority": (
            re.sub(r"trusted = \[.*?\]", "trusted = []", text, flags=re.DOTALL),
            "trusted",
        ),
        "unknown key": (text.replace("format = 1", "format = 1\nsede = 1"), "did you mean 'seed'"),
        "another format": (text.replace("format = 1", "format = 2"), "format:"),
        "not TOML": (text.replace("format = 1", "format = "), "not valid TOML"),
        "empty": ("", "is missing"),
        "huge": (text + "#" * 2**20, "more than"),
        "a seed without an id": (text + '\n[[seed]]\naddress = "https://a:1"\n', "seed.0.id"),
    }


@pytest.mark.parametrize("how", sorted(spoilt("")))
def test_a_spoilt_bundle_says_what_is_wrong_and_where(
    how: str, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "alpha.bundle"
    text, wanted = spoilt(bundle_of(authority, "alpha").text())[how]
    files.write(path, text, files.PRIVATE)
    with pytest.raises(ConfigError) as caught:
        read_bundle(path)
    assert wanted in str(caught.value)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


def test_parts_of_two_bundles_make_none(authority: Authority, tmp_path: Path) -> None:
    alpha, beta = bundle_of(authority, "alpha"), bundle_of(authority, "beta")
    path = tmp_path / "mixed.bundle"
    files.write(path, alpha.text().replace(pem_of(alpha.key), pem_of(beta.key)), files.PRIVATE)
    with pytest.raises(ConfigError, match="not the key that the certificate is for"):
        read_bundle(path)
    other = authority_in(tmp_path / "other")
    text = alpha.text().replace(pem_of(authority.certificate), pem_of(other.certificate))
    files.write(path, text, files.PRIVATE)
    with pytest.raises(ConfigError, match="not the authority that signed"):
        read_bundle(path)


def test_an_expired_bundle_is_read_to_be_renewed_and_refused_to_start(
    authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "alpha.bundle"
    bundle_of(authority, "alpha", expired=True).write(path)
    bundle, _ = read_bundle(path)
    with pytest.raises(ConfigError, match=r"has expired on .* --renew .* or set the clock"):
        check_dates(bundle, path, now())
    check_dates(bundle, path, bundle.member.not_after - DAY / 2)
    with pytest.raises(ConfigError, match="set the clock"):
        check_dates(bundle, path, bundle.member.not_before - DAY)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.bundle"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        read_bundle(path)


# -- revocations ----------------------------------------------------------------------------------


def test_a_list_of_revocations_is_the_authoritys_or_none(
    authority: Authority, tmp_path: Path
) -> None:
    bundle = bundle_of(authority, "alpha")
    key = bundle.authority_key
    assert key is not None
    _, signed = authority.revoke("alpha")
    assert Revocations.parse(signed.text, "swarm", key) == signed
    other = bundle_of(authority_in(tmp_path / "other"), "beta").authority_key
    assert other is not None
    with pytest.raises(PeerError, match="not signed"):
        Revocations.parse(signed.text, "swarm", other)
    with pytest.raises(PeerError, match="another swarm"):
        Revocations.parse(signed.text, "elsewhere", key)
    for position in range(0, len(signed.text) - 1, 3):
        changed = chr(ord(signed.text[position]) ^ 1)
        text = signed.text[:position] + changed + signed.text[position + 1 :]
        with pytest.raises(PeerError):
            Revocations.parse(text, "swarm", key)


@given(st.text())
def test_no_text_breaks_the_parser_of_revocations(text: str) -> None:
    with pytest.raises(PeerError):
        Revocations.parse(text, "swarm", KEY.public_key())


KEY = new_key()


# -- contexts -------------------------------------------------------------------------------------


def test_two_of_a_swarm_shake_hands_under_strict_checks(authority: Authority) -> None:
    serving, _ = contexts_of(bundle_of(authority, "alpha"))
    _, dialling = contexts_of(bundle_of(authority, "beta"))
    for context in (serving, dialling):
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert shake(serving, dialling) == (None, None)


@pytest.mark.parametrize(
    ("who", "server_says", "client_hears"),
    [
        ("nobody", "PEER_DID_NOT_RETURN_A_CERTIFICATE", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
        ("foreign", "CERTIFICATE_VERIFY_FAILED", "TLSV1_ALERT_UNKNOWN_CA"),
        ("expired", "CERTIFICATE_VERIFY_FAILED", "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        ("old", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"),
    ],
)
def test_others_are_refused_and_hear_why(
    who: str, server_says: str, client_hears: str, authority: Authority, tmp_path: Path
) -> None:
    serving, _ = contexts_of(bundle_of(authority, "alpha"))
    if who == "foreign":
        _, dialling = contexts_of(bundle_of(authority_in(tmp_path / "other"), "beta"))
        dialling.load_verify_locations(authority.folder / "ca.crt")
    elif who == "expired":
        _, dialling = contexts_of(bundle_of(authority, "beta", expired=True))
    else:
        dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        dialling.check_hostname = False
        dialling.load_verify_locations(authority.folder / "ca.crt")
        if who == "old":
            dialling.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = shake(serving, dialling)
    assert isinstance(server, ssl.SSLError)
    assert isinstance(client, ssl.SSLError)
    assert server.reason == server_says
    assert client.reason == client_hears


def test_no_session_is_resumed(authority: Authority) -> None:
    """A ticket would let a peer back in without showing its certificate again."""
    serving, _ = contexts_of(bundle_of(authority, "alpha"))
    _, dialling = contexts_of(bundle_of(authority, "beta"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = dialling.wrap_bio(to_client, to_server)
    for end in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    server.write(b"x")
    assert client.read(1) == b"x"  # whatever tickets there are have been read by now
    assert not client.session.has_ticket


def test_pinned_friends_shake_hands_and_nobody_else() -> None:
    alpha, beta, carl = (self_signed("swarm", name, "", now()) for name in ("a", "b", "c"))
    alpha = alpha.with_friend(beta.certificate, None)
    beta = beta.with_friend(alpha.certificate, None)
    carl = carl.with_friend(alpha.certificate, None)
    serving, _ = contexts_of(alpha)
    assert shake(serving, contexts_of(beta)[1]) == (None, None)
    server, client = shake(serving, contexts_of(carl)[1])
    assert isinstance(server, ssl.SSLCertVerificationError)
    assert client is not None
    gone = alpha.without_friend(beta.member.id)
    assert not gone.trusted
    assert shake(contexts_of(gone)[0], contexts_of(beta)[1])[0] is not None


def test_a_friend_cannot_make_friends(tmp_path: Path) -> None:
    """Whoever is pinned may not sign for others, as an authority could."""
    alpha, beta = (self_signed("swarm", name, "", now()) for name in ("a", "b"))
    alpha = alpha.with_friend(beta.certificate, None)
    key = new_key()
    signed = certificate_for(
        "swarm",
        "c",
        key.public_key(),
        datetime.timedelta(days=1),
        now(),
        beta.key,
        beta.certificate,
    )
    chain = tmp_path / "c.pem"
    chain.write_text(pem_of(signed) + pem_of(beta.certificate) + pem_of(key))
    dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialling.check_hostname = False
    dialling.load_cert_chain(chain)
    dialling.load_verify_locations(cadata=pem_of(alpha.certificate))
    server, _ = shake(contexts_of(alpha)[0], dialling)
    assert isinstance(server, ssl.SSLCertVerificationError)


def test_pinned_bundles_are_read_as_written(tmp_path: Path) -> None:
    alpha, beta = (self_signed("swarm", name, "https://10.0.0.1:1", now()) for name in ("a", "b"))
    seed = PeerEntry(id=beta.member.id, name="b", address="https://10.0.0.2:1")
    alpha = alpha.with_friend(beta.certificate, seed).with_friend(beta.certificate, seed)
    alpha.write(tmp_path / "a.bundle")
    again, _ = read_bundle(tmp_path / "a.bundle")
    assert again.text() == alpha.text()
    assert list(again.pinned) == [beta.member.id]
    assert len(again.seeds) == 2


def test_a_node_that_runs_tells_in_time_that_its_certificate_ends(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    made = now()
    clock = made.timestamp()
    bundle = authority.renew(bundle_of(authority, "a"), made, 30 * DAY)
    trust = Trust(bundle, lambda: clock)
    told = []
    with caplog.at_level("WARNING", "gossipnode"):
        for hour in range(31 * 24):
            clock = made.timestamp() + 3600 * hour
            trust.remind()
            if caplog.records:
                (record,) = caplog.records
                assert record.getMessage() == "trust.warning"
                told.append(hour / 24)
                caplog.clear()
        assert told == [16, 23, 27, 29, 30]
        # A new one is good for a while; one that ends soon is told of as it is read.
        trust.renew(authority.renew(bundle, made + 31 * DAY, 30 * DAY))
        trust.remind()
        assert not caplog.records
