"""Options in words: default, range, choices, as help, files and the reference page show them.

Invariant: everything is read off the declaration in ``config.py``; nothing about any one option
is written here.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gossipnode.config import AlgorithmOptions, Config, Section
from gossipnode.configfile import Option, algorithm_options
from gossipnode.registry import names_taken


def variants(option: Option) -> dict[str, FieldInfo]:
    """Return the declarations of an option by algorithm; one under ``""`` in other sections."""
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


def section_help(section: str) -> str:
    """Return the first line of a section's docstring."""
    annotation = Config.model_fields[section].annotation
    if isinstance(annotation, type) and annotation is not AlgorithmOptions:
        return (annotation.__doc__ or "").strip().splitlines()[0]
    return "The algorithm's own options; which ones there are depends on `name`."


def choices(option: Option) -> list[str]:
    """Return the words that a text option takes, or an empty list where any will do."""
    if option.key == "algorithm.name":
        return names_taken()
    words: list[str] = []
    for field in variants(option).values():
        if get_origin(field.annotation) is Literal:
            words += [word for word in get_args(field.annotation) if word not in words]
    return words


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


def default_text(option: Option) -> str:
    """Return the default as TOML; ``unset`` where there is none, by algorithm where they differ."""
    texts = {
        algorithm: "unset" if field.default is None else toml(field.default)
        for algorithm, field in variants(option).items()
    }
    if option.name == "name" or len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{text} ({algorithm})" for algorithm, text in texts.items())


def sentence(option: Option) -> str:
    """Return help, unit, range and default in one paragraph."""
    facts = [option.unit, range_text(option), ", ".join(choices(option)) or None]
    facts.append(f"default {default_text(option)}")
    owners = list(variants(option))
    if option.section == "algorithm" and owners != [""] and len(owners) < len(algorithm_options()):
        facts.insert(0, f"{', '.join(owners)} only")
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
