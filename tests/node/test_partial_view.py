"""The partial view: its bounds, whatever comes; and what shuffling makes of a swarm of views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.node.membership.view import Entry, PartialView

IDS = ["me", *"abcdefgh"]


def view(size: int = 4, own_id: str = "me", seed: int = 0) -> PartialView:
    return PartialView(own_id, size, np.random.default_rng(seed))


def entry(peer_id: str, age: int = 0, address: str = "", *, vouched: bool = True) -> Entry:
    return Entry(peer_id, address or f"http://{peer_id}:1", age, vouched=vouched)


entries = st.builds(
    Entry,
    id=st.sampled_from(IDS),
    address=st.sampled_from([f"http://{name}:1" for name in IDS]),
    age=st.integers(0, 30),
    vouched=st.booleans(),
)
steps = st.one_of(
    st.tuples(st.sampled_from(["add", "confirm"]), entries),
    st.tuples(st.just("remove"), st.sampled_from(IDS)),
    st.tuples(st.just("exchange"), st.lists(entries, max_size=6)),
    st.tuples(st.just("older"), st.none()),
)


@given(st.integers(1, 5), st.lists(steps, max_size=30))
def test_whatever_comes_a_view_keeps_its_bounds(size: int, todo: list[tuple[str, object]]) -> None:
    here = view(size)
    for what, given_ in todo:
        match what, given_:
            case "add", Entry() as one:
                was_full = here.is_full
                taken = here.add(one)
                assert taken == (one.id in here and one.id != "me")
                assert taken or was_full or one.id == "me" or one.vouched
            case "confirm", Entry() as one:
                here.confirm(one.id, one.address)
            case "remove", str(peer_id):
                here.remove(peer_id)
                assert peer_id not in here
            case "exchange", list(received):
                here.exchange(received, here.sample(3))
            case _:
                here.grow_older()
        ids, addresses = [e.id for e in here], [e.address for e in here if e.vouched]
        assert len(here) == len(ids) <= size
        assert "me" not in ids
        assert len(set(ids)) == len(ids)
        assert len(set(addresses)) == len(addresses)
        assert all(e.vouched for e in here.sample(size))


def test_free_places_are_taken_first_and_then_those_of_what_was_sent() -> None:
    here = view(4)
    for name in "abc":
        here.add(entry(name))
    here.exchange([entry("d"), entry("e"), entry("f"), entry("g")], [entry("a"), entry("b")])
    assert {e.id for e in here} == {"c", "d", "e", "f"}


def test_what_is_known_is_not_taken_twice_and_the_younger_age_counts() -> None:
    here = view(2)
    here.add(entry("a", 5))
    here.add(entry("b", 5))
    here.exchange([entry("a", 2), entry("b", 9), entry("me")], here.sample(2))
    assert {e.id: e.age for e in here} == {"a": 2, "b": 5}


def test_hearsay_moves_nobody_and_takes_nobodys_address() -> None:
    here = view()
    here.add(entry("a"))
    here.add(entry("a", address="http://elsewhere:1"))
    assert here["a"].address == "http://a:1"
    assert not here.add(entry("liar", address="http://a:1"))
    assert {e.id for e in here} == {"a"}


def test_who_speaks_for_itself_is_where_it_says_and_waits_to_be_vouched_for() -> None:
    here = view(1)
    assert here.add(entry("a", vouched=False))
    assert here.sample(9) == []
    assert here.add(entry("a", address="http://moved:1", vouched=False))
    assert here["a"].address == "http://moved:1"
    here.confirm("a", "http://a:1")  # it was there
    assert here.sample(9) == []
    here.confirm("a", "http://moved:1")
    assert [e.id for e in here.sample(9)] == ["a"]


@pytest.mark.parametrize("right", ["a", "b"])
def test_of_two_at_one_address_neither_is_handed_on_until_one_is_found_there(right: str) -> None:
    here = view()
    assert here.add(entry("a"))
    assert here.add(entry("b", address="http://a:1", vouched=False))
    assert here.sample(9) == []
    here.add(entry("a"))  # hearsay does not help
    assert here.sample(9) == []
    here.confirm(right, "http://a:1")
    assert [e.id for e in here] == [e.id for e in here.sample(9)] == [right]


def test_a_copy_is_handed_on_that_grows_no_older_here() -> None:
    here = view()
    given_ = entry("a")
    here.add(given_)
    (handed,) = here.sample(1)
    here.grow_older()
    assert (given_.age, handed.age, here["a"].age) == (0, 0, 1)


# -- swarms of views ------------------------------------------------------------------------------


class Views:
    """``n`` views that shuffle as the nodes do, one after the other; ``down`` ones never answer."""

    def __init__(self, n: int, size: int, length: int, seed: int) -> None:
        self.names, self.length, self.down = [f"n{i}" for i in range(n)], length, set[str]()
        self.rng = np.random.default_rng(seed)
        self.views = {
            name: PartialView(name, size, np.random.default_rng([seed, i]))
            for i, name in enumerate(self.names)
        }

    def cycle(self) -> None:
        for i in self.rng.permutation(len(self.names)):
            if self.names[i] not in self.down:
                self.shuffle(self.names[i])

    def shuffle(self, p: str) -> None:
        here = self.views[p]
        here.grow_older()
        oldest = here.oldest()
        if oldest is None:
            return
        q = oldest.id
        here.remove(q)
        sent = here.sample(self.length - 1)
        if q in self.down:
            return
        there = self.views[q]
        answered = there.sample(self.length, without={p})
        there.exchange([entry(p), *sent], answered)
        here.exchange(answered, sent)
        here.add(entry(q))

    def reached(self) -> int:
        """How many of those that are up one of them reaches, edges taken both ways."""
        up = [name for name in self.names if name not in self.down]
        edges = {name: {e.id for e in self.views[name]} - self.down for name in up}
        for name in up:
            for other in list(edges[name]):
                edges[other].add(name)
        seen, todo = {up[0]}, [up[0]]
        while todo:
            new = edges[todo.pop()] - seen
            seen |= new
            todo += new
        return len(seen)

    def in_degrees(self) -> Sequence[int]:
        found = Counter(e.id for one in self.views.values() for e in one)
        return [found[name] for name in self.names]


def star(n: int = 200, size: int = 20, length: int = 8, seed: int = 1) -> Views:
    """All know the first one alone, as after joining through one node."""
    swarm = Views(n, size, length, seed)
    for name in swarm.names[1:]:
        swarm.views[name].add(entry("n0"))
    return swarm


@pytest.mark.parametrize("seed", range(3))
def test_from_one_seed_all_views_fill_and_everybody_is_in_some_twenty(seed: int) -> None:
    swarm = star(seed=seed)
    for _ in range(40):
        swarm.cycle()
        assert swarm.reached() == 200
    assert all(len(one) == 20 for one in swarm.views.values())
    degrees = np.array(swarm.in_degrees())
    assert degrees.sum() == 200 * 20
    # A random graph has sqrt(20 * (1 - 20/199)) = 4.24, and 8 to 35 in the mean.
    assert degrees.std() < 4.0
    assert degrees.min() >= 10
    assert degrees.max() <= 33


def test_two_nodes_do_not_forget_each_other() -> None:
    swarm = star(2)
    for _ in range(50):
        swarm.cycle()
        assert [[e.id for e in one] for one in swarm.views.values()] == [["n1"], ["n0"]]


@pytest.mark.parametrize("n", [3, 10, 21])
def test_in_a_small_swarm_everybody_knows_everybody(n: int) -> None:
    swarm = star(n)
    for _ in range(30):
        swarm.cycle()
    assert [len(one) for one in swarm.views.values()] == [n - 1] * n


def test_half_of_the_swarm_dies_and_is_forgotten_by_the_rest_that_stays_together() -> None:
    swarm = star()
    for _ in range(30):
        swarm.cycle()
    swarm.down = set(swarm.names[1::2])
    for _ in range(40):
        swarm.cycle()
        assert swarm.reached() == 100
    left = [e.id for name in swarm.names[::2] for e in swarm.views[name]]
    assert not swarm.down & set(left)
    assert len(left) > 100 * 18


def test_entries_are_new_ones_after_a_few_shuffles() -> None:
    swarm = star()
    for _ in range(30):
        swarm.cycle()
    before = {name: {e.id for e in one} for name, one in swarm.views.items()}
    swarm.cycle()
    assert all({e.id for e in swarm.views[name]} != was for name, was in before.items())
    for _ in range(4):
        swarm.cycle()
    stayed = [len(was & {e.id for e in swarm.views[name]}) for name, was in before.items()]
    assert np.mean(stayed) < 20 / 3  # 2 of 20 are the same by chance
