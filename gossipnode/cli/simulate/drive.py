"""One simulation message by message: the faults on their way, and what came of it.

Invariant: everything is decided by the plan; no clock but the virtual one is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections import Counter

from gossipnode.cli.flags import with_options
from gossipnode.cli.results import Summary, keep_mean, least_to_greatest
from gossipnode.cli.results.history import History
from gossipnode.cli.results.spread import Spread
from gossipnode.cli.simulate.plan import Plan, Run, Show
from gossipnode.cli.simulate.recorder import Recorder
from gossipnode.node.measuring import finite_or_none
from gossipnode.node.node import Node
from gossipnode.node.report import model_facts
from gossipnode.simulation import SimulatedSwarm

# Counters of a node's life that the summary adds up over all its lives.
SUMMED = ("bytes_sent", "bytes_saved", "pushes_sent", "control_bytes_sent", "peers_down")


class _Churning(SimulatedSwarm):
    """A swarm whose time can be cut short."""

    def run_unless(self, over: asyncio.Event, seconds: float) -> None:
        """Let ``seconds`` pass, or fewer: until ``over`` is set."""

        async def wait() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await over.wait()

        self._complete(wait())
        self._raise_faults()


class EventsRun(Run):
    """Runs a plan message by message, in virtual time."""

    def __init__(self, plan: Plan, show: Show) -> None:
        super().__init__(plan, show)
        self._lost: dict[str, Counter[str]] = {name: Counter() for name in plan.names}

    def _simulate(self, history: History, close: Show) -> Summary:
        plan = self.plan
        churns = plan.conditions.churn is not None
        swarm = _Churning(
            # With churn a node that is done must keep what it has, and it may be killed again.
            with_options(plan.config, {"run.linger": churns}),
            names=plan.names,
            seed=plan.seed,
            link=plan.conditions.link,
            step_s=plan.conditions.step_s,
            stores=churns and plan.config.checkpoint.enabled,
            objects=plan.engine == "objects",
            replay=plan.command(plan.out / "config.toml"),
            membership=plan.conditions.membership,
        )
        with swarm:
            recorder = Recorder(swarm, history, plan.target_accuracy, self._show)
            self._drive(swarm, recorder)
            close(recorder)
            history.require_whole()
            return self._sum_up(swarm, recorder)

    # -- time -----------------------------------------------------------------------------------

    def _drive(self, swarm: _Churning, recorder: Recorder) -> None:
        slow = set(self.plan.conditions.slow(swarm.names, swarm.seed))
        for name, node in swarm.nodes.items():
            self._begin(swarm, recorder, node, slow=name in slow)

        def stop() -> None:
            for node in swarm.up:
                node.request_stop()

        with self._stopping_on_signals(stop):
            if self.plan.conditions.churn is None:
                swarm.run_to_end()
            else:
                self._churn(swarm, recorder, slow)

    def _begin(self, swarm: SimulatedSwarm, recorder: Recorder, node: Node, *, slow: bool) -> None:
        recorder.watch(node)
        if slow:
            assert self.plan.conditions.stragglers is not None
            swarm.slow_down(node.id, self.plan.conditions.stragglers[1])

    def _churn(self, swarm: _Churning, recorder: Recorder, slow: set[str]) -> None:
        """Kill and restart until every node has once used up its rounds, or time is up."""
        end_s = self.plan.config.run.duration_s
        for instant, name in self.plan.conditions.changes(swarm.names, swarm.seed):
            until = min(instant, end_s or instant)
            swarm.run_unless(recorder.over, until - swarm.time)
            if self.interrupted or recorder.over.is_set() or until == end_s:
                return
            if name in swarm.down:
                self._begin(swarm, recorder, swarm.restart(name), slow=name in slow)
            else:
                counters = swarm.nodes[name].counters
                self._lost[name].update({key: counters.get(key) for key in SUMMED})
                swarm.kill(name)

    # -- result ---------------------------------------------------------------------------------

    def _sum_up(self, swarm: SimulatedSwarm, recorder: Recorder) -> Summary:
        """Measure the models of the nodes that are up, keep their mean, and count."""
        plan, spread, found = self.plan, Spread(), []
        for node in swarm.up:
            found.append(node.learner.evaluate(node.params))
            spread.add(node.params)
        losses = [loss for e in found if (loss := finite_or_none(e.loss)) is not None]
        if swarm.up:
            first = swarm.up[0]
            keep_mean(plan.out, spread, first.layout, model_facts(first))
        if spread.distance is not None:
            recorder.distances.append((recorder.round, spread.distance))
        self.distances = recorder.distances
        sent, saved, pushes, control, found_down = (self._total(swarm, key) for key in SUMMED)
        round_times = [t for node in swarm.up for t in node.round_times]
        return {
            **plan.facts,
            **plan.seeds,
            "accuracy": least_to_greatest([e.accuracy for e in found if e.accuracy is not None]),
            "loss": least_to_greatest(losses),
            "consensus_distance": spread.distance,
            "rounds": min((node.round for node in swarm.up), default=0),
            "virtual_s": round(swarm.time, 6),
            "time_to_accuracy_s": recorder.reached_s,
            "target_accuracy": plan.target_accuracy,
            "round_s": round(statistics.median(round_times), 6) if round_times else None,
            "bytes_sent": sum(sent),
            "bytes_saved": sum(saved),
            "bytes_per_node": least_to_greatest(sent),
            "messages": sum(pushes),
            "delivered": sum(swarm.frames.values()),
            "control_bytes_sent": sum(control),
            "peers_down": sum(found_down),
            "faults": {kind: n for kind, n in sorted(swarm.network.fired.items()) if n},
            "down": sorted(swarm.down, key=swarm.names.index),
            "trace_hash": swarm.trace_hash,
            "out": str(plan.out),
        }

    def _total(self, swarm: SimulatedSwarm, key: str) -> list[int]:
        """Return a counter of each node, over all its lives."""
        return [
            self._lost[name][key] + (0 if name in swarm.down else node.counters.get(key))
            for name, node in swarm.nodes.items()
        ]
