"""Codecs: a vector to fewer bytes, and back. Nothing is imported before it is named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector

if TYPE_CHECKING:
    from gossipnode.config import CodecOptions

__all__ = [
    "CODECS",
    "UNBIASED",
    "Bytes",
    "Codec",
    "Coded",
    "Coding",
    "Tensor",
    "build_codec",
    "check",
    "codec_class",
    "decode",
]

CODECS: Final = {
    "topk": "gossipnode.codecs.topk:TopK",
    "randomk": "gossipnode.codecs.randomk:RandomK",
    "sign": "gossipnode.codecs.sign:Sign",
    "qsgd": "gossipnode.codecs.qsgd:QSGD",
    "uniform": "gossipnode.codecs.uniform:Uniform",
    "float16": "gossipnode.codecs.halves:Float16",
    "bfloat16": "gossipnode.codecs.halves:BFloat16",
    "lowrank": "gossipnode.codecs.lowrank:LowRank",
}
# Those that ``build_codec`` makes right on average where there is no error feedback.
UNBIASED: Final = frozenset({"qsgd", "randomk", "uniform"})


@cache
def codec_class(name: str) -> type[Codec]:
    """Return the codec called ``name``, one of ``CODECS``."""
    module, _, attribute = CODECS[name].partition(":")
    return cast("type[Codec]", getattr(import_module(module), attribute))


def build_codec(options: CodecOptions, tensors: Sequence[Tensor] = ()) -> Codec | None:
    """Return the codec that ``[codec]`` asks for, a contraction where there is a choice.

    Without error feedback an unbiased one is wanted. ``tensors`` are the layout's; lowrank looks
    at their shapes.
    """
    if options.name == "none":
        return None
    contracts = options.feedback
    cls: Any = codec_class(options.name)
    match options.name:
        case "topk":
            made = cls(options.fraction, options.bits or 32)
        case "randomk":
            made = cls(options.fraction, unbiased=not contracts)
        case "qsgd":
            made = cls(options.levels, contractive=contracts)
        case "uniform" if options.adaptive:
            from gossipnode.codecs.adaptive import AdaptiveUniform

            made = AdaptiveUniform(contractive=contracts)
        case "uniform":
            made = cls(options.bits or 8, contractive=contracts)
        case "lowrank":
            made = cls(options.rank, tensors)
        case _:
            made = cls()
    assert isinstance(made, Codec)
    return made


def check(coding: Coding, tensors: Sequence[Tensor]) -> None:
    """Raise ``PeerError`` where no bytes could be what ``coding`` claims; see ``Codec.check``."""
    codec_class(coding.codec).check(coding, tensors)


def decode(coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:
    """Return the vector of ``coding``, which has passed ``check``; see ``Codec.decode``."""
    return codec_class(coding.codec).decode(coding, data, tensors)
