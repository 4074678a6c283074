"""Error feedback: nothing is lost, nothing is sent twice, and answers may be lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gossipnode.algorithms.feedback import NEVER, AnswerFeedback, ErrorFeedback
from gossipnode.codecs import decode
from gossipnode.codecs.halves import BFloat16
from gossipnode.codecs.qsgd import QSGD
from gossipnode.codecs.randomk import RandomK
from gossipnode.codecs.sign import Sign
from gossipnode.codecs.topk import TopK
from gossipnode.errors import PeerError

D = 200
CODECS = {
    "topk": TopK(0.05),
    "topk in 4 bits": TopK(0.05, 4),
    "randomk": RandomK(0.05),
    "sign": Sign(),
    "qsgd": QSGD(4, contractive=True),
    "bfloat16": BFloat16(),
}


def node_with(codec: Any, d: int = D) -> Any:
    """Return as much of a node as compressing asks for."""

    async def compute(work: Callable[..., Any], *vectors: Any) -> Any:
        return work(*vectors)

    tensor = SimpleNamespace(shape=(d,), offset=0, size=d)
    rng = np.random.default_rng(5)
    return SimpleNamespace(codec=codec, compute=compute, tensors=(tensor,), rng=rng, epoch=7)


def told(counted: tuple[int, int]) -> dict[str, float]:
    return {"counted": counted[0], "counted_life": counted[1]}


@pytest.mark.parametrize("name", CODECS)
async def test_what_was_sent_and_what_is_left_are_all_that_was_put_in(name: str) -> None:
    node, feedback, rng = node_with(CODECS[name]), ErrorFeedback(), np.random.default_rng(1)
    inputs, sent = rng.standard_normal((500, D)), np.zeros((500, D))
    for k, g in enumerate(inputs):
        before = g.copy()
        made = await feedback.compress(node, g)
        assert np.array_equal(g, before)
        # The sender knows the very bits that a receiver makes of the bytes.
        assert np.array_equal(made.decoded, decode(made.coded, made.coded.data, node.tensors))
        feedback.keep(made)
        sent[k] = made.decoded
    assert feedback.e is not None
    np.testing.assert_allclose(sent.sum(0) + feedback.e, inputs.sum(0), rtol=0, atol=5e-13)
    assert np.abs(sent.sum(0) - inputs.sum(0)).max() > 1e-3  # the codec does leave something out


@pytest.mark.parametrize("name", CODECS)
async def test_what_is_left_stays_bounded(name: str) -> None:
    """E‖e‖ ≤ 2/δ·max ‖g‖ (Karimireddy 2019, lemma 3)."""
    codec = CODECS[name]
    node, feedback, rng = node_with(codec), ErrorFeedback(), np.random.default_rng(2)
    for _ in range(300):
        g = rng.standard_normal(D)
        g /= np.linalg.norm(g)
        feedback.keep(await feedback.compress(node, g))
        assert feedback.e is not None
        assert np.linalg.norm(feedback.e) <= 2 / codec.delta(D)


async def test_an_unbiased_codec_leaves_nothing() -> None:
    node, feedback = node_with(QSGD(4)), ErrorFeedback()
    made = await feedback.compress(node, np.ones(D))
    assert made.left is None


async def test_what_has_grown_out_of_range_is_not_sent() -> None:
    node, feedback = node_with(TopK(0.05)), ErrorFeedback()
    feedback.e = np.full(D, 1.5e308)
    with pytest.raises(PeerError, match="not finite"), np.errstate(over="ignore"):
        await feedback.compress(node, np.full(D, 1.5e308))


async def answered(feedback: AnswerFeedback, k: int, g: Any) -> Any:
    """Return what round k's answer leaves."""
    made = await feedback.answer(node_with(TopK(0.05)), k, g)
    return made.left


async def test_e_moves_when_the_answer_was_counted_and_only_then() -> None:
    feedback, g = AnswerFeedback(), np.arange(D, dtype=float)
    left = await answered(feedback, 3, g)
    assert feedback.e is None
    feedback.hear(told((3, 7)))
    assert np.array_equal(feedback.e, left)
    await answered(feedback, 4, g)
    feedback.hear(told((3, 7)))  # round 4's was lost: as if this node had not been asked
    assert np.array_equal(feedback.e, left)
    again = await answered(feedback, 5, g)
    np.testing.assert_array_equal(again + await made_of(feedback, left, g), left + g)
    feedback.hear(told((5, 7)))
    feedback.hear(told((5, 7)))
    assert np.array_equal(feedback.e, again)


async def made_of(feedback: AnswerFeedback, e: Any, g: Any) -> Any:
    """Return what is sent of g with e; its state stays."""
    other = ErrorFeedback()
    other.e = e
    return (await other.compress(node_with(TopK(0.05)), g)).decoded


@pytest.mark.parametrize("counted", [NEVER, (2, 7), (3, 6), (9, 9)])
async def test_where_one_of_the_two_was_set_back_e_begins_anew(counted: tuple[int, int]) -> None:
    feedback = AnswerFeedback()
    await answered(feedback, 3, np.ones(D))
    feedback.hear(told((3, 7)))
    assert feedback.e is not None
    feedback.hear(told(counted))
    assert feedback.e is None
    await answered(feedback, 4, np.ones(D))
    feedback.hear(told((4, 7)))
    assert feedback.e is not None


async def test_a_later_life_goes_on_where_the_checkpoint_was() -> None:
    feedback, later, g = AnswerFeedback(), AnswerFeedback(), np.arange(D, dtype=float)
    assert feedback.state() == ({}, {})
    first = await answered(feedback, 3, g)
    feedback.hear(told((3, 7)))
    second = await answered(feedback, 4, g)
    feedback.counted["n1"] = (3, 2)
    arrays, facts = feedback.state()
    later.restore(arrays, json.loads(json.dumps(facts)))
    assert np.array_equal(later.e, first)
    assert later.told("n1") == told((3, 2))
    later.hear(told((4, 7)))
    assert np.array_equal(later.e, second)
    fresh = AnswerFeedback()
    fresh.restore({}, {})
    assert (fresh.e, fresh.of, fresh.pending) == (None, NEVER, None)
