"""Options in words: default, range, choices, as help, files and the reference page show them.

Invariant: everything is read off the declaration in ``config``; nothing about any one option
is written here.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gossipnode.config import Config
from gossipnode.config.listing import Option, algorithm_options
from gossipnode.options import AlgorithmOptions, Section
from gossipnode.registry import DEFAULT_ALGORITHM, names_taken


def variants(option: Option) -> dict[str, FieldInfo]:
    """Return the declarations of an option by algorithm; one under ``""`` in other sections."""
    if option.algorithm:
        return {option.algorithm: option.field}
    if option.section != "algorithm" or option.name == "name":
        return {"": option.field}
    return {
        algorithm_name(model): model.model_fields[option.name]
        for model in algorithm_options()
        if option.name in model.model_fields
    }


def algorithm_name(model: type[Section]) -> str:
    """Return the name of the algorithm whose options ``model`` holds."""
    return str(model.model_fields["name"].default)


def summary(model: type[Any]) -> str:
    """Return the first line of a class's docstring."""
    return (model.__doc__ or "").strip().splitlines()[0]


def slug(heading: str) -> str:
    """Return the anchor that a heading gets in Markdown.

    >>> slug("How long `x` waits.")
    'how-long-x-waits'
    """
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def cells(texts: Iterable[str]) -> str:
    r"""Return a row of a Markdown table.

    >>> print(cells(["a|b", ""]))
    | a\|b |  |
    """
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def section_help(section: str) -> str:
    """Return the first line of a section's docstring."""
    annotation = Config.model_fields[section].annotation
    if isinstance(annotation, type) and annotation is not AlgorithmOptions:
        return summary(annotation)
    return "The algorithm, and its own options; which ones there are depends on `name`."


def choices(option: Option) -> list[str]:
    """Return the words that a text option takes, or an empty list where any will do.

    Of an option that several algorithms have, those of all.
    """
    if option.key == "algorithm.name":
        return names_taken()
    return list(dict.fromkeys(w for field in variants(option).values() for w in words(field)))


def words(field: FieldInfo) -> list[str]:
    """Return the words that one declaration allows, or an empty list where any will do."""
    return list(get_args(field.annotation)) if get_origin(field.annotation) is Literal else []


def is_switch(option: Option) -> bool:
    """Whether the option is yes or no."""
    return option.field.annotation is bool


def kind(option: Option) -> str:
    """Return what a value is: ``text``, ``number``, ``whole number``, ``switch``, …"""
    if option.key == "algorithm.name":
        return "choice"
    annotation = option.field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    names: dict[Any, str] = {
        str: "text", int: "whole number", float: "number", bool: "switch",
        tuple: "list", dict: "table", Literal: "choice",
    }  # fmt: skip
    return names[get_origin(annotation) or annotation]


def range_text(option: Option) -> str:
    """Return the limits of a number, for example ``≥ 0, < 1``; empty where there are none."""
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    return ", ".join(
        f"{sign} {number(getattr(limit, name))}"
        for name, sign in signs
        for limit in option.field.metadata
        if getattr(limit, name, None) is not None
    )


def number(value: float) -> str:
    """Write a number as people do; large powers as powers.

    >>> number(2**53), number(10**9), number(86_400), number(0.5)
    ('2^53', '10^9', '86400', '0.5')
    """
    for base in (10, 2):
        exponent = len(str(int(value))) - 1 if base == 10 else int(value).bit_length() - 1
        if value >= 10**6 and value == base**exponent:
            return f"{base}^{exponent}"
    return f"{value:g}" if value < 10**6 else f"{value:.0f}"


def default_of(field: FieldInfo) -> str:
    """Return one declaration's default as TOML; ``unset`` where there is none."""
    return "unset" if field.default is None else toml(field.default)


def allowed(option: Option) -> str:
    """Return the choices of one declaration in backquotes, or its range, or what it is."""
    listed = ", ".join(f"`{word}`" for word in words(option.field))
    return listed or range_text(option) or kind(option)


def told(option: Option) -> str:
    """Return help, unit, range and default of one declaration, in one paragraph."""
    default = f"default {default_of(option.field)}"
    return _bracketed(option, ", ".join(words(option.field)), default)


def sentence(option: Option) -> str:
    """Return the same of an option that each algorithm may declare in its own way."""
    found = variants(option)
    if option.key == "algorithm.name":
        return _bracketed(option, ", ".join(choices(option)), f"default {toml(DEFAULT_ALGORITHM)}")
    if len({(field.description, *words(field)) for field in found.values()}) > 1:
        by_algorithm = [
            f"{owner}: {', '.join([*words(field), f'default {default_of(field)}'])}"
            for owner, field in found.items()
        ]
        return f"By algorithm, see docs/algorithms.md. [{'; '.join(by_algorithm)}]"
    defaults: dict[str, list[str]] = {}
    for owner, field in found.items():
        defaults.setdefault(default_of(field), []).append(owner)
    # The most frequent one first, by itself; the others with whose they are.
    usual, *others = sorted(defaults, key=lambda text: -len(defaults[text]))
    rest = [f"{text} ({', '.join(defaults[text])})" for text in others]
    default = f"default {', '.join([usual, *rest])}"
    return _bracketed(option, ", ".join(choices(option)), default)


def _bracketed(option: Option, listed: str, default: str) -> str:
    facts = [option.unit, range_text(option), listed, default]
    return f"{option.field.description} [{'; '.join(fact for fact in facts if fact)}]"


def toml(value: Any) -> str:
    """Write a value as TOML.

    >>> toml((64, 32)), toml("ring"), toml(False), toml(1e-05), toml({"a": ("b",)})
    ('[64, 32]', '"ring"', 'false', '1e-05', '{ "a" = ["b"] }')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a TOML string: TOML knows all of JSON's escapes but \/, never written.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(entry) for entry in value)}]"
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        return "{ " + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + " }"
    return repr(value)


def example(option: Option) -> Any:
    """Return a valid value to show: the default, or for an unset one the least sensible number."""
    if option.field.default is not None:
        return option.field.default
    for name, step in (("ge", 0), ("gt", 1)):
        for limit in option.field.metadata:
            if getattr(limit, name, None) is not None:
                return getattr(limit, name) + step
    raise AssertionError(f"{option.key} has neither a default nor a lower limit")
