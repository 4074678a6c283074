"""Which codec goes with which algorithm: all of the registry, by a table made by reasoning.

Whole models stand nothing but rounding, and shared samples where all are in one round. Differences
stand anything, as long as what is left out is sent later: CHOCO's copies see to that, and the error
feedback of a hub's clients, who may go without it where a codec is right on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from gossipnode.codecs import CODECS
from gossipnode.config import Config
from gossipnode.registry import ALGORITHMS, FORMS, algorithm_class

LOSSY = {"topk", "randomk", "sign", "qsgd", "uniform", "lowrank"}
HALVES = {"float16", "bfloat16"}
ANY = {(codec, True) for codec in LOSSY | HALVES}
AVERAGES = {("qsgd", False), ("uniform", False), ("randomk", False)}
ROUNDED = {(codec, True) for codec in HALVES}
# (codec, feedback) that are sound; of what is not named here, nothing is.
SOUND: dict[str, set[tuple[str, bool]]] = {
    "choco": ANY,
    "federated": ANY | AVERAGES,
    "fedbuff": ANY | AVERAGES,
    "dpsgd": ROUNDED | {("randomk", True)},
    "gossip": ROUNDED,
}


def forms() -> Iterator[dict[str, str]]:
    """Yield the [algorithm] table of every form."""
    for name in ALGORITHMS:
        field = algorithm_class(name).Options.model_fields.get("form")
        for form in get_args(field.annotation) if field is not None else ("",):
            yield {"name": name, **({"form": form} if form else {})}
    yield from ({"name": form} for form in FORMS)


def told(table: dict[str, str], **codec: Any) -> str:
    """Return why the combination is refused; nothing where it is not."""
    name = FORMS.get(table["name"], table["name"])
    tree = {
        "algorithm": {**table},
        "topology": {"graph": algorithm_class(name).Options.default_graph},
        "training": {"local_steps": 1},
    }
    Config.model_validate(tree)  # without a codec there is nothing to say
    try:
        Config.model_validate({**tree, "codec": codec})
    except ValidationError as error:
        return str(error)
    return ""


def test_the_table_names_codecs_and_algorithms_that_there_are() -> None:
    assert CODECS.keys() == LOSSY | HALVES
    assert SOUND.keys() < ALGORITHMS.keys()


@pytest.mark.parametrize("table", [*forms()], ids=lambda table: "-".join(table.values()))
def test_what_is_sound_is_taken_and_nothing_else(table: dict[str, str]) -> None:
    sound = SOUND.get(FORMS.get(table["name"], table["name"]), set())
    for codec in CODECS:
        for feedback in (True, False):
            reason = told(table, name=codec, feedback=feedback)
            assert (not reason) == ((codec, feedback) in sound), (codec, feedback, reason)
            if reason:
                assert "choose" in reason
                assert codec in reason or "codec.feedback" in reason


@pytest.mark.parametrize(
    ("name", "codec", "hints"),
    [
        ("choco", "qsgd", ["codec.feedback = false", "run away", "federated or fedbuff"]),
        ("choco", "topk", ["codec.feedback = false", "next difference", "leave it true"]),
        ("fedavg", "topk", ["codec.feedback = false", "topk leaves out", "qsgd or randomk or"]),
        ("fedbuff", "lowrank", ["codec.feedback = false", "lost for good", "leave it true"]),
        ("dpsgd", "randomk", ["codec.feedback = false", "whole models", "federated or fedbuff"]),
        ("dpsgd", "qsgd", ["codec qsgd", "would never agree", "choco"]),
        ("scaffold", "randomk", ["codec randomk", "exactly", "federated or fedbuff"]),
        ("allreduce", "sign", ["codec sign", "add up chunks", "powersgd"]),
        ("powersgd", "lowrank", ["codec lowrank", "algorithm.rank"]),
    ],
)
def test_it_is_told_why_and_what_would_serve(name: str, codec: str, hints: list[str]) -> None:
    reason = told({"name": name}, name=codec, feedback=False)
    for hint in hints:
        assert hint in reason


@pytest.mark.parametrize("table", [*forms()], ids=lambda table: "-".join(table.values()))
def test_bits_are_adapted_by_neighbours_alone(table: dict[str, str]) -> None:
    reason = told(table, name="uniform", adaptive=True)
    if table["name"] == "choco":
        assert not reason
    elif ("uniform", True) in SOUND.get(FORMS.get(table["name"], table["name"]), set()):
        assert "codec.adaptive" in reason
        assert "codec.bits, or choose algorithm choco" in reason
    else:
        assert "codec uniform" in reason


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_params_take_no_codec(dtype: str) -> None:
    with pytest.raises(ValidationError, match=r"task\.dtype .* or leave \[codec\] out"):
        Config.model_validate(
            {"task": {"dtype": dtype}, "algorithm": {"name": "choco"}, "codec": {"name": "topk"}}
        )
