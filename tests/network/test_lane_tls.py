"""The lane and HTTP over mutual TLS 1.3, with certificates made here.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cutting import Proxy, forever, port_of
from laning import LARGE, frame_to, lanes_of, push_from
from loopback import PATIENCE_S, config_of, until, vector_for

from gossipnode.errors import NetworkError
from gossipnode.network import HttpClient, HttpNode

Tls = tuple[ssl.SSLContext, ssl.SSLContext]
StartTls = Callable[..., Awaitable[HttpNode]]


class Authority:
    """A certificate authority and the certificates that it gives out."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "swarm")])
        self.certificate = self._sign(self.name, self.key.public_key(), is_authority=True)
        (folder / "ca.pem").write_bytes(self._pem(self.certificate))

    def _sign(self, name: x509.Name, key: Any, *, is_authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if not is_authority:
            here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([here]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    @staticmethod
    def _pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)

    def contexts(self, name: str) -> Tls:
        """What a node of that name serves and dials with; each end proves who it is."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        chain = self.folder / f"{name}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificate = self._sign(subject, key.public_key(), is_authority=False)
        chain.write_bytes(private + self._pem(certificate))
        made = []
        for purpose in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
            context = ssl.SSLContext(purpose)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(chain)
            context.load_verify_locations(self.folder / "ca.pem")
            context.verify_mode = ssl.CERT_REQUIRED
            made.append(context)
        return made[0], made[1]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
async def start_tls(tmp_path: Path, authority: Authority) -> AsyncIterator[StartTls]:
    async with AsyncExitStack() as stack:

        async def start(id_: str, tls: Tls | None = None, **sections: Any) -> HttpNode:
            sections["node"] = {"id": id_, "data_dir": str(tmp_path / id_)}
            config = config_of(tmp_path / id_, **sections)
            node = HttpNode(config, peers=(), tls=tls or authority.contexts(id_))
            return await stack.enter_async_context(node)

        yield start


async def test_two_nodes_push_both_ways_over_one_lane(start_tls: StartTls) -> None:
    node, b = await start_tls("a"), await start_tls("b")
    assert node.url.startswith("https://127.0.0.1:")
    assert node.address == node.url
    for seq in range(3):
        assert (await push_from(b, node, frame_to(node, seq=seq))).reply.status == "merged"
    reply = (await push_from(node, b, frame_to(b, sender="a"))).reply
    assert reply.status == "merged"
    assert len(lanes_of(node)) == len(lanes_of(b)) == 1
    (at_a,) = lanes_of(node)._lanes
    (at_b,) = lanes_of(b)._lanes
    for lane in (at_a, at_b):
        secured = lane.transport.get_extra_info("ssl_object")
        assert secured.version() == "TLSv1.3"
        assert dict(pair[0] for pair in secured.getpeercert()["subject"])["commonName"] in "ab"
    assert b.counters.get("lane_fallbacks") == node.counters.get("lane_fallbacks") == 0


async def test_large_frames_both_ways_at_once(start_tls: StartTls) -> None:
    large = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB
    node, b = await start_tls("a", **large), await start_tls("b", **large)
    await push_from(b, node, frame_to(node, vector_for(node, 0.5)))
    here = np.linspace(0, 1, node.layout.size, dtype=np.float32)
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node, here, seq=1, age=2**40)),
        push_from(node, b, frame_to(b, here[::-1].copy(), sender="a", seq=1, age=2**40)),
    )
    assert [receipt.reply.status for receipt in receipts] == ["merged", "merged"]
    np.testing.assert_allclose(node.params, here, rtol=1e-6)
    np.testing.assert_allclose(b.params, here[::-1], rtol=1e-6)


@pytest.mark.usefixtures("small")
async def test_a_push_goes_on_where_the_connection_was_cut(start_tls: StartTls) -> None:
    node, b = await start_tls("a", **LARGE), await start_tls("b", **LARGE)
    here = np.linspace(0, 1, node.layout.size, dtype=np.float32)
    proxy = Proxy(port_of(node), forever(1_500_000, 900_000))
    async with proxy.serving() as url:
        receipt = await b.world.push(
            url.replace("http:", "https:"), frame_to(node, here, age=2**40), 20.0
        )
    assert receipt.reply.status == "merged"
    np.testing.assert_array_equal(node.params, here)
    assert b.counters.get("lane_resumes") == b.counters.get("lanes_broken") == 2
    assert b.counters.get("lane_fallbacks") == 0
    # What had arrived was not sent again; a cut record of TLS, 16 KiB and its tag, is lost whole.
    assert sum(proxy.forwarded) < 4 * node.layout.size * 1.01 + 30_000 * len(proxy.forwarded)
    assert (len(lanes_of(node).partials), node.inbox.inflight_bytes) == (0, 0)


async def test_without_a_lane_it_is_posted_over_tls(start_tls: StartTls) -> None:
    node, b = await start_tls("a", network={"lanes": False}, **LARGE), await start_tls("b", **LARGE)
    assert (await push_from(b, node, frame_to(node))).reply.status == "merged"
    assert b.counters.get("lane_fallbacks") == 1


async def test_who_has_no_certificate_of_the_swarm_gets_nowhere(
    start_tls: StartTls, tmp_path: Path, authority: Authority
) -> None:
    node = await start_tls("a")
    stranger = Authority(tmp_path / "other").contexts("b")
    b = await start_tls("b", stranger)
    with pytest.raises(NetworkError):
        await push_from(b, node, frame_to(node))
    # Who trusts the node, but shows nothing that the node trusts, is refused by the node.
    dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialling.load_verify_locations(authority.folder / "ca.pem")
    async with HttpClient(dialling) as client:
        with pytest.raises(NetworkError):
            await client.get_json(f"{node.url}/v1/status", PATIENCE_S)
    assert node.age == 0
    assert not lanes_of(node)


async def test_plain_http_gets_no_answer(start_tls: StartTls) -> None:
    node = await start_tls("a")
    async with HttpClient() as client:
        with pytest.raises(NetworkError):
            await client.get_json(f"{node.url.replace('https', 'http')}/livez", PATIENCE_S)


async def test_stopping_closes_lanes_at_both_ends(start_tls: StartTls) -> None:
    node, b = await start_tls("a"), await start_tls("b")
    await push_from(b, node, frame_to(node))
    await lanes_of(b).close()
    await until(lambda: not lanes_of(node))
    assert node.counters.get("lanes_broken") == 0
