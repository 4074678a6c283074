"""Edge lists: any order gives the same graph, and what is wrong is told with its row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import DataError
from gossipnode.topology import build_graph
from gossipnode.topology.edgelist import parse_edges


def test_names_comments_blanks_and_repetitions():
    found = parse_edges("# friends\nann bob\n\nbob  cem # twice\n\tcem bob\n")
    assert found.ids == ("ann", "bob", "cem")
    assert found.neighbours == ((1,), (0, 2), (1,))
    assert build_graph("explicit", 3, edges=found.neighbours).degree_max == 2


def test_numbers_are_ordered_by_value_and_direction_counts():
    assert parse_edges("10 9\n9 2").ids == ("2", "9", "10")
    assert parse_edges("a b\nb c\nc a", directed=True).neighbours == ((1,), (2,), (0,))


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda e: e[0] != e[1]), min_size=1
    ),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter(edges, random):
    lines = [f"{a} {b}" for a, b in edges]
    shuffled = list(lines)
    random.shuffle(shuffled)
    assert parse_edges("\n".join(lines)) == parse_edges("\n".join(shuffled))


@pytest.mark.parametrize(
    ("text", "row", "says"),
    [
        ("a b\na b c", 2, "3 words"),
        ("a", 1, "1 words"),
        ("# no\n\nx x", 3, "joined to itself"),
        ("# nothing", None, "no edge"),
    ],
)
def test_what_is_wrong_has_a_row(text, row, says):
    with pytest.raises(DataError, match=says) as error:
        parse_edges(text, file="f.txt")
    assert error.value.row == row
    assert error.value.file == "f.txt"
