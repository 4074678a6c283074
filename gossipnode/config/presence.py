"""Options of who is there: how a node finds out, and how fast (docs/membership.md)."""

from __future__ import annotations

from gossipnode.options import Section, option


class MembershipOptions(Section):
    """Who is there (docs/membership.md): peers are asked, and others told of who is not."""

    # Of n nodes each knows `view`: the graph of views stays in one piece while two thirds of all
    # die at once. 20 entries are 2 kB of memory, and 20 peers to try where some do not answer.
    view: int = option(
        20,
        "Peers known at a time besides those of the peer list; they change all the time, so that "
        "in the long run every node of the swarm is pushed to as often as any other (graph "
        "random).",
        unit="peers",
        ge=1,
        le=1024,
    )
    shuffle_period_s: float = option(
        10.0,
        "Time between two exchanges of entries with a peer of the view; 0: never, and peers are "
        "remembered as they come.",
        unit="s",
        ge=0,
        le=86_400,
    )
    shuffle_size: int = option(
        8, "Entries that are exchanged; 8 of 20 at 80 bytes each are a frame of 1 kB.",
        unit="entries", ge=1, le=32,
    )  # fmt: skip

    probes: bool = option(
        True,
        "Ask peers whether they are there, one a period, and tell the others who is not. Without, "
        "only pushes that fail and deadlines that pass tell.",
    )
    # Two pings of 0.2 kB a second and a node, whatever the size of the swarm; 16 nodes ask each one
    # of them twice a second together, so a crash meets its first ping after 0.5 s in the mean.
    probe_period_s: float = option(0.5, "Time between two peers asked.", unit="s", ge=0.02, le=3600)
    # Ten round trips of a continent's 30 ms. On slower wires, and loaded machines, the answers
    # measured make it longer: mean and four deviations, as TCP has it, to 40 times this.
    probe_timeout_s: float = option(
        0.3,
        "Least time for an answer; longer where answers have lately taken longer.",
        unit="s",
        ge=0.01,
        le=3600,
    )
    # At a loss of 5 % one helper's way there and back fails in 1 of 10 cases, three in 1 of 1000.
    helpers: int = option(
        3, "Peers that are asked to ask a peer that did not answer.", unit="peers", ge=0, le=16
    )
    # A suspect has factor * max(1, log10 n) periods to contradict once `helpers` others suspect it
    # too, and three times that before: 2.4 s to 7.2 s with 16 nodes. A rumour reaches all 16 in 4
    # periods, 2 s, so a suspect that lives hears of it in time.
    suspicion_factor: float = option(
        4.0,
        "Periods, times log10 of the number of nodes, that a suspect has for contradicting.",
        ge=1.0,
        le=1000.0,
    )
