"""The rooms and the arrows between them, as design has them: the imports are walked and judged.

The judge is tried on modules made up to break each rule, so that it is known to be awake.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gossipnode

PACKAGE = Path(gossipnode.__file__).parent
GROUND = {"config", "options", "configfile", "errors", "logs", "registry"}
# Who may import whom. Every room may import itself.
ARROWS = {
    "errors": set(),
    "registry": {"errors"},
    "options": {"registry"},
    "config": GROUND,
    "configfile": GROUND,
    "logs": GROUND,
    "wire": {"errors"},
    "topology": GROUND,
    "codecs": GROUND,
    "learning": GROUND,
    "algorithms": GROUND | {"topology", "codecs", "learning.params"},
    "node": GROUND | {"algorithms", "topology", "codecs", "learning", "wire"},
    "network": GROUND | {"node", "algorithms", "topology", "codecs", "learning", "wire"},
    "simulation": GROUND | {"node", "algorithms", "topology", "codecs", "learning", "wire"},
    "cli": GROUND
    | {"network", "simulation", "node", "algorithms", "topology", "codecs", "learning", "wire"},
    "": {"config", "configfile", "network"},  # gossipnode/__init__.py names the public objects
}
SANS_IO = {"algorithms", "topology", "codecs", "wire"}
SANS_IO_BANNED = {"time", "random", "threading", "socket", "multiprocessing", "subprocess", "ssl"}
SOCKETS = {"socket", "ssl", "aiohttp", "uvloop", "http", "urllib.request", "asyncio.streams"}
HEAVY = {"torch", "matplotlib", "sklearn", "networkx", "scipy", "pyarrow", "pandas"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
WIRE_THIRD_PARTY = {"numpy", "msgpack", "xxhash"}


@dataclass(frozen=True)
class Import:
    """One import: the module, where it stands, and whether it runs when the file is imported."""

    module: str
    line: int
    at_start: bool
    for_types: bool


def imports(tree: ast.Module) -> Iterator[Import]:
    yield from _imports(tree, at_start=True, for_types=False)


def _imports(node: ast.AST, *, at_start: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = at_start and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        types = for_types
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            types = True
        match child:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, child.lineno, at_start, for_types)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, "relative imports hide the arrow"
                assert module is not None
                for alias in names:
                    full = f"{module}.{alias.name}"
                    yield Import(
                        full if is_module(full) else module, child.lineno, at_start, for_types
                    )
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(
                func
            ).endswith(("import_module", "__import__")):
                yield Import(name, child.lineno, at_start, for_types)
        yield from _imports(child, at_start=inside, for_types=types)


def is_module(dotted: str) -> bool:
    path = PACKAGE.parent.joinpath(*dotted.split("."))
    return dotted.startswith("gossipnode.") and (
        path.with_suffix(".py").exists() or (path / "__init__.py").exists()
    )


def room_of(module: str) -> str:
    """``gossipnode.node.inbox`` is in the room ``node``; the package itself in the room ``""``."""
    return [*module.split("."), ""][1]


def faults(module: str, source: str) -> list[str]:
    """Return all that ``source``, as ``module``, does against the rules."""
    tree, found = ast.parse(source), []
    for one in imports(tree):
        found += [f"{module}:{one.line}: {fault}" for fault in import_faults(module, one)]
    for node in ast.walk(tree):
        found += [f"{module}:{node.lineno}: {fault}" for fault in node_faults(module, node)]  # type: ignore[attr-defined]
    return found


def import_faults(module: str, one: Import) -> Iterator[str]:
    here, top = room_of(module), one.module.split(".")[0]
    if top == "gossipnode":
        target = room_of(one.module)
        inner = one.module.removeprefix("gossipnode.")
        allowed = ARROWS.get(here)
        if allowed is None:
            yield f"the room {here} is on no page"
        elif here == target or (one.module == "gossipnode" and here != "wire"):
            pass  # its own room, or __version__
        elif not any(inner == room or inner.startswith(room + ".") for room in allowed):
            yield f"{here or 'the package'} must not know {inner}"
    if top in HEAVY and one.at_start and not one.for_types:
        yield f"{top} is too heavy to import at start"
    if top in PICKLES:
        yield f"{top} executes what it reads"
    opens_sockets = any(one.module == s or one.module.startswith(s + ".") for s in SOCKETS)
    if opens_sockets and here != "network":
        may_listen = module.startswith("gossipnode.cli.swarm") and top == "socket"
        if not may_listen:
            yield f"only network knows {top}"
    if here in SANS_IO and top in SANS_IO_BANNED:
        yield f"{top} may not enter {here}"
    known = WIRE_THIRD_PARTY | {"gossipnode"} | sys.stdlib_module_names
    if here == "wire" and top not in known:
        yield f"wire must not know {top}"


def node_faults(module: str, node: ast.AST) -> Iterator[str]:
    match node:
        case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
            yield "allow_pickle"
        case ast.keyword(arg="allow_pickle", value=value) if not isinstance(value, ast.Constant):
            yield "allow_pickle by a variable"
        case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
            yield f"{name} executes what it reads"
    here = room_of(module)
    match node:
        case ast.Attribute(value=ast.Attribute(attr="random"), attr=attr) if attr in {
            "seed", "rand", "randn", "randint", "random", "shuffle", "choice", "permutation",
            "normal", "uniform", "standard_normal", "set_state",
        }:  # fmt: skip
            yield "numpy's global generator"
    if here not in SANS_IO:
        return
    match node:
        case ast.Call(func=ast.Name(id="open")):
            yield f"open() may not enter {here}"
        case ast.Call(
            func=ast.Attribute(
                attr="read_bytes" | "read_text" | "write_bytes" | "write_text" | "open"
            )
        ):
            yield f"files may not enter {here}"
        case ast.Call(func=ast.Attribute(attr="open_connection" | "start_server" | "to_thread")):
            yield f"sockets and threads may not enter {here}"


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("gossipnode", *path.relative_to(PACKAGE).with_suffix("").parts)
        yield ".".join(p for p in parts if p != "__init__"), path


def test_no_import_goes_against_the_arrows() -> None:
    found = [fault for name, path in modules() for fault in faults(name, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_the_walk_sees_the_package() -> None:
    names = [name for name, _ in modules()]
    assert {"gossipnode", "gossipnode.node.inbox", "gossipnode.wire.frame"} <= set(names)
    assert {room_of(name) for name in names} <= set(ARROWS)
    inbox = ast.parse((PACKAGE / "node" / "inbox.py").read_text("utf-8"))
    found = {one.module for one in imports(inbox)}
    assert {"gossipnode.errors", "gossipnode.wire.message"} <= found


BAD = {
    "wire knows config": ("wire.bad", "from gossipnode.config import Config"),
    "wire knows logs": ("wire.bad", "from gossipnode import logs"),
    "wire knows the package": ("wire.bad", "from gossipnode import __version__"),
    "wire knows pydantic": ("wire.bad", "import pydantic"),
    "errors knows logs": ("errors", "import gossipnode.logs"),
    "config knows node": ("config", "def f():\n    from gossipnode.node.node import Node"),
    "topology knows learning": ("topology.bad", "from gossipnode.learning import params"),
    "learning knows wire": ("learning.bad", "import gossipnode.wire.frame as f"),
    "algorithms know node": ("algorithms.bad", "from gossipnode.node.peers import Peer"),
    "algorithms know the learner": (
        "algorithms.bad",
        "from gossipnode.learning.learner import Learner",
    ),
    "algorithms know all of learning": ("algorithms.bad", "from gossipnode import learning"),
    "node knows network": (
        "node.bad",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gossipnode.network.world",
    ),
    "network knows simulation": ("network.bad", "import gossipnode.simulation"),
    "simulation knows network": ("simulation.bad", "from gossipnode.network import server"),
    "network knows cli": ("network.bad", "from gossipnode.cli import app"),
    "an import by name": ("node.bad", "importlib.import_module('gossipnode.cli.app')"),
    "a new room": ("attic.bad", "from gossipnode.node import node"),
    "heavy at start": ("learning.bad", "import matplotlib.pyplot as plt"),
    "heavy in a class body": ("cli.bad", "class A:\n    import scipy.sparse"),
    "heavy in a try": ("learning.bad", "try:\n    import torch\nexcept ImportError:\n    pass"),
    "pickle": ("learning.bad", "def f():\n    import pickle"),
    "allow_pickle": ("learning.bad", "np.load(f, allow_pickle=True)"),
    "allow_pickle by variable": ("learning.bad", "np.load(f, allow_pickle=flag)"),
    "socket in node": ("node.bad", "import socket"),
    "aiohttp in cli": ("cli.bad", "def f():\n    from aiohttp import web"),
    "ssl in cli.swarm": ("cli.swarm.bad", "import ssl"),
    "urllib.request in cli": ("cli.bad", "import urllib.request"),
    "clock in algorithms": ("algorithms.bad", "from time import time"),
    "random in topology": ("topology.bad", "import random"),
    "numpy's global generator": ("topology.bad", "np.random.seed(0)"),
    "thread in codecs": ("codecs.bad", "import threading"),
    "file in wire": ("wire.bad", "open('x')"),
    "path in algorithms": ("algorithms.bad", "Path('x').read_text()"),
    "eval": ("cli.bad", "eval('1')"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_judge_sees(name: str) -> None:
    module, source = BAD[name]
    assert faults(f"gossipnode.{module}", source)


GOOD = {
    "ground": ("node.good", "from gossipnode import errors, logs, config, configfile"),
    "params": ("algorithms.good", "from gossipnode.learning.params import merge_into"),
    "params, the other way": ("algorithms.good", "from gossipnode.learning import params"),
    "heavy where used": ("learning.good", "def f():\n    import pyarrow"),
    "heavy for types": (
        "learning.good",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
    ),
    "listening sockets": ("cli.swarm.family", "import socket"),
    "network": ("network.good", "import socket, ssl, aiohttp, uvloop"),
    "no pickle": ("learning.good", "np.load(f, allow_pickle=False)"),
    "a handed-in generator": ("topology.good", "np.random.default_rng(0).integers(3)"),
    "parsing an address": ("config", "from urllib.parse import urlsplit"),
    "version": ("cli.good", "from gossipnode import __version__"),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_judge_lets_pass(name: str) -> None:
    module, source = GOOD[name]
    assert not faults(f"gossipnode.{module}", source)


def test_no_two_test_files_have_one_name() -> None:
    # They are in no package: pytest can collect only one of two, and ends when it meets both.
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []


def test_starting_a_node_imports_nothing_heavy() -> None:
    """What the walk cannot see: a light import that pulls a heavy one behind it."""
    program = (
        "import sys, gossipnode.node.node, gossipnode.configfile, gossipnode.network.daemon\n"
        f"print(sorted({HEAVY | PICKLES!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(ast.literal_eval(done.stdout))
    assert not loaded & HEAVY
