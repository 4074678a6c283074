"""What a message takes with a codec, found by coding one: for ``gossipnode plan``.

Invariant: the bytes are those that the codec and the frame really make, of a model of normal
numbers; nothing is estimated but what lies beyond the params that are coded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gossipnode.cli.finite import FiniteFloat
from gossipnode.errors import nearest_spelling

if TYPE_CHECKING:
    from gossipnode.codecs import Coded
    from gossipnode.config import CodecOptions

F = TypeVar("F", bound=Callable[..., Any])

# All codecs but lowrank: what that makes of a model depends on the shapes of its tensors, which no
# number tells.
PLANNED = ("topk", "randomk", "sign", "qsgd", "uniform", "float16", "bfloat16")
# Of a larger model the first so many params are coded, and stand for the rest.
SAMPLED = 4_000_000
KEYS = ("fraction", "bits", "levels")


@dataclass(frozen=True, slots=True)
class CodedMessage:
    """What one message takes: ``body`` and ``header`` in bytes, ``nbytes`` both.

    ``values`` is how many times fewer bits the sent values alone have than all raw ones: the
    nominal factor, without positions and header.
    """

    codec: str
    body: int
    header: int
    nbytes: int
    values: float


def codec_flags(command: F) -> F:
    """Give a command the flags ``--codec`` and those of the codecs' options."""
    for flag in (
        click.option("--codec-levels", type=click.IntRange(1), help="qsgd: levels of a magnitude."),
        click.option("--codec-bits", type=click.IntRange(1), help="uniform, topk: bits a value."),
        click.option(
            "--codec-fraction", type=FiniteFloat(0, 1, min_open=True),
            help="topk and randomk: share of the values that is sent.",
        ),
        click.option(
            "--codec", metavar="NAME",
            help="Also plan CHOCO-SGD with a codec, where the graph allows it: "
            f"{', '.join(PLANNED)}.",
        ),
    ):  # fmt: skip
        command = flag(command)
    return command


def coded_message(given: Mapping[str, Any]) -> CodedMessage | None:
    """Return what a message of ``given["params"]`` float32 takes; None without a codec.

    Raises ``click.UsageError`` for a codec or an option that is none.
    """
    name, asked = given["codec"], {key: given[f"codec_{key}"] for key in KEYS}
    asked = {key: value for key, value in asked.items() if value is not None}
    if name is None:
        if asked:
            raise click.UsageError(f"--codec-{next(iter(asked))} is an option of a --codec")
        return None
    options = _options(name, asked)
    # Here, not above: numpy, pydantic and the wire take 0.2 s that --help need not pay.
    import numpy as np

    from gossipnode.codecs import build_codec

    codec, params = build_codec(options), given["params"]
    assert codec is not None, "none is no codec"
    size = min(params, SAMPLED)
    coded = codec.encode(np.random.default_rng(0).standard_normal(size, np.float32))
    body, header = round(coded.nbytes * params / size), _header_bytes(coded, params)
    return CodedMessage(name, body, header, body + header, 32 / _value_bits(options))


def _options(name: str, asked: Mapping[str, Any]) -> CodecOptions:
    if name not in PLANNED:
        near = nearest_spelling(name, PLANNED)
        hint = f"; did you mean {near!r}?" if near else f"; choose of {', '.join(PLANNED)}"
        if name == "lowrank":
            hint = ": its bytes depend on the tensors' shapes; `gossipnode simulate` counts them"
        raise click.UsageError(f"no plan for --codec {name!r}{hint}")
    from pydantic import ValidationError

    from gossipnode.config import CodecOptions

    try:
        return CodecOptions.model_validate({"name": name, **asked})
    except ValidationError as error:
        told = error.errors(include_url=False)[0]
        where = "".join(f"--codec-{key}: " for key in told["loc"])
        raise click.UsageError(f"{where}{told['msg'].removeprefix('Value error, ')}") from None


def _value_bits(options: CodecOptions) -> float:
    """Return the bits of a param on the wire, of values alone."""
    match options.name:
        case "topk":
            return options.fraction * (options.bits or 32)
        case "randomk":
            return options.fraction * 32
        case "sign":
            return 1
        case "qsgd":
            return (2 * options.levels).bit_length()
        case "uniform":
            return options.bits or 8
    return 16


def _header_bytes(coded: Coded, params: int) -> int:
    """Return the bytes before the body, with names of usual length and some rounds behind."""
    from gossipnode.wire.frame import encode
    from gossipnode.wire.message import Kind, Message, Part

    part = Part(
        "q", coded.dtype, params, coded.nbytes, coded.codec,
        bits=coded.bits, scale=coded.scale, zero=coded.zero, norm=coded.norm, seed=coded.seed,
    )  # fmt: skip
    message = Message(
        kind=Kind.MODEL, swarm="swarm", schema="0" * 32, algorithm="choco", sender="node-00",
        epoch=2**40, seq=2**14, round=2**10, graph="0" * 16, degree=2, age=2**14,
        version=2**10, base_version=2**10, scalars={"gamma": 0.5}, parts=(part,),
    )  # fmt: skip
    return len(encode(message, [coded.data]).head)
