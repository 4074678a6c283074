"""The folder in which a node keeps what must survive: whether it can, and whether it is its alone.

Invariant: a file of a few bytes is written and removed, and nothing else changes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from gossipnode.network.doctor.findings import Finding, aside, failed, ok, warning
from gossipnode.network.doctor.patient import Patient
from gossipnode.network.world import data_folder
from gossipnode.node.checkpoint import BROKEN, SUFFIX

CHECK = "data folder"
# What a node needs for its epoch, its revocations and a small model.
FREE_BYTES_MIN = 2**20
# Room to look after a disk before it is full.
FREE_BYTES_GOOD = 64 * 2**20


async def folder(patient: Patient) -> list[Finding]:
    """Look at the data folder; raises ``TimeoutError`` where its disk hangs."""
    if not patient.config.checkpoint.enabled:
        return [ok(CHECK, "none is needed: there are to be no checkpoints")]
    path = data_folder(patient.config, patient.id).absolute()
    return await aside(_look, path, patient)


def _look(path: Path, patient: Patient) -> list[Finding]:
    there = next(each for each in (path, *path.parents) if each.exists())
    advice = "make it writable for this user, or name another one with --data-dir"
    try:
        _write_into(there)
        free, files = _room(there)
        sizes = [each.stat().st_size for each in path.glob(f"*{SUFFIX}")]
    except OSError as error:
        return [failed(CHECK, f"{there} cannot be written: {error.strerror}", advice)]
    largest = max(sizes, default=0)
    found = [_space(path, free, files, largest)]
    if not patient.is_running and _is_locked(path / "lock"):
        said = f"{path} is used by another process"
        found = [failed(CHECK, said, "give each node its own --data-dir, or stop the other one")]
    broken = len(list(path.glob(f"*{BROKEN}")))
    if broken:
        said = f"{path} has {broken} damaged checkpoints, which were put aside"
        found.append(warning(CHECK, said, "look at the disk (dmesg, SMART), and remove them"))
    return found


def _write_into(there: Path) -> None:
    """Write, sync and remove a file; raises ``OSError``."""
    probe = there / f".doctor-{secrets.token_hex(4)}.new"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"doctor\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        probe.unlink()


def _room(there: Path) -> tuple[int, int]:
    """Return the free bytes and files; a file system that does not count files has many."""
    found = os.statvfs(there)
    return shutil.disk_usage(there).free, found.f_favail if found.f_files else 2**31


def _space(path: Path, free: int, files: int, largest: int) -> Finding:
    """Judge the room: a checkpoint is written whole before an older one goes."""
    said = f"{path}: {free / 1e6:,.0f} MB are free"
    if largest:
        said += f", and a checkpoint has {largest / 1e6:.3g} MB"
    advice = "make room, or name a folder on another disk with --data-dir"
    if free < largest + FREE_BYTES_MIN:
        return failed(CHECK, said, advice)
    if files < 16:
        return failed(CHECK, f"{path}: the disk takes {files} files more", advice)
    if free < 4 * largest + FREE_BYTES_GOOD:
        return warning(CHECK, said, advice)
    return ok(CHECK, said)


def _is_locked(path: Path) -> bool:
    """Whether another process has the lock; taken for a moment where none has."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
