"""What schemathesis has to know of this interface: frames go as they are, msgpack is read."""

from __future__ import annotations

from typing import Any

import msgpack
import schemathesis

from gossipnode.wire.frame import CONTENT_TYPE


@schemathesis.serializer(CONTENT_TYPE)
def as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/msgpack")
def unpacked(_context: Any, response: Any) -> Any:
    return msgpack.unpackb(response.content)
