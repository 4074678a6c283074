"""Options of the port, and of the limits on what comes through it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gossipnode.options import Section, option

DEFAULT_PORT = 7946


class NetworkOptions(Section):
    """The port, and the limits on what comes through it."""

    bind: str = option(
        "127.0.0.1",
        "Address to listen on; anything but loopback needs a bundle, or `insecure`.",
        flag="--bind",
        min_length=1,
        max_length=255,
    )
    port: int = option(
        DEFAULT_PORT, "Port to listen on; 0 takes a free one.", flag="--port", ge=0, le=65_535
    )
    advertise: str = option(
        "",
        "URL under which peers reach this node. Empty: its entry in peers.toml, else bind:port.",
        flag="--advertise",
    )
    discover: bool = option(
        False,
        "Announce this node on the LAN by multicast DNS, find others of the same swarm there, and "
        "join them at the start; needs the extra gossipnode[discover].",
        flag="--discover",
    )
    insecure: bool = option(
        False,
        "Allow other addresses than loopback, without encryption and without knowing who is "
        "there. For networks that you trust alone.",
        flag="--insecure",
    )
    status_bind: str = option(
        "127.0.0.1",
        "With trust: address of a second listener, plain and read-only, for status, metrics, "
        "probes and dashboard. Whoever reaches it may read them.",
        flag="--status-bind",
        min_length=1,
        max_length=255,
    )
    status_port: int | None = option(
        None,
        "With trust: the port of that listener; unset: the next one after `port` that no node of "
        "the peer list on this machine needs. Where that is taken, or `port` is 0: a free one.",
        flag="--status-port",
        ge=0,
        le=65_535,
    )
    status_token_file: str = option(
        "",
        "Path of a file with a token, relative to this file, which readers of the pages must show; "
        "/livez and /readyz are open. Unset: whoever reaches them may read them.",
        flag="--status-token-file",
    )
    handshake_timeout_s: float = option(
        10.0, "With trust: time for one TLS handshake of a peer.", unit="s", gt=0, le=3600
    )
    push_timeout_s: float = option(
        30.0,
        "Time for one push, connection included: 375 MB at 100 Mbit/s, 80 s for 1 GB.",
        unit="s",
        gt=0,
        le=86_400,
    )
    hosts: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = option(
        (),
        "Names under which people and programs may read this node's pages, besides its id, the "
        "name in its address and numbers: a web page must not read them under a name of its own.",
        max_length=64,
    )
    # One that has not asked for anything holds 30 KiB (aiohttp's parser and handler), one inside a
    # header 16 KiB more: below 64 MiB for all. Descriptors: with 900 lanes below 4,096.
    connections_max: int = option(
        1024,
        "Connections at once that are no lanes; for one more, that goes which has been silent "
        "longest.",
        unit="connections",
        ge=1,
        le=10**6,
    )
    # 127 peers of a swarm on one machine, each with a lane in the making and a push by POST.
    connections_per_address_max: int = option(
        256,
        "Of these, and of lanes, so many each from one address, or from one /64 of IPv6.",
        unit="connections",
        ge=1,
        le=10**6,
    )
    # 16 KiB in 10 s are 1.6 kB/s: a modem sends a header of 400 bytes in 0.3 s.
    header_timeout_s: float = option(
        10.0,
        "Time from the beginning of a connection, or of a request, to the end of its header.",
        unit="s",
        gt=0,
        le=3600,
    )
    # Peers end their idle connections after 10 s: who closes first must not be this end, or a push
    # would meet a connection that is just closing.
    idle_timeout_s: float = option(
        14.0, "Time without a request after which a connection is closed.", unit="s", gt=0, le=3600
    )
    # A push has some 300 bytes of header, a browser 1 KiB, proxies add cookies of other sites.
    http_header_bytes_max: int = option(
        16 * 2**10,
        "Bytes of one HTTP header, all its lines together.",
        unit="bytes",
        ge=1024,
        le=2**20,
    )
    body_timeout_s: float = option(
        60.0,
        "Time for one arriving body: 750 MB at 100 Mbit/s. At least `push_timeout_s` of the peers.",
        unit="s",
        gt=0,
        le=86_400,
    )
    # A tenth of a good modem. It holds the memory of its model meanwhile.
    body_rate_min: float = option(
        1600.0,
        "Least mean rate of a body in any 10 s of its coming, and of what is written to a peer.",
        unit="bytes/s",
        ge=0,
        le=10**9,
    )
    # 100 MB at 2.7 Mbit/s.
    answer_timeout_s: float = option(
        300.0,
        "Time in which whoever asked must have read the answer, the model included; besides, it "
        "must be taken at `body_rate_min`.",
        unit="s",
        gt=0,
        le=86_400,
    )
    # Two models of 25 M params and the one under way; 750 of 85 k.
    inflight_bytes_max: int = option(
        256 * 2**20,
        "Memory for bodies that are arriving; past it peers are told to come again (503). One "
        "body is always let in.",
        unit="bytes",
        ge=0,
        le=2**50,
    )
    # Nodes that learn digits, iid or two classes each, with ten times the usual rate, and newcomers
    # among them: no model had more than 5 times the magnitude (1 for zeros), so this is 200 times
    # what was seen. At 100, 128 nodes that average their numbers, 0 to 127, refused each other.
    magnitude_ratio_max: float = option(
        1000.0,
        "A model is refused that has a value so many times as large as the largest of this node's "
        "own (which counts as 1 at the least), since one merge with it would undo all learning. "
        "Raise it for data that is not scaled; 0: any finite model is merged.",
        unit="times",
        ge=0,
        le=1e30,
    )
    lanes: bool = option(
        True,
        "Push over lanes, and let peers open some; without them every push is a POST.",
    )
    lane_idle_s: float = option(
        300.0, "Time without a push after which a lane is closed.", unit="s", gt=0, le=86_400
    )
    peers_max: int = option(
        1024,
        "Peers learnt besides those of the peer list.",
        unit="peers",
        ge=1,
        le=10**6,
    )
