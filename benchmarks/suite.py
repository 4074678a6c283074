"""The suite: which benchmarks there are, and how each is run, read and told.

Invariant: a benchmark is a process of its own that writes JSON, so that none disturbs another's
memory and threads, and one that fails or takes too long costs its own lines alone. Nothing here
measures anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, figures_of
from benchmarks.teams import ROOT, environment

# Bars of the pushes, by the words of a row, where the rows do not bring their own.
PUSH_BARS: dict[tuple[str, ...], float] = {
    ("carried", "340,392 B", "lane"): 0.6,
    ("carried", "4,000,000 B", "lane"): 0.9,
    ("carried", "100,000,000 B", "lane"): 0.9,
    ("carried", "1,000,000,000 B", "lane"): 0.8,
    ("carried", "100,000,000 B", "post"): 0.4,
    ("carried", "100,000,000 B", "lane", "tls"): 0.7,
}
# Of a push of 1 GB: models of memory above the base, and ms in which the loop may do nothing else.
for _what in ("carried", "merged"):
    for _who in ("sender", "receiver"):
        for _tls in ((), ("tls",)):
            _words = (_what, "1,000,000,000 B", "lane", _who, *_tls)
            PUSH_BARS |= {(*_words, "models"): 4.0, (*_words, "lag_ms"): 20.0}
SIMULATOR_BARS: dict[tuple[str, ...], float] = dict.fromkeys(
    (("messages_gossip_objects",), ("messages_dpsgd_objects",)), 20_000.0
)


@dataclass(frozen=True)
class Benchmark:
    """One module of this folder: what it tells, and the seconds it may take (quick, full)."""

    name: str
    about: str
    patience_s: tuple[float, float]
    bars: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    takes_torch: bool = False

    @property
    def is_there(self) -> bool:
        """Whether the module exists."""
        return (ROOT / "benchmarks" / f"{self.name}.py").exists()


BENCHMARKS = (
    Benchmark("push", "a push beside a raw blocking socket", (150, 1200), PUSH_BARS),
    Benchmark("merge", "a merge beside the memory's bandwidth", (60, 600)),
    Benchmark("codecs", "a codec beside a copy", (120, 400)),
    Benchmark("ring", "a round of eight nodes beside gloo and the floor", (120, 900), {}, True),
    Benchmark("processes", "start-up, memory, lag, swarms of 64 and 128", (180, 600)),
    Benchmark("slow_peer", "what a slow peer costs the others", (90, 300)),
    Benchmark("flood", "what a flood costs an honest peer", (90, 300)),
    Benchmark("simulator", "the simulator's messages a second", (120, 900), SIMULATOR_BARS),
)
NAMES = tuple(one.name for one in BENCHMARKS)


class AbsentError(Exception):
    """A benchmark that told nothing, and why."""


def run(benchmark: Benchmark, *, quick: bool, torch_python: str) -> list[Figure]:
    """Run one benchmark to its end; raises ``AbsentError``."""
    if not benchmark.is_there:
        raise AbsentError("not available")
    patience_s = benchmark.patience_s[not quick]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        words = ["-m", f"benchmarks.{benchmark.name}", "--json", str(path)]
        words += ["--quick"] if quick else []
        words += ["--torch-python", torch_python] if benchmark.takes_torch else []
        _wait_for(words, patience_s)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return figures_of(found, benchmark.bars)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AbsentError(f"its JSON cannot be read: {error!r}") from error


def _wait_for(words: Sequence[str], patience_s: float) -> None:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment(), stdout=said, stderr=said
        )
        try:
            code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AbsentError(f"took longer than {patience_s:.0f} s") from None
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if code:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["silently"]
            raise AbsentError(f"failed: {lines[-1][:200]}")


def measured(
    names: Sequence[str], *, quick: bool, torch_python: str
) -> Iterator[tuple[Benchmark, list[Figure] | AbsentError]]:
    """Yield what each of the benchmarks named told, in the suite's order."""
    for benchmark in BENCHMARKS:
        if benchmark.name in names:
            try:
                yield benchmark, run(benchmark, quick=quick, torch_python=torch_python)
            except AbsentError as reason:
                yield benchmark, reason


def entry(benchmark: Benchmark, figure: Figure) -> dict[str, Any]:
    """Return a figure as the suite's JSON has it."""
    return {"benchmark": benchmark.name, **figure._asdict()}
