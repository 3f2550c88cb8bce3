"""The offset store ``sqlite``: another schema, a full or locked database and damage are told in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
import trio

from mqcore.abc import CommitStamp, Cursor, CursorKey, OffsetStore, OffsetStoreContext
from mqcore.errors import OffsetStoreError, OffsetStoreForeignError, OffsetStoreUnavailableError
from mqcore.ports import system_ports
from mqcore.registry import create_offset_store

ONE = {CursorKey("t", 0): Cursor(1, 1)}


def with_store(
    path: Path, main: Callable[[OffsetStore], Awaitable[None]], query: str = "", call_timeout_ms: int = 10_000
) -> None:
    async def run() -> None:
        context = OffsetStoreContext(ports=system_ports(), call_timeout_ms=call_timeout_ms)
        store = create_offset_store(f"sqlite://{path}{query}", context)
        try:
            await main(store)
        finally:
            await store.aclose()

    trio.run(run)


def refused(path: Path, error: type[OffsetStoreError], match: str, query: str = "") -> None:
    async def main(store: OffsetStore) -> None:
        with pytest.raises(error, match=match) as told:
            await store.commit("g", CommitStamp(1, 1), ONE)
        assert "\n" not in str(told.value)
        assert str(path) in str(told.value)

    with_store(path, main, query)


def test_another_program_s_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("create table mqcore_groups (name text)")
    other.close()
    before = path.read_bytes()
    refused(path, OffsetStoreForeignError, "another program's database: give the store a file of its own")
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_by_its_version(tmp_path: Path) -> None:
    path = tmp_path / "offsets.db"
    with_store(path, lambda store: store.commit("g", CommitStamp(1, 1), ONE))
    with sqlite3.connect(path) as newer:
        newer.execute("pragma user_version = 7")
    newer.close()
    refused(path, OffsetStoreForeignError, "schema has version 7, and this mqcore knows version 1")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "offsets.db"
    path.write_bytes(b"not a database at all, but long enough to have a first page" * 100)
    refused(path, OffsetStoreForeignError, "file is not a database.*put back a copy")


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    refused(tmp_path / "none" / "offsets.db", OffsetStoreUnavailableError, "its directory exists")


def test_a_database_at_its_limit_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    async def main(store: OffsetStore) -> None:
        number = 0

        async def fill() -> None:
            nonlocal number
            while True:
                number += 1
                large = {CursorKey(f"{number}/{each}".ljust(200, "x"), 0): Cursor(number, 1) for each in range(50)}
                await store.commit("g", CommitStamp(1, number), large)

        with pytest.raises(OffsetStoreUnavailableError, match="raise size_bytes_max"):
            await fill()
        found = await store.load("g")
        assert found.stamp == CommitStamp(1, number - 1)
        assert len(found.cursors) == 50 * (number - 1)
        await store.delete("g", CommitStamp(1, number))
        await store.commit("g", CommitStamp(1, 1), ONE)

    with_store(tmp_path / "offsets.db", main, "?size_bytes_max=65536")


def test_a_lock_of_another_process_is_told_in_time(tmp_path: Path) -> None:
    path = tmp_path / "offsets.db"
    with_store(path, lambda store: store.commit("g", CommitStamp(1, 1), ONE))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")

    async def main(store: OffsetStore) -> None:
        with pytest.raises(OffsetStoreUnavailableError, match="another process holds the database; try again"):
            await store.commit("g", CommitStamp(1, 2), {CursorKey("t", 0): Cursor(2, 1)})
        other.execute("rollback")
        await store.commit("g", CommitStamp(1, 2), {CursorKey("t", 0): Cursor(2, 1)})

    with_store(path, main, call_timeout_ms=4_000)
    other.close()


def test_a_database_that_another_process_makes_at_this_moment_is_not_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "offsets.db"
    made = Event()
    connect = sqlite3.connect

    def other() -> None:
        with_store(path, lambda store: store.commit("other", CommitStamp(1, 1), ONE))
        made.set()

    process = Thread(target=other)

    def watched(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        monkeypatch.setattr(sqlite3, "connect", connect)

        def look(statement: str) -> None:
            if statement == "pragma user_version" and not process.ident:
                process.start()
                made.wait(1)  # either it is made between two looks, or the one look keeps the other waiting

        connection.set_trace_callback(look)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    with_store(path, lambda store: store.commit("g", CommitStamp(1, 1), ONE))
    process.join()
    with_store(path, both_groups_are_there)


async def both_groups_are_there(store: OffsetStore) -> None:
    assert await store.groups() == ["g", "other"]


def test_a_lock_that_is_held_while_the_database_is_made_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "offsets.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    Timer(0.3, other.execute, ["rollback"]).start()
    with_store(path, lambda store: store.commit("g", CommitStamp(1, 1), ONE), call_timeout_ms=60_000)
    other.close()
