"""What is compressed, by four processes: one is killed and comes back, and nothing is lost by it.

Beside each swarm runs one that nobody disturbs: both end after the same rounds, equally accurate.
"""

from __future__ import annotations

import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from processes import Process, free_ports, get, processes, until, write_peers

NAMES = ("alpha", "beta", "gamma", "delta")
ALPHA, BETA, GAMMA, DELTA = range(4)
TAU = 5
COMMON = """
[swarm]
peers = "peers.toml"
[training]
local_steps = 5
[topology]
graph = "ring"
[checkpoint]
every_s = 0.4
[run]
evaluate_every = 0
linger = true
"""


@dataclass(frozen=True)
class Form:
    """An algorithm, for how many rounds; what its nodes count when gamma is back, and which do."""

    tables: str
    rounds: int
    counts: str
    who: tuple[int, ...]


def with_deadline(name: str) -> str:
    return f'[algorithm]\nname = "{name}"\ndeadline_s = 20.0\n'


FORMS = {
    # x̂ whole goes from gamma to its neighbours, and from them to gamma.
    "choco-sign": Form(
        with_deadline("choco") + '[codec]\nname = "sign"\n', 300, "resyncs", (BETA, GAMMA, DELTA)
    ),
    "choco-topk": Form(
        with_deadline("choco") + '[codec]\nname = "topk"\nfraction = 0.03\n',
        400, "resyncs", (BETA, GAMMA, DELTA),
    ),
    # Gamma's two edges begin anew.
    "power_gossip": Form(with_deadline("power_gossip"), 300, "resyncs", (BETA, GAMMA, DELTA)),
    # All take the mean of whole models, once without gamma and once with it.
    "powersgd": Form(with_deadline("powersgd"), 300, "restarts", (ALPHA, BETA, GAMMA, DELTA)),
    # The hub goes on without gamma's answers, until there are some again.
    "federated-topk": Form(
        with_deadline("fedavg") + '[codec]\nname = "topk"\nfraction = 0.03\n',
        300, "missing_models", (ALPHA,),
    ),
}  # fmt: skip


class Swarm:
    """Four processes on a ring, alpha the hub where there is one."""

    def __init__(self, folder: Path, form: Form, start: Callable[..., Process]) -> None:
        self.folder, self.form, self.start = folder, form, start
        self.ports = free_ports(len(NAMES))
        write_peers(folder, NAMES, self.ports)
        (folder / "node.toml").write_text(f"{COMMON}rounds = {form.rounds}\n{form.tables}")
        self.nodes = [self.node(i) for i in range(len(NAMES))]

    def node(self, i: int) -> Process:
        return self.start(
            "start", "--config", str(self.folder / "node.toml"), "--id", NAMES[i],
            "--data-dir", str(self.folder / NAMES[i]), log=f"{NAMES[i]}.log",
        )  # fmt: skip

    def status(self, i: int) -> dict[str, Any]:
        return get(f"http://127.0.0.1:{self.ports[i]}/v1/status") or {}

    def round(self, i: int) -> int:
        return int(self.status(i).get("round", 0))

    def counted(self) -> list[int]:
        """Return the counts of those who count."""
        return [self.metric(i, self.form.counts) for i in self.form.who]

    def metric(self, i: int, name: str) -> int:
        url = f"http://127.0.0.1:{self.ports[i]}/metrics"
        with urllib.request.urlopen(url, timeout=5) as response:
            lines = response.read().decode().splitlines()
        found = [line.split()[-1] for line in lines if line.startswith(f"gossipnode_{name}")]
        return int(float(found[0]))

    def accuracy(self) -> float:
        """Return the mean accuracy when all have used up their rounds."""
        until(self.are_finished, "all rounds are over")
        views = [self.status(i) for i in range(len(NAMES))]
        assert [view["round"] for view in views] == [self.form.rounds] * len(NAMES)
        return fmean(view["accuracy"] for view in views)

    def are_finished(self) -> bool:
        views = [self.status(i) for i in range(len(NAMES))]
        return all(view.get("state") == "finished" for view in views)


@contextmanager
def swarm(folder: Path, form: Form) -> Iterator[Swarm]:
    folder.mkdir()
    with processes(folder) as start:
        made = Swarm(folder, form, start)
        yield made
        assert not any("Traceback" in node.said() for node in made.nodes)


def kill_and_restart(four: Swarm) -> None:
    """Kill gamma between two checkpoints, let the others go on without it, and start it again."""

    def is_between() -> bool:
        view = four.status(GAMMA)
        done, durable = view.get("age", 0), view.get("durable_age", 0)
        return durable > 0 and done - durable >= 5 * TAU

    until(is_between, "gamma has done more than is in its checkpoint")
    four.nodes[GAMMA].signal(signal.SIGKILL)
    assert four.nodes[GAMMA].ended() == -signal.SIGKILL
    before = four.round(ALPHA)
    until(lambda: four.round(ALPHA) >= before + 20, "alpha goes on without gamma")
    # A process takes hundreds of rounds to start: the others would be done by then.
    others = [four.nodes[i] for i in (ALPHA, BETA, DELTA)]
    for node in others:
        node.signal(signal.SIGSTOP)
    four.nodes[GAMMA] = four.node(GAMMA)
    until(lambda: four.status(GAMMA).get("state") == "running", "gamma runs again")
    for node in others:
        node.signal(signal.SIGCONT)
    assert "checkpoint.loaded" in four.nodes[GAMMA].said()


@pytest.mark.timeout(240)
# One of the five in `make test`: a pass takes seconds, that of powersgd a minute.
@pytest.mark.parametrize(
    "name",
    [
        name if name == "choco-topk" else pytest.param(name, marks=pytest.mark.long)
        for name in FORMS
    ],
)
def test_a_killed_node_comes_back_and_the_swarm_learns_as_if_it_had_not(
    tmp_path: Path, name: str
) -> None:
    form = FORMS[name]
    with swarm(tmp_path / "calm", form) as four:
        calm = four.accuracy()
        assert calm > 0.9
        assert not any(four.counted())

    with swarm(tmp_path / "killed", form) as four:
        kill_and_restart(four)
        until(lambda: all(four.counted()), f"{form.counts} are counted")
        until(lambda: abs(four.round(GAMMA) - four.round(ALPHA)) <= 5, "gamma has caught up")
        there = max(map(four.round, range(len(NAMES))))
        assert there < form.rounds - 50
        until(lambda: min(map(four.round, range(len(NAMES)))) >= there + 20, "all go on")
        counted = four.counted()
        assert abs(four.accuracy() - calm) <= 0.01
        assert four.counted() == counted  # it was not to be brought up to date once more
