"""A client in one page, for whoever ports it to another language: no gossipnode is imported.

    python examples/client.py http://127.0.0.1:7946 status
    python examples/client.py http://127.0.0.1:7946 push --as NODE_ID

The standard library and msgpack are all that it takes. ``push`` fetches the node's model, changes
it a little, sends it back as a frame, and prints what became of it. The format is specified byte
by byte in docs/wire.md, the endpoints in docs/http-api.md.
"""

from __future__ import annotations

import argparse
import array
import json
import struct
import sys
import time
import urllib.error
import urllib.request
import zlib
from typing import Any

import msgpack

MODEL = 1  # the kind of message: "merge this model"
TYPE_CODES = {"float32": "f", "float64": "d"}


def get(url: str) -> bytes:
    """Return what a GET answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the user's own URL
            return bytes(answer.read())
    except urllib.error.URLError as error:
        raise SystemExit(f"{url}: {error.reason}") from None


def read_model(file: bytes, dtype: str) -> array.array[float]:
    """Return the params of a safetensors file as one flat array.

    The file is: length of the header as u64, the header as JSON, then the tensors' bytes. The
    header gives each tensor's place, and in ``__metadata__`` the layout: the order in which the
    tensors form the params. All numbers are little-endian.
    """
    (header_bytes,) = struct.unpack_from("<Q", file)
    header = json.loads(file[8 : 8 + header_bytes])
    data = file[8 + header_bytes :]
    layout = json.loads(header["__metadata__"]["layout"])
    params: array.array[float] = array.array(TYPE_CODES[dtype])
    for name, _shape, _offset in layout["tensors"]:
        begin, end = header[name]["data_offsets"]
        params.frombytes(data[begin:end])
    return little_endian(params)


def little_endian(params: array.array[float]) -> array.array[float]:
    """Turn the bytes round where this machine is big-endian."""
    if sys.byteorder == "big":
        params.byteswap()
    return params


def build_frame(status: dict[str, Any], sender: str, params: array.array[float]) -> bytes:
    """Return a frame: prefix, header, body. What names the swarm comes from the node's status."""
    body = little_endian(params).tobytes()
    header = {
        # Who is meant: a node refuses what differs from its own.
        "swarm": status["swarm"],
        "schema": status["schema"],
        "algorithm": status["algorithm"],
        # Who sends. (sender, epoch, seq) is merged at most once; the epoch, here milliseconds,
        # must grow with each start of the sender, and seq with each message.
        "sender": sender,
        "epoch": time.time_ns() // 1_000_000,
        "seq": 0,
        # The clock: the round that the model is of, and the local steps that are in it.
        "round": status["round"],
        "age": status["age"] + 1,
        # What the body holds: one part, the whole model as it is.
        "parts": [
            {"role": "x", "dtype": status["dtype"], "size": len(params), "nbytes": len(body)}
        ],
        "checksum": ["crc32", zlib.crc32(body)],
    }
    if status["graph"] is not None:
        header["graph"] = status["graph"]  # the fingerprint of the fixed graph, if there is one
    packed: bytes = msgpack.packb(header)
    prefix = struct.pack("<2sBBI", b"GN", 1, MODEL, len(packed))  # magic, version, kind, length
    return prefix + packed + body


def push(url: str, frame: bytes) -> dict[str, Any]:
    """POST a frame and return the reply; a refusal has an HTTP status of its own and a reply."""
    request = urllib.request.Request(  # noqa: S310 - the user's own URL
        url + "/v1/push",
        data=frame,
        headers={
            "Content-Type": "application/vnd.gossipnode.frame",
            "Content-Length": str(len(frame)),
            "Accept": "application/msgpack",  # or application/json
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            content_type, data = answer.headers.get_content_type(), answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            content_type, data = refusal.headers.get_content_type(), refusal.read()
    if content_type != "application/msgpack":
        raise SystemExit(f"{url} answered with {content_type}; is it a gossipnode?")
    reply: dict[str, Any] = msgpack.unpackb(data)
    return reply


def main() -> int:
    """Parse the command line, do it, and return the exit code: 1 if the push was refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="for example http://127.0.0.1:7946")
    parser.add_argument("verb", choices=["status", "push"])
    parser.add_argument(
        "--as",
        dest="sender",
        default="example-client",
        metavar="NODE_ID",
        help="who to be; with dpsgd only a neighbour of the node may push",
    )
    options = parser.parse_args()
    url = options.url.rstrip("/")
    status = json.loads(get(url + "/v1/status"))
    if options.verb == "status":
        print(json.dumps(status, indent=2))
        return 0
    params = read_model(get(url + "/v1/model"), status["dtype"])
    for i in range(len(params)):
        params[i] *= 1.001
    reply = push(url, build_frame(status, options.sender, params))
    print(json.dumps(reply, indent=2))
    return 1 if reply["status"] == "refused" else 0


if __name__ == "__main__":
    sys.exit(main())
