"""Bodies of every codec, as a node decodes them: the head is understood, the part checked, decoded.

The checksum is left out: who wants to harm can reckon it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gossipnode import codecs
from gossipnode.errors import PeerError
from gossipnode.wire import Kind, Message, Part, encode
from gossipnode.wire.frame import PREFIX_BYTES, arrays, decode_header, decode_prefix

SHAPE = (12, 20)
SIZE = SHAPE[0] * SHAPE[1] + 5


class Tensor(NamedTuple):
    """One tensor of a layout."""

    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


TENSORS = (Tensor(SHAPE, 0), Tensor((5,), SHAPE[0] * SHAPE[1]))
CASES: dict[str, tuple[dict[str, object], ...]] = {
    "topk": tuple({"fraction": f, "bits": b} for f in (0.01, 0.3) for b in (32, 16, 8, 4, 1)),
    "randomk": ({"fraction": 0.1}, {"fraction": 1.0}),
    "sign": ({},),
    "qsgd": ({"levels": 1}, {"levels": 7, "contractive": True}, {"levels": 300}),
    "uniform": ({"bits": 1}, {"bits": 5, "contractive": True}, {"bits": 8}),
    "float16": ({},),
    "bfloat16": ({},),
    "lowrank": ({"rank": 1, "tensors": TENSORS}, {"rank": 3, "tensors": TENSORS}),
}
assert CASES.keys() == codecs.CODECS.keys()


def read(data: bytes) -> object:
    """Decode the parts of a frame with a node's layout; raises ``PeerError``."""
    prefix = decode_prefix(data)
    at = PREFIX_BYTES + prefix.header_bytes
    message = decode_header(prefix, memoryview(data)[PREFIX_BYTES:at])
    if len(data) - at != message.body_bytes:
        raise PeerError("malformed_frame", "the body has another length")
    for part in message.parts:
        if part.codec == "raw" or part.size != SIZE or not part.covers_all:
            raise PeerError("not_a_neighbour", "the layout has no such part")
        codecs.check(part, TENSORS)
    found = arrays(message, memoryview(bytearray(data[at:])))
    for part, coded in zip(message.parts, found, strict=True):
        vector = codecs.decode(part, coded, TENSORS)
        assert vector.shape == (SIZE,)
        assert vector.dtype in (np.float32, np.float64)
    return found


def seeds(name: str) -> Iterator[bytes]:
    """Yield frames whose one part is coded by ``name``."""
    x = np.linspace(-1, 1, SIZE) ** 3
    for number, options in enumerate(CASES[name]):
        vector = x.astype((np.float32, np.float64)[number % 2])
        coded = codecs.codec_class(name)(**options).encode(vector, number)
        facts = {key: getattr(coded, key) for key in ("bits", "scale", "norm", "zero", "seed")}
        part = Part("q", coded.dtype, SIZE, coded.data.size, name, **facts)
        message = Message(Kind.MODEL, "s", "0" * 16, "choco", "b", 1, number, parts=(part,))
        yield encode(message, [coded.data]).tobytes()
