"""Every decoder of bytes that strangers send, or files that people write, with what it may raise.

A decoder takes bytes, and returns or raises what is listed: anything else is a fault. Each input
may take 100 ms and, besides a thousand times its own length, 4 MiB.
"""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fuzz import coded, files

from gossipnode.configfile import load_config, load_peers
from gossipnode.errors import ConfigError, NetworkError, PeerError, StorageError
from gossipnode.network.hosts import is_ours
from gossipnode.network.records import HEAD_BYTES, Record, RecordReader, Type, record_head
from gossipnode.network.upgrade import read_answer
from gossipnode.node.addresses import is_address
from gossipnode.wire import FrameReader, Kind, Member, Message, Part, decode, decode_header, encode
from gossipnode.wire.frame import PREFIX_BYTES, Prefix
from gossipnode.wire.members import MEMBERS_MAX
from gossipnode.wire.reply import Reply

HANG_S = 0.1
TRIES = 3  # a garbage collection, or a first import, is no hang
CORPUS = Path(__file__).parent / "corpus"
_files = tempfile.TemporaryDirectory(prefix="gossipnode-fuzz-")
_file = Path(_files.name) / "file.toml"


@dataclass(frozen=True)
class Decoder:
    """``read`` takes any bytes; ``seeds`` are sound ones, to begin from.

    ``is_file``: what people write, not strangers; it may take longer; ``guided`` gives it fewer.
    ``is_secret``: inputs have a private key, if only one that was made for them, and are not kept
    in the repository.
    """

    name: str
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    is_file: bool = False
    is_secret: bool = False

    def corpus(self) -> list[bytes]:
        """Return what has been kept, besides the seeds."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]

    def check(self, data: bytes) -> bool:
        """Read ``data``; whether it was taken. Raises where the decoder does what it may not."""
        for _ in range(TRIES):
            began = time.process_time()  # others use the machine as well
            refusal = self.refusal(data)
            if time.process_time() - began < HANG_S:
                return refusal is None
        raise AssertionError(f"{self.name} hangs")

    def refusal(self, data: bytes) -> str | None:
        """Return what is said of ``data``; None where it is taken."""
        try:
            self.read(data)
            said = None
        except self.refusals as error:
            said = str(error)
        assert len(said or "") < 4096, "a refusal of bounded length"
        return said


class _Owner:
    """Takes whatever a lane's reader tells, and bodies of up to 64 KiB."""

    def frame_announced(self, record: Record) -> None:
        pass

    def frame_head(self, record: Record, message: Message) -> memoryview | None:
        return memoryview(bytearray(message.body_bytes)) if message.body_bytes < 2**16 else None

    def frame_refused(self, record: Record, error: PeerError) -> None:
        pass

    def frame_arrived(self, record: Record, message: Message, body: memoryview) -> None:
        assert len(body) == message.body_bytes

    def small_arrived(self, record: Record, payload: bytes) -> None:
        pass


def _frame(data: bytes) -> object:
    message, arrays = decode(data)
    assert sum(array.nbytes for array in arrays) == message.body_bytes <= len(data)
    return encode(message, arrays).tobytes()


def _chunks(data: bytes) -> None:
    reader = FrameReader()
    for at in range(0, len(data), 61):
        reader.feed(data[at : at + 61])
    reader.finish()


def _header(data: bytes) -> object:
    return decode_header(Prefix(Kind.MODEL, len(data)), data)


def _words(data: bytes) -> object:
    message = decode_header(Prefix(Kind.VIEW, len(data)), data)
    assert len(message.members) <= MEMBERS_MAX
    return message


def _records(data: bytes) -> None:
    reader, view = RecordReader(_Owner()), memoryview(data)
    while view:
        buffer = reader.get_buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        reader.buffer_updated(count)
        view = view[count:]


def _config(data: bytes) -> object:
    _file.write_bytes(data)
    return load_config(_file)


def _peers(data: bytes) -> object:
    _file.write_bytes(data)
    return load_peers(_file)


def _names(data: bytes) -> object:
    text = data.decode("latin-1")
    return is_address(text, "http://10.0.0.1:1"), is_ours(text, {"a"})


def _sound() -> bytes:
    vector = np.linspace(-1, 1, 9, dtype=np.float32)
    signs = np.arange(2, dtype=np.uint8)
    parts = (
        Part.of("x", vector),
        Part("delta", "float32", 9, 2, "sign", {"kind": "range", "start": 0, "stop": 9}, scale=0.5),
    )
    message = Message(
        Kind.MODEL, "swarm", "5d1c0ffee5d1c0ff", "gossip", "b", 3, 7, round=9, phase=1, degree=2,
        graph="0123456789abcdef", age=(1, 2, 3), address="http://10.0.0.7:7946",
        scalars={"mass": 0.5}, metrics={"loss": 1.0}, parts=parts, control="ping",
        members=(
            Member("c", "http://10.0.0.8:7946", "suspect", 5, 1), Member("d", "", "left", 4, 0),
        ),
    )  # fmt: skip
    return encode(message, [vector, signs]).tobytes()


def _view() -> bytes:
    members = (
        Member("b", "http://10.0.0.7:7946", "alive", 2**40, 3),
        Member("c", "", "left", 0, 2**32 - 1),
    )
    message = Message(
        Kind.VIEW, "swarm", "0" * 16, "gossip", "b", 3, 8, control="ask", members=members
    )
    return encode(message, []).head[PREFIX_BYTES:]


_FRAME = _sound()
_HEADER_END = PREFIX_BYTES + struct.unpack_from("<I", _FRAME, 4)[0]
_REPLY = Reply("refused", "b", 1, 2, "busy", "come again", 0.5).encode()
_STREAM = b"".join(
    record_head(kind, 5, len(payload)) + payload
    for kind, payload in (
        (Type.FRAME, _FRAME), (Type.REPLY, _REPLY), (Type.PING, b"12345678"),
        (Type.ASK, _FRAME[:_HEADER_END]), (Type.HAVE, bytes(8)), (Type.CLOSE, b"over"),
    )
)  # fmt: skip
assert len(_STREAM) > HEAD_BYTES
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: gossipnode/1\r\nConnection: Upgrade\r\n"
    b"Gossipnode-Swarm: swarm\r\nGossipnode-Id: b\r\nGossipnode-Address: http://10.0.0.7:7946"
)
_CONFIG = b"""[node]
id = "a"
[task]
hidden = [64, 8]
[algorithm]
name = "gossip"
period_s = 0.5
[topology]
graph = "random"
[network]
hosts = ["a.example"]
"""
_PEERS = b"""[[peer]]
id = "a"
address = "http://10.0.0.1:7946"
[[peer]]
id = "b"
address = "http://[2a00::1]:7946"
"""
NODES = (
    Decoder("frame", _frame, (PeerError,), (_FRAME,)),
    Decoder("chunks", _chunks, (PeerError,), (_FRAME,)),
    Decoder("header", _header, (PeerError,), (_FRAME[PREFIX_BYTES:_HEADER_END],)),
    Decoder("words", _words, (PeerError,), (_view(),)),
    Decoder("reply", Reply.decode, (PeerError,), (_REPLY,)),
    Decoder("records", _records, (PeerError,), (_STREAM,)),
    Decoder("answer", read_answer, (NetworkError,), (_ANSWER,)),
    Decoder("names", _names, (), (b"http://10.0.0.7:7946", b"[2a00::1]:7946", b"a.example:80")),
    Decoder("config", _config, (ConfigError,), (_CONFIG,), is_file=True),
    Decoder("peers", _peers, (ConfigError,), (_PEERS,), is_file=True),
    Decoder(
        "bundle",
        files.read_bundle_bytes,
        (ConfigError,),
        files.BUNDLES,
        is_file=True,
        is_secret=True,
    ),
    Decoder("certificate", files.read_certificate, (PeerError,), files.CERTIFICATES),
    Decoder("revocations", files.read_revocations, (PeerError,), (files.REVOCATIONS,)),
    Decoder("book", files.read_book, (StorageError,), (files.BOOK,)),
    *(
        Decoder(f"codec-{name}", coded.read, (PeerError,), tuple(coded.seeds(name)))
        for name in coded.CASES
    ),
)
DECODERS = {one.name: one for one in NODES}
