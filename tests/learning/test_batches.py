"""Batches: exact sizes, fair coverage, exact continuation."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.learning.batches import BatchStream


def stream(size: int, batch_size: int, seed: int = 0) -> BatchStream:
    return BatchStream(size, batch_size, np.random.default_rng(seed))


@given(st.integers(2, 40), st.integers(1, 39), st.integers(0, 99))
def test_after_whole_epochs_every_sample_was_drawn_equally(size, batch_size, seed):
    batch_size = min(batch_size, size - 1)
    batches = stream(size, batch_size, seed)
    drawn = [batches.next() for _ in range(size)]  # batch_size epochs of size samples
    assert all(len(batch) == batch_size for batch in drawn)
    counts = Counter(int(index) for batch in drawn for index in batch)
    assert counts == dict.fromkeys(range(size), batch_size)


@given(st.integers(2, 40), st.integers(1, 39))
def test_each_epoch_is_a_permutation(size, batch_size):
    batch_size = min(batch_size, size - 1)
    batches = stream(size, batch_size)
    flat = np.concatenate([batches.next() for _ in range(size)])
    epochs = flat.reshape(batch_size, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


def test_a_batch_of_everything_is_everything_in_order():
    for batch_size in (0, 5, 6):
        batches = stream(5, batch_size)
        assert batches.full
        assert batches.batch_size == 5
        for _ in range(3):
            assert batches.next().tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 30), st.integers(0, 31), st.integers(0, 50))
def test_restored_stream_continues_exactly(size, batch_size, done):
    first = stream(size, batch_size, 7)
    for _ in range(done):
        first.next()
    saved = json.loads(json.dumps(first.state()))
    second = stream(size, batch_size, 999)
    second.restore(saved)
    for _ in range(3 * size):
        assert np.array_equal(first.next(), second.next())


@pytest.mark.parametrize(
    ("then", "now"), [((9, 0), (9, 4)), ((9, 4), (10, 4)), ((9, 4), (5, 4)), ((9, 4), (3, 4))]
)
def test_a_stream_of_other_samples_or_batches_begins_an_epoch(then, now):
    first, second = stream(*then, 7), stream(*now, 999)
    for _ in range(5):
        first.next()
    second.restore(json.loads(json.dumps(first.state())))
    size, batch_size = now
    drawn = [second.next().tolist() for _ in range(size)]
    assert all(len(batch) == min(batch_size, size) for batch in drawn)
    epochs = np.concatenate(drawn).reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


def test_equal_seeds_give_equal_batches_and_others_do_not():
    one, same, other = (stream(100, 10, seed) for seed in (3, 3, 4))
    drawn = [[s.next().tolist() for _ in range(25)] for s in (one, same, other)]
    assert drawn[0] == drawn[1] != drawn[2]
