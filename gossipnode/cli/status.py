"""``gossipnode status``: how a node is, once or as it changes.

Invariant: whatever a node tells about its peers is text of strangers: escaped and bounded, and
never read as markup.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click

from gossipnode.cli.addresses import NODE_URL
from gossipnode.cli.app import INTERRUPTED, NETWORK, OK, USAGE, notes
from gossipnode.cli.columns import columns, decimal, quantity, raw
from gossipnode.cli.finite import FiniteFloat
from gossipnode.cli.process import raise_on_signals
from gossipnode.cli.readers import hinted, readers_token_option, token_in
from gossipnode.config import DEFAULT_PORT
from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import bounded
from gossipnode.network import HttpClient, NoNodeError, ToldError
from gossipnode.network.probe import WORDS as TLS_WORDS

DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
TIMEOUT_S = 10.0
# A reason for a refusal has up to 512 characters, and its code before it.
TEXT_CHARS_MAX = 600
# What a node tells of its peers at a time, at most.
PEERS_PAGE = 256

Status = dict[str, Any]


@click.command(
    epilog=notes(
        OK, USAGE, NETWORK, INTERRUPTED,
        examples=[
            "gossipnode status",
            "gossipnode status http://10.0.0.5:7946 --watch",
            "gossipnode status --json | jq .accuracy",
        ],
    )
)  # fmt: skip
@click.argument("url", type=NODE_URL, default=DEFAULT_URL)
@readers_token_option
@click.option("--watch", is_flag=True, help="Go on until interrupted, showing what changes.")
@click.option(
    "--interval-s",
    type=FiniteFloat(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Time between two looks with --watch. [s]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what the node answers as JSON.")
def command(url: str, token_file: str, watch: bool, interval_s: float, as_json: bool) -> None:
    """Show the state, progress and peers of the node at URL (this machine's)."""
    token = token_in(token_file)
    raise_on_signals()  # the terminal's cursor must come back
    if watch:
        asyncio.run(_watch(url, token, interval_s, as_json=as_json))
    else:
        status = asyncio.run(fetch(url, token))
        click.echo(json.dumps(status) if as_json else "\n".join(lines_of(status)))


async def fetch(url: str, token: str = "") -> Status:
    """Return the status of the node at ``url``; raises ``NetworkError``."""
    async with HttpClient(token=token) as client:
        return await ask(client, url)


async def fetch_peers(url: str, token: str = "") -> list[dict[str, Any]]:
    """Return all peers of the node at ``url``; raises ``NetworkError``."""
    found: list[dict[str, Any]] = []
    after: str | None = ""
    async with HttpClient(token=token) as client:
        while after is not None:
            query = urlencode({"after": after, "limit": PEERS_PAGE})
            page = await _answer(client, url, f"/v1/peers?{query}", {"peers"})
            with _understood():
                found += page["peers"]
                # Older nodes tell all at once; an empty page must not make this go on for ever.
                after = page.get("next") if page["peers"] else None
    return found


async def ask(client: HttpClient, url: str) -> Status:
    """Return the status of the node at ``url``; raises ``NetworkError`` that says what to do."""
    return await _answer(client, url, "/v1/status", {"node_id", "peers", "pushes"})


async def _answer(client: HttpClient, url: str, path: str, keys: set[str]) -> dict[str, Any]:
    """Return the map with ``keys`` at ``path``; raises ``NetworkError`` that says what to do."""
    try:
        answer = await client.get_json(url + path, TIMEOUT_S)
    except NoNodeError:
        raise
    except ToldError as error:
        raise NetworkError(hinted(error)) from None
    except (NetworkError, PeerError) as error:
        raise NetworkError(f"{error}{_hint(url, str(error))}") from None
    if not isinstance(answer, dict) or not keys <= answer.keys():
        raise NoNodeError(url)
    return answer


def _hint(url: str, said: str) -> str:
    """Return what to do where asking ``url`` has failed with the words ``said``."""
    if TLS_WORDS in said:  # they say where to ask
        return ""
    if url.startswith("https:"):
        return (
            "; people ask a node's pages, which are plain: `gossipnode start` prints their address"
        )
    return "; is a node running there? `gossipnode start` prints its address"


def lines_of(status: Status) -> list[str]:
    """Return the status for people; raises ``NetworkError`` where it is not whole."""
    with _understood():
        facts = _facts(escaped(status)).items()
        lines = [line for name, text in facts for line in _wrapped(f"{name:<11}", text)]
        return [*lines, "", *peer_lines(status["peers"]), *_not_shown(status)]


def _counts(status: Status) -> tuple[int, dict[str, int]]:
    """Return how many peers there are, and how many of them in each state."""
    peers = status["peers"]
    if "peers_total" not in status:  # older nodes tell of all
        return len(peers), dict(Counter(peer["state"] for peer in peers))
    return int(status["peers_total"]), {k: int(n) for k, n in status["peers_by_state"].items()}


def _not_shown(status: Status) -> list[str]:
    """Return a line that tells of the peers that the status leaves out, if it does.

    >>> _not_shown({"peers": [{}] * 64, "peers_total": 100, "peers_by_state": {"alive": 100}})
    ['64 of 100 peers (100 alive); `gossipnode peers` shows all']
    """
    total, by_state = _counts(status)
    shown = len(status["peers"])
    if total <= shown:
        return []
    states = ", ".join(f"{n} {state}" for state, n in escaped(by_state).items() if n)
    return [f"{shown} of {total} peers ({states}); `gossipnode peers` shows all"]


def _facts(status: Status) -> dict[str, str]:
    pushes, sizes = status["pushes"], status["bytes"]
    state = f"{bounded(status['state'])}, up {quantity(status['uptime_s'], 's')}"
    if status["reason"]:
        state += f": {status['reason']}"
    missing = pushes.get("missing_models", 0)  # older nodes do not tell
    rounds = f"{status['round']}" + (f" of {status['rounds']}" if status["rounds"] else "")
    if status["round_s"] is not None:
        rounds += f", {quantity(status['round_s'], 's')} each"
    measured = "" if status["measured_round"] is None else f" (round {status['measured_round']})"
    refused = sum(pushes["refused"].values()), sum(pushes["refused_by_peers"].values())
    facts = {
        "node": f"{_called(status.get('name', ''), status['node_id'])} in {status['swarm']}, "
        f"{status['algorithm']}, {status['task']} with {status['params']} params",
        "state": state,
        "round": rounds,
        "loss": decimal(status["loss"]) + measured,
        "accuracy": decimal(status["accuracy"]) + measured,
        "age": f"{status['age']} steps, {status['durable_age']} of them safe on disk",
        "pushes": f"{pushes['sent']} sent, {pushes['received']} received, "
        f"{pushes['merged']} merged, {pushes['failed']} failed, "
        f"{refused[0]} refused here, {refused[1]} refused by peers"
        + (f", {missing} models missing" if missing else ""),
        "bytes": f"{quantity(sizes['sent'], 'B')} sent{raw(sizes['sent'], sizes.get('saved', 0))}, "
        f"{quantity(sizes['received'], 'B')} received; "
        f"{quantity(sizes['resident'], 'B')} resident{_kept(sizes)}",
    }
    if status.get("swarm_loss") is not None:  # older nodes do not tell
        facts["swarm"] = (
            f"training loss {decimal(status['swarm_loss'])}, "
            f"{status['swarm_steps_per_s']:.4g} steps/s, {status['swarm_samples']} samples"
        )
    network = status.get("network", {})  # older nodes do not tell
    if network.get("pages"):
        facts["pages"] = str(network["pages"])
    if transfers := network.get("transfers", []):
        facts["transfers"] = "; ".join(_transfer(one) for one in transfers)
    if status.get("duplicate_id"):
        facts["duplicate"] = f"another node has this node's id, at {status['duplicate_id']}"
    if status["checkpoint_error"]:
        facts["checkpoint"] = status["checkpoint_error"]
    return facts


def _kept(sizes: dict[str, Any]) -> str:
    """Return what of the memory is the algorithm's own; older nodes do not tell."""
    state = sizes.get("state", 0)
    return f", {quantity(state, 'B')} of it state of the algorithm" if state else ""


def _transfer(one: dict[str, Any]) -> str:
    """Return how far a long body to or from a peer is.

    >>> _transfer({"peer": "b", "direction": "to", "bytes": 250e6, "bytes_total": 1e9,
    ...     "bytes_per_s": 125e6})
    '250 MB of 1 GB to b, 125 MB/s'
    """
    done, total, rate = (quantity(one[k], "B") for k in ("bytes", "bytes_total", "bytes_per_s"))
    return f"{done} of {total} {one['direction']} {one['peer']}, {rate}/s"


def peer_lines(peers: list[dict[str, Any]]) -> list[str]:
    """Return a table of peers, and below a peer's row why it is suspected or who refuses whom."""
    if not peers:
        return ["no peers"]
    with _understood():
        peers = escaped(peers)
        head = ["peer", "address", "state", "last contact", "round", "behind", "sent", "got"]
        first, *rows = columns(head, [_peer_cells(peer) for peer in peers])
        lines = [first]
        for row, peer in zip(rows, peers, strict=True):
            lines.append(row)
            for text in _reasons(peer):
                lines += _wrapped("    ", text)
    return lines


def _peer_cells(peer: dict[str, Any]) -> list[str]:
    contact = peer["last_contact_s"]
    return [
        _called(peer.get("name", ""), peer["id"]),
        str(peer["address"]),
        str(peer["state"]),
        "never" if contact is None else f"{quantity(contact, 's')} ago",
        _or_dash(peer["round"]),
        _or_dash(peer["staleness"]),
        _or_dash(peer["pushes_sent"]),
        _or_dash(peer["pushes_received"]),
    ]


def _called(name: Any, node_id: Any) -> str:
    """Return the name with the id behind it; older nodes, and those without bundles, have none."""
    return f"{name} ({node_id})" if name else str(node_id)


def _reasons(peer: dict[str, Any]) -> list[str]:
    """Return what is wrong with a peer, each thing once."""
    refusal, here = peer["refusal"], peer.get("refused_here", "")  # older nodes do not tell
    reasons = [str(peer["reason"])] if peer["reason"] and peer["reason"] != refusal else []
    if reasons and peer.get("state_s") is not None:
        reasons[0] += f", for {quantity(peer['state_s'], 's')}"
    if refusal:
        reasons.append(f"it refuses our pushes: {refusal}")
    if here:
        reasons.append(f"its pushes are refused here: {here}")
    return reasons


def _wrapped(begin: str, text: str) -> list[str]:
    """Return the whole text behind ``begin``, on as many lines as the terminal needs."""
    width = shutil.get_terminal_size((0, 0)).columns  # 0: no terminal, no limit
    if len(begin) + len(text) <= width or width < 2 * len(begin):
        return [begin + text]
    indent = " " * len(begin)
    return textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=indent)


def escaped(value: Any) -> Any:
    r"""Return a JSON value with every text in it escaped and bounded.

    >>> escaped({"id": "a\x1b[31m", "round": 3})
    {'id': 'a\\x1b[31m', 'round': 3}
    """
    if isinstance(value, str):
        return bounded(value, TEXT_CHARS_MAX)
    if isinstance(value, list):
        return [escaped(entry) for entry in value]
    if isinstance(value, dict):
        return {bounded(key, 64): escaped(entry) for key, entry in value.items()}
    return value


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Turn what is missing from a stranger's answer, or of another type, into an error of it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NetworkError(
            f"the answer is of another version, or no status: {type(error).__name__} "
            f"{bounded(error)}"
        ) from None


async def _watch(url: str, token: str, interval_s: float, *, as_json: bool) -> None:
    """Show the status again and again; a node that goes away is told and waited for."""
    live = None
    if sys.stdout.isatty() and not as_json:
        from rich.live import Live

        live = Live(auto_refresh=False)
        live.start()
    last = ""
    try:
        async with HttpClient(token=token) as client:
            await ask(client, url)  # nobody there to begin with is an error
            while True:
                text = await _now(client, url, as_json=as_json, as_table=live is not None)
                if live is not None:
                    from rich.text import Text

                    live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
                elif text != last:
                    click.echo(text)
                last = text
                await asyncio.sleep(interval_s)
    finally:
        if live is not None:
            live.stop()


async def _now(client: HttpClient, url: str, *, as_json: bool, as_table: bool) -> str:
    try:
        status = await ask(client, url)
    except NetworkError as error:
        return json.dumps({"error": str(error)}) if as_json else f"unreachable: {error}"
    if as_json:
        return json.dumps(status)
    if as_table:
        return "\n".join(lines_of(status))
    with _understood():
        status = escaped(status)
        total, by_state = _counts(status)
        return (
            f"{status['node_id']} {status['state']} "
            f"round {status['round']} loss {decimal(status['loss'])} "
            f"accuracy {decimal(status['accuracy'])} age {status['age']} "
            f"peers {by_state.get('alive', 0)}/{total} alive"
            + (f": {status['reason']}" if status["reason"] else "")
            + "".join(
                f", {_transfer(one)}" for one in status.get("network", {}).get("transfers", [])
            )
        )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
