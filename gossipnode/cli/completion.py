"""``gossipnode completion``: click's own completion script for a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gossipnode.cli.app import OK, USAGE, notes, root


@click.command(
    epilog=notes(
        OK, USAGE,
        examples=[
            "gossipnode completion bash > ~/.local/share/bash-completion/completions/gossipnode",
            "gossipnode completion zsh > ~/.zfunc/_gossipnode",
            "gossipnode completion fish > ~/.config/fish/completions/gossipnode.fish",
        ],
    )
)  # fmt: skip
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes commands, options and their values in SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "gossipnode", "_GOSSIPNODE_COMPLETE").source())
