"""A node that is about to reign first fetches what another one has more of (guarantees, section 5; R5, R14, R16)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from rot import damage_at, log_of
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time, node_ports

from mqcore.abc import StorageContext, ignore_notice
from mqcore.batch import unpack_header
from mqcore.broker._node_states import describe_node
from mqcore.broker._suffix import fetch_suffixes, suffix_of
from mqcore.errors import CommandNotPossibleError, CorruptionError, FlushFailedError, MqcoreError, StorageError
from mqcore.limits import Limits
from mqcore.log import (
    METADATA_NAME,
    IncomingBatch,
    LogStore,
    MetadataLog,
    _quarantine,
    partition_log_name,
    partition_salt,
)
from mqcore.log._control import pack_records_batch
from mqcore.operations import FetchSuffix, LogSuffix
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

ASYNC: dict[str, Any] = {"flush": "sync", "replication": "async"}
TOPICS = ("left", "right")


async def fill(nodes: SetOfNodes) -> dict[str, bytes]:
    """Ten messages in each topic, on both nodes; return the topics' ids."""
    await nodes.start()
    await nodes.init("a")
    await nodes.until_in_sync("a")
    async with nodes.client() as client:
        ids = {}
        for topic in TOPICS:
            ids[topic] = bytes.fromhex((await client.admin.create_topic(topic)).id)
            async with client.producer(topic) as producer:
                for number in range(10):
                    await producer.send(b"%d" % number)
    replica = nodes.node("b").store.node_id
    await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(replica))  # type: ignore[union-attr]
    return ids


@asynccontextmanager
async def store_of(folder: Path) -> AsyncIterator[LogStore]:
    """The storage of a stopped node."""
    ports, limits = node_ports(), Limits()
    context = StorageContext(ports=ports, limits=limits, report=lambda notice: None, stopped=lambda error: None)
    store = LogStore(
        create_storage(f"mmap://{folder}", context, {}),
        ports=ports, limits=limits, node_name=folder.name, report=lambda notice: None,
    )  # fmt: skip
    await store.open()
    yield store
    await store.aclose()


async def cut_back(folder: Path, topic_id: bytes, offset: int) -> None:
    """Make the log of a stopped node shorter, as if the end of it had never reached it."""
    async with store_of(folder) as store:
        log = await store.open_log(partition_log_name(topic_id, 0), salt=partition_salt(topic_id, 0))
        await log.truncate(offset)


async def part(nodes: SetOfNodes, root: Path, ids: dict[str, bytes]) -> None:
    """Stop both nodes, and have each hold more of one log than the other."""
    await nodes.stop("b")  # first, or it would reign as soon as the other one has stopped
    await nodes.stop("a")
    await cut_back(root / "a", ids["left"], 4)
    await cut_back(root / "b", ids["right"], 7)


async def check_all_is_there(nodes: SetOfNodes) -> None:
    async with nodes.client(*nodes.runs) as client:
        for topic in TOPICS:
            async with client.consumer(topic, start="start") as consumer:
                with trio.fail_after(120):
                    found = [bytes((await anext(consumer)).value) for _ in range(10)]
            assert found == [b"%d" % number for number in range(10)]
    assert any("suffix-fetched" in nodes.kinds(name) for name in nodes.names)


@in_virtual_time
async def test_r9_the_node_that_takes_over_has_what_any_member_has(tmp_path: Path) -> None:
    # A quarter of a lease is what a node that starts waits for the other one.
    cluster = {"coordinator": "memory://suffix-elected", "lease_ms": 12_000}
    async with set_of_nodes(tmp_path, prefix="suffix-elected", cluster=cluster, **ASYNC) as nodes:
        await part(nodes, tmp_path, await fill(nodes))
        await nodes.start("a", "b")
        await nodes.until(lambda: any(run.node.reign is not None for run in nodes.runs.values()))
        await check_all_is_there(nodes)


@in_virtual_time
async def test_r14_a_recovery_where_each_node_leads_on_another_log_loses_nothing_of_either(tmp_path: Path) -> None:
    before = {"coordinator": "memory://suffix-recover-1"}
    async with set_of_nodes(tmp_path, prefix="suffix-recover", cluster=before, **ASYNC) as nodes:
        await part(nodes, tmp_path, await fill(nodes))
        nodes.cluster = {"coordinator": "memory://suffix-recover-2"}
        await nodes.start("a", "b")
        await nodes.until(lambda: all(run.node.roles.keeper.pair is not None for run in nodes.runs.values()))  # type: ignore[union-attr]
        recovered = await nodes.call("a", "set.recover")
        await nodes.until_in_sync("a")
        assert nodes.node("a").store.epoch == recovered["epoch"]
        await check_all_is_there(nodes)


@in_virtual_time
async def test_r16_a_promotion_by_hand_where_each_node_leads_on_another_log_loses_nothing_of_either(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", prefix="suffix-manual", **ASYNC) as nodes:
        ids = await fill(nodes)
        third = nodes.node("c").store.node_id
        await nodes.until(lambda: nodes.node("a").reign.set.holds_everything(third))  # type: ignore[union-attr]
        for name in "abc":
            await nodes.stop(name)
        await cut_back(tmp_path / "b", ids["left"], 4)
        await cut_back(tmp_path / "c", ids["right"], 7)
        await nodes.start("b", "c")
        await nodes.call("b", "set.promote", old_primary_is_stopped=True)
        await check_all_is_there(nodes)


@in_virtual_time
async def test_g05_a_log_is_continued_only_from_a_batch_that_is_there(tmp_path: Path) -> None:
    cluster = {"coordinator": "memory://suffix-checks", "failover": "manual"}
    async with set_of_nodes(tmp_path, prefix="suffix-checks", cluster=cluster, **ASYNC) as nodes:
        ids = await fill(nodes)
        await nodes.cut_off("a")
        name = partition_log_name(ids["left"], 0)
        log = await nodes.node("b").store.open_log(name, salt=partition_salt(ids["left"], 0))
        epoch, reign_id, _ = log.last_batch
        known = {"log": name, "epoch": epoch, "reign_id": reign_id.hex(), "end": 200}
        for wrong in ({"position": 1}, {"position": 0, "log": "metadata.state"}, {"position": -1}):
            with pytest.raises(MqcoreError):
                await nodes.call("b", "set.fetch", **{**known, **wrong})
        parted = await nodes.call("b", "set.fetch", **{**known, "reign_id": "ff" * 16, "position": 0})
        assert parted["parts_epoch"] == 0


@in_virtual_time
@pytest.mark.parametrize("position", [0, 1, 10_000, -7])
async def test_g10_a_peer_that_says_a_log_parts_where_no_batch_begins_cuts_nothing_of_it(
    tmp_path: Path, position: int
) -> None:
    async with set_of_nodes(tmp_path, prefix=f"suffix-lies{position}", **ASYNC) as nodes:
        ids = await fill(nodes)

    async def lie(request: FetchSuffix) -> LogSuffix:
        return LogSuffix(start=0, parts_epoch=1, parts_position=position)

    name, salt = partition_log_name(ids["left"], 0), partition_salt(ids["left"], 0)
    async with store_of(tmp_path / "b") as store:
        log = await store.open_log(name, salt=salt)
        assert await log.trim(5) == 5
        end = log.end_position
        with pytest.raises((CommandNotPossibleError, CorruptionError)):
            await fetch_suffixes(store, {name: lie}, epoch=9, reign_id=bytes(16), report=ignore_notice)
        assert (await store.open_log(name, salt=salt)).end_position == end


@in_virtual_time
async def test_r2_what_is_cut_where_it_has_rotted_may_count_so_that_who_cuts_it_is_another_incarnation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What opened a reign may have been there, and the other node parts from what it cannot see: it proves no other
    history."""
    async with set_of_nodes(tmp_path, prefix="suffix-rotten", **ASYNC) as nodes:
        ids = await fill(nodes)
        name, salt = partition_log_name(ids["left"], 0), partition_salt(ids["left"], 0)
        found = await log_of(nodes, "b", name).batch_of(5)
        assert found is not None
        await nodes.stop("b")
        await damage_at(nodes, "b", log_of(nodes, "a", name), found.position, 0)
        await nodes.stop("a")
    async with store_of(tmp_path / "b") as store:
        log, incarnation = await store.open_log(name, salt=salt), store.incarnation
        epoch = log.last_batch[0]
        answers = [LogSuffix(start=0), LogSuffix(start=0, parts_epoch=epoch, parts_position=found.position)]

        async def ask(request: FetchSuffix) -> LogSuffix:
            return answers[request.end > found.position]

        async def fetch(epoch: int) -> None:
            await fetch_suffixes(store, {name: ask}, epoch=epoch, reign_id=b"r" * 16, report=ignore_notice)

        monkeypatch.setattr(_quarantine, "QUARANTINES_MAX", 0)
        with pytest.raises(StorageError, match="side files are kept already"):
            await fetch(epoch + 1)
        assert store.incarnation == incarnation, "nothing is lost yet"
        monkeypatch.undo()
        await fetch(epoch + 2)
        assert (await store.open_log(name, salt=salt)).end_position == found.position
        assert store.incarnation == incarnation + 1


@pytest.mark.parametrize("step", ["fetched", "begun-anew"])
def test_r5_a_metadata_log_that_meets_in_nothing_with_the_one_that_is_ahead_is_never_left_empty_without_a_word(
    step: str,
) -> None:
    """A node that dies just then starts again: partitions beside an empty metadata log would be damage to it."""

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        ports, limits = model_ports(1, disk), Limits()

        async def store_at(folder: str, set_id: bytes | None = None) -> LogStore:
            context = StorageContext(ports=ports, limits=limits, report=ignore_notice, stopped=ignore_notice)
            backend = create_storage(f"mmap://{folder}", context, {})
            store = LogStore(backend, ports=ports, limits=limits, node_name=folder[1:], report=ignore_notice)
            await store.open()
            if set_id is not None:
                await store.join(set_id)
            return store

        own = await store_at("/own")
        await own.reign(1, b"1" * 16)
        log = await own.open_log(partition_log_name(bytes(16), 0), salt=partition_salt(bytes(16), 0))
        await log.append_control([control_batch_of_records()])
        await own.flush([log])
        await own.leave()
        ahead = await store_at("/ahead", own.set_id)
        await ahead.reign(2, b"2" * 16)
        await MetadataLog(ahead).append([{"type": "topics-gone", "ids": []}])
        await ahead.leave()

        async def ask(request: FetchSuffix) -> LogSuffix:
            if step == "begun-anew" and not own.metadata.bytes_total:
                raise CommandNotPossibleError("it has gone meanwhile")
            return await suffix_of(ahead, request, 1 << 20)

        with suppress(CommandNotPossibleError):
            await fetch_suffixes(own, {METADATA_NAME: ask}, epoch=3, reign_id=b"3" * 16, report=ignore_notice)
        assert own.metadata.bytes_total == (ahead.metadata.bytes_total if step == "fetched" else 0)
        await own.aclose(flush=False)
        again = await store_at("/own")
        assert again.metadata.end_position == own.metadata.end_position
        assert [each for each in await again.backend.list_logs() if each.startswith("metadata.quarantine-")]
        await again.aclose()
        await ahead.aclose()

    run_simulation(main, seed=1)


def control_batch_of_records() -> IncomingBatch:
    batch = pack_records_batch([{"type": "x"}])
    return IncomingBatch(unpack_header(batch), batch)


async def two_stores(disk: ModelDisk, names: list[str]) -> tuple[LogStore, LogStore]:
    """A store with a batch in each log of ``names``, and an empty one of the same set."""
    ports, limits, stores = model_ports(1, disk), Limits(), []
    for folder in ("ahead", "own"):
        context = StorageContext(ports=ports, limits=limits, report=ignore_notice, stopped=ignore_notice)
        backend = create_storage(f"mmap:///{folder}", context, {})
        store = LogStore(backend, ports=ports, limits=limits, node_name=folder, report=ignore_notice)
        await store.open()
        stores.append(store)
    ahead, own = stores
    await own.join(ahead.set_id)
    await ahead.reign(1, b"1" * 16)
    await MetadataLog(ahead).append([{"type": "topics-gone", "ids": []}])
    for index, name in enumerate(names):
        log = await ahead.open_log(name, salt=partition_salt(bytes(16), index))
        await log.append_control([control_batch_of_records()])
        await ahead.flush([log])
    return ahead, own


def test_r9_a_log_that_cannot_be_fetched_holds_up_no_other() -> None:
    names = [partition_log_name(bytes(16), index) for index in range(3)]

    async def main() -> None:
        ahead, own = await two_stores(ModelDisk(seeded(1, "disk")), names)
        await ahead.leave()

        async def ask(request: FetchSuffix) -> LogSuffix:
            if request.log == names[0]:
                raise CommandNotPossibleError("it has stopped there")
            return await suffix_of(ahead, request, 1 << 20)

        wanted = dict.fromkeys([METADATA_NAME, *names], ask)
        with pytest.raises(CommandNotPossibleError, match="it has stopped there"):
            await fetch_suffixes(own, wanted, epoch=2, reign_id=b"2" * 16, report=ignore_notice)
        logs = [await own.open_log(name, salt=partition_salt(bytes(16), at)) for at, name in enumerate(names)]
        assert [bool(log.end_position) for log in logs] == [False, True, True]
        for store in (ahead, own):
            await store.aclose(flush=False)

    run_simulation(main, seed=1)


def test_g11_a_node_vouches_for_what_is_durable_of_a_log_that_a_failed_flush_stopped() -> None:
    """Nothing beyond that can be fetched from it, and a candidate that tries reigns with what it has."""
    names = [partition_log_name(bytes(16), 0)]

    async def main() -> None:
        ahead, own = await two_stores(ModelDisk(seeded(1, "disk")), names)
        log = await ahead.open_log(names[0], salt=partition_salt(bytes(16), 0))
        durable = log.end_position
        await log.append_control([control_batch_of_records()])
        tips = (await describe_node(ahead, "ahead", None, reigns=True, has_failed=False)).tips
        assert tips[names[0]] == (1, log.end_position), "it is held, if not flushed"
        ahead.stop(FlushFailedError("the disk says no", logs=names))
        await ahead.leave()
        tips = (await describe_node(ahead, "ahead", None, reigns=False, has_failed=True)).tips
        assert tips[names[0]] == (1, durable)
        for store in (ahead, own):
            await store.aclose(flush=False)

    run_simulation(main, seed=1)
