"""The doctor against real sockets on loopback: each fault is made, and found by its name.

A finding is judged by its check, its state and what it says; that a healthy node has none that is
bad shows that each of the others has the reason that the test has given it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.server
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from listening import full_listener, port_of, port_of_free
from loopback import config_of
from trusting import DAY, authority_in, bundle_of, now

from gossipnode.config import Config, PeerEntry
from gossipnode.network import HttpNode, view
from gossipnode.network.client import Heard
from gossipnode.network.doctor import findings, folder, own, patient, peers, status
from gossipnode.network.doctor.examine import PEERS_MAX, examine
from gossipnode.network.doctor.findings import Finding, aside, ok, side_by_side
from gossipnode.network.doctor.patient import Patient, numbers_of
from gossipnode.network.doctor.status import judged
from gossipnode.network.trust.authority import Authority, self_signed
from gossipnode.network.trust.bundle import Bundle
from gossipnode.network.trust.trust import Trust
from gossipnode.node.checkpoint import FileStore


def listed(name: str, port: int, host: str = "127.0.0.1") -> PeerEntry:
    return PeerEntry(id=name, address=f"http://{host}:{port}")


def patient_of(folder: Path, *others: PeerEntry, port: int = 0, **sections: Any) -> Patient:
    """Node ``a`` on a free port, with ``others`` in its peer list."""
    port = port or port_of_free()
    config = config_of(folder / "a", **{"network": {"port": port}, **sections})
    return Patient(config, (listed("a", port), *others))


def one(found: list[Finding], check: str) -> Finding:
    (finding,) = [each for each in found if each.check == check]
    return finding


def states(found: list[Finding]) -> dict[str, str]:
    worst: dict[str, str] = {}
    for each in found:
        if worst.get(each.check) != "failed":
            worst[each.check] = each.state
    return worst


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    async with contextlib.AsyncExitStack() as stack:

        async def begin(name: str, entries: tuple[PeerEntry, ...] = (), **sections: Any) -> Any:
            sections = {"node": {"id": name, "data_dir": str(tmp_path / name)}, **sections}
            node = HttpNode(config_of(tmp_path / name, **sections), peers=entries)
            return await stack.enter_async_context(node)

        yield begin


def entry(node: HttpNode) -> PeerEntry:
    return listed(node.id, int(node.url.rpartition(":")[2]))


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loop be late: this machine may be busy with other tests."""
    monkeypatch.setattr(status, "LAG_S", float("inf"))


@pytest.mark.usefixtures("calm")
async def test_where_all_is_well_nothing_is_said_against_it(start: Any, tmp_path: Path) -> None:
    b = await start("b")
    patient = patient_of(tmp_path, entry(b))
    found = await examine(patient, b.url)
    assert states(found) == dict.fromkeys(
        ["port", "address", "certificate", "data folder", "peer b", b.url, "clock", "seen by b",
         f"seen by {b.url}"], "ok",
    )  # fmt: skip
    assert patient.listener is not None
    assert patient.listener.fileno() == -1  # nothing is held any longer
    assert not (tmp_path / "a").exists()


# -- the machine ----------------------------------------------------------------------------------


async def test_a_port_that_another_process_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient, "STEP_S", 0.3)  # whatever it is, it does not say
    with socket.create_server(("127.0.0.1", 0)) as other:
        found = one(await examine(patient_of(tmp_path, port=port_of(other))), "port")
    assert found.state == "failed"
    assert f"127.0.0.1:{port_of_closed(found)} is in use" in found.said
    assert "--port" in found.advice


def port_of_closed(found: Finding) -> str:
    return found.said.split(":")[1].split()[0]


async def test_a_port_that_another_node_has_and_one_that_it_has_itself(
    start: Any, tmp_path: Path
) -> None:
    b, a = await start("b"), await start("a")
    found = await examine(patient_of(tmp_path, port=int(b.url.rpartition(":")[2])))
    assert one(found, "port").state == "failed"
    assert "it is the node 'b'" in one(found, "port").said
    found = await examine(patient_of(tmp_path, entry(b), port=int(a.url.rpartition(":")[2])))
    assert states(found)["port"] == "ok"
    # So the folder, which a has locked, is no fault; and b reaches the node itself.
    assert states(found)["data folder"] == "ok"
    assert states(found)["seen by b"] == "ok"


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"bind": "192.0.2.99"}, "can be reached from outside"),
        ({"bind": "192.0.2.99", "insecure": True}, "cannot be bound"),
        ({"bind": "nowhere.invalid"}, "is no address of this machine"),
    ],
)
async def test_an_address_that_cannot_be_bound(
    network: dict[str, Any], told: str, tmp_path: Path
) -> None:
    found = await examine(patient_of(tmp_path, network={"port": 1, **network}))
    assert one(found, "port").state == "failed"
    assert told in one(found, "port").said


@pytest.mark.parametrize(
    ("network", "address", "state", "told"),
    [
        ({"bind": "0.0.0.0", "insecure": True}, None, "failed", "no address for this node"),
        ({}, "http://nowhere.invalid:{port}", "failed", "does not resolve"),
        ({}, "http://169.254.7.7:{port}", "failed", "link-local"),
        ({}, "http://192.0.2.99:{port}", "failed", "listens on 127.0.0.1 alone"),
        ({}, "http://127.0.0.1:1", "warning", "peers dial http://127.0.0.1:1"),
        (
            {"bind": "0.0.0.0", "insecure": True}, "http://192.0.2.99:{port}", "warning",
            "no address of this machine",
        ),
    ],
)  # fmt: skip
async def test_an_address_that_leads_nowhere(
    network: dict[str, Any], address: str | None, state: str, told: str, tmp_path: Path
) -> None:
    port = port_of_free()
    advertise = {"advertise": address.format(port=port)} if address else {}
    config = config_of(tmp_path, network={"port": port, **network, **advertise})
    found = one(await examine(Patient(config)), "address")
    assert (found.state, told in found.said) == (state, True), found


async def test_an_address_on_loopback_with_peers_elsewhere(tmp_path: Path) -> None:
    patient = patient_of(tmp_path, listed("b", 1, "192.0.2.99"))
    (found,) = await own.address(patient)
    assert (found.state, "is this machine alone" in found.said) == ("failed", True)


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    found = one(await examine(patient_of(tmp_path)), "data folder")
    assert (found.state, "cannot be written" in found.said) == ("failed", True)


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """Be a user who may not look everywhere, where this one may."""
    before = os.geteuid()
    "a".encode("idna")  # loaded while its file may be read
    if before == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(before)


async def test_a_folder_of_another_user(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    patient = patient_of(tmp_path, node={"id": "a", "data_dir": str(closed / "a")})
    with somebody_else():
        found = await examine(patient)
    assert one(found, "data folder").state == "failed"
    assert "permission denied" in one(found, "data folder").said.lower()
    assert states(found).keys() >= {"port", "address", "certificate"}


async def test_a_folder_that_another_process_uses(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "a", 3, time.time)
    store.open()
    try:
        found = one(await examine(patient_of(tmp_path)), "data folder")
        assert (found.state, "used by another process" in found.said) == ("failed", True)
    finally:
        store.close()
    assert one(await examine(patient_of(tmp_path)), "data folder").state == "ok"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("free", "files", "state"),
    [(2**40, 2**20, "ok"), (2**20, 2**20, "failed"), (5 * 10**7, 2**20, "warning"),
     (2**40, 3, "failed")],
)  # fmt: skip
async def test_a_disk_without_room(
    free: int, files: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00000001-0.safetensors").write_bytes(bytes(10**6))
    monkeypatch.setattr(folder, "_room", lambda _: (free, files))
    assert one(await examine(patient_of(tmp_path)), "data folder").state == state


async def test_damaged_checkpoints_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00000001-0.safetensors.broken").write_bytes(b"x")
    found = await examine(patient_of(tmp_path))
    assert "1 damaged" in [f.said for f in found if f.check == "data folder"][1]


# -- peers ----------------------------------------------------------------------------------------


class Garbage(http.server.BaseHTTPRequestHandler):
    """Another program's server."""

    def do_POST(self) -> None:
        body = b"<html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def another_program() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Garbage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def test_a_refusal_and_silence_have_different_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "STEP_S", 0.3)
    with full_listener() as silent:
        entries = listed("gone", port_of_free()), listed("silent", silent)
        found = await examine(patient_of(tmp_path, *entries))
    refused, dropped = one(found, "peer gone"), one(found, "peer silent")
    assert (refused.state, dropped.state) == ("failed", "failed")
    assert "connection refused" in refused.said
    assert "start the node there" in refused.advice
    assert "no answer within" in dropped.said
    assert f"a firewall drops it, or the machine is off: let TCP port {silent}" in dropped.advice


@pytest.mark.parametrize(
    ("host", "own_host", "told"),
    [
        ("nowhere.invalid", "127.0.0.1", "does not resolve"),
        ("169.254.7.7", "127.0.0.1", "link-local"),
        ("localhost", "192.0.2.99", "is this machine itself"),
        ("127.0.1.1", "192.0.2.99", "is this machine itself"),
    ],
)
async def test_a_name_that_stands_for_no_peer(
    host: str, own_host: str, told: str, tmp_path: Path
) -> None:
    port = port_of_free()
    network = {"port": port, "advertise": f"http://{own_host}:{port}"}
    config = config_of(tmp_path, network=network)
    found = one(await examine(Patient(config, (listed("b", 1, host),))), "peer b")
    assert (found.state, told in found.said) == ("failed", True), found


async def test_a_name_server_that_is_silent_about_this_nodes_name(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(host: str) -> list[str]:
        if host == "slow.invalid":
            raise TimeoutError
        return await numbers_of(host)

    for module in (own, peers):
        monkeypatch.setattr(module, "numbers_of", silent)
    b = await start("b")
    port = port_of_free()
    network = {"port": port, "advertise": f"http://slow.invalid:{port}"}
    found = await examine(Patient(config_of(tmp_path, network=network), (entry(b),)))
    assert one(found, "address").state == "failed"
    assert "name server" in one(found, "address").advice
    assert "peer b" in states(found)


async def test_who_answers_is_another_program_another_node_or_of_another_swarm(
    start: Any, tmp_path: Path
) -> None:
    b = await start("b", swarm={"name": "swarm"})
    c = await start("c", swarm={"name": "others"})
    with another_program() as port:
        found = await examine(
            patient_of(
                tmp_path, listed("other", port), listed("x", int(b.url.rpartition(":")[2])),
                entry(c),
            )
        )  # fmt: skip
    assert "is no gossipnode" in one(found, "peer other").said
    assert "is the node b, and not x" in one(found, "peer x").said
    assert "takes part in the swarm others, and this node in swarm" in one(found, "peer c").said
    assert {one(found, f"peer {name}").state for name in ("other", "x", "c")} == {"failed"}


async def test_a_node_that_drains_and_one_whose_disk_is_full(start: Any, tmp_path: Path) -> None:
    b, c = await start("b"), await start("c")
    await b.drain()
    c.checkpoint_error = "no space left on device"
    found = await examine(patient_of(tmp_path, entry(b), entry(c)), c.url)
    assert one(found, "peer b").state == "warning"
    assert "is not ready: this node is draining" in one(found, "peer b").said
    assert "writes no checkpoints: no space left" in one(found, "peer c").said
    told = [each for each in found if each.check == c.url and each.state == "failed"]
    assert "no checkpoint could be written: no space left" in told[0].said


@pytest.mark.parametrize("offset_s", [100.0, -100.0])
async def test_a_clock_that_is_wrong(
    offset_s: float, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start("b")
    monkeypatch.setattr(b.world, "wall_time", lambda: time.time() + offset_s)
    found = one(await examine(patient_of(tmp_path, entry(b))), "clock")
    assert found.state == "warning"
    side = "behind" if offset_s > 0 else "ahead"
    assert f"this machine's clock is 100 s {side}" in found.said
    # Two others tell that it is b's.
    c, d = await start("c"), await start("d")
    found = one(await examine(patient_of(tmp_path, entry(b), entry(c), entry(d))), "clock")
    assert found.said == f"clocks that differ from this one: b by {offset_s:+.0f} s"


async def test_of_many_peers_the_first_are_looked_at(tmp_path: Path) -> None:
    entries = tuple(listed(f"n{i}", i) for i in range(1, PEERS_MAX + 3))
    with full_listener():
        found = await examine(patient_of(tmp_path, *entries))
    assert sum(each.check.startswith("peer n") for each in found) == PEERS_MAX
    assert found[-1].said.endswith("and 2 were not")


async def test_a_peer_that_dials_another_address_says_so(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a router a node comes from another address than the one that it tells."""
    b = await start("b")
    port = port_of_free()
    config = config_of(
        tmp_path / "a", network={"port": port, "advertise": f"http://127.0.0.9:{port}"}
    )
    found = one(await examine(Patient(config, (entry(b),))), "seen by b")
    assert found.state == "warning"
    assert f"reached at 127.0.0.1:{port}, and peers are told http://127.0.0.9:{port}" in found.said


async def test_a_node_with_a_loopback_address_of_its_own_is_not_blamed(
    start: Any, tmp_path: Path
) -> None:
    """It comes from 127.0.0.1 as all do, and a peer that dials that back has not tried its own."""
    b = await start("b")
    port = port_of_free()
    own = {"port": port, "bind": "127.0.0.9", "advertise": f"http://127.0.0.9:{port}"}
    config = config_of(tmp_path / "a", network=own)
    found = one(await examine(Patient(config, (entry(b),))), "seen by b")
    assert found.state == "warning"
    assert f"dialled back at 127.0.0.1:{port} in vain" in found.said
    assert found.advice.startswith("right where nodes of one machine have loopback addresses")


# -- with certificates ----------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_in(tmp_path / "ca")


def trusting(
    folder: Path, bundle: Bundle, entries: tuple[PeerEntry, ...] = (), **network: Any
) -> Patient:
    """A patient with the bundle in a file, on a free port unless ``network`` names one."""
    folder.mkdir(exist_ok=True)
    path = folder / "a.bundle"
    bundle.write(path)
    network = {"port": 0, "status_port": 0, **network}
    tree = {
        "node": {"id": bundle.member.id, "data_dir": str(folder / "data")},
        "swarm": {"name": bundle.member.swarm},
        "algorithm": {"name": "gossip"},
        "topology": {"graph": "random"},
        "trust": {"bundle": str(path)},
        "network": network,
    }
    return Patient(Config.model_validate(tree), entries, Trust(bundle))


@contextlib.asynccontextmanager
async def running(
    folder: Path, bundle: Bundle, entries: tuple[PeerEntry, ...] = ()
) -> AsyncIterator[HttpNode]:
    config = config_of(folder, node={"id": ""}, network={"status_port": 0})
    async with HttpNode(config, peers=entries, trust=Trust(bundle)) as node:
        yield node


def secure(bundle: Bundle, port: int) -> PeerEntry:
    address = f"https://127.0.0.1:{port}"
    return PeerEntry(id=bundle.member.id, name=bundle.member.name, address=address)


@pytest.mark.usefixtures("calm")
async def test_with_bundles_all_is_well_too(authority: Authority, tmp_path: Path) -> None:
    port = port_of_free()
    a, b = (authority.renew(bundle_of(authority, name), now(), 300 * DAY) for name in "ab")
    async with running(tmp_path / "b", b, (secure(a, port),)) as node:
        entries = secure(a, port), secure(b, int(node.url.rpartition(":")[2]))
        patient = trusting(tmp_path / "a", a, entries, port=port)
        found = await examine(patient, node.status_url)
        # It was seen to listen, and nothing was refused.
        assert node.status().network.connections_refused.keys() <= {"broken"}
    pages = node.status_url
    assert states(found) == dict.fromkeys(
        ["port", "status port", "address", "certificate", "data folder", "peer b", pages, "clock",
         "seen by b"], "ok",
    )  # fmt: skip
    assert "2 asked" in one(found, "clock").said  # the pages tell it by the header


async def test_the_node_itself_is_found_by_its_certificate(
    authority: Authority, tmp_path: Path
) -> None:
    a = bundle_of(authority, "a")
    async with running(tmp_path / "a", a) as node:
        ports = {
            "port": int(node.url.rpartition(":")[2]),
            "status_port": int(node.status_url.rpartition(":")[2]),
        }
        found = await examine(trusting(tmp_path / "x", a, **ports))
        assert (states(found)["port"], states(found)["status port"]) == ("ok", "ok")
        found = await examine(trusting(tmp_path / "x", bundle_of(authority, "b"), **ports))
        assert (states(found)["port"], states(found)["status port"]) == ("failed", "failed")
        assert "--status-port" in one(found, "status port").advice


async def test_pages_that_will_move(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient, "STEP_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:
        network = {"port": port_of(other) - 1, "status_port": None}
        a = trusting(tmp_path / "a", bundle_of(authority, "a"), **network)
        found = one(await examine(a), "status port")
    assert (found.state, "will be on a free port" in found.said) == ("warning", True)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("refused", "nobody listened there"),
        ("timeout", "there was no answer"),
        ("elsewhere", "and it was not this machine"),
    ],
)
async def test_a_peer_that_cannot_dial_back(
    outcome: str, told: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "DIAL_S", 0.3)
    a, b = bundle_of(authority, "a"), bundle_of(authority, "b")
    with contextlib.ExitStack() as stack:
        if outcome == "timeout":
            port = stack.enter_context(full_listener())
        elif outcome == "elsewhere":
            port = port_of(stack.enter_context(socket.create_server(("127.0.0.1", 0))))
        else:
            port = port_of_free()
        async with running(tmp_path / "b", b, (secure(a, port),)) as node:
            entries = secure(a, port), secure(b, int(node.url.rpartition(":")[2]))
            found = one(await examine(trusting(tmp_path / "a", a, entries)), "seen by b")
    assert (found.state, told in found.said) == ("failed", True), found


async def test_who_is_not_trusted_is_told_as_such(authority: Authority, tmp_path: Path) -> None:
    a, b = bundle_of(authority, "a"), bundle_of(authority_in(tmp_path / "foreign"), "b")
    plain = HttpNode(config_of(tmp_path / "p", node={"id": "p"}))
    async with running(tmp_path / "b", b) as node, plain:
        there = PeerEntry(id=b.member.id, name="b", address=node.url)
        unmade = PeerEntry(id="p", address=plain.url.replace("http:", "https:"))
        found = await examine(trusting(tmp_path / "a", a, (there, unmade)))
        # One without a bundle, at a port that speaks TLS alone.
        other = await examine(
            patient_of(tmp_path, PeerEntry(id="b", address=node.url.replace("https:", "http:")))
        )
    assert "not of this swarm's authority" in one(found, "peer b").said
    assert "it speaks plain HTTP" in one(found, "peer p").said
    assert "it speaks TLS alone there" in one(other, "peer b").said
    assert "bundle" in one(other, "peer b").advice


async def test_a_clock_that_is_hours_off_fails_with_certificates(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = bundle_of(authority, "a"), bundle_of(authority, "b")
    async with running(tmp_path / "b", b) as node:
        monkeypatch.setattr(node.world, "wall_time", lambda: time.time() + 7200)
        entries = (secure(b, int(node.url.rpartition(":")[2])),)
        found = one(await examine(trusting(tmp_path / "a", a, entries)), "clock")
    assert (found.state, found.said[:38]) == ("failed", "this machine's clock is 7,200 s behind")


async def certified(patient: Patient) -> list[Finding]:
    return [each for each in await examine(patient) if each.check in ("certificate", "revocations")]


async def test_certificates_that_have_ended_or_end_soon(
    authority: Authority, tmp_path: Path
) -> None:
    (found,) = await certified(trusting(tmp_path / "a", bundle_of(authority, "a", expired=True)))
    assert (found.state, "has expired" in found.said) == ("failed", True)
    later = bundle_of(authority, "b", at=now() + DAY)
    (found,) = await certified(trusting(tmp_path / "b", later))
    assert (found.state, "holds from" in found.said) == ("failed", True)
    (found,) = await certified(trusting(tmp_path / "c", bundle_of(authority, "c")))
    assert (found.state, "0 days are left" in found.said) == ("warning", True)
    assert "--renew" in found.advice


async def test_an_authority_that_ends_soon(tmp_path: Path) -> None:
    made = Authority.create(tmp_path / "old", "swarm", now(), 30 * DAY)
    (bundle,) = made.issue([("a", "")], now(), 29 * DAY)
    found = await certified(trusting(tmp_path / "a", bundle))
    assert [each.state for each in found] == ["ok", "warning"]
    assert "authority ends on" in found[1].said


async def test_a_node_that_was_revoked_a_list_that_is_none_and_a_readable_key(
    authority: Authority, tmp_path: Path
) -> None:
    bundle = bundle_of(authority, "a")
    patient = trusting(tmp_path / "a", bundle)
    (tmp_path / "a" / "data").mkdir()
    kept = tmp_path / "a" / "data" / "revocations.txt"
    kept.write_text("nonsense")
    (tmp_path / "a" / "a.bundle").chmod(0o640)
    found = await certified(patient)
    assert "it has no signature" in one(found, "revocations").said
    assert "its group may read it" in found[-1].said
    kept.write_text(authority.revoke("a")[1].text)
    assert "was revoked" in one(await certified(patient), "revocations").said


async def test_friends_without_friends(tmp_path: Path) -> None:
    found = await certified(trusting(tmp_path / "a", self_signed("swarm", "a", "", now())))
    assert [each.state for each in found] == ["ok", "warning"]
    assert "trusts nobody" in found[1].said


# -- what a status tells, and how checks end ------------------------------------------------------


def test_a_status_is_judged_whatever_it_holds() -> None:
    soon = (datetime.datetime.now(datetime.UTC) + DAY).isoformat()
    told = {
        "state": "failed",
        "reason": "loss is not finite",
        "peers": [{"id": "b", "state": "suspect", "reason": "no\x1b[31m"}, {"id": "c"}, 7],
        "network": {
            "certificate_ends": soon, "connections_refused": {"expired": 3}, "loop_lag_s_max": 2.5,
        },
    }  # fmt: skip
    found = judged("u", told)
    assert [each.state for each in found] == ["failed", *["warning"] * 4]
    assert "1 of its peers are suspect or refuse it: b: no\\x1b[31m" in found[1].said
    nested: list[Any] = []
    for _ in range(985):
        nested = [nested]
    for nonsense in (
        {},
        {"peers": 3, "network": [], "state": None},
        {"network": {"x": {}}},
        {"network": {"loop_lag_s_max": 10**400}},
        {"state": nested},
    ):
        assert len(judged("u", nonsense)) == 1


@pytest.mark.parametrize("time_there", [10**400, float("inf"), True, "noon", None])
def test_a_time_that_is_none_is_no_offset(time_there: Any) -> None:
    assert peers._offset_s({"time": time_there}, Heard(200, {}, b""), 0.0, 0.0) is None


async def test_a_check_that_hangs_ends_and_the_others_are_told() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def ends() -> list[Finding]:
        return [ok("b", "good")]

    found = await side_by_side({"a": hangs(), "b": ends()}, within_s=0.05)
    assert states(found) == {"a": "failed", "b": "ok"}


async def test_a_thread_that_hangs_is_left_behind() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError):
        await aside(released.wait, within_s=0.05)
    released.set()
    assert await aside(lambda: 7) == 7
    with pytest.raises(OSError, match="no such"):
        await aside(os.stat, "/no such file")


def test_what_is_not_good_says_what_to_do() -> None:
    with pytest.raises(AssertionError):
        findings.failed("a", "bad", "")
    with pytest.raises(AssertionError):
        Finding("a", "ok", "good", "advice")
