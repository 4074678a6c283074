"""Flags made from the options of ``config``, and the config made from flags.

Invariant: every option can be given on the command line: by its flag where it has one, else by
``--set section.key=value``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import click

from gossipnode.cli import describe
from gossipnode.config import Config
from gossipnode.config.listing import ENV_PREFIX, Option, options
from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.registry import algorithm_names, spelt_out

F = TypeVar("F", bound=Callable[..., Any])

METAVARS = {"number": "NUMBER", "whole number": "N", "choice": "WORD"}
# Between section and key in the names of click's parameters; no option has it in its own.
JOINT = "__"


class Words(click.Choice):  # type: ignore[type-arg]  # click below 8.2 knows no argument
    """One word of a list; for another, the nearest is told, and the list where none is near."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return ``value``, or fail with what was likely meant."""
        near = None if value in self.choices else nearest_spelling(str(value), self.choices)
        if near:
            self.fail(f"there is no {value!r}; did you mean {near!r}?", param, ctx)
        return super().convert(value, param, ctx)


class OptionFlag(click.Option):
    """A flag that stands for an option of the config."""

    def __init__(self, option: Option) -> None:
        self.option = option
        owners = list(describe.variants(option))
        # Where one algorithm alone has it, below its name.
        alone = owners != [""] and len(owners) == 1
        self.title = (
            f"Options of algorithm {owners[0]}" if alone else f"Options of [{option.section}]"
        )
        words = describe.choices(option)
        switch = describe.is_switch(option)
        name = option.flag.removeprefix("--")
        declared = f"--{name}/--no-{name}" if switch else option.flag
        super().__init__(
            [declared, option.section + JOINT + option.name],
            type=bool if switch else Words(words) if words else str,
            default=None,
            # The help has the choices, with the unit and the default.
            metavar=None if switch else METAVARS.get(describe.kind(option), "TEXT"),
            # The sentence is written for node.toml; what a flag gives is read from here.
            help=describe.sentence(option).replace("relative to this file", "relative to here"),
        )

    @property
    def is_algorithms(self) -> bool:
        """Whether algorithms declare the option, each for itself."""
        return self.option.section == "algorithm" and self.option.name != "name"


class OptionsCommand(click.Command):
    """A command whose help lists the generated flags by section, after its own.

    The flags of algorithms are made when they are asked for. Where an algorithm is named beside
    them, its own are tried first: those of all take loading all, 60 ms.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with the algorithms' flags where one may be among ``args``, or help is."""
        own = [p for p in self.params if not (isinstance(p, OptionFlag) and p.is_algorithms)]
        known = _words_of(own)
        flags = {arg.partition("=")[0] for arg in args if arg.startswith("--")}
        for algorithm in ("", *_named(args), None):
            made = (
                OptionFlag(o) for o in options(algorithm) if o.section == "algorithm" and o.flag
            )
            self.params = own + [flag for flag in made if not known & set(flag.opts)]
            if flags <= _words_of(self.params):
                break
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verb's own options, then a section for each of the config's."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                title = getattr(parameter, "title", "Options")
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _words_of(parameters: Iterable[click.Parameter]) -> set[str]:
    return {word for p in parameters for word in (*p.opts, *p.secondary_opts)}


def _named(args: Sequence[str]) -> list[str]:
    """Return the algorithm that a command line names, if it is one that there is."""
    words = [word for arg in args for word in arg.split("=", 1)]
    named = dict(pairwise(words)).get("--algorithm", "")
    name = spelt_out(named)["name"]
    return [name] if name in algorithm_names() else []


def config_options(without: Collection[str] = ()) -> Callable[[F], F]:
    """Add ``--config``, ``--set`` and a flag for each option that has one, but ``without``."""

    def decorate(function: F) -> F:
        own = [
            click.Option(
                ["--config", "config_path"],
                type=click.Path(dir_okay=False, path_type=Path),
                help="A node.toml; flags and GOSSIPNODE_… variables override it.",
            ),
            click.Option(
                ["--set", "settings"],
                multiple=True,
                metavar="SECTION.KEY=VALUE",
                help="Set any option, also those without a flag; repeatable.",
            ),
        ]
        made = [OptionFlag(o) for o in options("") if o.flag and o.key not in without]
        # click keeps a command's parameters on the function until the command is made, last first.
        kept = function.__dict__.setdefault("__click_params__", [])
        kept[:0] = reversed([*own, *made])
        return function

    return decorate


def split_flags(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given of the generated flags in click's ``parameters``, by dotted key."""
    return {
        name.replace(JOINT, "."): value
        for name, value in parameters.items()
        if JOINT in name and value is not None
    }


def read_config(
    path: Path | None,
    settings: Collection[str],
    flags: Mapping[str, Any],
    base: Mapping[str, Mapping[str, Any]] | None = None,
    variant: tuple[str, Mapping[str, Mapping[str, Any]]] | None = None,
    *,
    only: Collection[str] = (),
) -> Config:
    """Build the config from all layers; raises ``ConfigError``.

    ``only`` are the sections that are read from the file and the environment, if not all.
    """
    given = {**flags, **dict(_split_setting(setting) for setting in settings)}
    environment: Mapping[str, str] = os.environ
    if only:
        prefixes = tuple(f"{ENV_PREFIX}{section.upper()}_" for section in only)
        environment = {name: text for name, text in os.environ.items() if name.startswith(prefixes)}
    return load_config(
        path, environment=environment, flags=given, base=base, variant=variant, only=only
    )


def with_options(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return ``config`` with the given options, by dotted key; the values are ours, so right."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=entries)
            for section, entries in sections.items()
        }
    )


def _split_setting(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError(
            f"--set {setting} has no value",
            file="command line",
            allowed="section.key=value, for example --set run.evaluate_every=5",
        )
    return key.strip(), value.strip()
