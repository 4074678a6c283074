"""The command line: one file a verb, each thin over the rooms below.

Invariant: a verb is imported when it is called, so that ``gossipnode version`` and ``--help`` pay
for nothing else. Nothing but the standard library may be imported here.
"""

from __future__ import annotations

import os
import sys
import time

# Before numpy is imported: a node trains in one thread and shares its machine with others, so
# BLAS's pool would only fight for the cores, and threads that exist when a swarm forks its nodes
# leave their locks behind. What the user has set counts.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Before pydantic is imported: at its first model it would read what each installed package
# announces, in search of plugins, of which there are none for us.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

LAUNCHED = time.monotonic()
"""When the process began, but for the interpreter's own start (some 20 ms)."""


def main() -> None:
    """Run the command line of this process and end it with the verb's exit code."""
    from gossipnode.cli import process

    process.open_standard_streams()
    process.end_at_once_on_signals()
    process.rest_the_collector()  # until the verb is imported
    from gossipnode.cli.app import run

    code = run(sys.argv[1:])
    # Again: loops have restored Python's handlers, and the interpreter's end takes a while.
    process.end_at_once_on_signals()
    sys.exit(code)
