"""The verbs of a scenario that break things, and those that mend them.

Invariant: a verb says at once what is wrong with its arguments, and counts a fault when it is done.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from typing import Any

from gossipnode.config import Config
from gossipnode.node.node import Node
from gossipnode.simulation.checkers import Checkers
from gossipnode.simulation.network import ModelledNetwork
from gossipnode.simulation.world import SimulatedStore, SimulatedWorld


class FaultVerbs(ABC):
    """The half of ``SimulatedSwarm`` that meddles; the fields belong to the swarm."""

    config: Config
    names: tuple[str, ...]
    network: ModelledNetwork
    nodes: dict[str, Node]
    worlds: dict[str, SimulatedWorld]
    down: set[str]
    step_s: float
    _stores: dict[str, SimulatedStore]
    _tasks: dict[str, asyncio.Task[None]]
    _checkers: Checkers

    @property
    @abstractmethod
    def time(self) -> float:
        """Virtual seconds since the beginning."""

    @abstractmethod
    def _complete(self, work: Coroutine[Any, Any, Any]) -> Any: ...

    @abstractmethod
    def _create(self, name: str) -> Node: ...

    @abstractmethod
    def _start(self, node: Node) -> Node: ...

    def partition(self, one: Iterable[str], other: Iterable[str]) -> None:
        """Cut every wire between two groups, both ways."""
        one, other = self._known(one), self._known(other)
        self.network.cut(one, other)
        self.network.cut(other, one)
        self.network.fired["partition"] += 1

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Cut the wires in one direction only."""
        self.network.cut(self._known(senders), self._known(receivers))
        self.network.fired["one_way"] += 1

    def heal(self) -> None:
        """Mend every wire."""
        self.network.heal()

    def kill(self, *names: str) -> None:
        """End nodes as SIGKILL and a power cut do: what was not synced is lost."""
        for name in self._up(names):
            self.down.add(name)
            task = self._tasks.pop(name)
            task.cancel()
            self._complete(asyncio.wait([task]))
            self.worlds[name].resume()  # a process that stood still is as dead as any
            store = self._stores.get(name)
            if store is not None:
                self.network.fired["unsynced"] += store.unsynced is not None
                store.crash()
            # What no disk knows is forgotten: the next life may merge it again, and nothing else.
            self._checkers.merges.go_back(name, store.known if store is not None else None)
            self.network.fired["kill"] += 1

    def stop(self, *names: str) -> None:
        """Stop nodes in good order, as SIGTERM does: drained, and with a last checkpoint."""
        for name in self._up(names):
            node = self.nodes[name]
            self._complete(node.drain())
            node.request_stop()
            self._complete(asyncio.wait([self._tasks.pop(name)]))
            self._complete(node.stop())
            self.down.add(name)
            if name not in self._stores:
                self._checkers.merges.go_back(name, None)
            self.network.fired["stop"] += 1

    def restart(self, name: str) -> Node:
        """Start a killed or stopped node again, from what its disk holds."""
        node = self._start(self._create(self._is_down(name)))
        self.network.fired["restart"] += 1
        return node

    def start_late(self, name: str) -> Node:
        """Start a node that was to be ``late``."""
        node = self._start(self.nodes[self._is_down(name)])
        self.network.fired["late"] += 1
        return node

    def wipe(self, name: str) -> None:
        """Give a node that is down an empty disk, as a machine that is replaced has."""
        self._disk(self._is_down(name)).wipe()
        self._checkers.merges.go_back(name, None)
        self.network.fired["wipe"] += 1

    def slow_disk(self, name: str, sync_s: float) -> None:
        """Let a node's disk take ``sync_s`` until what was written survives a crash."""
        self._disk(name).sync_s = sync_s
        self.network.fired["slow_disk"] += 1

    def pause(self, name: str) -> None:
        """Stop a process as SIGSTOP does: it neither trains nor answers."""
        (name,) = self._up([name])
        self.worlds[name].pause()
        self.network.fired["pause"] += 1

    def resume(self, name: str) -> None:
        """Let a paused process go on."""
        (name,) = self._known([name])
        self._checkers.excuse(name, self.time)
        self.worlds[name].resume()

    def slow_down(self, name: str, factor: float) -> None:
        """Make a node's local steps take ``factor`` times as long, from the next round on."""
        (name,) = self._known([name])
        # The round under way may have begun with steps that took longer.
        before = self.worlds[name].step_s * self.config.training.local_steps
        self._checkers.excuse(name, self.time + before)
        self.worlds[name].step_s = self.step_s * factor
        self.network.fired["slow"] += 1

    def skew_clock(self, name: str, seconds: float) -> None:
        """Put a machine's clock on the wall off by ``seconds``."""
        (name,) = self._known([name])
        self.worlds[name].clock_skew_s = seconds
        self.network.fired["skew"] += 1

    def _known(self, names: Iterable[str]) -> tuple[str, ...]:
        names = tuple(names)
        strange = [name for name in names if name not in self.worlds]
        if strange:
            raise ValueError(f"no node {', '.join(strange)}; there are {', '.join(self.names)}")
        return names

    def _up(self, names: Iterable[str]) -> tuple[str, ...]:
        names = self._known(names)
        down = [name for name in names if name in self.down]
        if down:
            raise ValueError(f"down already: {', '.join(down)}")
        return names

    def _is_down(self, name: str) -> str:
        (name,) = self._known([name])
        if name not in self.down:
            raise ValueError(f"{name} is not down")
        return name

    def _disk(self, name: str) -> SimulatedStore:
        (name,) = self._known([name])
        if name not in self._stores:
            raise ValueError(f"{name} has no disk; make the swarm with stores=True")
        return self._stores[name]
