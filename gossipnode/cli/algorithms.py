"""docs/algorithms.md, from what is declared: ``python -m gossipnode.cli.algorithms``.

Invariant: the page is this module's output to the letter, a test compares them; nothing about any
one algorithm is written here. It tells of this package's algorithms, whatever else is installed.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from typing import Any

from gossipnode.cli import describe
from gossipnode.config.listing import Option
from gossipnode.options import AlgorithmOptions, Facts, Needs
from gossipnode.registry import ALGORITHMS, FORMS, algorithm_class

INTRODUCTION = """\
# Algorithms

This page is generated: `python -m gossipnode.cli.algorithms > docs/algorithms.md`. How they
compare on uneven data and where messages are lost is measured in [comparison.md](comparison.md);
how to write one of your own is told in [extending.md](extending.md).

An algorithm is chosen in `node.toml` by the lines of the last column, in the table `[algorithm]`;
on the command line by `--algorithm` and, where there are forms without a name of their own,
`--form`. All nodes of a swarm choose the same.

- *rounds*: whether all nodes go through the same rounds, each waiting for its messages (no longer
  than a deadline); then real processes and the simulator give the same models to rounding.
- *graph* and *W*: what the algorithm needs of both; a config that lacks it is refused.
- *steps*: τ local steps a round (`training.local_steps`), or one gradient.
- *vectors*: what a node sends to each neighbour a round, in models' worth of bytes.
- *a lost message*: what it does to what the method keeps. *Kept exactly* means that no loss moves
  it for good; it does not mean that losses which go on cost nothing:
- *a tenth lost*: how much bias it costs that a tenth of all messages is lost, all the time, and no
  repetition comes in time, as [measured](comparison.md#lost-messages). *None*: within a tenth of
  what it is without losses. *Little*: within a quarter, or less than D-PSGD's without losses. *Less
  than*, *like* and *more than dpsgd*: set beside D-PSGD (`atc`) with the same losses; from two
  thirds of it to half as much again is like.
"""
HEAD = (
    "| algorithm | what for | rounds | graph | W | steps | vectors | a lost message | "
    "a tenth lost | `[algorithm]` |\n| " + " | ".join(["---"] * 10) + " |"
)


def page() -> str:
    """Return the page."""
    rows = [_row(name, facts) for name, facts in forms()]
    parts = [INTRODUCTION, "\n".join([HEAD, *rows]) + "\n"]
    parts += [_section(name) for name in ALGORITHMS]
    return "\n".join(parts)


def options_of(name: str) -> type[AlgorithmOptions]:
    """Return the option class of an algorithm."""
    found: type[AlgorithmOptions] = algorithm_class(name).Options
    return found


def forms() -> Iterator[tuple[str, Facts]]:
    """Yield each form of each algorithm of this package, by the algorithm's name."""
    for name in ALGORITHMS:
        for facts in options_of(name).facts:
            yield name, facts


# -- the table ----------------------------------------------------------------------------------


def choice(name: str, form: str) -> dict[str, str]:
    """Return the lines of ``[algorithm]`` that choose a form, as few as there can be.

    >>> choice("correction", "d2"), choice("dpsgd", "atc"), choice("dpsgd", "cta")
    ({'name': 'd2'}, {'name': 'dpsgd'}, {'name': 'dpsgd', 'form': 'cta'})
    """
    if FORMS.get(form) == name:
        return {"name": form}
    field = options_of(name).model_fields.get("form")
    if not form or field is None or field.default == form:
        return {"name": name}
    return {"name": name, "form": form}


def _row(name: str, facts: Facts) -> str:
    given = {"form": facts.form} if "form" in options_of(name).model_fields else {}
    needs = options_of(name)(**given).needs()
    lines = choice(name, facts.form)
    cells = [
        f"[{label(name, facts.form)}](#{describe.slug(name)})",
        facts.does,
        rounds_text(needs, facts),
        graph_text(needs),
        weights_text(needs),
        "1" if needs.gradient else "τ",
        facts.vectors,
        facts.loss,
        facts.steady,
        ", ".join(f"`{key} = {describe.toml(value)}`" for key, value in lines.items()),
    ]
    return describe.cells(cells)


def rounds_text(needs: Needs, facts: Facts) -> str:
    """Return whether nodes go through the same rounds, and whether these wait."""
    if not needs.rounds:
        return "no"
    return "yes" if facts.waits else "yes, without waiting"


def graph_text(needs: Needs) -> str:
    """Return what an algorithm needs of the graph, in a few words.

    >>> graph_text(Needs()), graph_text(Needs(ignores_graph=True, rounds=False))
    ('any, also changing', 'not used')
    """
    if needs.ignores_graph:
        return "not used"
    if not needs.graph:
        return "random peers, or one that stays"
    return "one that stays" if needs.static or not needs.rounds else "any, also changing"


def weights_text(needs: Needs) -> str:
    """Return what an algorithm needs of W, in a few words.

    >>> weights_text(Needs(weights="doubly", symmetric=True, lambda_min=-1 / 3))
    'doubly stochastic, symmetric, λ_min ≥ −1/3'
    """
    sums = {"any": "", "row": "rows sum to 1", "column": "columns sum to 1"}
    words = [sums.get(needs.weights, "doubly stochastic")]
    words += ["symmetric"] * needs.symmetric
    if needs.lambda_min is not None:
        words.append(
            f"λ_min ≥ {Fraction(needs.lambda_min).limit_denominator(1000)}".replace("-", "−")
        )
    return ", ".join(word for word in words if word) or "–"


def label(name: str, form: str) -> str:
    """Return what a form is called in a table.

    >>> label("correction", "d2"), label("dpsgd", "cta"), label("gossip", "")
    ('d2', 'dpsgd cta', 'gossip')
    """
    return form if FORMS.get(form) == name else f"{name} {form}".rstrip()


# -- one algorithm ------------------------------------------------------------------------------


def _section(name: str) -> str:
    model = options_of(name)
    module = import_module(algorithm_class(name).__module__)
    parts = [f"## {name}", markdown(inspect.getdoc(module) or "")]
    own = list(declared(model))
    if own:
        parts.append(OPTIONS_HEAD + "\n" + "\n".join(_option_row(option) for option in own))
    inherited = [
        f"[{title.rstrip('.')}](config.md#{describe.slug(title)})"
        for title in map(describe.summary, bases(model))
    ]
    if inherited:
        also = "Besides: " if own else "Its options: "
        parts.append(also + "; ".join(inherited) + ".")
    parts.append(f"A config that names no graph gets `{model.default_graph}`.")
    return "\n\n".join(parts) + "\n"


OPTIONS_HEAD = "| option | default | unit | range or choices | meaning |\n| " + " | ".join(
    ["---"] * 5
) + " |"  # fmt: skip


def _option_row(option: Option) -> str:
    return describe.cells(
        [
            f"`{option.name}`",
            f"`{describe.default_of(option.field)}`",
            option.unit,
            describe.allowed(option),
            option.field.description or "",
        ]
    )


def declared(model: type[AlgorithmOptions]) -> Iterator[Option]:
    """Yield the options that a class declares itself, but for the name."""
    for name in inspect.get_annotations(model):
        if name in model.model_fields and name != "name":
            yield Option("algorithm", name, model.model_fields[name])


def bases(model: type[AlgorithmOptions]) -> list[type[AlgorithmOptions]]:
    """Return the classes from which a class has options that it does not declare itself."""
    return [
        base
        for base in model.__mro__[1:]
        if issubclass(base, AlgorithmOptions)
        and base is not AlgorithmOptions
        and any(True for _ in declared(base))
    ]


def shared() -> dict[type[AlgorithmOptions], list[str]]:
    """Return the classes from which several algorithms have options, with those algorithms."""
    found: dict[type[AlgorithmOptions], list[str]] = {}
    models = {name: options_of(name) for name in ALGORITHMS}
    for name, model in models.items():
        for base in bases(model):
            if base not in models.values():
                found.setdefault(base, []).append(name)
    return found


def markdown(docstring: str) -> str:
    r"""Return a docstring as Markdown: what follows ``::`` becomes a block, and so on.

    >>> print(markdown("Steps ``x``::\n\n    x = 1\n\nthen *y*."))
    Steps `x`:
    <BLANKLINE>
    ```text
    x = 1
    ```
    <BLANKLINE>
    then *y*.
    """
    parts: list[str] = []
    block: list[str] = []
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith("    "):
            block.append(paragraph)
            continue
        parts += _fenced(block)
        block = []
        text = paragraph.replace("``", "`")
        parts.append(text.removesuffix(":") if text.endswith("::") else text)
    return "\n\n".join([*parts, *_fenced(block)])


def _fenced(block: list[str]) -> list[str]:
    return [f"```text\n{textwrap.dedent(chr(10).join(block)).rstrip()}\n```"] if block else []


def main(*_: Any) -> None:
    """Write the page to standard output."""
    sys.stdout.write(page())


if __name__ == "__main__":
    main()
