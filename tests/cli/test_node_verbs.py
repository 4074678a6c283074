"""``start``, ``status``, ``peers``, ``model pull`` and joining, against living nodes."""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import signal
import socket
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from cli_processes import Command, wait_for
from plain_learner import PlainLearner, plain_config

from gossipnode.cli import app
from gossipnode.cli.start import _placed, _warn_if_out_of_reach, how_to_join, own_address
from gossipnode.cli.status import TEXT_CHARS_MAX, lines_of, peer_lines
from gossipnode.cli.stop import _gone
from gossipnode.config import Config, NetworkOptions, NodeOptions, PeerEntry
from gossipnode.errors import NetworkError
from gossipnode.simulation import SimulatedSwarm

GOSSIP = ["start", "--algorithm", "gossip", "--period-s", "0.02", "--port", "0"]
OF_A_NODE = ["status URL", "peers URL", "model pull URL m", "start --join URL"]


def url_of(command: Command) -> str:
    """Wait for the ready line and return the address in it."""

    def ready() -> str | None:
        assert command.process.poll() is None, command.err.read_text()
        found = re.search(r"^ready: \S+ at (http://\S+) ", command.out.read_text(), re.MULTILINE)
        return found[1] if found else None

    return str(wait_for(ready, "the ready line"))


def status_of(url: str, capsys: pytest.CaptureFixture[str]) -> dict:
    assert app.run(["status", url, "--json"]) == app.OK
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A gossip node called ``donor``, running, which rounds what it sends."""
    folder = tmp_path_factory.mktemp("donor")
    line = [*GOSSIP, "--codec", "float16", "--id", "donor", "--data-dir", "data"]
    with Command(folder, *line) as command:
        url_of(command)
        yield command


def test_status_peers_and_watch_tell_of_a_living_node(donor, tmp_path, capsys):
    url = url_of(donor)
    assert status_of(url, capsys)["node_id"] == "donor"
    assert app.run(["status", url]) == app.OK
    text = capsys.readouterr().out
    assert text.startswith("node       donor in swarm, gossip, softmax with 650 params\n")
    assert app.run(["peers", url, "--json"]) == app.OK
    assert isinstance(json.loads(capsys.readouterr().out), list)
    with Command(tmp_path, "status", url, "--watch", "--interval-s", "0.1") as watch:
        wait_for(lambda: watch.out.read_text().count("donor running") >= 2, "two changes")
        watch.signal(signal.SIGINT)
        assert watch.end() == app.INTERRUPTED
    assert watch.err.read_text().strip() == ""


def test_a_node_joins_with_the_swarms_options_and_model_and_both_learn_of_it(
    donor, tmp_path, capsys
):
    url = url_of(donor)
    assert "gossipnode start --join " + url in donor.out.read_text()
    age = wait_for(lambda: status_of(url, capsys)["age"], "the donor to have learnt")
    line = ["start", "--join", url, "--id", "guest", "--port", "0", "--data-dir", "data"]
    with Command(tmp_path, *line) as guest:
        told = status_of(url_of(guest), capsys)
        assert told["algorithm"] == "gossip"
        assert told["age"] >= age  # began with the donor's model, not anew
        assert [peer["id"] for peer in told["peers"]] == ["donor"]
        assert "model.adopted donor=donor" in guest.err.read_text()

        def known() -> bool:
            peers = {peer["id"]: peer["state"] for peer in status_of(url, capsys)["peers"]}
            return peers.get("guest") == "alive"

        wait_for(known, "the donor to hear of the guest")
        saved = wait_for(
            lambda: status_of(url_of(guest), capsys)["bytes"]["saved"], "the guest to round too"
        )
        assert saved % (650 * 2) == 0
        guest.signal(signal.SIGTERM)
        assert guest.end() == app.OK


def test_a_joining_node_needs_a_name_of_its_own(donor, capsys):
    line = ["start", "--join", url_of(donor), "--id", "donor", "--port", "0"]
    assert app.run(line) == app.USAGE
    assert "'donor' is in the swarm already" in capsys.readouterr().err


def test_model_pull_and_eval(donor, tmp_path, capsys):
    file = tmp_path / "m.safetensors"
    assert app.run(["model", "pull", url_of(donor), str(file), "--json"]) == app.OK
    told = json.loads(capsys.readouterr().out)
    assert (told["params"], told["node"]) == (650, "donor")
    assert app.run(["model", "eval", str(file), "--json"]) == app.OK
    assert json.loads(capsys.readouterr().out)["samples"] == 1797
    assert list(tmp_path.iterdir()) == [file]


def test_a_fixed_graph_tells_how_to_add_a_node_and_refuses_to_be_joined(tmp_path, capsys):
    peers = tmp_path / "peers.toml"
    # Alone on its ring, so nobody dials the address here, and any free port will do.
    peers.write_text('[[peer]]\nid = "a"\naddress = "http://127.0.0.1:7946"\n')
    line = ["start", "--id", "a", "--peers", str(peers), "--port", "0", "--data-dir", "data"]
    with Command(tmp_path, *line) as node:
        url = url_of(node)
        assert "add the node to peers.toml on every node" in node.out.read_text()
        assert app.run(["start", "--join", url, "--id", "b", "--port", "0"]) == app.USAGE
        assert "graph (ring) is fixed" in capsys.readouterr().err
        node.signal(signal.SIGTERM)
        assert node.end() == app.OK


@pytest.mark.parametrize("line", OF_A_NODE)
def test_a_node_that_is_not_there_is_a_network_error(line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # Port 1 of loopback: nobody listens there without privileges.
    assert app.run(line.replace("URL", "http://127.0.0.1:1").split()) == app.NETWORK
    assert re.fullmatch(r"error: http://127\.0\.0\.1:1/\S+ connection refused.*\n",
                        capsys.readouterr().err)  # fmt: skip


@pytest.mark.parametrize("line", OF_A_NODE)
@pytest.mark.parametrize(
    "url", ["127.0.0.1:7999", "localhost:7999", "htp://a:1", "http://", "http://a:x", "a"]
)
def test_an_address_is_written_with_its_scheme(line, url, capsys):
    assert app.run(line.replace("URL", url).split()) == app.USAGE
    assert re.fullmatch(r"error: .* write http://HOST:PORT .*\n", capsys.readouterr().err)


class Page(http.server.BaseHTTPRequestHandler):
    """A page for every path, with the status that the server was made with."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><html><body>Some\nother page</body></html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("line", OF_A_NODE)
@pytest.mark.parametrize("status", [200, 404])
def test_a_web_server_that_is_no_node_is_called_that(line, status, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        server.status = status  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert app.run(line.replace("URL", url + "/").split()) == app.NETWORK
        finally:
            server.shutdown()
            thread.join()
    assert capsys.readouterr().err == f"error: {url} answers, but is no gossipnode\n"
    assert not list(tmp_path.iterdir())


# -- what ends a node before it is ready -----------------------------------------------------------


def errors_of(command: Command) -> list[str]:
    return [line for line in command.err.read_text().splitlines() if line.startswith("error: ")]


def test_a_port_in_use_is_one_whole_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = [*GOSSIP[:-1], port, "--data-dir", "data"]
        with Command(tmp_path, *line) as command:
            assert command.end() == app.NETWORK
    (error,) = errors_of(command)
    assert port in error
    assert "in use" in error
    assert command.err.read_text().count("in use") == 1


def test_an_open_address_without_insecure_is_one_whole_line(tmp_path):
    line = [*GOSSIP, "--bind", "0.0.0.0", "--advertise", "http://10.0.0.5:1", "--data-dir", "d"]
    with Command(tmp_path, *line) as command:
        assert command.end() == app.USAGE
    (error,) = errors_of(command)
    assert "--insecure" in error or "network.insecure" in error


def test_missing_data_is_one_whole_line_however_long_its_path(tmp_path):
    path = "/".join(["nowhere" * 10] * 8) + "/end.csv"
    with Command(tmp_path, *GOSSIP, "--data", f"csv:{path}", "--data-dir", "d") as command:
        assert command.end() == app.USAGE
    (error,) = errors_of(command)
    assert path in error


# -- a table in a narrow terminal ------------------------------------------------------------------

PEER = {
    "id": "beta", "address": "http://127.0.0.1:7947", "state": "suspected", "last_contact_s": None,
    "round": 3, "staleness": 1, "pushes_sent": 5, "pushes_received": 0,
    "reason": "", "refusal": "", "refused_here": "",
}  # fmt: skip


def test_a_reason_stands_whole_below_its_peer_however_narrow_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    reason = "wrong_schema: " + "its model has other features than ours and " * 5 + "so on"
    first, row, *below = peer_lines([{**PEER, "refusal": reason}])
    assert len(first) <= 80
    assert len(row) <= 80
    assert all(len(line) <= 80 for line in below)
    assert " ".join(" ".join(below).split()) == f"it refuses our pushes: {reason}"


def test_the_same_reason_is_told_once_and_both_directions_are_told():
    refused = {**PEER, "reason": "wrong_swarm: x", "refusal": "wrong_swarm: x"}
    assert peer_lines([refused])[2:] == ["    it refuses our pushes: wrong_swarm: x"]
    dead = {**PEER, "reason": "connection refused", "refused_here": "stale_epoch: 2 < 3"}
    assert peer_lines([dead, PEER])[2:4] == [
        "    connection refused",
        "    its pushes are refused here: stale_epoch: 2 < 3",
    ]


# -- where a node listens --------------------------------------------------------------------------


def config(**network: object) -> Config:
    return Config(node=NodeOptions(id="b"), network=NetworkOptions(**network))


def entries(*addresses: str) -> list[PeerEntry]:
    return [PeerEntry(id=i, address=a) for i, a in zip("ab", addresses, strict=False)]


@pytest.mark.parametrize(
    ("network", "address", "bind", "port"),
    [
        ({}, "http://127.0.0.1:7947", "127.0.0.1", 7947),
        ({}, "http://localhost:7947", "localhost", 7947),
        ({}, "http://10.0.0.6:7000", "127.0.0.1", 7000),
        ({"port": 9}, "http://127.0.0.1:7947", "127.0.0.1", 9),
        ({"bind": "0.0.0.0"}, "http://10.0.0.6:7000", "0.0.0.0", 7000),
    ],
)
def test_address_and_port_come_from_the_own_entry_unless_given(network, address, bind, port):
    placed = _placed(config(**network), entries("http://127.0.0.1:1", address)).network
    assert (placed.bind, placed.port) == (bind, port)


def test_a_node_out_of_reach_is_warned(capsys):
    peers = entries("http://127.0.0.1:1", "http://10.0.0.6:7000")
    _warn_if_out_of_reach(_placed(config(), peers), peers)
    assert "warning: peers dial http://10.0.0.6:7000" in capsys.readouterr().err


def test_a_node_on_all_addresses_advertises_one_that_can_be_dialled():
    placed = _placed(config(bind="0.0.0.0", port=7000), []).network
    host = asyncio.run(own_address("0.0.0.0"))
    assert placed.advertise == f"http://{host}:7000"
    assert host not in ("0.0.0.0", "")


def test_the_join_line_can_be_copied_to_another_machine():
    gossip = Config.model_validate(
        {"algorithm": {"name": "gossip"}, "topology": {"graph": "random"}}
    )
    line = how_to_join(gossip, "http://10.0.0.5:7946")
    command = line.removeprefix("join from another machine: ")
    assert command == "gossipnode start --join http://10.0.0.5:7946 --insecure --bind 0.0.0.0"


def test_who_joins_a_node_by_ipv6_is_told_to_listen_there():
    gossip = Config.model_validate(
        {"algorithm": {"name": "gossip"}, "topology": {"graph": "random"}}
    )
    line = how_to_join(gossip, "http://[fd00::2]:7946")
    assert line.endswith("gossipnode start --join http://[fd00::2]:7946 --insecure --bind ::")


def test_who_started_from_bundles_is_not_sent_to_a_peers_toml():
    sections = {"trust": {"bundle": "a.bundle"}}
    line = how_to_join(Config.model_validate(sections), "https://10.0.0.5:7946")
    assert "peers.toml" not in line
    assert "gossipnode ca issue NAME=HOST:PORT" in line
    sections["swarm"] = {"peers": "peers.toml"}
    line = how_to_join(Config.model_validate(sections), "https://10.0.0.5:7946")
    assert "add the node to peers.toml on every node" in line


def test_the_dashboard_is_where_the_node_listens(tmp_path):
    entry = '[[peer]]\nid = "a"\naddress = "http://127.0.0.1:1"\n'
    (tmp_path / "peers.toml").write_text(entry)
    line = ["start", "--id", "a", "--peers", "peers.toml", "--port", "0", "--rounds", "1"]
    with Command(tmp_path, *line, "--data-dir", "data") as command:
        assert command.end() == app.OK, command.err.read_text()
    ready = command.out.read_text().splitlines()[0]
    url = re.search(r"at (http://127\.0\.0\.1:\d+) ", ready)[1]
    assert not url.endswith(":1")
    assert f"(dashboard: {url}/)" in ready


def test_a_node_that_wants_a_token_is_told_with_how_to_show_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("token").write_text("a" * 43)
    Path("token").chmod(0o600)
    words = ["--status-token-file", "token", "--data-dir", "data"]
    with Command(tmp_path, *GOSSIP, *words) as command:
        url = url_of(command)
        for line in OF_A_NODE:
            assert app.run(line.replace("URL", url).split()) == app.NETWORK, line
            assert "name the file with its token: --status-token-file" in capsys.readouterr().err
        pull = ["model", "pull", url, "m", "--status-token-file", "token"]
        assert app.run(pull) == app.OK


def test_a_node_without_an_authority_does_not_speak_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.run(["id", "alpha", "--swarm", "friends", "--address", "127.0.0.1:1"]) == app.OK
    line = [*GOSSIP, "--status-port", "0", "--bind", "127.0.0.1", "--bundle", "alpha.bundle"]
    with Command(tmp_path, *line, "--rounds", "1", "--data-dir", "data") as command:
        assert command.end() == app.OK, command.err.read_text()
    _, told = command.out.read_text().splitlines()
    assert "gossipnode ca" not in told
    assert "gossipnode id NAME --swarm friends" in told
    assert "gossipnode trust add" in told


# -- strangers' text -------------------------------------------------------------------------------


def test_what_a_peer_calls_itself_cannot_alter_the_screen():
    evil = "x\x1b[2J\n[red]" + "y" * 1000
    peer = dict.fromkeys(
        ("id", "address", "state", "refusal", "round", "staleness", "pushes_sent"), evil
    )
    peer |= {"reason": "other" + evil, "refused_here": evil}
    lines = peer_lines([{**peer, "pushes_received": evil, "last_contact_s": 1.0}])
    assert len(lines) == 5  # head, row, three reasons
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 8 * TEXT_CHARS_MAX


def test_a_node_that_waits_says_for_what_and_how_many_models_did_not_come():
    config = plain_config(algorithm__name="dpsgd")
    with SimulatedSwarm(config, 2, learners=[PlainLearner([0.0]) for _ in range(2)]) as swarm:
        status = asdict(swarm.up[0].status())
    assert not any("missing" in line for line in lines_of(status))
    status |= {"state": "running", "reason": "waiting for b: round 3", "uptime_s": 7.0}
    status["pushes"]["missing_models"] = 12
    lines = lines_of(status)
    assert "state      running, up 7 s: waiting for b: round 3" in lines
    assert any(line.startswith("pushes ") and "12 models missing" in line for line in lines)
    del status["pushes"]["missing_models"]  # an older node's
    assert not any("missing" in line for line in lines_of(status))


def test_of_a_crowd_some_are_shown_none_is_claimed_to_be_all_and_pages_have_the_rest(
    tmp_path, capsys
):
    entries = "".join(
        f'[[peer]]\nid = "n{i}"\naddress = "http://127.0.0.1:{i + 1}"\n' for i in range(600)
    )
    (tmp_path / "peers.toml").write_text(entries)
    line = [*GOSSIP, "--peers", "peers.toml", "--period-s", "1000", "--data-dir", "data"]
    with Command(tmp_path, *line, "--id", "a", "--port", "0") as command:
        url = url_of(command)
        assert app.run(["status", url]) == app.OK
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == "64 of 600 peers (600 unknown); `gossipnode peers` shows all"
        assert app.run(["peers", url, "--json"]) == app.OK
        rows = json.loads(capsys.readouterr().out)
        assert [row["id"] for row in rows] == [f"n{i}" for i in range(600)]
        with Command(tmp_path, "status", url, "--watch") as watch:
            wait_for(lambda: "peers 0/600 alive" in watch.out.read_text(), "the count of all")
            watch.signal(signal.SIGINT)
            assert watch.end() == app.INTERRUPTED


def test_a_status_of_an_older_node_is_shown_without_counts():
    config = plain_config(algorithm__name="dpsgd")
    with SimulatedSwarm(config, 2, learners=[PlainLearner([0.0]) for _ in range(2)]) as swarm:
        status = asdict(swarm.up[0].status())
    whole = lines_of(status)
    del status["peers_total"], status["peers_by_state"]
    assert lines_of(status) == whole


@pytest.mark.parametrize("answer", [{}, {"node_id": 1, "peers": 3, "pushes": [], "bytes": None}])
def test_an_answer_that_is_no_status_is_a_network_error(answer):
    with pytest.raises(NetworkError, match="another version"):
        lines_of(answer)


def test_a_node_that_answers_nothing_has_not_stopped_yet():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(NetworkError, match="still listens"):
            asyncio.run(_gone(url, 1.2))
    asyncio.run(_gone(url, 1.2))
