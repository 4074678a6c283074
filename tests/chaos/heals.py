"""Partition a lab and heal it, over and over: how long until pushes go both ways again.

``python tests/chaos/heals.py --heals 20``: four nodes, two a side, in network namespaces; D-PSGD
on a ring, then gossip. Packets vanish for 3 to 40 s, as a seed draws. Timed is, for each pair
across that the graph has, from the healing until both have had a push from the other.
Prints p50, p99 and the worst of all, in seconds; exit code 1 where p99 is above the bar.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.namespaces import WHY_NOT, Lab
from chaos.swarms import DPSGD, GOSSIP, InLab, Nodes, nodes
from daemon.processes import until

BAR_S = 15.0
HOLD_S = (3.0, 40.0)
LOOKS = 10
# n0 and n1 are on one side, n2 and n3 on the other; the ring has two edges across.
ACROSS = {"dpsgd": [(1, 2), (0, 3)], "gossip": [(0, 2), (0, 3), (1, 2), (1, 3)]}
TOML = {"dpsgd": DPSGD.format(deadline_s=2.0), "gossip": GOSSIP.format(period_s=0.1)}

Pair = tuple[int, int]


def counts(four: Nodes, pairs: list[Pair]) -> dict[Pair, tuple[int, int]]:
    """Return for each pair what each has had from the other."""
    return {(i, j): (four.received(i, j), four.received(j, i)) for i, j in pairs}


def both_ways(four: Nodes, pairs: list[Pair], patience_s: float) -> list[float]:
    """Return for each pair the seconds until both have had a push; fails where that never comes."""
    began, before = time.monotonic(), counts(four, pairs)
    took: dict[Pair, float] = {}

    def all_have() -> bool:
        for pair in pairs:
            now = counts(four, [pair])[pair]
            if pair not in took and all(a > b for a, b in zip(now, before[pair], strict=True)):
                took[pair] = time.monotonic() - began
        return len(took) == len(pairs)

    until(all_have, "pushes go both ways again", patience_s)
    return list(took.values())


def settled(four: Nodes, pairs: list[Pair]) -> dict[Pair, tuple[int, int]]:
    """Return the counts once ``LOOKS`` in a row agree: what was on its way is in."""
    looks: list[dict[Pair, tuple[int, int]]] = []

    def agree() -> bool:
        looks.append(counts(four, pairs))
        return len(looks) >= LOOKS and all(look == looks[-1] for look in looks[-LOOKS:])

    until(agree, "what was on its way is in", 30.0)
    return looks[-1]


def apart(lab: Lab, four: Nodes, pairs: list[Pair], hold_s: float) -> None:
    """Partition, see that nothing comes across, and let ``hold_s`` pass."""
    lab.partition()
    began = time.monotonic()
    before = settled(four, pairs)
    while time.monotonic() < began + hold_s:
        time.sleep(0.1)
    assert counts(four, pairs) == before, "a partition that lets pushes through"


def measure(algorithm: str, heals: int, rng: random.Random) -> list[float]:
    """Return the seconds of all pairs and heals."""
    took: list[float] = []
    pairs = ACROSS[algorithm]
    with (
        tempfile.TemporaryDirectory() as folder,
        Lab([2, 2]) as lab,
        nodes(Path(folder), InLab(lab), 4, TOML[algorithm]) as four,
    ):
        four.launch()
        until(lambda: all(all(c) for c in counts(four, pairs).values()), "all have met")
        for number in range(heals):
            hold_s = rng.uniform(*HOLD_S)
            apart(lab, four, pairs, hold_s)
            lab.heal()
            found = both_ways(four, pairs, 120.0)
            took += found
            line = {"algorithm": algorithm, "heal": number, "apart_s": round(hold_s, 1)}
            print(json.dumps({**line, "both_ways_s": [round(s, 2) for s in found]}), flush=True)
            four.go_on(20)
    return took


def percentile(values: list[float], share: float) -> float:
    """Return the least value that ``share`` of all do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if WHY_NOT:
        sys.exit(WHY_NOT)
    # So that processes and namespaces are seen to on this way out, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    rng, worst = random.Random(options.seed), 0.0
    for algorithm in TOML:
        took = measure(algorithm, options.heals, rng)
        found = {
            "p50_s": percentile(took, 0.5),
            "p99_s": percentile(took, 0.99),
            "max_s": max(took),
        }
        worst = max(worst, found["p99_s"])
        told = {name: round(value, 3) for name, value in found.items()}
        print(json.dumps({"algorithm": algorithm, "samples": len(took), **told}), flush=True)
    sys.exit(worst > BAR_S)


if __name__ == "__main__":
    main()
