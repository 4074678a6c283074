"""One rank of torch.distributed with gloo: the contender of ``benchmarks.ring``, and its worker.

Invariant: the local step is the same numpy code as everybody's; PyTorch sees the same memory and
only exchanges it.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from benchmarks.gradients import learner_of
from benchmarks.teams import Gate

PATIENCE = timedelta(seconds=300)


def main(store: str, size: int, block: int, rank: int, ranks: int) -> None:
    """Run blocks of rounds: r exchanges with both neighbours, a reduces over all ranks."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=PATIENCE
    )
    learner = learner_of(size, rank)
    params = learner.initial_params(0)
    x = torch.from_numpy(params)
    received = torch.empty_like(x), torch.empty_like(x)
    sides = (rank - 1) % ranks, (rank + 1) % ranks
    gate = Gate()
    while command := gate.arrive():
        for _ in range(block):
            learner.train(params, 1)
            if command == "a":
                dist.all_reduce(x)
                x /= ranks
                continue
            under_way = [dist.isend(x, side) for side in sides]
            under_way += [dist.irecv(y, side) for y, side in zip(received, sides, strict=True)]
            for one in under_way:
                one.wait()
            x.add_(received[0]).add_(received[1]).div_(3)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], *(int(word) for word in sys.argv[2:]))
