"""Checkpoints on disk: safetensors files that carry their own digest in their name.

A checkpoint is written to a temporary file in the same folder, fsynced, renamed, and the folder
fsynced. Invariant: whatever happens on the way, the newest file whose digest holds is a whole
snapshot; and where there are files but none holds, loading fails rather than beginning anew.

A damaged file is put aside once an older one is found that holds: under its own name with
``.broken`` behind it, so that nothing takes it for a checkpoint again, and whoever looks into the
damage has it. Where none holds, all stay as they are: a later start must not find an empty folder.
One that may be whole, but was not to be had, is no damage: loading fails, and a later start has it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import xxhash

from gossipnode.errors import StorageError
from gossipnode.learning.tensors import NAMES, tensors_of
from gossipnode.logs import event
from gossipnode.node.disk import Disk
from gossipnode.node.world import Snapshot

log = logging.getLogger("gossipnode.node")

SUFFIX = ".safetensors"
BROKEN = ".broken"
# What reading fails with where the bytes themselves are lost. All else (no descriptor left, no
# right to read, no memory) says nothing about them.
LOST = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EISDIR})
# Of a small file; what is longer was not written here.
SMALL_BYTES_MAX = 2**20


class FileStore:
    """Checkpoints and boot epoch of one node in one folder, which it locks against a second node.

    ``keep`` ≥ 1 checkpoints stay, and as many damaged ones. All methods block. Raises
    ``StorageError``.
    """

    def __init__(
        self, folder: Path, keep: int, wall_time: Callable[[], float], disk: Disk | None = None
    ) -> None:
        self.folder, self.keep, self.wall_time = folder, keep, wall_time
        self.disk = disk if disk is not None else Disk()
        self.skipped: list[str] = []  # names of files that a load found damaged
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Create and lock the folder."""
        try:
            self.disk.make_folder(self.folder)
            self._lock = (self.folder / "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for unfinished in self.folder.glob(".*.new"):
                self.disk.remove(unfinished)  # of a writer that was killed
        except BlockingIOError:
            self.close()
            raise StorageError(
                f"{self.folder}: another node is using this folder; give each its own --data-dir"
            ) from None
        except OSError as error:
            self.close()
            raise StorageError(
                f"{self.folder} cannot be the data folder: {error.strerror}; make it writable for "
                "this user, or name another one with --data-dir"
            ) from None

    def close(self) -> None:
        """Unlock; harmless twice."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def next_epoch(self) -> int:
        """Return a boot epoch (milliseconds since 1970 or one more than the last) and keep it."""
        path = self.folder / "epoch"
        try:
            last = int(path.read_text())
        except FileNotFoundError:
            last = 0
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError:
            raise StorageError(f"{path}: unreadable; delete it to begin a new epoch") from None
        epoch = max(last + 1, int(self.wall_time() * 1000))
        self._write(path, str(epoch).encode())
        return epoch

    def save(self, snapshot: Snapshot) -> None:
        """Write one checkpoint durably, then delete what is older than the newest ``keep``."""
        pieces = _pieces(snapshot)
        # The facts are covered by the digest too: it is taken over the whole file.
        hashed = xxhash.xxh3_128()
        for piece in pieces:
            hashed.update(piece)
        digest = hashed.hexdigest()
        files = self.files()
        number = 1 + (int(files[-1].name.split("-")[0]) if files else 0)
        self._write(self.folder / f"{number:08d}-{digest}{SUFFIX}", *pieces)
        self._thin_out(self.files())

    def load(self) -> Snapshot | None:
        """Return the newest snapshot whose digest holds, and put aside those that do not."""
        files = self.files()
        damaged: list[Path] = []
        for path in reversed(files):
            snapshot = self._read(path)
            if snapshot is not None:
                self._put_aside(damaged)
                self._sync_names()
                return snapshot
            damaged.append(path)
        self.skipped += [path.name for path in damaged]
        if files:
            raise StorageError(
                f"{self.folder}: none of {len(files)} checkpoints is sound; restore one, or start "
                "with --fresh to begin anew"
            )
        return None

    def write_small(self, name: str, data: bytes) -> None:
        """Write a small file beside the checkpoints durably, whole or not at all."""
        self._write(self.folder / name, data)

    def read_small(self, name: str) -> bytes | None:
        """Return the small file of that name; None if there is none, b"" if its bytes are lost.

        Of a longer one than is ever written here, no more than shows that.
        """
        path = self.folder / name
        try:
            with path.open("rb") as file:
                return file.read(SMALL_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in LOST:
                return b""
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from None

    def put_aside(self, name: str) -> None:
        """Rename a small file that is damaged, so that nothing reads it again."""
        path = self.folder / name
        try:
            self.disk.replace(path, path.with_name(name + BROKEN))
        except OSError as error:
            raise StorageError(f"{path}: cannot be renamed: {error.strerror}") from None

    def files(self) -> list[Path]:
        """Return the checkpoint files, oldest first."""
        return self._numbered(SUFFIX)

    def _numbered(self, suffix: str) -> list[Path]:
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be read: {error.strerror}") from None
        numbers = {
            name: int(number)
            for name in names
            if name.endswith(suffix) and (number := name.partition("-")[0]).isdecimal()
        }
        return [self.folder / name for name in sorted(numbers, key=lambda name: numbers[name])]

    def _put_aside(self, damaged: list[Path]) -> None:
        for path in damaged:
            self.skipped.append(path.name)
            event(log, logging.ERROR, "checkpoint.damaged", file=path.name)
            try:
                self.disk.replace(path, path.with_name(path.name + BROKEN))
            except OSError as error:
                reason = error.strerror
                event(log, logging.WARNING, "checkpoint.stays", file=path.name, reason=reason)
        if damaged:
            self._thin_out(self._numbered(BROKEN))

    def _sync_names(self) -> None:
        """Make sure of what was found: its writer may have been killed just before it did."""
        try:
            self.disk.sync_folder(self.folder)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be synced: {error.strerror}") from None

    def _thin_out(self, files: list[Path]) -> None:
        """Remove all but the newest ``keep``; one that stays is tried again the next time."""
        for old in files[: -self.keep]:
            try:
                self.disk.remove(old)
            except OSError as error:
                reason = error.strerror
                event(log, logging.WARNING, "checkpoint.stays", file=old.name, reason=reason)

    def _read(self, path: Path) -> Snapshot | None:
        from safetensors import SafetensorError

        try:
            data = path.read_bytes()
        except OSError as error:
            if error.errno in LOST:
                return None
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from None
        digest = path.name.removesuffix(SUFFIX).split("-", 1)[1]
        if xxhash.xxh3_128_hexdigest(data) != digest:
            return None
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return Snapshot(tensors_of(data), json.loads(header["__metadata__"]["facts"]))
        except (ValueError, KeyError, SafetensorError):
            return None

    def _write(self, path: Path, *pieces: bytes | memoryview) -> None:
        temporary = path.with_name(f".{path.name}.new")
        try:
            descriptor = self.disk.create(temporary)
            try:
                for piece in pieces:
                    self.disk.write(descriptor, piece)
                self.disk.sync(descriptor)
            finally:
                self.disk.close(descriptor)
            self.disk.replace(temporary, path)
            self.disk.sync_folder(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.disk.remove(temporary)
            space = " (the disk is full)" if error.errno == errno.ENOSPC else ""
            raise StorageError(f"{path}: cannot be written: {error.strerror}{space}") from None


def _pieces(snapshot: Snapshot) -> list[bytes | memoryview]:
    """Return a safetensors file as its header and the memory of its arrays.

    Not by the library's ``save``: it copies each array twice and keeps the interpreter lock for
    all of it, 300 ms for 200 MB in which the event loop stands still.
    """
    header: dict[str, object] = {"__metadata__": {"facts": json.dumps(snapshot.facts)}}
    bodies, offset = [], 0
    for name, array in snapshot.arrays.items():
        array = np.ascontiguousarray(array)
        header[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        bodies.append(array.reshape(-1).view(np.uint8).data)
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *bodies]
