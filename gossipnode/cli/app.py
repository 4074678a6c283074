"""The verbs by name, and what a process ends with.

Invariant: whatever goes wrong on purpose (``GossipNodeError``, wrong usage) is one line on
standard error that begins with ``error:``; a traceback means a bug of ours. Nothing heavy may be
imported here.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from gossipnode import __version__
from gossipnode.cli import process
from gossipnode.errors import (
    ConfigError,
    DataError,
    GossipNodeError,
    NetworkError,
    StorageError,
    TrainingError,
    nearest_spelling,
)

OK, UNEXPECTED, USAGE, NETWORK, STORAGE, DIVERGED, SOME_FAILED, INTERRUPTED = (
    0, 1, 2, 3, 4, 5, 6, 130,
)  # fmt: skip

EXIT_CODES = {
    OK: "done",
    UNEXPECTED: "unexpected, a bug",
    USAGE: "usage, config or data is wrong",
    NETWORK: "network",
    STORAGE: "storage",
    DIVERGED: "training diverged",
    SOME_FAILED: "some nodes failed, others finished",
    INTERRUPTED: "interrupted",
}

# The short help stands here so that `gossipnode --help` need not import every verb.
VERBS = {
    "init": "Write a commented node.toml and peers.toml to start from.",
    "start": "Run a node.",
    "status": "Show how a node is.",
    "peers": "Show a node's peers.",
    "stop": "Stop a node of this machine cleanly.",
    "reload": "Have a node read its bundle and revocations anew.",
    "doctor": "Look what keeps a node from starting or from being reached.",
    "ca": "Make a swarm's authority, issue bundles, revoke nodes.",
    "id": "Make an identity that signs itself, for a swarm of friends.",
    "trust": "Say which self-signed certificates a node trusts.",
    "swarm": "Run a whole swarm on this machine, and sum up how it learnt.",
    "simulate": "Run a swarm in virtual time, with any network and any faults.",
    "model": "Fetch a node's model, or measure one on data.",
    "topology": "Show how fast a graph averages, what a round costs, and draw it.",
    "plan": "Tell what a training run costs before it runs.",
    "completion": "Print a script that completes commands in your shell.",
    "version": "Print the versions.",
}


class UnreadError(Exception):
    """Whoever read our output (head, less) has gone."""


@contextlib.contextmanager
def _perhaps_unread() -> Iterator[None]:
    """Turn a broken pipe into ``UnreadError``: click would make exit code 1, a bug, of it."""
    try:
        yield
    except BrokenPipeError:
        raise UnreadError from None


class Verbs(click.Group):
    """A group that imports a verb when it is called."""

    @_perhaps_unread()
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the arguments; raises ``UnreadError`` where nobody reads the help."""
        return super().make_context(*args, **kwargs)

    @_perhaps_unread()
    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; raises ``UnreadError`` where nobody reads what it says."""
        return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Return the verbs in the order that people meet them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one verb; None for a word that is none."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"gossipnode.cli.{cmd_name}").command
        process.wake_the_collector()
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one was likely meant."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            nearest = nearest_spelling(args[0], VERBS)
            hint = f"; did you mean {nearest!r}?" if nearest else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def notes(*codes: int, examples: Sequence[str], **meanings: str) -> str:
    """Return what stands below a verb's options: examples and its exit codes.

    ``meanings`` are what some codes mean to this verb, by their names: ``network="…"``.
    """
    own = {globals()[name.upper()]: text for name, text in meanings.items()}
    lines = ["\b", "Examples:", *(f"  {example}" for example in examples), "", "\b", "Exit codes:"]
    lines += [f"  {code:<3} {own.get(code, EXIT_CODES[code])}" for code in codes]
    return "\n".join(lines)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=notes(
        OK, UNEXPECTED, USAGE, NETWORK, STORAGE, DIVERGED, SOME_FAILED, INTERRUPTED,
        examples=["gossipnode swarm", "gossipnode COMMAND --help"],
    ),
)  # fmt: skip
@click.version_option(__version__, message="gossipnode %(version)s")
def root() -> None:
    """Machines that share nothing but a network train one model together, with no server."""


def say(text: str = "", *, nl: bool = True) -> None:
    """Write how far a run is to standard error.

    Where nobody reads it, or its disk is full, the run goes on silently.
    """
    try:
        click.echo(text, err=True, nl=nl)
    except OSError:
        process.write_no_more(sys.stderr)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code; errors are told on standard error."""
    try:
        code: Any = root.main(list(arguments), prog_name="gossipnode", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        _tell(_usage_text(error))
        return USAGE
    except GossipNodeError as error:
        _tell(str(error))
        return exit_code(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except UnreadError:
        process.write_no_more()
        return OK
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        process.write_no_more()
        _tell(f"output cannot be written: {error.strerror}; make room")
        return STORAGE
    return code if isinstance(code, int) else OK


def exit_code(error: GossipNodeError) -> int:
    """Return the exit code that stands for ``error``.

    >>> exit_code(NetworkError("nobody listens"))
    3
    """
    for kind, code in (
        ((ConfigError, DataError), USAGE),
        ((NetworkError,), NETWORK),
        ((StorageError,), STORAGE),
        ((TrainingError,), DIVERGED),
    ):
        if isinstance(error, kind):
            return code
    # A PeerError: what answered is no node, or one that we do not understand.
    return NETWORK


def _usage_text(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "gossipnode"
    return f"{text} ({where} --help tells more)"


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, or its disk is full: the code tells too
        click.echo(f"error: {text}", err=True)
