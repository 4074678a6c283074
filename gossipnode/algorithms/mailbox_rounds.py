"""Rounds driven from a mailbox: send to each neighbour, wait for what each has sent, go on.

For algorithms on a graph that stays which need each message of a round, and not the sum that
``lockstep`` makes of them. A subclass's ``step`` says what is sent and what is done with what came.

Invariant: a round is waited for once; the node is alone only where nothing came of the last one,
and then sleeps if that took no time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from gossipnode.algorithms.base import Algorithm, NodeInterface
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.mailbox import Mailbox
from gossipnode.algorithms.waiting import CLOCK_S, PROBE_EVERY_S


class MailboxRounds(Algorithm):
    """A synchronous algorithm that keeps its neighbours' messages apart."""

    needs_graph = True

    def __init__(self, options: LockstepOptions) -> None:
        self.mailbox = Mailbox(options)
        self.alone = False  # whether nothing came in the last round

    @abstractmethod
    async def step(self, node: NodeInterface, k: int, neighbours: Sequence[str]) -> None:
        """Be round ``k``: send, take what comes from the mailbox, and commit what came of it.

        Sets ``alone``.
        """

    def neighbours(self, node: NodeInterface) -> tuple[str, ...]:
        """Return whom this node sends to and hears from, the same in every round."""
        return tuple(node.row.weights)

    def resume(self, node: NodeInterface) -> None:
        """Fit what an earlier life has kept to this one, before its first round."""

    def skipped(self, node: NodeInterface) -> None:
        """Notice that the node goes on in a later round than its next."""

    async def run(self, node: NodeInterface) -> None:
        """Run rounds until the budget is used up."""
        neighbours = self.neighbours(node)
        self.resume(node)
        self.mailbox.skip(node, (node.round, 0))
        while self.catch_up(node, neighbours):
            began = node.time()
            await self.step(node, node.round, neighbours)
            await node.end_round()
            if self.alone and node.time() - began < CLOCK_S:
                # Nobody to wait for and no time that passes: rounds would follow without end.
                await node.sleep(PROBE_EVERY_S if neighbours else 0.0)

    def catch_up(self, node: NodeInterface, neighbours: Sequence[str]) -> bool:
        """Go on in the neighbours' round if they have gone on without us; False at the end."""
        gone = [node.peer_round(j) for j in neighbours if node.went_on_without(j, node.round)]
        if gone:
            node.skip_to(max(gone))
            self.mailbox.skip(node, (node.round, 0))
            self.skipped(node)
        return node.budget_left

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """A peer was suspected, or is further than we thought: maybe nobody is left."""
        del peer
        self.mailbox.recheck(node)
