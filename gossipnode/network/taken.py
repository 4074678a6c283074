"""Whether a peer takes what is written to it: by what it has acknowledged, not by what left here.

Between a write and the peer lie a transport's buffer, with TLS a second one, and the kernel's: that
these are full says little. Invariant: nothing is looked at while there is room in the transport.
"""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial

from gossipnode.network.stall import StallWatch

# Where ``struct tcp_info`` of Linux has ``tcpi_bytes_acked``, since 4.1.
_ACKED = struct.Struct("=Q")
_ACKED_AT = 120


def taken_by(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes the other end has acknowledged: in all, or up to a constant.

    On other systems than Linux it goes by the transport's buffer, which must become shorter.
    """
    if transport.is_closing():
        return 0
    if sys.platform == "linux":
        info = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _ACKED.size
        )
        if len(info) == _ACKED_AT + _ACKED.size:
            return int(_ACKED.unpack_from(info, _ACKED_AT)[0])
    return -transport.get_write_buffer_size()


def taking(
    transport: asyncio.WriteTransport,
    stopped: Callable[[], None],
    rate_min: float,
    limit_s: float = math.inf,
) -> StallWatch:
    """Return a watch that calls ``stopped`` once where the peer takes too little, or too long.

    Say ``begun`` when the transport is full, and ``ended`` when it has room.
    """
    return StallWatch(limit_s, partial(taken_by, transport), stopped, rate_min)
