"""Every kind of fault that the simulator knows has happened in some scenario. Runs last."""

from __future__ import annotations

from gossipnode.simulation.faults import FAULTS, Fired


def test_every_kind_of_fault_has_fired(fired: Fired) -> None:
    never = sorted(kind for kind in FAULTS if not fired[kind])
    assert not never, f"no scenario has: {', '.join(never)}"
