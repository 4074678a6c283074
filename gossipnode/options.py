"""How options are declared: sections, options with unit and limits, what algorithms tell of theirs.

Invariant: what is declared with this is all that flags, environment, ``gossipnode init`` and the
reference pages know of an option. No option of the product itself may enter: those are in
``config`` and beside the algorithms.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from gossipnode.registry import DEFAULT_ALGORITHM, FORMS


class Section(BaseModel):
    """One table of ``node.toml``: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def option(default: Any, help_text: str, *, unit: str = "", flag: str = "", **limits: Any) -> Any:
    """Declare an option: its default, help, unit (SI, or what is counted), flag and limits."""
    extra: dict[str, Any] = {"unit": unit, "flag": flag}
    return Field(default, description=help_text, json_schema_extra=extra, **limits)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an algorithm needs of graph, W and learner; what a config lacks of it is refused.

    ``graph``: fixed neighbours, or a sequence of them; else random peers serve as well.
    ``ignores_graph``: a peer list is all, for messages go to any of it, whatever the graph.
    ``rounds``: nodes go through the same rounds, so that the graph may change with them.
    ``weights``: which sums of W must be one; ``doubly`` means rows and columns, ``column`` is for
    algorithms that weigh what they hand out themselves. ``lambda_min``: what the least eigenvalue
    of W may not be below. ``gradient``: the algorithm takes one gradient a round itself, where
    others have ``training.local_steps``.
    """

    graph: bool = True
    ignores_graph: bool = False
    rounds: bool = True
    weights: Literal["any", "row", "column", "doubly"] = "any"
    symmetric: bool = False
    static: bool = False
    lambda_min: float | None = None
    gradient: bool = False
    instead: str = ""  # what to say where ``lambda_min`` does not hold


@dataclass(frozen=True, slots=True)
class Facts:
    """What the table of algorithms says of one form: ``python -m gossipnode.cli.algorithms``.

    ``vectors``: models' worth of bytes that a node sends to each neighbour a round.
    ``loss``: what a lost message does to what the method keeps. ``waits``: where there are rounds,
    whether each waits for the messages of that round, so that real time decides nothing.
    ``steady``: the bias that losing a tenth of all messages costs, as measured.
    """

    form: str
    does: str
    vectors: str
    loss: str
    waits: bool = True
    steady: str = "not measured"


class AlgorithmOptions(Section):
    """The options of one algorithm; each declares its own, beside its code.

    ``default_graph`` is the graph of a config that names none, ``codecs`` are those that are sound
    with it, ``unbiased`` those of them that need no error feedback, as they are right on average.
    ``adapts_bits`` tells whether its nodes choose their bits by each other's speed.
    """

    default_graph: ClassVar[str] = "ring"
    codecs: ClassVar[frozenset[str]] = frozenset()
    unbiased: ClassVar[frozenset[str]] = frozenset()
    adapts_bits: ClassVar[bool] = False
    facts: ClassVar[tuple[Facts, ...]] = ()

    name: str = option(
        DEFAULT_ALGORITHM,
        "The algorithm, or a form of one that has a name of its own (docs/algorithms.md).",
        flag="--algorithm",
    )

    @property
    def called(self) -> str:
        """What peers and people are told: a form's own name, or name/form of an unusual one.

        Nodes whose forms differ do not belong together, and refuse each other by it.
        """
        form = getattr(self, "form", "")
        if FORMS.get(form) == self.name:
            return str(form)
        is_usual = not form or form == type(self).model_fields["form"].default
        return self.name if is_usual else f"{self.name}/{form}"

    def unsound(self, codec: str) -> str:
        """Tell why a codec that is none of ``codecs`` is unsound here, and what would serve."""
        del codec
        takes = f" or [codec] name = {' or '.join(sorted(self.codecs))}" if self.codecs else ""
        return (
            "it sends whole models, and what a codec leaves out of one is lost: the nodes would "
            "never agree. Algorithm choco sends compressed differences, and partial_gossip parts "
            f"of a model; choose one of them{takes}"
        )

    def unsound_without_feedback(self, codec: str) -> str:
        """Tell why ``codec``, one of ``codecs``, needs ``codec.feedback``, and what would serve."""
        if self.unbiased:
            return (
                f"what {codec} leaves out would be lost for good: leave it true, or choose "
                f"{' or '.join(sorted(self.unbiased))}, which are right on average"
            )
        return (
            "it mixes whole models, for which no codec is made unbiased: leave it true, or choose "
            "federated or fedbuff, whose clients send differences"
        )

    @abstractmethod
    def needs(self) -> Needs:
        """Return what the algorithm, with these options, needs of graph, W and learner."""

    @abstractmethod
    def round_s_max(self, training_s: float) -> float:
        """Return what no round (or period) may exceed, given the seconds that training takes."""
