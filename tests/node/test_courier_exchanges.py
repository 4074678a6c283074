"""The courier: an answer that has come is merged to its end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from node.test_courier import Post, run

from gossipnode.node.outbox import Parcel
from gossipnode.node.peers import Peer, PeerState
from gossipnode.node.world import Receipt


def answered() -> Receipt:
    return Receipt(message=SimpleNamespace(sender="p"))  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["suspect", "down", "left"])
def test_an_answer_that_has_come_is_merged_whatever_becomes_of_its_peer(state: PeerState) -> None:
    """The peer has merged its half: a model that is large takes a while, and it may leave."""

    async def main() -> None:
        answer, merged_at = answered(), []
        post = Post(answer)

        async def merging(peer: Peer, parcel: Parcel, receipt: Receipt) -> None:
            assert (peer.id, receipt) == ("p", answer)
            await asyncio.sleep(1.0)
            merged_at.append(asyncio.get_running_loop().time())

        post.courier.on_exchange = merging
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(0.5)
            post.courier.lose(post.peer, state, "a test")
        assert merged_at == [1.0]
        assert not post.courier.busy

    run(main)


def test_an_answer_that_cannot_be_merged_ends_the_node() -> None:
    async def main() -> None:
        post = Post(answered())

        async def failing(*_: Any) -> None:
            await asyncio.sleep(1.0)
            raise ZeroDivisionError

        post.courier.on_exchange = failing
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as tasks:
                post.put(tasks)
        assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]

    run(main)
