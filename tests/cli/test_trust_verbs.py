"""The verbs of trust: what they write, what they say, and what they refuse."""

from __future__ import annotations

import datetime
import json
import stat
from pathlib import Path

import pytest

from gossipnode.cli import app
from gossipnode.configfile import load_peers
from gossipnode.network.trust.authority import Authority, self_signed
from gossipnode.network.trust.bundle import read_bundle


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def run(line, capsys):
    """Run a command line; return its exit code, output and errors."""
    code = app.run(line.split())
    told = capsys.readouterr()
    return code, told.out, told.err


def ok(line, capsys):
    code, out, err = run(line, capsys)
    assert code == app.OK, err
    return out


def as_json(line, capsys):
    return json.loads(ok(f"{line} --json", capsys))


def test_an_authority_issues_shows_and_revokes(capsys):
    told = ok("ca create digits", capsys)
    assert "keep it safe" in told
    assert stat.S_IMODE(Path("ca/ca.key").stat().st_mode) == 0o600
    out = ok("ca issue alpha=10.0.0.1:7946 beta=10.0.0.2:7946 shy --ttl 30d", capsys)
    assert "gossipnode start --bundle alpha.bundle" in out
    bundle, _ = read_bundle(Path("alpha.bundle"))
    assert [seed.address for seed in bundle.seeds] == [
        "https://10.0.0.1:7946", "https://10.0.0.2:7946",
    ]  # fmt: skip
    left = bundle.member.not_after - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=29) < left <= datetime.timedelta(days=30)

    revoked = as_json("ca revoke beta", capsys)
    assert revoked["counter"] == 1
    shown = as_json("ca show", capsys)
    assert shown["swarm"] == "digits"
    assert {node["name"]: node["revoked"] for node in shown["nodes"]} == {
        "alpha": False, "beta": True, "shy": False,
    }  # fmt: skip
    table = ok("ca show", capsys)
    assert "revoked" in table
    assert bundle.member.id in table
    Path("peers.toml").write_text(ok("ca show --peers", capsys))
    (peer,) = load_peers("peers.toml")
    assert (peer.id, peer.name) == (bundle.member.id, "alpha")


def test_renewing_a_bundle_keeps_its_id(capsys):
    ok("ca create digits", capsys)
    (issued,) = as_json("ca issue alpha --ttl 1h", capsys)["bundles"]
    (renewed,) = as_json("ca issue --renew alpha.bundle --ttl 2d", capsys)["bundles"]
    assert renewed["id"] == issued["id"]
    assert renewed["expires"] > issued["expires"]
    assert stat.S_IMODE(Path("alpha.bundle").stat().st_mode) == 0o600


@pytest.mark.parametrize("flag", ["--bundle", "--status-token-file"])
def test_nobody_is_told_to_change_the_mode_of_a_folder(flag, capsys):
    Path("folder").mkdir(mode=0o755)
    line = f"start --algorithm gossip --port 0 --data-dir data {flag} folder"
    code, out, err = run(line, capsys)
    assert code == app.USAGE
    assert not out
    assert "error: folder: is a folder" in err
    assert "chmod" not in err


def test_what_has_expired_is_not_said_to_hold(capsys):
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    one_day = datetime.timedelta(days=1)
    Authority.create(Path("ca"), "digits", past, one_day)
    self_signed("digits", "alpha", "", past, one_day).write(Path("alpha.bundle"))
    assert "has expired on" in ok("trust show --bundle alpha.bundle", capsys)
    assert "expired on" in ok("ca show", capsys)
    code, _, err = run("ca issue beta", capsys)
    assert code == app.USAGE
    assert "gossipnode ca create" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--renew missing.bundle", app.USAGE),
        ("--out /proc", app.STORAGE),  # a folder in which nobody can write
    ],
)
def test_a_name_whose_bundle_could_not_be_written_is_free(words, code, capsys):
    ok("ca create digits", capsys)
    ok("ca issue alpha", capsys)
    assert run(f"ca issue beta gamma {words}", capsys)[0] == code
    assert [node["name"] for node in as_json("ca show", capsys)["nodes"]] == ["alpha"]
    ok("ca issue beta gamma", capsys)
    assert [node["name"] for node in as_json("ca show", capsys)["nodes"]] == [
        "alpha", "beta", "gamma",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["ca issue alpha", "id alpha"])
def test_the_folder_for_the_bundles_is_made(line, capsys):
    ok("ca create digits", capsys)
    ok(f"{line} --out deep/er", capsys)
    assert Path("deep/er/alpha.bundle").exists()


def test_a_folder_that_cannot_be_made_is_told(capsys):
    Path("file").touch()
    code, _, err = run("id alpha --out file/deep", capsys)
    assert code == app.STORAGE
    assert "--out" in err


def test_what_is_to_be_done_next_names_the_authority_in_use(capsys):
    assert "next: gossipnode ca issue --ca there NAME=" in ok("ca create digits --ca there", capsys)
    ok("ca issue alpha --ca there", capsys)
    told = ok("ca revoke alpha --ca there", capsys)
    assert "gossipnode ca revoke alpha --ca there --tell https://" in told
    assert "next: gossipnode ca issue NAME=" in ok("ca create digits", capsys)


def test_friends_pin_each_other(capsys):
    for name, port in (("alpha", 1), ("beta", 2)):
        ok(f"id {name} --swarm friends --address 127.0.0.1:{port}", capsys)
    ok("trust add beta.crt --address 127.0.0.1:2 --bundle alpha.bundle", capsys)
    shown = as_json("trust show --bundle alpha.bundle", capsys)
    assert shown["mode"] == "pinned"
    assert [friend["name"] for friend in shown["friends"]] == ["beta"]
    assert len(shown["seeds"]) == 2
    assert "beta" in ok("trust show --bundle alpha.bundle", capsys)
    ok("trust remove beta --bundle alpha.bundle", capsys)
    assert not as_json("trust show --bundle alpha.bundle", capsys)["friends"]


def test_a_node_that_cannot_be_told_is_an_error_that_can_be_repaired(capsys):
    ok("ca create swarm", capsys)
    ok("ca issue alpha", capsys)
    for _ in range(2):  # saying it again tells it again
        code, _, err = run("ca revoke alpha --tell https://127.0.0.1:1", capsys)
        assert code == app.NETWORK
        assert "the list is signed, and https://127.0.0.1:1 has not got it" in err
    assert as_json("ca show", capsys)["revocations"] == 1


def test_a_node_that_cannot_be_told_keeps_nobody_from_being_told(capsys):
    ok("ca create swarm", capsys)
    ok("ca issue alpha", capsys)
    urls = ["https://127.0.0.1:1", "https://127.0.0.1:2"]
    code, _, err = run(f"ca revoke alpha --tell {urls[0]} --tell {urls[1]}", capsys)
    assert code == app.NETWORK
    assert all(f"{url} has not got it" in err for url in urls)


def test_who_was_revoked_can_be_issued_a_bundle_anew_by_what_is_said(capsys):
    ok("ca create swarm", capsys)
    ok("ca issue alpha", capsys)
    ok("ca revoke alpha", capsys)
    assert "issue a new bundle" in run("ca issue --renew alpha.bundle", capsys)[2]
    assert "take it away" in run("ca issue alpha", capsys)[2]
    Path("alpha.bundle").unlink()
    ok("ca issue alpha", capsys)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ca show --peers --json", "leave one of them out"),
        ("ca issue alpha --ca elsewhere", "gossipnode ca create"),
        ("ca issue", "name a node"),
        ("ca issue taken", "is there already"),
        ("ca issue known", "is there already"),
        ("ca issue known --out elsewhere", "another node"),
        ("ca issue a/b", "no name"),
        (f"ca issue {'a' * 65}", "at most 64"),
        ("ca issue x=nowhere", "no address"),
        ("ca issue x=http://10.0.0.1:1", "https"),
        ("ca issue x --ttl soon", "no duration"),
        ("ca issue x --ttl 101y", "no duration"),
        ("ca issue --renew missing.bundle", "no such file"),
        ("ca issue --renew friend.bundle", "no node of this authority"),
        ("ca revoke knwon", "did you mean 'known'"),
        ("ca create digits", "authority already"),
        ("ca create a/b --ca other", "no name"),
        ("id friend", "is there already"),
        ("trust add friend.crt --bundle known.bundle", "an authority"),
        ("trust add friend.crt --bundle friend.bundle", "own certificate"),
        ("trust add other.crt --bundle friend.bundle", "of swarm others"),
        ("trust add missing.crt --bundle friend.bundle", "no such file"),
        ("trust add ca/ca.crt --bundle friend.bundle", "names no node"),
        ("trust add issued.crt --bundle friend.bundle", "signs itself"),
        ("trust add taken.bundle --bundle friend.bundle", "no certificate"),
        ("trust remove nobody --bundle friend.bundle", "no friend"),
        ("trust show --bundle readable.bundle", "chmod 600"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(line, told, capsys):
    ok("ca create swarm", capsys)
    ok("ca issue known", capsys)
    ok("id friend", capsys)
    ok("id other --swarm others", capsys)
    Path("taken.bundle").write_text("")
    Path("readable.bundle").write_text(Path("known.bundle").read_text())
    Path("readable.bundle").chmod(0o644)
    text = Path("known.bundle").read_text()
    start = text.index("-----BEGIN CERTIFICATE")
    Path("issued.crt").write_text(text[start : text.index('"""', start)])
    before = Path("friend.bundle").read_bytes()
    code, out, err = run(line, capsys)
    assert code == app.USAGE
    assert told in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not out
    assert Path("friend.bundle").read_bytes() == before
