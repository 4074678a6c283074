"""``gossipnode plan``: what a training run costs before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from gossipnode.cli.app import OK, USAGE, notes
from gossipnode.cli.bandwidth import bandwidth
from gossipnode.cli.columns import columns, count, mean_count, quantity
from gossipnode.cli.compressed import codec_flags, coded_message
from gossipnode.cli.finite import FiniteFloat
from gossipnode.cli.graphs import graph_options, sequence_for, serving
from gossipnode.errors import ConfigError

if TYPE_CHECKING:
    from gossipnode.topology.costs import Cost, Link, Load
    from gossipnode.topology.sequences import GraphSequence

# Where none is named: the slowest, the two that a graph of any size should be compared with, and
# the one that sends least.
TOPOLOGIES = ("ring", "torus", "exponential", "one_peer_exponential")


@click.command(
    epilog=notes(
        OK, USAGE,
        examples=[
            "gossipnode plan -n 16 --params 85098 --rounds 500 --up 10Mbit --down 100Mbit",
            "gossipnode plan -n 64 --params 4950544 --topology torus --topology base --peers 3",
            "gossipnode plan --params 85098 --up 100Mbit --down 1Gbit --within 60",
            "gossipnode plan -n 200 --params 4950544 --rounds 1000 --price 0.03",
            "gossipnode plan -n 16 --params 7850 --codec topk --codec-fraction 0.01",
            "gossipnode plan -n 128 --topology random_regular --degree 8 --rounds 50 --final naive",
        ],
    )
)  # fmt: skip
@click.option(
    "-n", "--nodes", type=click.IntRange(2, 20_000), default=16, show_default=True,
    help="Number of nodes.",
)  # fmt: skip
@click.option(
    "--params", type=click.IntRange(1), default=650, show_default=True, help="Size of the model."
)
@click.option(
    "--bits", type=FiniteFloat(0, min_open=True), default=32, show_default=True,
    help="A param on the wire.",
)  # fmt: skip
@click.option(
    "--bytes", "model_bytes", type=FiniteFloat(0, min_open=True),
    help="A model on the wire; overrides --params and --bits.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1), default=1, show_default=True,
    help="Rounds of D-PSGD and all-reduce, periods of gossip.",
)  # fmt: skip
@click.option(
    "--up",
    callback=bandwidth,
    metavar="BANDWIDTH",
    help="Uplink of each machine, for example 100Mbit.",
)
@click.option(
    "--down",
    callback=bandwidth,
    metavar="BANDWIDTH",
    help="Downlink of each machine; unset: as up.",
)
@click.option(
    "--latency", type=FiniteFloat(0), default=0.0, show_default=True, help="Seconds one way."
)
@click.option("--price", type=FiniteFloat(0), help="Of a GiB sent, in any currency.")
@click.option(
    "--topology", "topologies", multiple=True, metavar="NAME",
    help="A graph for D-PSGD, and for gossip where it stays; repeatable. Unset: "
    f"{', '.join(TOPOLOGIES)}.",
)  # fmt: skip
@click.option(
    "--final", type=click.Choice(["none", "naive", "ring"]), default="none", show_default=True,
    help="An all-reduce that ends D-PSGD and gossip, so that all nodes have one model.",
)  # fmt: skip
@click.option(
    "--within", type=FiniteFloat(0, min_open=True),
    help="Also tell how many nodes a parameter server on this line serves in so many seconds.",
)  # fmt: skip
@codec_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@graph_options
def command(as_json: bool, **given: Any) -> None:
    """Tell what a training run costs: messages, bytes, time of the busiest link, and money.

    A node's bytes are what it sends on average; the busiest machine is a parameter server, a
    star's hub, or any node where all are equal. Times are the busiest link's alone: computing
    comes on top. A price is of all that is sent by anyone, and of what the busiest machine sends.
    """
    from gossipnode.topology.costs import Link

    size = given["model_bytes"] or given["params"] * given["bits"] / 8
    up, down = given["up"] or given["down"], given["down"] or given["up"]
    link = Link(up, down, given["latency"]) if up else None
    if link is None and (given["within"] or given["latency"]):
        raise click.UsageError("--within and --latency need --up")
    sequences, without = _sequences(given)
    for name, reason in without.items():
        click.echo(f"without {name}: {reason}", err=True)
    rows = [_row(load, sequence, size, link, given) for load, sequence in _loads(given, sequences)]
    message = coded_message(given)
    if message is not None:
        rows += [
            _row(load, sequence, message.nbytes, link, given)
            for load, sequence in _compressed(message.codec, sequences)
        ]
    found: dict[str, Any] = {
        "nodes": given["nodes"],
        "model_bytes": size,
        "rounds": given["rounds"],
        "schemes": [{**asdict(cost), "rounds_to_1e-3": mixing} for cost, mixing in rows],
    }
    if message is not None:
        found["codec"] = asdict(message)
    if given["within"] and link is not None:
        found["server"] = _server(size, link, given["within"])
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(
        f"{count(given['nodes'], 'node')}, a model of {_size(size)}, {given['rounds']} "
        f"round{'s'[: given['rounds'] > 1]}"
    )
    if message is not None:
        click.echo(
            f"a message of {message.codec}: {_size(message.body)} and a header of "
            f"{_size(message.header)}, {size / message.nbytes:.3g} times less than the model; "
            f"its values alone {message.values:.3g} times"
        )
    click.echo("\n".join(_table(rows, timed=link is not None, priced=given["price"] is not None)))
    if "server" in found:
        click.echo(
            "in {within_s:g} s a parameter server on this line takes in {receives} models and "
            "gives out {sends}: {participants} nodes can take part".format(**found["server"])
        )


def _server(size: float, link: Link, seconds: float) -> dict[str, Any]:
    from gossipnode.topology.costs import participants_max

    receives, sends = participants_max(size, link, seconds)
    return {
        "within_s": seconds, "receives": receives, "sends": sends,
        "participants": min(receives, sends),
    }  # fmt: skip


def _sequences(given: dict[str, Any]) -> tuple[list[GraphSequence], dict[str, str]]:
    """Return the graphs asked for; of those that nobody asked for, the ones that serve."""
    nodes = given["nodes"]
    if given["topologies"]:
        return [sequence_for(name, nodes, given) for name in given["topologies"]], {}
    return serving(nodes, given, TOPOLOGIES)


def _loads(
    given: dict[str, Any], sequences: list[GraphSequence]
) -> list[tuple[Load, GraphSequence | None]]:
    """Return every scheme's load, with the graph that it mixes on, if any."""
    from gossipnode.config import CHANGING
    from gossipnode.topology import costs

    n = given["nodes"]
    loads: list[tuple[Load, GraphSequence | None]] = [
        (costs.parameter_server(n), None),
        (costs.ring_all_reduce(n), None),
        (costs.naive_all_reduce(n), None),
    ]
    loads += [(costs.dpsgd(sequence), sequence) for sequence in sequences]
    loads.append((costs.gossip(n), None))
    # On others gossip is refused: it has no rounds in common.
    stay = [sequence for sequence in sequences if sequence.name not in CHANGING]
    loads += [(costs.gossip(n, sequence), None) for sequence in stay]
    return loads


def _compressed(
    codec: str, sequences: list[GraphSequence]
) -> list[tuple[Load, GraphSequence | None]]:
    """Return the loads of CHOCO-SGD, which takes graphs that stay and whose edges go both ways."""
    from gossipnode.config import CHANGING, DIRECTED
    from gossipnode.topology import costs

    fit = [one for one in sequences if one.name not in CHANGING | DIRECTED]
    # How fast it mixes depends on what the codec loses of the model at hand: no rounds told.
    return [(replace(costs.dpsgd(one), scheme=f"CHOCO {codec}, {one.name}"), None) for one in fit]


def _row(
    load: Load, sequence: GraphSequence | None, size: float, link: Link | None,
    given: dict[str, Any],
) -> tuple[Cost, float | None]:  # fmt: skip
    """Return a scheme's cost, and the rounds that shrink disagreement to a thousandth."""
    from gossipnode.topology import costs

    price = given["price"] or 0.0
    found = costs.cost(load, size, rounds=given["rounds"], link=link, price_per_gib=price)
    averages = load.scheme.startswith(("parameter", "ring", "naive"))
    if given["final"] != "none" and not averages:
        n = given["nodes"]
        end = costs.naive_all_reduce(n) if given["final"] == "naive" else costs.ring_all_reduce(n)
        found = costs.together(found, costs.cost(end, size, link=link, price_per_gib=price))
    if averages:
        return found, 1.0
    return found, None if sequence is None else _mixing_rounds(sequence)


def _mixing_rounds(sequence: GraphSequence) -> float | None:
    """Return the predicted rounds; None where there is no telling."""
    from gossipnode.topology.spectra import contract

    try:
        rounds = contract(sequence).rounds()
    except ConfigError:
        return None
    return rounds if isfinite(rounds) else None


def _size(size: float) -> str:
    return f"{size / 1e12:.3g} TB" if size >= 1e12 else quantity(size, "B")


def _time(seconds: float) -> str:
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return quantity(seconds, "s")


def _money(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 0.01 or amount == 0 else f"{amount:.2g}"


def _table(rows: list[tuple[Cost, float | None]], *, timed: bool, priced: bool) -> list[str]:
    head = ["scheme", "messages", "a node sends", "busiest sends", "all send", "to 1e-3"]
    head += ["a round", "in all"] if timed else []
    head += ["price", "busiest pays"] if priced else []
    lines = []
    for cost, mixing in rows:
        line = [
            cost.scheme, mean_count(cost.messages), _size(cost.node_bytes),
            _size(cost.busiest_bytes), _size(cost.total_bytes),
            "-" if mixing is None else f"{mixing:.0f}",
        ]  # fmt: skip
        line += [_time(cost.round_s), _time(cost.seconds)] if timed else []
        line += [_money(cost.price), _money(cost.busiest_price)] if priced else []
        lines.append(line)
    return columns(head, lines)
