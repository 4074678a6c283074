"""Checkpoint files: whole or not there; damage is found; one node a folder; epochs only grow."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossipnode.errors import StorageError
from gossipnode.node.checkpoint import FileStore
from gossipnode.node.world import Snapshot


def snapshot(number: int) -> Snapshot:
    arrays = {"params": np.full(5, number, np.float32), "learner/v": np.arange(3.0)}
    return Snapshot(arrays, {"age": number, "big": 2**64 + number, "text": "ü\n", "none": None})


def store(folder: Path, keep: int = 3, wall: float = 1000.0) -> FileStore:
    return FileStore(folder, keep, lambda: wall)


def ages(files: FileStore) -> list[int]:
    found = []
    for path in files.files():
        data = path.read_bytes()
        found.append(int(data.split(b'\\"age\\": ')[1].split(b",")[0]))
    return found


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    files = store(tmp_path)
    assert files.load() is None
    saved = snapshot(7)
    files.save(saved)
    loaded = store(tmp_path).load()
    assert loaded is not None
    assert loaded.facts == saved.facts
    assert loaded.arrays.keys() == saved.arrays.keys()
    for name, array in saved.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == array.dtype


def test_the_newest_is_loaded_and_keep_files_stay(tmp_path: Path) -> None:
    files = store(tmp_path, keep=2)
    for number in range(12):
        files.save(snapshot(number))
        assert ages(files) == list(range(max(0, number - 1), number + 1))
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 11


def test_numbers_past_eight_digits_are_still_in_order(tmp_path: Path) -> None:
    files = store(tmp_path)
    files.save(snapshot(1))
    (path,) = files.files()
    path.rename(path.with_name("99999999-" + path.name.split("-")[1]))
    files.save(snapshot(2))
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 2


def flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 4]) + data[-2:]


def flip_fact(data: bytes) -> bytes:
    return data.replace(b'age\\": 2', b'age\\": 3')


@pytest.mark.parametrize(
    "damage", [flip, flip_fact, lambda d: d[:-1], lambda d: d + b"\0", lambda d: b""]
)
def test_a_damaged_one_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    files = store(tmp_path)
    for number in range(3):
        files.save(snapshot(number))
    newest = files.files()[-1]
    changed = damage(newest.read_bytes())
    assert changed != newest.read_bytes()
    newest.write_bytes(changed)
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 1
    assert files.skipped == [newest.name]
    aside = newest.with_name(newest.name + ".broken")
    assert not newest.exists()
    assert aside.read_bytes() == changed
    files.save(snapshot(5))
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 5


def unreadable(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let reading the file called ``name`` fail with this error."""
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return read(path)

    patch.setattr(Path, "read_bytes", failing)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM])
def test_one_that_was_not_to_be_had_is_not_taken_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    files = store(tmp_path)
    for age in range(3):
        files.save(snapshot(age))
    there = files.files()
    with monkeypatch.context() as patch:
        unreadable(patch, there[-1].name, number)
        with pytest.raises(StorageError, match=f"{there[-1].name}: .*{os.strerror(number)}"):
            files.load()
    assert files.files() == there
    assert files.skipped == []
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 2


def test_one_whose_bytes_the_disk_has_lost_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = store(tmp_path)
    for age in range(3):
        files.save(snapshot(age))
    newest = files.files()[-1]
    unreadable(monkeypatch, newest.name, errno.EIO)
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 1
    assert files.skipped == [newest.name]


def test_none_sound_is_an_error_and_not_a_new_beginning(tmp_path: Path) -> None:
    files = store(tmp_path)
    for number in range(2):
        files.save(snapshot(number))
    for path in files.files():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match=r"none of 2 checkpoints.*--fresh"):
        files.load()


def test_where_none_is_sound_a_second_start_finds_the_same(tmp_path: Path) -> None:
    files = store(tmp_path)
    files.save(snapshot(0))
    (path,) = files.files()
    path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StorageError, match="none of 1"):
            files.load()
    assert files.files() == [path]


def test_damaged_ones_take_no_place_of_sound_ones_and_are_bounded_too(tmp_path: Path) -> None:
    files = store(tmp_path, keep=2)
    for number in range(1, 9):
        files.save(snapshot(number))
        files.save(snapshot(number))
        newest = files.files()[-1]
        newest.write_bytes(b"")
        loaded = files.load()
        assert loaded is not None
        assert loaded.facts["age"] == number
    assert len(list(tmp_path.glob("*.broken"))) == 2
    assert len(files.files()) == 1


def test_a_folder_that_cannot_be_thinned_out_costs_nothing_but_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = store(tmp_path, keep=1)

    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.disk, "remove", fails)
        for number in range(3):
            files.save(snapshot(number))
    assert ages(files) == [0, 1, 2]
    files.save(snapshot(3))
    assert ages(files) == [3]


def test_a_second_node_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    first, second = store(tmp_path / "new" / "folder"), store(tmp_path / "new" / "folder")
    first.open()
    with pytest.raises(StorageError, match="another node is using this folder"):
        second.open()
    first.close()
    first.close()
    second.open()
    second.close()


def test_a_folder_that_cannot_be_is_the_disks_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*Not a directory.*--data-dir"):
        store(tmp_path / "file" / "below").open()


def test_the_epoch_grows_whatever_the_clock_does(tmp_path: Path) -> None:
    walls = [1000.0, 1000.0, 2000.0, 5.0, 0.0, 3000.0]
    epochs = [store(tmp_path, wall=wall).next_epoch() for wall in walls]
    assert epochs == [1_000_000, 1_000_001, 2_000_000, 2_000_001, 2_000_002, 3_000_000]


def test_an_unreadable_epoch_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text("what?")
    with pytest.raises(StorageError, match="epoch"):
        store(tmp_path).next_epoch()


def test_an_epoch_that_was_not_to_be_had_is_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_text", fails)
    with pytest.raises(StorageError, match="epoch: cannot be read: Too many open files"):
        store(tmp_path).next_epoch()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    files = store(tmp_path)
    files.save(snapshot(1))
    names = sorted(path.name for path in tmp_path.iterdir())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if fails == "fsync" else Path, fails, full)
        with pytest.raises(StorageError, match="the disk is full"):
            files.save(snapshot(2))
        with pytest.raises(StorageError):
            files.next_epoch()
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    loaded = files.load()
    assert loaded is not None
    assert loaded.facts["age"] == 1


def test_written_synced_renamed_synced_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is what survives a power cut, which itself is hard to test."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append("sync folder" if path.is_dir() else f"sync {path.suffix}")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    store(tmp_path).save(snapshot(1))
    assert done == ["sync .new", "rename", "sync folder"]


class Killed(BaseException):
    """The process ends here."""


def killed(*_: Any) -> None:
    raise Killed


def test_a_process_killed_while_it_writes_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path).save(snapshot(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(Killed):
            store(tmp_path).save(snapshot(2))
    loaded = store(tmp_path).load()
    assert loaded is not None
    assert loaded.facts["age"] == 1


def test_half_written_files_are_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        for number in range(5):
            with pytest.raises(Killed):
                store(tmp_path).save(snapshot(number))
    files = store(tmp_path)
    files.open()
    files.save(snapshot(9))
    files.close()
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["00000001", "lock"]
