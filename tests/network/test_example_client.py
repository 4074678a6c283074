"""examples/client.py, which imports no gossipnode, against a node."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from loopback import CHAIN, CHAIN_PEERS, StartNode

from gossipnode.network import HttpNode

CLIENT = Path(__file__).parents[2] / "examples" / "client.py"


async def run(*arguments: str) -> tuple[int | None, dict[str, object]]:
    """Run the client in a process of its own; return its exit code and what it printed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENT), *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    return child.returncode, json.loads(out)


def test_it_imports_the_standard_library_and_msgpack_alone() -> None:
    names = set()
    for node in ast.walk(ast.parse(CLIENT.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"msgpack"}


async def test_a_node_that_is_not_there_is_told_in_a_line() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENT), "http://127.0.0.1:1", "status", stderr=asyncio.subprocess.PIPE
    )
    _, told = await child.communicate()
    assert child.returncode == 1
    assert told.decode().startswith("http://127.0.0.1:1/v1/status: ")
    assert told.count(b"\n") == 1


async def test_status(node: HttpNode) -> None:
    code, status = await run(node.url, "status")
    assert (code, status["node_id"]) == (0, "a")


async def test_its_push_is_merged(start_node: StartNode) -> None:
    node = await start_node(task={"kind": "mlp"})  # several tensors, so their order counts
    before = np.array(node.params)
    code, reply = await run(node.url + "/", "push")
    assert (code, reply["status"], reply["age"]) == (0, "merged", 1)
    # Age 1 against 0: all of the weight is the sender's.
    np.testing.assert_allclose(node.params, before * np.float32(1.001), rtol=1e-6)


async def test_with_dpsgd_only_a_neighbour_may_push(start_node: StartNode) -> None:
    node = await start_node(**CHAIN, peers=CHAIN_PEERS)
    code, reply = await run(node.url, "push")
    assert (code, reply["code"]) == (1, "not_a_neighbour")
    code, reply = await run(node.url, "push", "--as", "b")
    assert (code, reply["status"]) == (0, "buffered")
