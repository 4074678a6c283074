"""How far apart rounds can be, against a game: freeze one node and let all others run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossipnode.topology.lockstep import lead_max, proves, waiting_max
from gossipnode.topology.sequences import GraphSequence, build_sequence

HORIZON = 40
LIMIT = 12


def frozen(sequence: GraphSequence, i: int, r: int) -> list[int]:
    """Return the round that each node reaches while ``i`` stays in round ``r``, up to a horizon.

    A node closes a round once all who send to it in that round have entered it.
    """
    rounds = [0] * sequence.nodes
    moved = True
    while moved:
        moved = False
        for j in range(sequence.nodes):
            k = rounds[j]
            if k < (r if j == i else HORIZON) and all(
                rounds[sender] >= k for sender in sequence.at(k).row(j)[1]
            ):
                rounds[j] += 1
                moved = True
    return rounds


SEQUENCES = st.one_of(
    st.builds(
        lambda name, n: build_sequence(name, n),
        st.sampled_from(["one_peer_exponential", "base", "ring", "exponential"]),
        st.integers(2, 9),
    ),
    st.builds(
        lambda name, n, seed: build_sequence(name, n, seed=seed),
        st.sampled_from(["od_equi_dyn", "ou_equi_dyn", "el_oracle", "el_local", "d_equi_static"]),
        st.integers(2, 9),
        st.integers(0, 10),
    ),
)


@settings(deadline=None, max_examples=60)
@given(SEQUENCES, st.data())
def test_a_round_proves_just_what_the_game_forbids(sequence: GraphSequence, data) -> None:
    i = data.draw(st.integers(0, sequence.nodes - 1))
    r = data.draw(st.integers(0, 8))
    reached = frozen(sequence, i, r)
    for j in range(sequence.nodes):
        for m in range(r + 1, HORIZON):
            assert proves(sequence, j, m, i, r + 1) == (m > reached[j])


@pytest.mark.parametrize("name", ["one_peer_exponential", "base", "exponential", "ring", "chain"])
@pytest.mark.parametrize("n", [2, 3, 6, 8, 11])
def test_the_lead_is_the_longest_of_the_game(name: str, n: int) -> None:
    sequence = build_sequence(name, n)
    assert sequence.period is not None
    for i in range(n):
        longest = 1
        for r in range(LIMIT, LIMIT + sequence.period):
            reached = frozen(sequence, i, r)
            longest = max(
                [longest]
                + [
                    m - r
                    for j in range(n)
                    for m in range(r + 1, reached[j] + 1)
                    if j in sequence.at(m).row(i)[1]
                ]
            )
        assert longest < HORIZON - 2 * LIMIT
        assert lead_max(sequence, i, LIMIT) == longest


@pytest.mark.parametrize("name", ["one_peer_exponential", "base", "exponential", "ring"])
@pytest.mark.parametrize("n", [2, 3, 6, 8, 11])
def test_as_many_wait_as_the_game_lets_a_sender_send(name: str, n: int) -> None:
    """Freeze the receiver: it lacks what was sent in its round, and all that follows."""
    sequence = build_sequence(name, n)
    assert sequence.period is not None
    for i in range(n):
        most: dict[int, int] = {}
        for r in range(LIMIT, LIMIT + sequence.period):
            for j in range(n):
                sent = [
                    m
                    for m in range(r, frozen(sequence, j, r)[i] + 1)
                    if j in sequence.at(m).receivers_of(i)
                ]
                if j != i and sent:
                    most[j] = max(most.get(j, 0), len(sent))
        found = waiting_max(sequence, i, LIMIT)
        assert found.keys() == most.keys()
        assert all(most[j] <= found[j] <= most[j] + 1 for j in most)


def test_of_rounds_that_never_repeat_the_limit_is_the_bound() -> None:
    assert lead_max(build_sequence("el_local", 8), 0, 5) == 5


def test_everybody_has_been_where_it_is() -> None:
    sequence = build_sequence("ring", 4)
    assert proves(sequence, 2, 7, 2, 7)
    assert not proves(sequence, 2, 7, 2, 8)
    assert not proves(sequence, 1, 7, 2, 7)
    assert proves(sequence, 1, 7, 2, 6)
    assert not proves(sequence, 0, 7, 2, 6)
    assert proves(sequence, 0, 7, 2, 5)
