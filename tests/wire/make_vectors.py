"""Write the test vectors of the wire format: python tests/wire/make_vectors.py

The oracle is struct, msgpack, zlib and xxhash alone, never the package. A program in another
language passes if it reads every frame of frames.json as told and refuses every one of
malformed.json with the code told.
"""

import json
import struct
import zlib
from pathlib import Path

import msgpack
import xxhash

FOLDER = Path(__file__).parent / "vectors"

# Smallest header: the six required keys.
BASE = {
    "swarm": "digits",
    "schema": "5d1c0ffee5d1c0ff",
    "algorithm": "gossip",
    "sender": "node-00",
    "epoch": 1,
    "seq": 1,
}
FLOATS = struct.pack("<3f", 1.0, -2.5, 0.125)
X3 = {"role": "x", "dtype": "float32", "size": 3, "nbytes": 12}


def frame(header, body=b"", kind=1, magic=b"GN", version=1, length=None):
    """Put a frame together; ``header`` is a dict or raw bytes."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    length = len(packed) if length is None else length
    return magic + struct.pack("<BBI", version, kind, length) + packed + body


def model(body=FLOATS, parts=(X3,), checksum="crc32", **more):
    """Put a MODEL frame with a right checksum together."""
    value = zlib.crc32(body) if checksum == "crc32" else xxhash.xxh3_64_intdigest(body)
    return frame({**BASE, **more, "parts": list(parts), "checksum": [checksum, value]}, body)


def part(**changes):
    """Return X3 changed; a None takes the key out."""
    return {key: value for key, value in {**X3, **changes}.items() if value is not None}


def good(name, note, data, kind, fields, arrays=()):
    return {
        "name": name,
        "note": note,
        "frame": data.hex(),
        "kind": kind,
        "fields": fields,
        "arrays": list(arrays),
    }


def frames():
    """Return the frames that must be read."""
    every = {
        "round": 7,
        "phase": 1,
        "topology_epoch": 2,
        "graph": "0123456789abcdef",
        "degree": 4,
        "weight_applied": True,
        "origin": "node-03",
        "version": 9,
        "base_version": 8,
        "resync": True,
        "address": "10.0.0.3:7946",
        "scalars": {"mass": 0.5, "count": 3},
        "metrics": {"loss": 0.25},
        "control": "ping",
        "members": [["node-05", "http://10.0.0.5:7946", "suspect", 3, 1], ["b", "", "left", 1, 0]],
    }
    two = [
        {"role": "u", "dtype": "float64", "size": 2, "nbytes": 16},
        {"role": "y", "dtype": "float16", "size": 3, "nbytes": 6},
    ]
    two_body = struct.pack("<2d", 1.5, -3.0) + struct.pack("<3e", 0.5, 1.0, -2.0)
    positions = [
        {**X3, "index": {"kind": "explicit", "positions": 1}},
        {"role": "index", "dtype": "uint32", "size": 3, "nbytes": 12},
    ]
    array = {"dtype": "float32", "values": [1.0, -2.5, 0.125]}
    ranged = part(index={"kind": "range", "start": 10, "stop": 13})
    return [
        good("smallest", "no part: no body, no checksum", frame(BASE, kind=6), 6, BASE),
        good("model crc32", "the example of docs/wire.md", model(age=3), 1, {"age": 3}, [array]),
        good(
            "model xxh3", "the same, other checksum", model(checksum="xxh3"), 1, {"age": 0}, [array]
        ),
        good("every key", "no optional key left out", model(age=[1, 2], **every), 1,
             {**every, "age": [1, 2]}, [array]),
        good("unknown keys", "ignored, at the top and in a part",
             model(parts=[part(colour="blue")], hue=[1, {"deep": None}]), 1, {}, [array]),
        good("nil is absent", "for an optional key", model(graph=None, age=None), 1,
             {"graph": None, "age": 0}, [array]),
        good("two parts", "no padding between parts",
             model(two_body, two), 1, {},
             [{"dtype": "float64", "values": [1.5, -3.0]},
              {"dtype": "float16", "values": [0.5, 1.0, -2.0]}]),
        good("range", "coordinates 10, 11, 12", model(parts=[ranged]), 1, {}, [array]),
        good("explicit", "positions in a part of their own",
             model(FLOATS + struct.pack("<3I", 4, 9, 2), positions), 1, {},
             [array, {"dtype": "uint32", "values": [4, 9, 2]}]),
        good("ping", "with what was heard of two others",
             frame({**BASE, "control": "ping", "members": every["members"]}, kind=8), 8,
             {"control": "ping", "members": every["members"]}),
        good("members, largest", "32 rows, 64 bits of epoch and 32 of incarnation",
             frame({**BASE, "members": [["x" * 128, "", "down", 2**64 - 1, 2**32 - 1]] * 32},
                   kind=9), 9, {"members": [["x" * 128, "", "down", 2**64 - 1, 2**32 - 1]] * 32}),
        good("largest integers", "epoch and seq have 64 bits, the others 63",
             frame({**BASE, "epoch": 2**64 - 1, "seq": 2**64 - 1, "round": 2**63 - 1}, kind=10),
             10, {"epoch": 2**64 - 1, "seq": 2**64 - 1, "round": 2**63 - 1}),
    ]  # fmt: skip


def bad(name, code, data, mentions=""):
    return {"name": name, "code": code, "mentions": mentions, "frame": data.hex()}


def member_cases():
    """Yield (name, code, what the reason names, row)."""
    m, row = "malformed_frame", ["b", "", "alive", 1, 0]
    yield "no array", m, "", "b"
    yield "four entries", m, "", row[:4]
    yield "six entries", m, "", [*row, 0]
    for place, key, value in (
        (0, "id", ""), (0, "id", "n" * 129), (0, "id", 5), (1, "address", None),
        (1, "address", "a" * 256), (1, "address", "a\nb"), (2, "state", 1), (3, "epoch", -1),
        (3, "epoch", True), (4, "incarnation", 2**32), (4, "incarnation", 1.0),
    ):  # fmt: skip
        code = "unsupported_message" if key == "state" else m
        yield f"{key} {value!r:.9}", code, f".{key}", [*row[:place], value, *row[place + 1 :]]
    yield "state unknown", "unsupported_message", ".state", ["b", "", "zombie", 1, 0]


def header_cases():
    """Yield (name, code, mentions, changes of BASE)."""
    m, u, f = "malformed_frame", "unsupported_message", "not_finite"
    for key in BASE:
        yield f"{key} missing", m, key, {key: None}
    for key, value in {
        "swarm": "", "sender": "n" * 129, "schema": 5, "algorithm": "a\nb", "epoch": -1,
        "seq": 1.0, "round": True, "phase": 256, "topology_epoch": 2**63, "degree": 2**32,
        "graph": "0123456789ABCDEF", "weight_applied": 1, "origin": b"raw", "age": [],
        "version": "1", "base_version": -1, "resync": 0, "address": "a" * 256, "scalars": [1],
        "metrics": {"Loss": 1.0}, "parts": {}, "checksum": ["crc32"], "control": "Ping",
        "members": {"b": 1},
    }.items():  # fmt: skip
        yield f"{key} wrong", m, key, {key: value}
    yield "graph too short", m, "graph", {"graph": "0123456789abcde"}
    yield "age entry wrong", m, "age", {"age": [1, -1]}
    yield "age too long", m, "header", {"age": [0] * 256 + [1]}
    yield "a scalar not finite", f, "scalars.mass", {"scalars": {"mass": float("nan")}}
    yield "a metric not finite", f, "metrics.loss", {"metrics": {"loss": float("inf")}}
    yield "a scalar is text", m, "scalars.mass", {"scalars": {"mass": "1"}}
    yield "too many metrics", m, "metrics", {"metrics": {f"m{i}": 1 for i in range(33)}}
    yield "checksum kind", u, "checksum", {"checksum": ["md5", 1]}
    yield "crc32 above 32 bits", m, "checksum", {"checksum": ["crc32", 2**32]}
    yield "control too long", m, "control", {"control": "p" * 33}
    yield "too many members", m, "members", {"members": [["b", "", "alive", 1, 0]] * 33}
    for name, code, mentions, row in member_cases():
        rows = [["a", "", "alive", 1, 0], row]
        yield f"member: {name}", code, f"members[1]{mentions}", {"members": rows}
    yield "too many parts", m, "parts", {"parts": [X3] * 65}
    yield "parts without checksum", m, "checksum", {"parts": [X3]}


def part_cases():
    """Yield (name, code, mentions, changes of X3)."""
    m, u, f = "malformed_frame", "unsupported_message", "not_finite"
    for key in X3:
        yield f"part: {key} missing", m, f"parts[0].{key}", {key: None}
    yield "part: role unknown", u, "parts[0].role", {"role": "zz"}
    yield "part: dtype unknown", u, "parts[0].dtype", {"dtype": "complex64"}
    yield "part: codec unknown", u, "parts[0].codec", {"codec": "magic"}
    yield "part: size 0", m, "parts[0].size", {"size": 0, "nbytes": 0}
    yield "part: nbytes not size times 4", m, "parts[0].nbytes", {"nbytes": 13}
    yield "part: nbytes wraps at 64 bits", m, "parts[0]", {"size": 2**62 + 3}
    yield "part: bits 65", m, "parts[0].bits", {"bits": 65}
    yield "part: scale is text", m, "parts[0].scale", {"scale": "1"}
    yield "part: norm not finite", f, "parts[0].norm", {"norm": float("inf")}
    yield "part: seed negative", m, "parts[0].seed", {"seed": -1}
    yield "part: base_version is a float", m, "parts[0].base_version", {"base_version": 1.0}
    for name, code, mention, index in (
        ("no map", m, "index", "all"),
        ("no kind", m, "kind", {}),
        ("unknown kind", u, "kind", {"kind": "spiral"}),
        ("empty range", m, "start", {"kind": "range", "start": 3, "stop": 3}),
        ("range of another size", m, "size", {"kind": "range", "start": 3, "stop": 5}),
        ("part beyond parts", m, "part", {"kind": "part", "part": 4, "parts": 4}),
        ("chunk beyond chunks", m, "chunk", {"kind": "chunk", "chunk": 9, "chunks": 8}),
        ("fraction 0", m, "fraction", {"kind": "seeded", "seed": 1, "fraction": 0}),
        ("positions nowhere", m, "positions", {"kind": "explicit", "positions": 5}),
        ("positions are itself", m, "positions", {"kind": "explicit", "positions": 0}),
        ("block of another size", m, "size",
         {"kind": "block", "tensor": 0, "rows": 2, "columns": 2}),
    ):  # fmt: skip
        yield f"index: {name}", code, mention, {"index": index}


def malformed():
    """Return the frames that must be refused."""
    m, u = "malformed_frame", "unsupported_message"
    whole = model()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    packed = msgpack.packb(BASE)
    twice = bytes([packed[0] + 1]) + packed[1:] + msgpack.packb("seq") + msgpack.packb(2)
    bytes_key = bytes([packed[0] + 1]) + packed[1:] + msgpack.packb(b"seq2") + msgpack.packb(2)
    number_key = bytes([packed[0] + 1]) + packed[1:] + msgpack.packb(5) + msgpack.packb(2)
    ext = {**BASE, "more": msgpack.ExtType(5, b"abc")}
    empty_ext = {**BASE, "more": msgpack.ExtType(5, b"")}
    more = msgpack.packb({**BASE, "more": 0})[:-1]
    promise = more + b"\xdd\xff\xff\xff\xff"
    bad_utf8 = packed.replace(b"node-00", b"nod\xff-00")
    cases = [
        bad("empty", m, b"", "prefix"),
        bad("shorter than the prefix", m, whole[:7], "prefix"),
        bad("magic", m, b"NG" + whole[2:], "magic"),
        bad("version 0", "unsupported_version", frame(BASE, version=0), "version"),
        bad("version 2", "unsupported_version", frame(BASE, version=2), "version"),
        bad("kind 0", u, frame(BASE, kind=0), "kind"),
        bad("kind 200", u, frame(BASE, kind=200), "kind"),
        bad("header length 0", m, frame(b""), "header length"),
        bad("header length 65537", m, frame(BASE, length=65537), "header length"),
        bad("header cut", m, whole[:20], "header"),
        bad("body cut", m, whole[:-1], "body"),
        bad("body too long", m, whole + b"\0", "body"),
        bad("body without parts", m, frame(BASE, b"\0"), "body"),
        bad("body flipped", "checksum_mismatch", flipped, "checksum"),
        bad("checksum of another body", "checksum_mismatch",
            frame({**BASE, "parts": [X3], "checksum": ["xxh3", 1]}, FLOATS), "checksum"),
        bad("header is no map", m, frame([1, 2]), "map"),
        bad("header and more", m, frame(packed + b"\0"), "header"),
        bad("a key twice", m, frame(twice), "header"),
        bad("a key of bytes", m, frame(bytes_key), "header"),
        bad("a key of an integer", m, frame(number_key), "header"),
        bad("an extension type", m, frame(ext), "header"),
        bad("an empty extension type", m, frame(empty_ext), "header"),
        bad("a timestamp", m, frame({**BASE, "more": msgpack.Timestamp(1)}), "header"),
        bad("an array that promises 4 G entries", m, frame(promise), "header"),
        bad("arrays 2000 deep", m, frame(more + b"\x91" * 2000), "header"),
        bad("no UTF-8", m, frame(bad_utf8), "header"),
        bad("a part is no map", m, frame({**BASE, "parts": [3]}), "parts[0]"),
    ]  # fmt: skip
    for name, code, mentions, changes in header_cases():
        header = {k: v for k, v in {**BASE, **changes}.items() if v is not None}
        cases.append(bad(name, code, frame(header), mentions))
    for name, code, mentions, changes in part_cases():
        cases.append(bad(name, code, model(parts=[part(**changes)]), mentions))
    return cases


def rendered():
    """Return {file name: text} of all vectors."""
    return {
        name: json.dumps(cases, indent=1) + "\n"
        for name, cases in (("frames.json", frames()), ("malformed.json", malformed()))
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)
