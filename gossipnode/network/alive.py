"""Which lanes still lead somewhere: signs of life are asked for, and given.

Who receives a long body has nothing to say, and who sends it cannot ask in between: so signs are
given while anything is under way. Invariant: a lane on which nothing comes in, not even a sign of
life, ends within 15 s; one without a frame ends as well, but much later.
"""

from __future__ import annotations

from gossipnode.network.lane import Lane
from gossipnode.network.records import Type

# How often lanes are looked at.
TICK_S = 2.5
# Silence before it is asked about, and before the end: two questions may be lost on the way.
PING_S = 4.0
SILENT_S = 12.0


def look_after(lane: Lane, now: float, idle_s: float) -> None:
    """Keep ``lane`` alive, or end it: ``idle_s`` after the last frame."""
    if now - lane.last_heard > SILENT_S:
        lane.abort("the peer is silent")
    elif now - lane.last_frame > idle_s and not lane.is_busy:
        lane.close("idle")
    elif now - lane.last_heard > PING_S:
        lane.say(Type.PING)
    elif lane.is_busy:
        lane.say(Type.PONG)
