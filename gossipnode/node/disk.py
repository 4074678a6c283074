"""The calls of a file system that a checkpoint is made of.

Invariant: nothing here decides anything. They stand apart so that a test can hand in a disk that
is full, or one that remembers what it was asked for and loses power after any of it.
"""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """The real one. Every method blocks and raises ``OSError``."""

    def make_folder(self, folder: Path) -> None:
        """Create ``folder`` and those above it that are missing, durably."""
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            # Without this a power cut takes the folder, with all that was synced inside it.
            self.sync_folder(each.parent)

    def create(self, path: Path) -> int:
        """Return the descriptor of ``path``, made anew and empty."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        """Append all of ``data``: the system takes no more than 2 GiB at once."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Return once the file's bytes survive a power cut."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor of ``create``."""
        os.close(descriptor)

    def replace(self, path: Path, target: Path) -> None:
        """Give ``path`` the name ``target``, whose file, if there is one, is gone then."""
        path.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file; none is removed already."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Return once the names in ``folder`` survive a power cut."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
