"""Power is cut after every operation of a checkpoint: nothing that was durable is ever lost."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import Disk, Machine, Quick, Recorder, put_back

from gossipnode.errors import StorageError
from gossipnode.node.checkpoint import FileStore
from gossipnode.node.world import Snapshot

KEEP = 2
FOLDER = "data/node"
# First cuts that are followed by a second one; `make survive` takes them all.
SECOND_CUTS = int(os.environ.get("GOSSIPNODE_SECOND_CUTS", "3"))


def snapshot(age: int) -> Snapshot:
    return Snapshot({"params": np.full(24, age, np.float32)}, {"age": age})


def store(root: Path, disk: Disk) -> FileStore:
    return FileStore(root / FOLDER, KEEP, lambda: 1.0, disk)


def live(root: Path, disk: Recorder, ages: range) -> None:
    """A node's life as the disk sees it, with a note of everything that was promised."""
    files = store(root, disk)
    files.open()
    disk.note(epoch=files.next_epoch())
    found = files.load()
    if found is not None:
        disk.note(durable=found.facts["age"])  # as the status says it from now on
    for age in ages:
        disk.note(next=age)
        files.save(snapshot(age))
        disk.note(durable=age)
    files.close()


class LostError(AssertionError):
    """Something that was durable is not there."""


def check(root: Path, notes: dict[str, Any]) -> None:
    """Start on what is left: nothing promised is missing, nothing is torn, and life goes on."""
    files = store(root, Quick())
    with contextlib.closing(files):
        files.open()
        _check(files, notes)


def _check(files: FileStore, notes: dict[str, Any]) -> None:
    if files.next_epoch() <= notes.get("epoch", 0):
        raise LostError("the epoch")
    found = files.load()
    age = 0 if found is None else found.facts["age"]
    if age not in (notes.get("durable", 0), notes.get("next", 0)):
        raise LostError(f"age {age} of {notes}")
    if found is not None:
        np.testing.assert_array_equal(found.arrays["params"], np.full(24, age, np.float32))
    files.save(snapshot(100))
    again = files.load()
    assert again is not None
    assert again.facts["age"] == 100


def cut_everywhere(disk: Recorder, scratch: Path, before: Machine) -> list[Any]:
    """Check each state after each operation; return them all."""
    seen: set[Any] = set()
    states = []
    for operation in [None, *disk.done]:
        if operation is not None:
            before.do(operation)
        for found in before.left_by_a_power_cut():
            key = (frozenset(found.items()), *before.notes.items())
            if key not in seen:
                seen.add(key)
                states.append((found, dict(before.notes)))
                put_back(found, disk.root, scratch / "cut")
                check(scratch / "cut", before.notes)
                shutil.rmtree(scratch / "cut")
    return states


def test_every_power_cut_recovers_to_the_last_durable_state(tmp_path: Path) -> None:
    disk = Recorder(tmp_path / "disk")
    disk.root.mkdir()
    live(disk.root, disk, range(1, 7))
    states = cut_everywhere(disk, tmp_path, Machine())
    assert len(states) > 150
    # Power goes again while the node finds its way back.
    chosen = random.Random(7).sample(states, min(SECOND_CUTS, len(states)))
    for number, (found, notes) in enumerate(chosen):
        second = Recorder(tmp_path / f"again{number}")
        put_back(found, disk.root, second.root)
        there = {p: p.read_bytes() for p in second.root.rglob("*") if p.is_file()}
        machine = Machine(there)
        machine.sure |= {p: None for p in second.root.rglob("*") if p.is_dir()}
        machine.notes = dict(notes)
        age = max(notes.get("durable", 0), notes.get("next", 0))
        live(second.root, second, range(age + 1, age + 2))
        cut_everywhere(second, tmp_path, machine)


@pytest.mark.parametrize("which", ["newest", "newest two"])
def test_power_may_go_while_a_damaged_checkpoint_is_put_aside(tmp_path: Path, which: str) -> None:
    disk = Recorder(tmp_path / "disk")
    disk.root.mkdir()
    files = FileStore(disk.root / FOLDER, 3, lambda: 1.0, Quick())
    files.open()
    for age in (1, 2, 3):
        files.save(snapshot(age))
    files.close()
    broken = files.files()[-1:] if which == "newest" else files.files()[-2:]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    machine = Machine({p: p.read_bytes() for p in disk.root.rglob("*") if p.is_file()})
    machine.sure |= {p: None for p in disk.root.rglob("*") if p.is_dir()}
    sound = 3 - len(broken)
    machine.notes = {"durable": sound, "next": sound}
    live(disk.root, disk, range(10, 13))
    assert len(cut_everywhere(disk, tmp_path, machine)) > 50


class NoSync(Recorder):
    def sync(self, descriptor: int) -> None:
        pass


class NoFolderSync(Recorder):
    def sync_folder(self, folder: Path) -> None:
        pass


class InPlace(Recorder):
    """Writes under the final name at once."""

    def create(self, path: Path) -> int:
        return super().create(path.with_name(path.name.removeprefix(".").removesuffix(".new")))

    def replace(self, path: Path, target: Path) -> None:
        pass


@pytest.mark.parametrize("careless", [NoSync, NoFolderSync, InPlace])
def test_a_careless_recipe_is_found_out(tmp_path: Path, careless: type[Recorder]) -> None:
    """The judge can tell: without any one step of the recipe something is lost."""
    disk = careless(tmp_path / "disk")
    disk.root.mkdir()

    def live_and_die() -> None:
        live(disk.root, disk, range(1, 7))
        cut_everywhere(disk, tmp_path, Machine())

    with pytest.raises((LostError, StorageError)):
        live_and_die()
