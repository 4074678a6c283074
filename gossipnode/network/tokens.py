"""Tokens: one, if wanted, to read the pages; and one that its owner alone has, to change a node.

Invariant: a token is compared in constant time, and is in no log, answer or command line: people
name the file that has it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from pathlib import Path
from typing import Final

from gossipnode.config import Config
from gossipnode.configfile import expanded
from gossipnode.errors import ConfigError
from gossipnode.network.http import BaseRequest
from gossipnode.network.trust import files

ADMIN_FILE: Final = "admin.token"
# 16 characters of base64 are 96 bits, which nobody guesses over a network.
TOKEN: Final = re.compile(r"[!-~]{16,512}")
FILE_BYTES_MAX: Final = 4096


def read_token(path: Path, key: str | None = None) -> str:
    """Return the token in a file, for ``key``; raises ``ConfigError`` where everybody may read it.

    A token is 16 to 512 characters of ASCII without spaces; a line break behind it is none of it.
    """
    files.require_private(path, "a token")
    token = files.read(path, FILE_BYTES_MAX).strip()
    if TOKEN.fullmatch(token) is None:
        raise ConfigError(
            "is no token: 16 to 512 characters of ASCII without spaces, such as "
            "`openssl rand -base64 32` prints",
            file=str(path), key=key,
        )  # fmt: skip
    return token


def kept_token(folder: Path) -> str:
    """Return the admin token of a node's folder, made at the first time.

    Raises ``StorageError`` where it cannot be written, ``ConfigError`` where it is none.
    """
    path = folder / ADMIN_FILE
    if not path.exists():
        files.write(path, secrets.token_urlsafe(32) + "\n", files.PRIVATE)
    return read_token(path)


def readers_token(config: Config) -> str:
    """Return what readers of the pages must show, empty for nothing; raises ``ConfigError``."""
    named = config.network.status_token_file
    return read_token(expanded(named), "network.status_token_file") if named else ""


def shows(request: BaseRequest, token: str, *, basic: bool = False) -> bool:
    """Whether the request shows ``token`` as a bearer or, with ``basic``, as a password.

    Browsers ask people for passwords, and for no bearer tokens.
    """
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    shown = text.strip().encode("utf-8", "replace")
    if scheme.lower() == "basic" and basic:
        try:
            shown = base64.b64decode(shown, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(shown, token.encode())
