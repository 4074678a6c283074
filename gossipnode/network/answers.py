"""Values as HTTP answers: JSON by default, msgpack where the client accepts it.

Invariant: every answer of the server that is no page, model or frame is made here, refusals and
404 included, so a client parses one format throughout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgpack

from gossipnode.network.http import BaseRequest, Response, StreamResponse

MSGPACK = "application/msgpack"
JSON = "application/json"
PIECE_BYTES = 2**18
# Of each kind of value met so far; None where it is no dataclass.
_NAMES: dict[type, tuple[str, ...] | None] = {}


def answer(
    request: BaseRequest,
    value: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return ``value`` (plain maps, lists, text and numbers) in the format the client accepts."""
    if "msgpack" in request.headers.get("Accept", ""):
        body, content_type = msgpack.packb(value), MSGPACK
    else:
        body, content_type = json_bytes(value), JSON
    return Response(status=status, body=body, content_type=content_type, headers=headers)


def fault(
    request: BaseRequest,
    status: int,
    code: str,
    reason: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error answer: ``code`` for programs, ``reason`` for people."""
    return answer(request, {"code": code, "reason": reason}, status, headers)


def in_pieces(response: Response) -> StreamResponse:
    """Return the head of ``response``, whose body ``write_pieces`` writes."""
    stream = StreamResponse(status=response.status, headers=response.headers)
    stream.content_length = response.content_length
    return stream


async def write_pieces(request: BaseRequest, stream: StreamResponse, body: bytes) -> None:
    """Write a long body, no more at a time than the transport has room for.

    With TLS a transport takes whatever it is given, and tells nobody that it is full.
    """
    await stream.prepare(request)
    view = memoryview(body)
    for start in range(0, len(view) if request.method != "HEAD" else 0, PIECE_BYTES):
        await stream.write(view[start : start + PIECE_BYTES])
    await stream.write_eof()


def json_value(data: bytes) -> Any:
    """Return what a stranger's JSON says; raises ``ValueError``, also where it is nested too deep.

    The parser of the standard library gives up there with a ``RecursionError``, for which nobody
    is prepared.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def json_bytes(value: Any) -> bytes:
    """Return strict JSON; numbers that are not finite, which JSON lacks, become null."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value))
    return text.encode()


def plain(value: Any) -> Any:
    """Return a dataclass, and those in it, as maps; the rest is shared, to be read alone.

    ``dataclasses.asdict`` copies all that it meets: a third of what a status costs.
    """
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    names = _names_of(type(value))
    return value if names is None else {name: plain(getattr(value, name)) for name in names}


def _names_of(kind: type) -> tuple[str, ...] | None:
    if kind not in _NAMES:
        _NAMES[kind] = tuple(f.name for f in fields(kind)) if is_dataclass(kind) else None
    return _NAMES[kind]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
