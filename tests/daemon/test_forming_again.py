"""Real nodes that joined through one seed, lost power, and find each other without the seed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from processes import Process, free_ports, get, processes, until

from gossipnode.errors import StorageError
from gossipnode.node.membership.book import FILE, Page, read_page

QUICK = ["--period-s", "0.1", "--set", "membership.shuffle_period_s=0.5"]
SEED = ["start", "--algorithm", "gossip", *QUICK, "--id", "seed"]
NAMES = ["n0", "n1", "n2", "n3"]


def page_of(folder: Path) -> Page:
    try:
        return read_page(folder) or Page()
    except StorageError:
        return Page()  # just being replaced


def peers_at(port: int) -> dict[str, dict[str, Any]]:
    found = get(f"http://127.0.0.1:{port}/v1/status") or {"peers": []}
    return {peer["id"]: peer for peer in found["peers"]}


def knows_seed(port: int) -> bool:
    return "seed" in peers_at(port)


class Swarm:
    """A seed and some that joined through it, each on its port and in its folder."""

    def __init__(self, start: Callable[..., Process], folder: Path, names: list[str]) -> None:
        self.start, self.folder, self.names = start, folder, names
        self.seed_port, *ports = free_ports(1 + len(names))
        self.ports = dict(zip(names, ports, strict=True))
        self.url = f"http://127.0.0.1:{self.seed_port}"
        self.running: dict[str, Process] = {}

    def data(self, name: str) -> Path:
        return self.folder / name

    def begin(self, name: str, *arguments: str) -> None:
        self.running[name] = self.start(
            *arguments, "--port", str(self.ports.get(name, self.seed_port)),
            "--data-dir", str(self.data(name)), log=f"{name}.log",
        )  # fmt: skip

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until ``condition`` holds; fails at once where a node has ended meanwhile."""

        def held() -> Any:
            ended = [n for n, one in self.running.items() if one.popen.poll() is not None]
            assert not ended, "\n".join(self.running[name].said() for name in ended)
            return condition()

        until(held, what)

    def form(self) -> None:
        self.begin("seed", *SEED)
        self.wait(lambda: get(f"{self.url}/readyz"), "the seed is ready")
        for name in self.names:
            self.begin(name, "start", "--join", self.url, "--id", name)
            port = self.ports[name]
            self.wait(partial(knows_seed, port), f"{name} knows the seed")
        # Whom the books show, but for the seed, are all of one piece; n0 may have been alone yet.
        self.wait(
            lambda: all(
                {c.id for c in page_of(self.data(n)).contacts} - {"seed"} for n in self.names[1:]
            ),
            "each but the first has written down another one",
        )

    def kill_all(self) -> None:
        for process in self.running.values():
            process.signal(signal.SIGKILL)
        for process in self.running.values():
            process.ended()

    def formed(self) -> bool:
        """Each hears from all the others, in this life."""
        return all(
            {other for other, peer in peers_at(port).items() if peer["pushes_received"]}
            >= set(self.names) - {name}
            for name, port in self.ports.items()
        )


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, id="two"), pytest.param(4, id="four", marks=pytest.mark.long)],
)
def swarm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """One swarm for the tests below, in their order: it takes a while to form."""
    folder = tmp_path_factory.mktemp("forming")
    with processes(folder) as start:
        one = Swarm(start, folder, NAMES[: request.param])
        one.form()
        yield one


def test_what_is_written_down_is_whom_this_node_had_joined_and_what_it_had_adopted(
    swarm: Swarm,
) -> None:
    page = page_of(swarm.data("n1"))
    assert page.joined
    assert page.through == (swarm.url,)
    assert page.options["algorithm"]["name"] == "gossip"
    assert page.options["node"]["id"] == "n1"
    assert json.loads(page.model_dump_json())  # plain values alone
    swarm.wait(lambda: page_of(swarm.data("seed")).contacts, "the seed writes, too")
    assert not page_of(swarm.data("seed")).joined


def test_a_damaged_book_is_put_aside_and_the_seed_still_serves(swarm: Swarm) -> None:
    swarm.running["n0"].signal(signal.SIGKILL)
    swarm.running["n0"].ended()
    book = swarm.data("n0") / FILE
    book.write_bytes(book.read_bytes()[:-1])
    swarm.begin("n0", "start", "--join", swarm.url, "--id", "n0")
    swarm.wait(partial(knows_seed, swarm.ports["n0"]), "n0 is back by the seed")
    assert (swarm.data("n0") / f"{FILE}.broken").exists()
    assert "book.damaged" in swarm.running["n0"].said()
    swarm.wait(lambda: page_of(swarm.data("n0")).contacts, "a new book is written")


def test_all_lose_power_and_form_again_without_the_seed(swarm: Swarm) -> None:
    swarm.kill_all()
    half = len(swarm.names) // 2
    for name in swarm.names[:half]:  # these still name the seed, which never comes back
        swarm.begin(name, "start", "--join", swarm.url)
    for name in swarm.names[half:]:  # and these nobody: not even who they are
        swarm.begin(name, "start")
    del swarm.running["seed"]
    swarm.wait(swarm.formed, "all push to each other again")
    for name in swarm.names:
        found = get(f"http://127.0.0.1:{swarm.ports[name]}/v1/status")
        assert found["node_id"] == name
        assert found["algorithm"] == "gossip"
        assert not found["pushes"]["refused"]
    assert "join.by_book" in swarm.running["n0"].said()
    told = swarm.running[swarm.names[-1]].said()
    assert "join.nobody_yet" in told or "swarm.joined" in told


def test_a_damaged_book_and_a_dead_seed_end_in_words_that_name_both(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / FILE).write_bytes(b"x")
    (port,) = free_ports(1)
    with processes(tmp_path) as start:
        node = start(
            "start", "--join", f"http://127.0.0.1:{port}", "--data-dir", str(tmp_path / "d")
        )
        assert node.ended() == 3
        told = node.said()
        assert f"http://127.0.0.1:{port}" in told
        assert "connection refused" in told
        assert "the address book is damaged" in told
