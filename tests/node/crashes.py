"""A disk that remembers what it was asked for, and every state that a power cut could leave.

After each operation power may go. What then is on the disk: of each folder's names, those changes
that were synced, and any of the later ones (a rename is all or nothing, but nothing orders it);
of each file, what was synced, and of what was written later all, nothing, a part, or the length
without the bytes. That is more than any one file system does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gossipnode.node.disk import Disk

Names = dict[Path, "File | None"]  # None: a folder


class Quick(Disk):
    """The real disk without waiting for it, for what no power cut follows."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


@dataclass(eq=False)
class File:
    synced: bytes = b""
    later: list[bytes] = field(default_factory=list)

    def could_be(self) -> set[bytes]:
        later = b"".join(self.later)
        whole = self.synced + later
        if not later:
            return {whole}
        torn = {whole[: len(self.synced) + len(later) * part // 4] for part in (1, 2, 3)}
        no_bytes = self.synced + bytes(len(later))
        last_lost = whole[: -len(self.later[-1])] + bytes(len(self.later[-1]))
        return {self.synced, whole, whole[:-1], no_bytes, last_lost} | torn


class Recorder(Quick):
    """Does everything below ``root``, and keeps the list of it, with the notes of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.done: list[tuple[Any, ...]] = []

    def note(self, **facts: Any) -> None:
        self.done.append(("note", facts))

    def make_folder(self, folder: Path) -> None:
        # The real one's steps, so that they are seen one by one.
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir()
            self.done.append(("folder", each))
            self.sync_folder(each.parent)

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self.done.append(("create", path, descriptor))
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        super().write(descriptor, data)
        self.done.append(("write", descriptor, bytes(data)))

    def sync(self, descriptor: int) -> None:
        self.done.append(("sync", descriptor))

    def replace(self, path: Path, target: Path) -> None:
        super().replace(path, target)
        self.done.append(("replace", path, target))

    def remove(self, path: Path) -> None:
        existed = path.exists()
        super().remove(path)
        if existed:
            self.done.append(("remove", path))

    def sync_folder(self, folder: Path) -> None:
        self.done.append(("sync folder", folder))


class Machine:
    """What is on the disk for sure, and what may be."""

    def __init__(self, before: dict[Path, bytes] | None = None) -> None:
        self.sure: Names = {path: File(data) for path, data in (before or {}).items()}
        self.later: list[Names] = []
        self.open: dict[int, File] = {}
        self.notes: dict[str, Any] = {}

    def do(self, operation: tuple[Any, ...]) -> None:
        match operation:
            case ("note", facts):
                self.notes |= facts
            case ("folder", path):
                self.later.append({path: None})
            case ("create", path, descriptor):
                self.open[descriptor] = file = File()
                self.later.append({path: file})
            case ("write", descriptor, data):
                self.open[descriptor].later.append(data)
            case ("sync", descriptor):
                file = self.open[descriptor]
                file.synced, file.later = file.synced + b"".join(file.later), []
            case ("replace", path, target):
                self.later.append({path: GONE, target: self._now()[path]})
            case ("remove", path):
                self.later.append({path: GONE})
            case ("sync folder", folder):
                of_it = [names for names in self.later if next(iter(names)).parent == folder]
                self.sure = _after(self.sure, of_it)
                self.later = [names for names in self.later if names not in of_it]
            case _:
                raise AssertionError(operation)

    def _now(self) -> Names:
        return _after(self.sure, self.later)

    def left_by_a_power_cut(self) -> Iterator[dict[Path, bytes | None]]:
        """Yield what may be found, by path; None is a folder."""
        for kept in itertools.product((False, True), repeat=len(self.later)):
            names = _after(self.sure, [n for n, k in zip(self.later, kept, strict=True) if k])
            files = [path for path, file in names.items() if file is not None]
            folders = {path: None for path, file in names.items() if file is None}
            for contents in itertools.product(*(sorted(names[path].could_be()) for path in files)):
                yield {**folders, **dict(zip(files, contents, strict=True))}


GONE: Any = object()


def _after(sure: Names, later: list[Names]) -> Names:
    names = dict(sure)
    for change in later:
        for path, file in change.items():
            if file is GONE:
                names.pop(path, None)
            else:
                names[path] = file
    return names


def put_back(found: dict[Path, bytes | None], old: Path, new: Path) -> None:
    """Lay out below ``new`` what was found below ``old``; what is in a lost folder is lost."""
    new.mkdir()
    for path in sorted(found):
        data, target = found[path], new / path.relative_to(old)
        if target.parent.is_dir():
            if data is None:
                target.mkdir()
            else:
                target.write_bytes(data)
