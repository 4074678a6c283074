"""Requests that fit the interface's own description, and others: schemathesis asks a node.

In ``tests``, ``python -m fuzz.interface [--examples N]``; it needs ``pip install '.[fuzz]'``. A
fault is a 500, an answer that is not as ``/v1/openapi.json`` says, or a request that it forbids and
the node takes. Not asked: that all it allows is taken, for what is a frame, or somebody's id, it
cannot say; nor the two routes whose answers do not end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

import uvloop

from gossipnode.config import Config
from gossipnode.network import HttpNode

ENDLESS = ("/v1/events", "/v1/lane")


async def ask(examples: int) -> int:
    """Return the exit code of schemathesis."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        config = Config.model_validate(
            {
                "node": {"id": "a", "data_dir": folder},
                "network": {"port": 0},
                "algorithm": {"name": "gossip", "period_s": 86_400.0},
                "topology": {"graph": "random"},
            }
        )
        async with HttpNode(config) as node:
            words = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color"]
            words += ["--exclude-checks", "positive_data_acceptance"]
            words += ["--max-examples", str(examples), "--continue-on-failure"]
            for path in ENDLESS:
                words += ["--exclude-path", path]
            process = await asyncio.create_subprocess_exec(
                *words,
                f"{node.url}/v1/openapi.json",
                cwd=folder,  # it keeps what it found where it runs
                env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz.hooks", "PYTHONPATH": paths},
            )
            return await process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    sys.exit(uvloop.run(ask(parser.parse_args().examples)))


if __name__ == "__main__":
    main()
