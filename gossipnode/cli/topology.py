"""``gossipnode topology``: how fast a graph averages, what a round of it costs, how it looks."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossipnode.cli.app import OK, STORAGE, USAGE, notes
from gossipnode.cli.columns import columns, count, mean_count, quantity
from gossipnode.cli.finite import FiniteFloat
from gossipnode.cli.graphs import graph_options, sequence_for, serving
from gossipnode.topology.sequences import kinds

if TYPE_CHECKING:
    from gossipnode.topology.laws import Law
    from gossipnode.topology.spectra import Spectrum

HOW = {
    "norm": "ρ = ‖W − J‖₂",
    "product": "ρ = ‖W_T ⋯ W_1 − J‖₂^(1/T), of the T rounds of a period",
    "mean_square": "ρ = √λ_max(E[Wᵀ(I − J)W]), of a random round",
    "sampled": "ρ = √(E‖(I − J)W‖²_F/(n − 1)), of some random rounds",
}


GRAPH_LIST = "\n\n\b\nGraphs:\n" + "\n".join(
    f"  {name:<22}{kind.help}" for name, kind in kinds().items()
)


@click.command(
    epilog=notes(
        OK, USAGE, STORAGE,
        examples=[
            "gossipnode topology ring -n 16",
            "gossipnode topology torus -n 64 --params 85098 --draw torus.png",
            "gossipnode topology ring star base --compare -n 25",
            "gossipnode topology --compare -n 64 --json",
            "gossipnode topology star -n 16 --weights best_constant",
            "gossipnode topology explicit --edges friends.txt",
            "gossipnode topology --law",
        ],
    )
    + GRAPH_LIST
)  # fmt: skip
@click.argument("names", nargs=-1)
@click.option("-n", "nodes", type=click.IntRange(1, 20_000), help="Number of nodes; unset: 16.")
@click.option(
    "--params", type=click.IntRange(1), default=650, show_default=True, help="Size of the model."
)
@click.option(
    "--bits", type=FiniteFloat(0, min_open=True), default=32, show_default=True,
    help="A param on the wire.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), help="Also tell what so many rounds send.")
@click.option("--compare", is_flag=True, help="A table of the graphs named, or of all that serve.")
@click.option("--law", is_flag=True, help="Fit how 1 − ρ falls with n, against theory.")
@click.option("--draw", type=click.Path(dir_okay=False, path_type=Path), help="Draw it (PNG, SVG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@graph_options
def command(names: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Show how fast the graph NAME averages: degree, ρ, rounds predicted and measured, bytes.

    A round to 1e-3 shrinks the nodes' disagreement to a thousandth: predicted from W's spectrum
    for the worst start, measured from one random start.
    """
    if given["law"] and given["draw"] is not None:
        raise click.UsageError("--law fits numbers over many sizes: there is no graph to --draw")
    if given["law"]:
        click.echo(_laws(names, as_json))
        return
    if not names and not given["compare"]:
        raise click.UsageError(f"name a graph, or --compare: {', '.join(kinds())}")
    from gossipnode.topology.spectra import spectrum

    without: dict[str, str] = {}
    if names:
        sequences = [sequence_for(name, given["nodes"], given) for name in names]
    else:
        sequences, without = serving(given["nodes"] or 16, given)
    table = len(sequences) > 1 or given["compare"]
    if given["draw"] is not None and table:
        raise click.UsageError("--draw draws one graph")
    if given["draw"] is not None:
        from gossipnode.cli.drawing import draw

        draw(sequences[0], given["draw"])
        click.echo(f"{given['draw']}: written", err=True)
    found = [spectrum(sequence, seed=given["seed"]) for sequence in sequences]
    facts = [_facts(one, given) for one in found]
    if as_json:
        click.echo(json.dumps(facts if table else facts[0]))
    elif table:
        click.echo("\n".join(_table(found, facts)))
    else:
        click.echo("\n".join(_page(found[0], facts[0], given["rounds"])))
    for name, reason in without.items():
        click.echo(f"without {name}: {reason}", err=True)


def _facts(one: Spectrum, given: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a graph as JSON; numbers that are infinite are null."""
    size = given["params"] * given["bits"] / 8
    facts = {
        "graph": one.name,
        "nodes": one.nodes,
        "weights": one.rule,
        "period": one.period,
        "degree": one.degree,
        "rho": one.contraction.rho,
        "rho_kind": one.contraction.kind,
        "spectral_gap": one.contraction.gap,
        "exact_after": one.contraction.exact_after,
        "rounds_predicted": one.predicted if isfinite(one.predicted) else None,
        "rounds_measured": one.measured,
        "messages": one.messages,
        "bytes": one.messages * size,
        "symmetric": one.symmetric,
        "doubly_stochastic": one.doubly_stochastic,
    }
    if given["rounds"]:
        facts |= {
            f"{key}_all_rounds": facts[key] * given["rounds"] for key in ("messages", "bytes")
        }
    return facts


def _page(one: Spectrum, facts: dict[str, Any], rounds: int | None) -> list[str]:
    repeats = {None: "another W each round", 1: "the same W each round"}.get(
        one.period, f"W repeats after {one.period} rounds"
    )
    kind = "doubly stochastic" if one.doubly_stochastic else "row-stochastic: the mean drifts"
    lines = [
        (f"{one.name}", f"{count(one.nodes, 'node')}, {one.rule} weights"),
        ("W", f"{'symmetric' if one.symmetric else 'not symmetric'}, {kind}; {repeats}"),
        ("degree", f"{one.degree}"),
        ("rho", f"{one.contraction.rho:.6f}  ({HOW[one.contraction.kind]})"),
        ("spectral gap", _gap(one.contraction.gap)),
        ("rounds to 1e-3", f"predicted {_predicted(one)}, measured {_measured(one)}"),
        ("messages a round", mean_count(one.messages)),
        ("bytes a round", quantity(facts["bytes"], "B")),
    ]
    if rounds:
        sent = f"{mean_count(facts['messages_all_rounds'])} messages, "
        sent += quantity(facts["bytes_all_rounds"], "B")
        lines.append((f"{rounds} rounds", sent))
    width = max(len(name) for name, _ in lines) + 2
    return [f"{name:<{width}}{text}" for name, text in lines]


def _table(found: list[Spectrum], facts: list[dict[str, Any]]) -> list[str]:
    head = ["graph", "weights", "degree", "rho", "gap", "to 1e-3", "measured", "messages", "bytes"]
    rows = [
        [
            one.name, one.rule, str(one.degree), f"{one.contraction.rho:.6f}",
            _gap(one.contraction.gap), _predicted(one), _measured(one), mean_count(one.messages),
            quantity(fact["bytes"], "B"),
        ]
        for one, fact in zip(found, facts, strict=True)
    ]  # fmt: skip
    return columns(head, rows)


def _gap(gap: float) -> str:
    return f"{gap:.6f}" if gap >= 1e-3 else f"{gap:.3e}"


def _predicted(one: Spectrum) -> str:
    if one.contraction.exact_after is not None:
        return f"{one.contraction.exact_after} (exact)"
    return f"{one.predicted:.1f}" if isfinite(one.predicted) else "never"


def _measured(one: Spectrum) -> str:
    return "-" if one.measured is None else str(one.measured)


def _laws(names: tuple[str, ...], as_json: bool) -> str:
    from gossipnode.topology.laws import THEORIES, fit_law

    laws = [fit_law(name) for name in names or THEORIES]
    if as_json:
        return json.dumps([_law_facts(law) for law in laws])
    head = ["graph", "theory: 1 − ρ", "exponent", "at large n", "theory", "constant", "theory"]
    rows = [
        [
            law.name, law.theory.text, f"{law.exponent:.3f}", f"{law.tail:.3f}",
            f"{law.theory.exponent:g}", f"{law.constant:.4f}",
            "-" if law.theory.constant is None else f"{law.theory.constant:.4f}",
        ]
        for law in laws
    ]  # fmt: skip
    return "\n".join(columns(head, rows))


def _law_facts(law: Law) -> dict[str, Any]:
    facts = {key: value for key, value in asdict(law).items() if key not in ("name", "theory")}
    theory = {
        "text": law.theory.text, "exponent": law.theory.exponent, "constant": law.theory.constant,
    }  # fmt: skip
    return {"graph": law.name, "theory": theory, **facts}
