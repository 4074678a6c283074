"""The address book: what is written is read, damage is found, and power may go at any moment."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from crashes import Machine, Recorder, put_back
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import StorageError
from gossipnode.node.checkpoint import BROKEN, FileStore
from gossipnode.node.disk import Disk
from gossipnode.node.membership import book
from gossipnode.node.membership.book import (
    BYTES_MAX,
    CONTACTS_MAX,
    FILE,
    AddressBook,
    Contact,
    Page,
    page_bytes,
    parse_page,
    read_page,
)
from gossipnode.node.peers import Peer


def contact(name: str, heard: float = 0.0) -> Contact:
    return Contact(id=name, address=f"http://{name}:7946", heard=heard)


PAGE = Page(
    options={"swarm": {"name": "digits", "seed": 3}, "data": {"share": "1/8"}},
    joined=True,
    through=("http://seed:7946",),
    contacts=(contact("alpha", 1.7e9), contact("beta")),
)


def test_what_was_written_is_read() -> None:
    assert parse_page(page_bytes(PAGE)) == PAGE
    assert parse_page(page_bytes(Page())) == Page()


def test_the_largest_book_fits() -> None:
    longest = [
        Contact(id=f"n{i:0>127}", address="http://" + "a" * 247 + ":1", heard=1.7e9)
        for i in range(CONTACTS_MAX)
    ]
    assert len(page_bytes(PAGE.model_copy(update={"contacts": tuple(longest)}))) < BYTES_MAX / 2


@given(st.data())
def test_damage_is_found_wherever_it_is(data: st.DataObject) -> None:
    whole = bytearray(page_bytes(PAGE))
    kind = data.draw(st.sampled_from(["flip", "cut", "more", "noise"]))
    match kind:
        case "flip":
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            del whole[data.draw(st.integers(0, len(whole) - 1)) :]
        case "more":
            whole += data.draw(st.binary(min_size=1, max_size=9))
        case "noise":
            whole = bytearray(data.draw(st.binary(max_size=99)))
    with pytest.raises(StorageError):
        parse_page(bytes(whole))


@pytest.mark.parametrize(
    "text",
    [
        '{"contacts": [{"id": "a", "address": "file:///etc/passwd"}]}',
        '{"contacts": [{"id": "a b", "address": "http://a:1"}]}',
        '{"contacts": [{"id": "a", "address": "http://a:1", "heard": -1}]}',
        '{"contacts": 7}',
        '{"command": "rm"}',
        "[]",
        "",
    ],
)
def test_what_has_a_sound_digest_and_makes_no_sense_is_refused_too(text: str) -> None:
    import xxhash

    digest = xxhash.xxh3_128_hexdigest(text.encode())
    with pytest.raises(StorageError):
        parse_page(f"gossipnode book 1 {digest}\n{text}".encode())


def test_reading_tells_none_from_damaged_and_changes_nothing(tmp_path: Path) -> None:
    assert read_page(tmp_path) is None
    (tmp_path / FILE).write_bytes(page_bytes(PAGE))
    assert read_page(tmp_path) == PAGE
    (tmp_path / FILE).write_bytes(b"x" * (BYTES_MAX + 9))
    with pytest.raises(StorageError, match="not what was written"):
        read_page(tmp_path)
    assert (tmp_path / FILE).exists()


def test_a_damaged_book_is_put_aside_by_whoever_has_the_lock(tmp_path: Path) -> None:
    files = FileStore(tmp_path, 3, lambda: 1.0)
    assert files.read_small(FILE) is None
    files.write_small(FILE, b"x")
    assert files.read_small(FILE) == b"x"
    files.put_aside(FILE)
    assert files.read_small(FILE) is None
    assert (tmp_path / (FILE + BROKEN)).read_bytes() == b"x"


async def test_only_a_book_whose_bytes_are_lost_is_put_aside(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_small(FILE, page_bytes(PAGE))

    def fails(number: int) -> Callable[[Path, str], NoReturn]:
        def open_(_: Path, mode: str) -> NoReturn:
            assert mode == "rb"
            raise OSError(number, os.strerror(number))

        return open_

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails(errno.EMFILE))
        with pytest.raises(StorageError, match="cannot be read: Too many open files"):
            await Life(store, 1.7e9).book.recall()
    assert (store.folder / FILE).exists()
    monkeypatch.setattr(Path, "open", fails(errno.EIO))
    await Life(store, 1.7e9).book.recall()
    assert not (store.folder / FILE).exists()
    assert (store.folder / (FILE + BROKEN)).exists()


def test_power_may_go_at_any_moment_and_the_book_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    disk = Recorder(tmp_path / "disk")
    disk.root.mkdir()
    files = FileStore(disk.root / "node", 3, lambda: 1.0, disk)
    files.open()
    pages = [page_bytes(PAGE.model_copy(update={"through": ("x" * i,)})) for i in (1, 2, 3)]
    for number, page in enumerate(pages):
        disk.note(next=number)
        files.write_small(FILE, page)
        disk.note(durable=number)
    files.close()
    machine, states = Machine(), 0
    for operation in disk.done:
        machine.do(operation)
        for found in machine.left_by_a_power_cut():
            put_back(found, disk.root, tmp_path / "cut")
            path = tmp_path / "cut" / "node" / FILE
            data = path.read_bytes() if path.exists() else None
            allowed = {machine.notes.get("durable"), machine.notes.get("next")}
            assert (None if data is None else pages.index(data)) in allowed
            shutil.rmtree(tmp_path / "cut")
            states += 1
    assert states > 30


class Life:
    """One life of a node that keeps a book in ``folder`` and has learnt of ``b``."""

    def __init__(self, store: FileStore, wall_s: float) -> None:
        self.wall_s, self.store = wall_s, store
        self.id, self.world = "a", self
        self.peer = Peer("b", "http://b:1", heard_at=0.0)
        self.peers = SimpleNamespace(learnt=[self.peer])
        self.book = AddressBook(SimpleNamespace(node=self))  # type: ignore[arg-type]

    def wall_time(self) -> float:
        return self.wall_s

    def time(self) -> float:
        return 0.0

    async def work(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    def addresses(self) -> list[str]:
        return [contact.address for contact in self.book.newest()]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path, 1, lambda: 0.0)


@pytest.mark.parametrize("ahead_s", [0.0, 3.2e8], ids=["right", "ten years ahead"])
async def test_a_clock_that_was_ahead_keeps_no_old_address(
    store: FileStore, ahead_s: float
) -> None:
    before = Life(store, 1.7e9 + ahead_s)
    before.book._look_around()
    store.write_small(FILE, page_bytes(Page(contacts=tuple(before.book.newest()))))
    after = Life(store, 1.7e9 + 100)
    await after.book.recall()
    assert after.addresses() == ["http://b:1"]
    after.peer.address = "http://b:2"
    after.book._look_around()
    assert after.addresses() == ["http://b:2"]


def test_a_clock_that_is_set_back_keeps_no_old_address(store: FileStore) -> None:
    life = Life(store, 1.7e9)
    life.book._look_around()
    life.wall_s -= 3600
    life.peer.address = "http://b:2"
    life.book._look_around()
    assert life.addresses() == ["http://b:2"]


def test_what_others_told_takes_no_address_that_was_heard_of(store: FileStore) -> None:
    life = Life(store, 1.7e9)
    life.book._look_around()
    life.peer.address, life.peer.heard_at = "http://b:2", None
    life.book._look_around()
    assert life.addresses() == ["http://b:1"]


async def test_a_disk_that_stays_full_is_told_of_once(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(book, "_options", lambda _: {})
    life = Life(store, 1.7e9)

    async def told(code: int | None) -> int:
        """How often it is told in three tries to write something new."""
        caplog.clear()
        with monkeypatch.context() as patch:
            if code is not None:
                patch.setattr(Disk, "write", partial(fails, code))
            for _ in range(3):
                life.peer.address = life.peer.address.replace("//", "//b")
                await life.book.keep()
        return sum("book.not_kept" in record.getMessage() for record in caplog.records)

    assert [await told(code) for code in (errno.ENOSPC, errno.EIO)] == [1, 1]
    assert [await told(code) for code in (None, errno.EIO, errno.EIO)] == [0, 1, 0]
    assert life.addresses() == [f"http://{'b' * 16}:1"]


def fails(code: int, *_: Any) -> NoReturn:
    raise OSError(code, os.strerror(code))


async def test_a_book_without_end_is_put_aside_unread(store: FileStore, tmp_path: Path) -> None:
    """It is an aid: to read 8 TiB into the memory ended the node."""
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(2**43)
    await Life(store, 1.7e9).book.recall()
    assert not (tmp_path / FILE).exists()
    assert (tmp_path / (FILE + BROKEN)).exists()
