"""Files that must be whole, and private where they hold a key.

Invariant: a file of that name is the old one or the new one, never half of either, and no moment
exists in which somebody else can read a private one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from gossipnode.errors import ConfigError, StorageError

PRIVATE, PUBLIC = 0o600, 0o644


def write(path: Path, text: str, mode: int = PUBLIC) -> None:
    """Write ``text`` as UTF-8, durably and at once; raises ``StorageError``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, mode)  # the umask may have taken more than was asked
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path, bytes_max: int) -> str:
    """Return the text of a file of at most ``bytes_max`` bytes; raises ``ConfigError``."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise ConfigError(f"has more than {bytes_max} bytes", file=str(path))
        return data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is no UTF-8 text at byte {error.start}", file=str(path)) from None


def require_private(path: Path, what: str = "a private key") -> str:
    """Raise ``ConfigError`` where everybody may read ``path``; return a warning for its group."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
    if stat.S_ISDIR(mode):  # chmod 600, which is the advice for files, would close it
        raise ConfigError("is a folder; name the file in it", file=str(path))
    mode &= 0o777
    if mode & 0o007:
        raise ConfigError(
            f"holds {what}, and everybody on this machine may read or change it (mode "
            f"{mode:o}): make it yours with chmod 600 {path}, or better make another, for whoever "
            "has read it has it",
            file=str(path),
        )
    if mode & 0o070:
        # Containers hand out secrets to a group: allowed, but told.
        return f"{path} holds {what}, and its group may read it (mode {mode:o})"
    return ""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing ``folder`` meanwhile; raises ``StorageError``."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be locked: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
