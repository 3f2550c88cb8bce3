"""A broker that keeps cursors in an offset store: switched on, switched off, restarted, with a store that is away."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from mqcore.abc import Notice, OffsetStoreContext
from mqcore.broker import open_broker
from mqcore.broker._cursor_store import StoredCursors
from mqcore.client import Client, GroupConsumer, connect
from mqcore.errors import ConfigurationError, PluginError, RefusedError, RejectedError
from mqcore.ports import system_ports
from mqcore.registry import create_offset_store

NAMES = count()
SETS = [
    {
        "name": "s",
        "nodes": [{"name": "a", "urls": ["tcp://10.0.0.1:7400"]}, {"name": "b", "urls": ["tcp://10.0.0.2:7400"]}],
    }
]


@asynccontextmanager
async def broker(
    tmp_path: Path, offset_store: str | None, notices: list[Notice] | None = None
) -> AsyncIterator[Client]:
    """A broker below ``tmp_path``, and a client of it; it ends with the block."""
    settings: dict[str, Any] = {} if offset_store is None else {"offset_store": offset_store}
    async with (
        open_broker(
            storage=f"mmap://{tmp_path}/data",
            listen=[f"inproc://offsets{next(NAMES)}"],
            report=([] if notices is None else notices).append,
            **settings,
        ) as node,
        connect(node.urls[0]) as client,
    ):
        yield client


async def read(client: Client, number: int, group: str = "g1") -> list[bytes]:
    """Read some messages as a member, and have them committed."""
    found: list[bytes] = []
    with trio.fail_after(120):
        async with client.consumer("lines", group=group, start="start", commit="manual") as consumer:
            while len(found) < number:
                found.append(bytes((await anext(consumer)).value))
            assert isinstance(consumer, GroupConsumer)
            await consumer.commit()
    return found


T = TypeVar("T")


async def once_ready(ask: Callable[[], Awaitable[T]]) -> T:
    """What ``ask`` returns once the broker has read the cursors."""
    with trio.fail_after(120):
        while True:
            try:
                return await ask()
            except RejectedError as error:
                if not error.retryable:
                    raise
                await trio.sleep(0.01)


async def offsets(client: Client, group: str = "g1") -> dict[int, int]:
    """Cursors of the group."""
    (described,) = await once_ready(lambda: client.groups.describe(group))
    return {each.partition: each.offset for each in described.partitions if each.offset is not None}


async def fill(client: Client) -> None:
    """Make the topic, with ten messages in it."""
    await client.admin.create_topic("lines")
    async with client.producer("lines") as producer:
        for number in range(10):
            await producer.send(b"%d" % number)


@pytest.mark.trio
async def test_g16_cursors_are_in_the_store_and_found_by_the_next_start(tmp_path: Path) -> None:
    place = f"sqlite://{tmp_path}/offsets.db"
    async with broker(tmp_path, place) as client:
        await fill(client)
        assert await read(client, 4) == [b"0", b"1", b"2", b"3"]
        store = create_offset_store(place, OffsetStoreContext(ports=system_ports(), call_timeout_ms=30_000))
        mark, name = await store.groups()
        assert mark.startswith("/"), "of no group: which reign was here last"
        (found,) = (await store.load(name)).cursors.values()
        await store.aclose()
        assert (name.partition("/")[0], found.offset) == ("g1", 4)
    async with broker(tmp_path, place) as client:
        assert await read(client, 3) == [b"4", b"5", b"6"]
        await client.groups.reset("g1", "lines", to="start")
        assert await offsets(client) == {0: 0}
    async with broker(tmp_path, place) as client:
        assert await read(client, 2) == [b"0", b"1"]
        await client.groups.delete("g1")
    async with broker(tmp_path, place) as client:
        assert await once_ready(client.groups.list_groups) == []


@pytest.mark.trio
async def test_cursors_move_into_the_store_when_it_is_named_and_are_not_lost_when_it_is_not(tmp_path: Path) -> None:
    place = f"sqlite://{tmp_path}/offsets.db"
    async with broker(tmp_path, None) as client:
        await fill(client)
        await read(client, 4)
    async with broker(tmp_path, place) as client:
        assert await offsets(client) == {0: 4}
        await read(client, 2)
    notices: list[Notice] = []
    async with broker(tmp_path, None, notices) as client:
        with pytest.raises(RejectedError, match="kept in an offset store, and none is named: write offset_store again"):
            await offsets(client)
        async with client.consumer("lines", start="start") as consumer:
            assert bytes((await anext(consumer)).value) == b"0"  # messages are served
        assert "kept in an offset store, and none is named" in (await client.admin.status()).groups_refused
    assert "cursors-not-read" in [notice.kind for notice in notices]
    async with broker(tmp_path, place) as client:
        assert await offsets(client) == {0: 6}
    async with broker(tmp_path, "log") as client:
        assert await read(client, 2) == [b"0", b"1"]  # begins without them, as was said
    async with broker(tmp_path, None) as client:
        assert await offsets(client) == {0: 2}
    async with broker(tmp_path, place) as client:
        assert await offsets(client) == {0: 2}  # and not the six of before


def move(pattern: str, source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for path in source.glob(pattern):
        path.rename(target / path.name)


@pytest.mark.trio
@pytest.mark.parametrize("what", ["another", "emptied"])
async def test_g16_no_group_begins_anew_in_silence_where_the_store_has_nothing_of_the_set(
    tmp_path: Path, what: str
) -> None:
    """A member that begins at the end would pass over everything that its group has not read."""
    place = f"sqlite://{tmp_path}/offsets.db"
    async with broker(tmp_path, place) as client:
        await fill(client)
        await read(client, 4)
    other = f"sqlite://{tmp_path}/other.db" if what == "another" else place
    kept = tmp_path / "kept"
    move("offsets.db*", tmp_path, kept)
    notices: list[Notice] = []
    async with broker(tmp_path, other, notices) as client:
        with pytest.raises(RejectedError, match="has nothing of this set, whose cursors were in an offset store"):
            await offsets(client)
        async with client.consumer("lines", start="start") as consumer:
            assert bytes((await anext(consumer)).value) == b"0"  # messages are served
    assert "cursors-not-kept" in [notice.kind for notice in notices]
    move("*.db*", tmp_path, tmp_path / "new")
    move("*", kept, tmp_path)
    async with broker(tmp_path, place) as client:
        assert await read(client, 2) == [b"4", b"5"]  # the right one, put back
    async with broker(tmp_path, "log") as client:
        assert await read(client, 1) == [b"0"]
    async with broker(tmp_path, f"sqlite://{tmp_path}/third.db") as client:
        assert await read(client, 1) == [b"1"]  # what the log had since is in the new store


@pytest.mark.trio
async def test_g16_a_store_that_was_put_back_older_is_told_and_groups_read_again(tmp_path: Path) -> None:
    place, folder = f"file://{tmp_path}/o", tmp_path / "o"
    async with broker(tmp_path, place) as client:
        await fill(client)
        await read(client, 4)
    shutil.copytree(folder, tmp_path / "copy")
    async with broker(tmp_path, place) as client:
        await read(client, 3)
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    notices: list[Notice] = []
    async with broker(tmp_path, place, notices) as client:
        assert await read(client, 2) == [b"4", b"5"]
    (told,) = [notice for notice in notices if notice.kind == "cursors-went-back"]
    assert "as it was in reign 1, and had the cursors in reign 2: an older copy was put back" in told.text
    notices.clear()
    async with broker(tmp_path, place, notices) as client:
        assert await read(client, 1) == [b"6"]
    assert notices == [], "once"


@pytest.mark.trio
async def test_g16_a_store_that_was_left_for_another_one_is_not_taken_for_an_older_copy_of_it(tmp_path: Path) -> None:
    """Its cursors may be ahead: the group began anew since, and would pass over what it has not read."""
    first, second = (f"sqlite://{tmp_path}/{name}.db" for name in ("first", "second"))
    async with broker(tmp_path, first) as client:
        await fill(client)
        await read(client, 6)
    async with broker(tmp_path, "log") as client:
        await read(client, 2)
    async with broker(tmp_path, second) as client:
        assert await read(client, 1) == [b"2"]
    async with broker(tmp_path, first) as client:
        with pytest.raises(RejectedError, match="was left in reign 1: since reign 3 another one has the cursors"):
            await offsets(client)
    async with broker(tmp_path, second) as client:
        assert await read(client, 1) == [b"3"]
    async with broker(tmp_path, "log") as client:
        await read(client, 1)
    async with broker(tmp_path, first) as client:
        assert await read(client, 1) == [b"1"]  # taken up anew, it has what the log had


@pytest.mark.trio
@pytest.mark.parametrize("starts", [1, 3])
async def test_g16_cursors_of_a_later_reign_are_not_believed_of_a_storage_that_was_put_back(
    tmp_path: Path, starts: int
) -> None:
    """The numbers of its reigns come again, and stand for other messages: a group would pass over some of them."""
    place = f"sqlite://{tmp_path}/offsets.db"
    async with broker(tmp_path, place) as client:
        await fill(client)
        await read(client, 4)
    shutil.copytree(tmp_path / "data", tmp_path / "older")
    async with broker(tmp_path, place) as client:
        async with client.producer("lines") as producer:
            await producer.send_many([b"lost"] * 10)
        await read(client, 12)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "older").rename(tmp_path / "data")
    for _ in range(starts):  # the second one is of a later number than any reign that the store has seen
        async with broker(tmp_path, place) as client:
            async with client.producer("lines") as producer:
                await producer.send_many([b"new"] * 10)
            with pytest.raises(RejectedError, match="has the mark of a reign 2 that is not the one of this storage"):
                await offsets(client)
    async with broker(tmp_path, "log") as client:
        assert await offsets(client) == {}
        await read(client, 2)
    async with broker(tmp_path, f"sqlite://{tmp_path}/new.db") as client:
        assert await read(client, 1) == [b"2"]


@pytest.mark.trio
async def test_while_the_store_is_away_messages_are_read_and_commits_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "away"
    notices: list[Notice] = []
    async with broker(tmp_path, f"sqlite://{folder}/offsets.db", notices) as client:
        await fill(client)
        with trio.fail_after(120):
            while not notices:  # noqa: ASYNC110 - notices are a list
                await trio.sleep(0.01)
        assert [notice.kind for notice in notices] == ["offset-store-down"]
        assert str(folder) in notices[0].text
        with pytest.raises(RejectedError, match=r"the offset store sqlite:.* does not serve, as the broker's log says"):
            await client.groups.list_groups()
        assert "does not serve" in (await client.admin.status()).groups_refused
        found: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def member() -> None:
                found.extend(await read(client, 4))

            nursery.start_soon(member)
            with trio.fail_after(120):
                while "waits to be taken in: the offset store sqlite:" not in caplog.text:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            folder.mkdir()
        assert found == [b"0", b"1", b"2", b"3"]
        assert [notice.kind for notice in notices] == ["offset-store-down", "offset-store-answers"]
        assert (await client.admin.status()).groups_refused == ""
        folder.rename(tmp_path / "gone")
    assert not folder.exists()
    (tmp_path / "gone").rename(folder)
    async with broker(tmp_path, f"sqlite://{folder}/offsets.db") as client:
        assert await offsets(client) == {0: 4}


@pytest.mark.trio
async def test_a_member_that_leaves_without_an_answer_to_its_last_commit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with broker(tmp_path, f"sqlite://{tmp_path}/offsets.db") as client:
        await fill(client)
        async with client.consumer("lines", group="g1", start="start", commit_interval_ms=3_600_000) as consumer:
            assert bytes((await anext(consumer)).value) == b"0"
            monkeypatch.setattr(StoredCursors, "write", lambda *_: None)  # the store does not answer
        assert "group g1: no answer to the last commit: what it was to cover may come again" in caplog.text


@pytest.mark.trio
async def test_a_store_of_one_host_is_refused_for_a_set_on_two(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"the offset store sqlite:.* serves the processes of one host.*a and b"):
        async with open_broker(
            name="a",
            storage=f"mmap://{tmp_path}/data",
            cluster={"sets": SETS},
            insecure=True,
            offset_store=f"sqlite://{tmp_path}/offsets.db",
        ):
            pass


@pytest.mark.trio
@pytest.mark.parametrize("value", ["sqlite", "nonsense:///x", "sqlite:///tmp/x?size=1"])
async def test_what_is_no_offset_store_is_refused_before_anything_is_opened(tmp_path: Path, value: str) -> None:
    with pytest.raises((ConfigurationError, PluginError), match=value.partition(":")[0]):
        async with open_broker(storage=f"mmap://{tmp_path}/data", offset_store=value):
            pass
    assert not (tmp_path / "data").exists()
