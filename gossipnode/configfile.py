"""From files, environment and flags to one ``Config``, remembering who said what.

Invariant: whatever is refused is refused with the place where it was written. Reads TOML only;
nothing here knows what the options mean (``config`` does).
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gossipnode.config import Config, PeerEntry
from gossipnode.config.listing import ENV_PREFIX, Option, options
from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.registry import (
    DEFAULT_ALGORITHM,
    FORMS,
    algorithm_class,
    spelt_out,
    table_spelt_out,
)

# What a file lists besides the tables of a node: variants that `gossipnode simulate` compares.
COMPARE = "compare"
NAME_VARIABLE = ENV_PREFIX + "ALGORITHM_NAME"
# What decides the form of an algorithm, as flags and as variables have it.
KEYS_OF_FORM = {"algorithm.name": "name", "algorithm.form": "form"}
VARIABLES_OF_FORM = {NAME_VARIABLE: "name", ENV_PREFIX + "ALGORITHM_FORM": "form"}
# Options that are paths relative to the file they stand in.
PATHS = (
    "swarm.peers",
    "topology.edges",
    "network.status_token_file",
    "trust.bundle",
    "trust.revocations",
)
T = TypeVar("T")
Tree = dict[str, dict[str, Any]]


def load_config(
    path: str | Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    base: Mapping[str, Mapping[str, Any]] | None = None,
    variant: tuple[str, Mapping[str, Mapping[str, Any]]] | None = None,
    only: Collection[str] = (),
) -> Config:
    """Build the ``Config`` from ``base``, then ``path``, then ``environment``, then ``flags``.

    ``flags`` maps dotted keys to values (text is read as TOML where the option is no text);
    ``base`` holds options that a swarm hands to a joining node. ``variant`` is a name and the
    tables that go over those of the file, whose ``compare`` is then not read. ``only`` are the
    tables that are read from the file, if not all. A relative ``swarm.peers`` in the file is
    relative to the file. Raises ``ConfigError``.
    """
    tree: Tree = {}
    origin: dict[str, str] = {}
    for section, entries in (base or {}).items():
        _put_table(tree, origin, "the swarm's settings", section, entries)
    if path is not None:
        layers = [one for one in _layers(path, variant) if not only or one[1] in only]
        for place, section, entries in layers:
            if not isinstance(entries, Mapping):
                raise _unknown_section(place, section, is_table=False)
            _put_table(tree, origin, place, section, entries)
        _anchor_paths(tree, origin, Path(path), {place for place, _, _ in layers})
    called, where = _algorithm(tree, origin, environment or {}, flags or {})
    try:
        mine = list(options(spelt_out(called)["name"]))
    except ConfigError as error:
        raise error.found_in(where) from error.__cause__
    by_env = {option.env: option for option in mine}
    _refuse_two_forms(environment or {}, VARIABLES_OF_FORM, "environment")
    for variable, text in _name_first(environment or {}, NAME_VARIABLE):
        if variable.startswith(ENV_PREFIX):
            option = _known(by_env, variable, called, "environment", "variable", "env")
            _put(tree, origin, f"environment variable {variable}", option, text)
    by_key = {option.key: option for option in mine}
    _refuse_two_forms(flags or {}, KEYS_OF_FORM, "command line")
    for key, value in _name_first(flags or {}, "algorithm.name"):
        option = _known(by_key, key, called, "command line", "option", "key")
        _put(tree, origin, "command line", option, value)
    return _validated(tree, origin)


def _layers(
    path: str | Path, variant: tuple[str, Mapping[str, Mapping[str, Any]]] | None
) -> list[tuple[str, str, Any]]:
    """Return place, name and entries of the file's tables, then of the variant's."""
    layers = [(str(path), section, entries) for section, entries in read_toml(path).items()]
    if variant is None:
        return layers
    layers = [layer for layer in layers if layer[1] != COMPARE]
    return layers + [(variant[0], section, entries) for section, entries in variant[1].items()]


def _algorithm(
    tree: Tree, origin: Mapping[str, str], environment: Mapping[str, str], flags: Mapping[str, Any]
) -> tuple[str, str | None]:
    """Return what the algorithm is called, the only one to be loaded, and who says so."""
    name = _called(tree.get("algorithm", {}))
    where = origin.get("algorithm.name")
    if environment.get(NAME_VARIABLE):
        name, where = environment[NAME_VARIABLE], f"environment variable {NAME_VARIABLE}"
    if flags.get("algorithm.name"):
        name, where = flags["algorithm.name"], "command line"
    return str(name), where


def _called(table: Mapping[str, Any]) -> str:
    """Return the form that a spelt-out table asks for where it has a name of its own, or its name.

    >>> _called({"name": "correction", "form": "d2"}), _called({"form": "cta"})
    ('d2', 'dpsgd')
    """
    name, form = str(table.get("name", DEFAULT_ALGORITHM)), str(table.get("form"))
    return form if FORMS.get(form) == name else name


def _refuse_two_forms(layer: Mapping[str, Any], keys: Mapping[str, str], where: str) -> None:
    """Raise ``ConfigError`` where one layer names one form and asks for another, as in a file."""
    try:
        table_spelt_out({name: layer[key] for key, name in keys.items() if layer.get(key)})
    except ConfigError as error:
        raise error.found_in(where) from None


def _known(
    mine: Mapping[str, Option], name: str, algorithm: str, where: str, what: str, attribute: str
) -> Option:
    """Return the option called ``name``; raises ``ConfigError`` with what was likely meant."""
    if name in mine:
        return mine[name]
    if name.lower().replace(ENV_PREFIX.lower(), "").startswith("algorithm"):
        everybody = {str(getattr(option, attribute)) for option in options()}
        if name in everybody:
            keys = [option.key for option in mine.values()]
            raise ConfigError(_no_option(algorithm, keys), file=where, key=name)
    raise ConfigError(f"unknown {what}", file=where, key=name, nearest=nearest_spelling(name, mine))


def _no_option(called: str, mine: Iterable[str]) -> str:
    """Return what to say of another algorithm's option; ``mine`` are the keys that it may have."""
    names = [
        name
        for section, _, name in (key.partition(".") for key in mine)
        if section == "algorithm" and name != "name" and not (name == "form" and called in FORMS)
    ]
    return f"is no option of {called}; its options are {', '.join(names) or 'none'}"


def load_peers(path: str | Path) -> tuple[PeerEntry, ...]:
    """Read ``peers.toml``: a ``[[peer]]`` table with ``id`` and ``address`` for each node.

    Raises ``ConfigError`` on an unknown key, a malformed address or an id or address given twice.
    """
    tree = read_toml(expanded(path))
    for key in tree:
        if key != "peer":
            raise ConfigError(
                "unknown key; peers are listed in [[peer]] tables",
                file=str(path),
                key=key,
                nearest=nearest_spelling(key, ["peer"]),
            )
    rows = tree.get("peer", [])
    if not isinstance(rows, list):
        raise ConfigError("write [[peer]], in double brackets", file=str(path), key="peer")
    entries = []
    for number, row in enumerate(rows, 1):
        try:
            entries.append(PeerEntry.model_validate(row))
        except ValidationError as error:
            origins = {"": str(path)}
            raise _translated(
                error, origins, f"peer {number}.", list(PeerEntry.model_fields)
            ) from None
    for attribute in ("id", "address"):
        values = [getattr(entry, attribute) for entry in entries]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"{attribute} {twice!r} is given twice", file=str(path), key="peer")
    return tuple(entries)


def expanded(path: str | Path) -> Path:
    """Return ``path`` with the home directory for a ``~`` in front; ``ConfigError`` without one.

    No shell does it for a file, for a variable, or behind the = of a flag.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError("there is no such home directory", file=str(path)) from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """Parse a TOML file; raises ``ConfigError`` that names the file and the line."""
    try:
        # utf-8-sig: editors on Windows begin a file with a byte-order mark, which TOML has not.
        return tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot be read: {reason}", file=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not valid TOML: {error}", file=str(path)) from None


def _put_table(
    tree: Tree, origin: dict[str, str], where: str, section: str, entries: Mapping[str, Any]
) -> None:
    if section not in Config.model_fields:
        raise _unknown_section(where, section, is_table=True)
    table = tree.setdefault(section, {})
    if section == "algorithm":
        try:
            entries = table_spelt_out(entries)
        except ConfigError as error:
            raise error.found_in(where) from None
    if section == "algorithm" and entries.get("name", table.get("name")) != table.get("name"):
        # Another algorithm has other options: what a weaker layer said of the old one is void.
        table.clear()
    for name, value in entries.items():
        table[name] = value
        origin[f"{section}.{name}"] = where


def _anchor_paths(tree: Tree, origin: Mapping[str, str], path: Path, within: set[str]) -> None:
    for section, name in (key.split(".") for key in PATHS):
        value = tree.get(section, {}).get(name)
        if isinstance(value, str) and value and origin[f"{section}.{name}"] in within:
            tree[section][name] = str(path.parent / expanded(value))


def _name_first(layer: Mapping[str, T], name: str) -> list[tuple[str, T]]:
    """Return the items with the algorithm's name in front: it decides what the others mean."""
    return sorted(layer.items(), key=lambda item: (item[0] != name, item[0]))


def _put(tree: Tree, origin: dict[str, str], where: str, option: Option, value: Any) -> None:
    if isinstance(value, str):
        value = _parsed(option, value)
    _put_table(tree, origin, where, option.section, {option.name: value})


def _parsed(option: Option, text: str) -> Any:
    """Read text from a flag or variable as the option's type; lists may be bare: 64,32."""
    annotation = option.field.annotation
    if annotation is str or _is_literal_text(annotation):
        return text
    if get_origin(annotation) is tuple and not text.lstrip().startswith("["):
        words = [word.strip() for word in text.split(",") if word.strip()]
        numeric = get_args(annotation)[0] is not str
        return [int(word) if numeric and word.isdecimal() else word for word in words]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # pydantic then says what it should have been


def _is_literal_text(annotation: Any) -> bool:
    choices = get_args(annotation)
    return bool(choices) and all(isinstance(choice, str) for choice in choices)


def _validated(tree: Tree, origin: dict[str, str]) -> Config:
    table = tree.pop("algorithm", {})
    name = table.setdefault("name", DEFAULT_ALGORITHM)
    options_class = algorithm_class(name).Options
    # A swarm without a word about its graph has that of its algorithm.
    tree.setdefault("topology", {}).setdefault("graph", options_class.default_graph)
    keys = [option.key for option in options(name)]
    try:
        mine = options_class.model_validate(table)
    except ValidationError as error:
        raise _translated(error, origin, "", keys, ("algorithm",), _called(table)) from None
    try:
        return Config.model_validate({**tree, "algorithm": mine})
    except ValidationError as error:
        raise _translated(error, origin, "", keys) from None


def _translated(
    error: ValidationError,
    origin: Mapping[str, str],
    prefix: str,
    keys: list[str],
    within: tuple[str, ...] = (),
    called: str = DEFAULT_ALGORITHM,
) -> ConfigError:
    """Turn pydantic's complaints into one ``ConfigError``: the first in full, the others after.

    ``within`` is the section that was read, where it was one alone; ``called`` the algorithm.
    """
    complaints = error.errors(include_url=False, include_context=False)
    # An unknown key first: what is missing besides is often what it was meant to be.
    complaints.sort(key=lambda complaint: complaint["type"] != "extra_forbidden")
    path, message = _told(complaints[0], within)
    key = ".".join(path)
    nearest = None
    if complaints[0]["type"] == "extra_forbidden":
        message, nearest = _unknown_key(path, keys, called)
    for other in complaints[1:3]:
        other_path, other_message = _told(other, within)
        message += f"; also {prefix}{'.'.join(other_path)}: {other_message}"
    file = origin.get(".".join(path[:2]), origin.get(key, origin.get("")))
    return ConfigError(message, file=file, key=prefix + key or None, nearest=nearest)


def _told(complaint: ErrorDetails, within: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the path of the option that a complaint is about, and what is wrong in words."""
    names = [str(step) for step in (*within, *complaint["loc"])]
    message = complaint["msg"].removeprefix("Value error, ")
    if not complaint["loc"]:
        names = []  # about several options: the message names them
    if complaint["type"] == "missing":
        message = "is missing"
    elif complaint["type"] == "extra_forbidden":
        message = "unknown key"
    elif complaint["type"] != "value_error":
        message += f", got {complaint['input']!r:.80}"
    return names, message


def _unknown_key(path: list[str], keys: list[str], called: str) -> tuple[str, str | None]:
    """Return what to say of a key that is not there, and the spelling that was likely meant."""
    key, section = ".".join(path), path[0] + "." if len(path) > 1 else ""
    if section == "algorithm." and key in {option.key for option in options()}:
        return _no_option(called, keys), None
    within = [k for k in keys if k.startswith(section)]
    elsewhere = [k for k in keys if k.endswith("." + path[-1]) and not k.startswith(section)]
    near = nearest_spelling(key, within) or nearest_spelling(path[-1], within)
    return "unknown key", elsewhere[0] if elsewhere else near


def _unknown_section(where: str, section: str, *, is_table: bool) -> ConfigError:
    if section == COMPARE:
        return ConfigError("is for gossipnode simulate, not for a node", file=where, key=section)
    if section in Config.model_fields:
        return ConfigError(f"is a table: write [{section}]", file=where, key=section)
    by_name = {option.name: option.key for option in options()}
    if not is_table and section in by_name:
        owner = by_name[section].split(".")[0]
        return ConfigError(f"belongs into the table [{owner}]", file=where, key=section)
    return ConfigError(
        "unknown table" if is_table else "unknown key",
        file=where,
        key=section,
        nearest=nearest_spelling(section, [*Config.model_fields, COMPARE, *by_name]),
    )
