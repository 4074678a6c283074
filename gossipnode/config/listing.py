"""Every option one by one, as those see them that make flags, files and pages of them.

Invariant: what is told of an option is read off its declaration; nothing about one is known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gossipnode.config import Config
from gossipnode.options import AlgorithmOptions
from gossipnode.registry import algorithm_class, algorithm_names

ENV_PREFIX = "GOSSIPNODE_"


@dataclass(frozen=True, slots=True)
class Option:
    """One option as the generators of flags, files and docs see it.

    ``algorithm`` is the one whose declaration this is, where those of no other were asked for.
    """

    section: str
    name: str
    field: FieldInfo
    algorithm: str = ""

    @property
    def key(self) -> str:
        """The dotted key, for example ``training.batch_size``."""
        return f"{self.section}.{self.name}"

    @property
    def env(self) -> str:
        """The environment variable, for example ``GOSSIPNODE_TRAINING_BATCH_SIZE``."""
        return f"{ENV_PREFIX}{self.section}_{self.name}".upper()

    @property
    def flag(self) -> str:
        """The command-line flag, or the empty string where there is only ``--set``."""
        return str(self._extra("flag"))

    @property
    def unit(self) -> str:
        """What the number counts, or the empty string."""
        return str(self._extra("unit"))

    def _extra(self, name: str) -> Any:
        extra = self.field.json_schema_extra
        return extra.get(name, "") if isinstance(extra, dict) else ""


def options(algorithm: str | None = None) -> Iterator[Option]:
    """Yield every option once, in the order of ``Config``.

    With ``algorithm``, of the options of algorithms only those of that one (with ``""`` those that
    all have), which spares loading the others.
    """
    for section, field in Config.model_fields.items():
        annotation = field.annotation
        assert isinstance(annotation, type), "each section is a class"
        models: list[type[BaseModel]] = [annotation]  # before its children: it explains `name`
        if annotation is AlgorithmOptions and algorithm is None:
            models += algorithm_options()
        elif annotation is AlgorithmOptions and algorithm:
            models.append(algorithm_class(algorithm).Options)
        seen: set[str] = set()
        for model in models:
            for name, entry in model.model_fields.items():
                if name not in seen:
                    seen.add(name)
                    yield Option(
                        section, name, entry, "" if model is annotation else algorithm or ""
                    )


def algorithm_options() -> tuple[type[AlgorithmOptions], ...]:
    """Return the option classes of all algorithms, which loads them all."""
    return tuple(algorithm_class(name).Options for name in algorithm_names())
