"""What a node's own status says of its health.

Invariant: it is text of a stranger's, perhaps of another version: what is missing or of another
type is passed over, and what is told is bounded and escaped.
"""

from __future__ import annotations

import datetime
from typing import Any

from gossipnode.logs import bounded
from gossipnode.network.doctor.findings import Finding, failed, ok, warning
from gossipnode.network.doctor.patient import number_of

# Above it pushes and probes suffer (docs/operations.md).
LAG_S = 0.1
SOON = datetime.timedelta(days=14)
PEERS_TOLD = 3


def judged(check: str, status: dict[str, Any]) -> list[Finding]:
    """Return what a status tells: its state, its peers, its certificate, its disk, its loop."""
    network = status.get("network")
    network = network if isinstance(network, dict) else {}
    found = [_state(check, status), *_peers(check, status)]
    if status.get("checkpoint_error"):
        said = f"no checkpoint could be written: {bounded(status['checkpoint_error'])}"
        found.append(failed(check, said, "make room on that machine's disk, or look after it"))
    refused = network.get("connections_refused")
    refused = refused if isinstance(refused, dict) else {}
    # Whoever only looks whether somebody listens breaks off: the doctor, too.
    refused = {k: n for k, n in refused.items() if k != "broken"}
    if refused:
        counts = ", ".join(f"{bounded(k, 64)} {bounded(n, 20)}" for k, n in refused.items())
        said, advice = f"it refused connections: {counts}", "docs/security.md has what each means"
        found.append(warning(check, said, advice))
    found += _ends(check, network.get("certificate_ends"))
    lag_s = number_of(network.get("loop_lag_s_max"))
    if lag_s is not None and lag_s > LAG_S:
        said = f"its event loop was late by up to {lag_s:.2g} s"
        found.append(warning(check, said, "give that machine less to do, or more cores"))
    return found


def _state(check: str, status: dict[str, Any]) -> Finding:
    state, reason = bounded(status.get("state"), 64), bounded(status.get("reason", ""))
    said = f"it is {state}" + (f": {reason}" if reason else "")
    if state == "failed":
        return failed(check, said, "docs/operations.md has what to do by its exit code")
    return ok(check, said)


def _peers(check: str, status: dict[str, Any]) -> list[Finding]:
    rows = status.get("peers")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    bad = [row for row in rows if row.get("state") == "suspect" or row.get("refusal")]
    if not bad:
        return []
    told = "; ".join(
        f"{bounded(row.get('name') or row.get('id'), 64)}: "
        f"{bounded(row.get('refusal') or row.get('reason'))}"
        for row in bad[:PEERS_TOLD]
    )
    said = f"{len(bad)} of its peers are suspect or refuse it: {told}"
    return [warning(check, said, "look at those nodes; their own doctor tells more")]


def _ends(check: str, text: Any) -> list[Finding]:
    try:
        end = datetime.datetime.fromisoformat(text)
        left = end - datetime.datetime.now(datetime.UTC)
    except (TypeError, ValueError):
        return []  # it has none
    if left >= SOON:
        return []
    said = f"its certificate ends on {end:%Y-%m-%d %H:%M} UTC"
    return [warning(check, said, "gossipnode ca issue --renew its bundle, and reload it")]
