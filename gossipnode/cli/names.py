"""Names and addresses as people write them for the verbs of trust."""

from __future__ import annotations

import re

from pydantic import ValidationError

from gossipnode.config import ID_PATTERN, PeerEntry
from gossipnode.errors import ConfigError

# What a common name in a certificate may have.
CHARS_MAX = 64


def named(word: str, key: str) -> str:
    """Return ``word`` if it can name a node or a swarm; raises ``ConfigError``."""
    if re.fullmatch(ID_PATTERN, word) is None or len(word) > CHARS_MAX or word.endswith("\n"):
        raise ConfigError(
            f"{word!r} is no name", key=key,
            allowed=f"letters, digits, and . _ - but not in front; at most {CHARS_MAX}",
        )  # fmt: skip
    return word


def secure_address(word: str) -> str:
    """Return ``https://HOST:PORT`` of HOST:PORT; raises ``ConfigError``."""
    address = word if "://" in word else f"https://{word}"
    try:
        entry = PeerEntry(id="a", address=address)
    except ValidationError:
        raise ConfigError(f"{word!r} is no address", allowed="HOST:PORT") from None
    if not entry.address.startswith("https:"):
        raise ConfigError(f"{word!r}: with certificates nodes speak https", allowed="HOST:PORT")
    return entry.address
