"""``gossipnode init``: a node.toml that explains itself, and a peers.toml.

Invariant: the written file loads as it stands and says what the defaults say; so does every
line of it that is commented out, once the mark is taken away.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import click

from gossipnode.cli import describe
from gossipnode.cli.app import OK, STORAGE, USAGE, notes
from gossipnode.config import DEFAULT_PORT, Config
from gossipnode.config.listing import Option, options
from gossipnode.errors import ConfigError, StorageError
from gossipnode.network.trust.files import write
from gossipnode.node.place import host_id
from gossipnode.registry import DEFAULT_ALGORITHM

# What most people change first: written as plain lines, everything else commented out. Not the
# port: where nobody gives one, it is that of the node's entry in peers.toml. Nor what some
# algorithms refuse: changing `name` alone must do.
ACTIVE = {
    "swarm.name",
    "swarm.peers",
    "task.kind",
    "data.source",
    "training.batch_size",
    "training.learning_rate",
    "algorithm.name",
}
LINE = 96

HEADER = """\
# A gossipnode node. Run it with: gossipnode start --config node.toml
#
# A line "#key = value" shows an option's default, or an example where it is unset; take the mark
# away to change it. Every option can also be set by an environment variable
# (GOSSIPNODE_<SECTION>_<KEY>) or on the command line, which override this file:
# gossipnode start --help
"""

# Each algorithm has options of its own, and one that is given to another is an error.
OTHERS = [
    f"# Below are those of {DEFAULT_ALGORITHM}. docs/algorithms.md tells of the other algorithms.",
]

PEERS = """\
# The nodes of the swarm. On a fixed graph (ring, torus, …) their order is their place in it, so
# this file is the same on every node. `gossipnode start --id NAME` says which of them to be.

[[peer]]
id = {id}
address = {address}

# [[peer]]
# id = "another"
# address = "http://10.0.0.6:{port}"
"""


@click.command(
    epilog=notes(
        OK, USAGE, STORAGE,
        examples=["gossipnode init", "gossipnode init /etc/gossipnode --json"],
    )
)  # fmt: skip
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the paths as one JSON object.")
def command(folder: Path, force: bool, as_json: bool) -> None:
    """Write node.toml, with every option explained, and peers.toml into DIR (here)."""
    address = f"http://127.0.0.1:{DEFAULT_PORT}"
    peers = PEERS.format(
        id=describe.toml(host_id()), address=describe.toml(address), port=DEFAULT_PORT
    )
    files = {folder / "node.toml": node_file(), folder / "peers.toml": peers}
    for path in files:
        if path.exists() and not force:
            raise ConfigError("is there already; --force overwrites it", file=str(path))
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
        write(path, text)  # whole or not at all: with --force the old one may be all there is
    if as_json:
        click.echo(json.dumps({path.stem: str(path) for path in files}))
        return
    for path in files:
        click.echo(f"wrote {path}")
    click.echo(f"next: gossipnode start --config {folder / 'node.toml'}")


def node_file() -> str:
    """Return the text of node.toml."""
    parts = [HEADER]
    everything = list(options(DEFAULT_ALGORITHM))
    for section in Config.model_fields:
        lines = [f"# {describe.section_help(section)}"]
        lines += OTHERS if section == "algorithm" else []
        lines.append(f"[{section}]")
        for option in everything:
            lines += ["", *_entry(option)] if option.section == section else []
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _entry(option: Option) -> list[str]:
    """Return one option: its help as comments, then its line."""
    lines = [f"# {line}" for line in textwrap.wrap(describe.told(option), LINE)]
    value = "peers.toml" if option.key == "swarm.peers" else describe.example(option)
    mark = "" if option.key in ACTIVE else "#"
    return [*lines, f"{mark}{option.name} = {describe.toml(value)}"]
