"""Sets with a coordinator: failover, fencing, a set that shrinks and grows, switchover (R1, R6 to R9, R11)."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker import Node
from mqcore.broker._elected import ElectedKeeper
from mqcore.broker._feeder import Feeder
from mqcore.broker._follow_session import FollowSession
from mqcore.broker._keeper import Keeper
from mqcore.broker._roles import Following, Reigning, describe_role
from mqcore.config import make_config
from mqcore.errors import (
    CommandNotPossibleError,
    CorruptionError,
    FlushFailedError,
    MqcoreError,
    RefusedError,
    StorageError,
)
from mqcore.guarantees import Level
from mqcore.log import LogStore
from mqcore.log._opening import LogOpener
from mqcore.ports import system_ports
from mqcore.protocol import LogPositions
from mqcore_memory_coordinator._server import server_called

SYNC: dict[str, Any] = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
ASYNC: dict[str, Any] = {"flush": "sync", "replication": "async"}


def coordinated(name: str, **keys: Any) -> dict[str, Any]:
    return {"prefix": name, "cluster": {"coordinator": f"memory://{name}", **keys}}


async def begin(nodes: SetOfNodes, primary: str = "a") -> None:
    await nodes.start()
    await nodes.init(primary)
    await nodes.until_in_sync(primary)
    # The first record names all of them in sync: one that has not followed yet may never have seen the lease held.
    await nodes.until(lambda: all(follows(nodes, name, primary) for name in nodes.names if name != primary))


def primary_of(nodes: SetOfNodes) -> str | None:
    return next((name for name, run in nodes.runs.items() if run.node.reign is not None), None)


def follows(nodes: SetOfNodes, name: str, primary: str = "a") -> bool:
    reign = nodes.node(primary).reign
    assert reign is not None
    assert reign.set is not None
    return any(each.name == name and each.gone_since_us is None for each in reign.set.facts())


async def send_until(nodes: SetOfNodes, sent: list[bytes], stop: trio.Event) -> None:
    async with nodes.client() as client, client.producer("orders") as producer:
        while not stop.is_set():
            value = b"%d" % len(sent)
            await producer.send(value)
            sent.append(value)


async def read_all(nodes: SetOfNodes, count: int) -> list[bytes]:
    found: list[bytes] = []
    async with nodes.client() as client, client.consumer("orders", start="start") as consumer:
        with trio.fail_after(120):
            async for message in consumer:
                found.append(bytes(message.value))
                if len(found) == count:
                    break
    return found


@in_virtual_time
async def test_g01_a_set_that_loses_its_primary_takes_another_and_the_producer_goes_on(tmp_path: Path) -> None:
    """G09, G13, G15: twice in a row, with three nodes; nothing acknowledged is missing, nothing comes twice."""
    async with set_of_nodes(tmp_path, "abc", **coordinated("g01"), **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
        sent: list[bytes] = []
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until, nodes, sent, stop)
            for _ in range(2):
                await nodes.until(lambda: len(sent) > 20)
                lost = primary_of(nodes)
                assert lost is not None
                epoch = nodes.node(lost).store.epoch
                before = len(sent)
                await nodes.cut_off(lost)
                await nodes.until(lambda: primary_of(nodes) is not None)
                await nodes.until(lambda before=before: len(sent) > before + 20)
                reigning = primary_of(nodes)
                assert reigning is not None
                assert nodes.node(reigning).store.epoch == epoch + 1
                await nodes.start(lost)
                await nodes.until_in_sync(reigning)
            stop.set()
        assert await read_all(nodes, len(sent)) == sent


@in_virtual_time
async def test_r7_a_member_that_is_gone_leaves_the_set_before_anything_is_acknowledged_without_it(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("r7"), **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                assert len((await producer.send(b"three")).copies) == 3
                gone = nodes.node("c").store.node_id
                await nodes.cut_off("c")
                receipt = await producer.send(b"two")
                assert {copy.node_id for copy in receipt.copies} == {nodes.node(name).store.node_id for name in "ab"}
                reign = nodes.node("a").reign
                assert reign is not None
                assert reign.set is not None
                assert reign.set.record.member_of(gone) is None
                await nodes.start("c")
                await nodes.until_in_sync("a")
                assert len((await producer.send(b"three again")).copies) == 3


@in_virtual_time
@pytest.mark.parametrize("dies", [True, False])
async def test_r7_the_silence_for_which_a_primary_lost_its_reign_counts_where_a_replica_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """A failover waits for the lease, and not for ``replica_timeout_ms`` after that; one that answers is not gone."""

    async def dies_with_it(keeper: Keeper, to: bytes = b"") -> None:
        if keeper.holder is not None:
            keeper.holder.end()

    async with set_of_nodes(tmp_path, "abc", **coordinated(f"silent-{dies}"), **SYNC) as nodes:
        await begin(nodes)
        lost = nodes.node("a").store.node_id
        monkeypatch.setattr(Keeper, "release", dies_with_it)
        if dies:
            await nodes.cut_off("a")
        else:
            roles = nodes.node("a").roles
            assert isinstance(roles, ElectedKeeper)
            roles.lease_lost("it was told so")
            await nodes.until(lambda: nodes.node("a").reign is None)
        await nodes.until(lambda: primary_of(nodes) is not None)
        winner = primary_of(nodes)
        assert winner is not None
        roles = nodes.node(winner).roles
        assert roles is not None
        assert isinstance(roles.role, Reigning)
        assert [us >= 1_000_000 for us in roles.role.set_up.silent_us.values()] == ([True] if dies else [])
        assert dies == (lost in roles.role.set_up.silent_us)
        monkeypatch.undo()


@in_virtual_time
async def test_r8_the_set_does_not_shrink_below_copies_and_sends_wait(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, **coordinated("r8"), **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"both")
                await nodes.cut_off("b")
                await nodes.until(lambda: nodes.node("a").reign.set.facts()[0].gone_since_us is not None)  # type: ignore[union-attr]
                with trio.move_on_after(1.2) as waited:
                    await producer.send(b"alone")
                assert waited.cancelled_caught
                await nodes.start("b")
                with trio.fail_after(120):
                    await producer.send(b"again")
        assert await read_all(nodes, 3) == [b"both", b"alone", b"again"]


@in_virtual_time
async def test_a_switchover_takes_no_lease_and_the_next_primary_has_everything(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("switched", lease_ms=5_000), **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
        sent: list[bytes] = []
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_until, nodes, sent, stop)
            await nodes.until(lambda: len(sent) > 20)
            began = trio.current_time()
            await nodes.call("a", "set.switchover", to="b")
            assert nodes.node("b").reign is not None
            before = len(sent)
            await nodes.until(lambda: len(sent) > before + 20)
            assert trio.current_time() - began < 5  # the lease of the old reign was given up, not waited for
            stop.set()
        assert await read_all(nodes, len(sent)) == sent


@in_virtual_time
async def test_r9_a_promotion_has_the_primary_that_still_reigns_hand_over_at_once(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("promoted", lease_ms=5_000), **SYNC) as nodes:
        await begin(nodes)
        await nodes.until(lambda: follows(nodes, "b"))
        began = trio.current_time()
        assert (await nodes.call("b", "set.promote"))["role"] == "primary"
        assert primary_of(nodes) == "b"
        assert trio.current_time() - began < 5  # neither a lease nor an order was waited for


@in_virtual_time
async def test_a_switchover_says_who_can_take_over(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("who"), **SYNC) as nodes:
        await begin(nodes)
        with pytest.raises(MqcoreError, match="a is the primary already"):
            await nodes.call("a", "set.switchover", to="a")
        await nodes.until(lambda: follows(nodes, "b") and follows(nodes, "c"))
        await nodes.cut_off("c")
        await nodes.until(lambda: not follows(nodes, "c"))
        with pytest.raises(MqcoreError, match=r"c cannot take over: it is not in sync.*; in sync and following: b$"):
            await nodes.call("a", "set.switchover", to="c")
        await nodes.cut_off("b")
        await nodes.until(lambda: not follows(nodes, "b"))
        with pytest.raises(MqcoreError, match=r"following: none: mend what keeps them away, .*; or stop a, "):
            await nodes.call("a", "set.switchover")


@in_virtual_time
async def test_r14_without_a_record_no_node_reigns_and_a_begun_set_is_not_begun_again(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, **coordinated("r14e"), **SYNC) as nodes:
        await nodes.start()
        await nodes.until(lambda: all(run.node.roles.keeper.pair is not None for run in nodes.runs.values()))  # type: ignore[union-attr]
        assert primary_of(nodes) is None
        await nodes.init("b")
        with pytest.raises(MqcoreError, match="has a record already"):
            await nodes.init("a")
        assert (await nodes.call("b", "set.describe"))["role"] == "primary"


@in_virtual_time
async def test_r11_a_primary_that_was_stopped_for_longer_than_its_lease_acknowledges_nothing_more(
    tmp_path: Path,
) -> None:
    """G09: asynchronous replication, so that nothing but the lease keeps the old primary from acknowledging."""
    async with set_of_nodes(tmp_path, **coordinated("r11"), **ASYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"1")
                keeper = nodes.node("a").roles.keeper  # type: ignore[union-attr]
                keeper.holder.end()
                await producer.send(b"2")
                # Appended by the old reign, and acknowledged by a later one, which has it.
                assert max(run.node.store.epoch for run in nodes.runs.values()) > 1


LONG_LEASE = {"lease_ms": 240_000}
"""So long that what waits for it does not come to its end in a test, nor what waits for a part of it."""


@in_virtual_time
async def test_r11_a_node_whose_reign_failed_gives_its_lease_up_and_another_one_waits_for_nothing(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("failed", **LONG_LEASE), **SYNC) as nodes:
        await begin(nodes)
        roles = nodes.node("a").roles
        assert roles is not None
        roles.failed(roles.role, MqcoreError("its disk is gone"))
        await nodes.until(lambda: primary_of(nodes) in ("b", "c"), 60)


@in_virtual_time
async def test_r11_a_node_that_cannot_open_its_reign_gives_its_lease_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("not-opened", **LONG_LEASE), **SYNC) as nodes:
        await begin(nodes)
        sick, reign = nodes.node("b").store, LogStore.reign

        async def reigns_not_there(store: LogStore, *arguments: Any, **named: Any) -> Any:
            if store is sick:
                raise StorageError("cannot write identity: Input/output error; look at the device", kind="io")
            return await reign(store, *arguments, **named)

        monkeypatch.setattr(LogStore, "reign", reigns_not_there)
        await nodes.until(lambda: follows(nodes, "b") and follows(nodes, "c"))
        with pytest.raises(MqcoreError):
            await nodes.call("b", "set.promote")
        await nodes.until(lambda: primary_of(nodes) in ("a", "c"), 60)
        assert "role-failed" in nodes.kinds("b")


@in_virtual_time
async def test_r11_a_primary_that_stops_in_order_is_followed_at_once(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("in-order", **LONG_LEASE), **SYNC) as nodes:
        await begin(nodes)
        await nodes.stop("a")
        await nodes.until(lambda: primary_of(nodes) in ("b", "c"), 30)  # raises where the lease is waited out
        assert primary_of(nodes) != "a"


@in_virtual_time
async def test_r14_a_reign_that_begins_while_a_candidate_asks_is_no_record_that_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("r14-meanwhile"), **SYNC) as nodes:
        await begin(nodes)
        asks = ElectedKeeper._states
        b_asks = trio.Event()

        async def states(keeper: ElectedKeeper) -> Any:
            if keeper.config.name != "b":
                await b_asks.wait()  # or b would never ask, where c is quicker
                return await asks(keeper)
            seen = keeper.keeper.pair, copy(keeper.keeper.observer)
            b_asks.set()
            await nodes.until(lambda: primary_of(nodes) == "c")
            found = await asks(keeper)
            keeper.keeper.pair, keeper.keeper.observer = seen  # as if nothing had been read meanwhile
            return found

        monkeypatch.setattr(ElectedKeeper, "_states", states)
        await nodes.cut_off("a")
        await nodes.until(lambda: primary_of(nodes) == "c")
        await nodes.until(lambda: follows(nodes, "b", "c"))
        assert [notice.text for node, notice in nodes.notices if node == "b" and "went back" in notice.text] == []


@in_virtual_time
async def test_g13_a_node_with_a_log_that_cannot_be_opened_reigns_for_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can open all of them comes first; but it is there, and the one log is told of."""
    async with set_of_nodes(tmp_path, "ab", **coordinated("g13-log"), **ASYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("sick")
            await client.admin.create_topic("orders")
            for topic in ("sick", "orders"):
                async with client.producer(topic) as producer:
                    await producer.send(b"kept")
            name = f"{(await client.admin.resolve_topic('sick')).id}-0"
        await nodes.until_same("a", "b")
        await nodes.stop("b")
        opens = LogOpener.open

        async def opened(opener: LogOpener, log: str, *arguments: Any, **named: Any) -> Any:
            if log == name:
                raise CorruptionError("damaged segment header", where=f"log {name}")
            return await opens(opener, log, *arguments, **named)

        monkeypatch.setattr(LogOpener, "open", opened)
        await nodes.start("b")
        await nodes.until(lambda: follows(nodes, "b"))
        await nodes.cut_off("a")
        await nodes.until(lambda: primary_of(nodes) == "b")
        assert await read_all(nodes, 1) == [b"kept"]
        assert "log-not-opened" in nodes.kinds("b")


@in_virtual_time
async def test_a_node_takes_no_other_role_while_it_carries_out_an_order_that_may_make_it_reign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an order may be fetching what others have more of, which a follower beside it would end with the process."""
    async with set_of_nodes(tmp_path, "ab", **coordinated("one-role"), **ASYNC) as nodes:
        await begin(nodes)
        keeper = nodes.node("b").roles
        assert isinstance(keeper, ElectedKeeper)
        await nodes.until(lambda: isinstance(keeper.role, Following))
        roles: list[str] = []

        async def asked() -> None:
            await keeper._decide()
            roles.append(describe_role(keeper.role))
            raise CommandNotPossibleError("seen enough")

        async def needed(_: bool) -> None:
            patched.setattr(keeper, "_recovered", lambda _: asked())

        with monkeypatch.context() as patched:
            patched.setattr(keeper, "_recovered", needed)
            with pytest.raises(CommandNotPossibleError, match="seen enough"):
                await keeper.recover(missing_are_lost=False)
        assert roles == ["waits: its record is made anew"]
        await nodes.until(lambda: follows(nodes, "b"))


@in_virtual_time
async def test_g14_who_keeps_the_set_knows_of_a_level_that_fell_on_a_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device was ejected there: what it holds counts for less, and the set is told, not the logs alone (R6)."""
    async with set_of_nodes(tmp_path, "ab", **coordinated("fell"), **ASYNC) as nodes:
        await begin(nodes)
        reign, report_of = nodes.node("a").reign, FollowSession._report_of
        assert reign is not None
        own_set = reign.set
        assert own_set is not None

        def fallen(session: FollowSession, number: int) -> LogPositions | None:
            report = report_of(session, number)
            return None if report is None else report._replace(level=Level.PAGE_CACHE)

        def level_is(level: Level) -> bool:
            (replica,) = own_set.facts()
            return replica.level is level

        async with nodes.client() as client:
            await client.admin.create_topic("orders", partitions=1)
            async with client.producer("orders") as producer:
                await producer.send(b"first")
                await nodes.until(lambda: own_set.holds_everything(own_set.facts()[0].member.node_id))
                await nodes.until(partial(level_is, Level.DISK))
                monkeypatch.setattr(FollowSession, "_report_of", fallen)
                await producer.send(b"second")
                await nodes.until(partial(level_is, Level.PAGE_CACHE))


@pytest.mark.parametrize(
    ("urls", "is_refused"),
    [
        (("tcp://10.0.0.1:7400", "tcp://10.0.0.2:7400"), True),
        (("tcp://127.0.0.1:7400", "tcp://10.0.0.2:7400"), True),
        (("tcp://10.0.0.1:7400", "tcp://10.0.0.1:7401"), False),
        (("tcp://127.0.0.1:7400", "tcp://localhost:7401"), False),
        (("unix:///run/a.sock", "tcp://[::1]:7401"), False),
    ],
)
def test_r1_a_coordinator_of_one_host_is_refused_for_nodes_of_several(
    tmp_path: Path, urls: tuple[str, str], is_refused: bool
) -> None:
    config = make_config(
        name="a",
        storage=f"mmap://{tmp_path}/a",
        listen=urls[0],
        insecure=True,
        cluster={
            "set": "s",
            "coordinator": f"file://{tmp_path}/cells",
            "sets": [
                {"name": "s", "nodes": [{"name": name, "urls": [url]} for name, url in zip("ab", urls, strict=True)]}
            ],
        },
    )
    with pytest.raises(RefusedError, match="one host, and the nodes a and b") if is_refused else nullcontext():
        Node(config, ports=system_ports())


@in_virtual_time
@pytest.mark.parametrize("on_missing", ["block", "reject"])
async def test_a_send_that_the_set_is_too_small_for_is_not_appended(tmp_path: Path, on_missing: str) -> None:
    """Guarantees, section 1: ``reject`` answers, ``block`` holds the request un-appended until a node is back."""
    replication = f"sync(copies=3, level=disk, on_missing={on_missing})"
    async with set_of_nodes(
        tmp_path, "abc", **coordinated(f"missing-{on_missing}"), flush="sync", replication="sync(copies=2, level=disk)"
    ) as nodes:
        await begin(nodes)
        await nodes.cut_off("c")
        async with nodes.client("a") as client:
            await client.admin.create_topic("two")
            async with client.producer("two") as producer:
                await producer.send(b"c leaves the set for this")
            await client.admin.create_topic("orders", config={"replication": replication})
            topic = bytes.fromhex((await client.admin.resolve_topic("orders")).id)
            reign = nodes.node("a").reign
            assert reign is not None
            log = (await reign.open_partition(topic, 0)).log
            async with client.producer("orders") as producer:
                if on_missing == "reject":
                    with pytest.raises(MqcoreError, match="too few nodes for 3 copies"):
                        await producer.send(b"1")
                else:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(producer.send, b"1")
                        await nodes.until(lambda: any(kind == "sends-blocked" for kind in nodes.kinds("a")))
                        assert log.end_offset == 0
                        await nodes.start("c")
                assert log.end_offset == (1 if on_missing == "block" else 0)


@in_virtual_time
@pytest.mark.parametrize("coordinator", ["memory://capped", "manual"])
async def test_r17_a_cap_lets_a_set_go_on_that_lost_its_replica_for_ever_and_receipts_say_so(
    tmp_path: Path, coordinator: str
) -> None:
    async with set_of_nodes(tmp_path, prefix=coordinator[:3], cluster={"coordinator": coordinator}, **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                assert len((await producer.send(b"two")).copies) == 2
                await nodes.cut_off("b")
                with pytest.raises(MqcoreError, match="lowers nothing"):
                    await nodes.call("a", "set.cap", copies=2, other_side_is_stopped=True)
                if coordinator == "manual":
                    with pytest.raises(MqcoreError, match="other-side-is-stopped"):
                        await nodes.call("a", "set.cap", copies=1)
                answer = await nodes.call("a", "set.cap", copies=1, other_side_is_stopped=True)
                assert answer["copies_cap"] == 1
                assert len((await producer.send(b"one")).copies) == 1
                await nodes.start("b")
                await nodes.until_in_sync("a")
                answer = await nodes.call("a", "set.cap", copies=None)
                assert answer["copies_cap"] is None
                assert len((await producer.send(b"two again")).copies) == 2


@in_virtual_time
async def test_r11_a_node_that_may_not_reign_for_want_of_its_coordinator_says_so(tmp_path: Path) -> None:
    """And its replica, that it follows nobody."""
    async with set_of_nodes(tmp_path, **coordinated("away"), **SYNC) as nodes:
        await begin(nodes)
        await nodes.until(lambda: follows(nodes, "b"))
        assert (await nodes.call("b", "set.describe"))["why"] == ""
        coordinator = server_called("away")
        coordinator.freeze()
        try:
            await nodes.until(lambda: nodes.node("a").reign is None)
            roles = nodes.node("a").roles
            assert roles is not None
            await nodes.until(lambda: "no node reigns while its coordinator" in describe_role(roles.role))
            await nodes.until(lambda: nodes.node("b").roles.follower.trouble)  # type: ignore[union-attr]
            assert (await nodes.call("b", "set.describe"))["why"] == nodes.node("b").roles.follower.trouble  # type: ignore[union-attr]
        finally:
            coordinator.thaw()
        await nodes.until(lambda: primary_of(nodes) is not None)


@in_virtual_time
async def test_r14_a_record_that_was_lost_is_made_anew_above_every_epoch(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, **coordinated("lost"), **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"kept")
        await nodes.stop("b")  # first, or it would reign as soon as the other one has stopped
        await nodes.stop("a")
        nodes.cluster = {"coordinator": "memory://another"}  # a coordinator that has never seen the set
        await nodes.start()
        await nodes.until(lambda: all(run.node.roles.keeper.pair is not None for run in nodes.runs.values()))  # type: ignore[union-attr]
        assert primary_of(nodes) is None
        await nodes.until(lambda: "`mqcore cluster recover` makes one" in describe_role(nodes.node("b").roles.role))  # type: ignore[union-attr]
        with pytest.raises(MqcoreError, match="stored something already"):
            await nodes.init("a")
        found = await nodes.call("a", "set.recover")
        assert [(each["name"], each["answered"], each["bytes"] > 0) for each in found["found"]] == [
            ("a", True, True),
            ("b", True, True),
        ]
        await nodes.until_in_sync("a")
        assert nodes.node("a").store.epoch == found["epoch"] == 2
        assert await read_all(nodes, 1) == [b"kept"]


@in_virtual_time
async def test_r16_a_replica_that_was_removed_and_is_added_again_while_it_follows_is_in_sync_again(
    tmp_path: Path,
) -> None:
    async with set_of_nodes(tmp_path, "abc", **coordinated("again"), **SYNC) as nodes:
        await begin(nodes)
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"three")
                removed = nodes.node("c").store.node_id
                await nodes.call("a", "replica.remove", name="c")
                await nodes.until(lambda: nodes.node("a").reign.set.record.member_of(removed) is None)  # type: ignore[union-attr]
                await nodes.until(lambda: removed not in nodes.node("a").reign.set.record.names)  # type: ignore[union-attr]
                await producer.send(b"two")
                await nodes.call("a", "replica.add", name="c")
                await nodes.until_in_sync("a")
                assert len((await producer.send(b"three again")).copies) == 3


@in_virtual_time
async def test_r16_a_node_that_holds_logs_of_another_set_is_not_added(tmp_path: Path) -> None:
    """It could not join, and who waits for that would wait for ever."""
    for root in ("first", "second"):
        (tmp_path / root).mkdir()
        async with set_of_nodes(tmp_path / root, **coordinated(root), **SYNC) as nodes:
            await begin(nodes)
            await nodes.until(lambda: follows(nodes, "b"))
            if root == "first":
                continue
            await nodes.stop("b")
            shutil.rmtree(tmp_path / "second" / "b")
            shutil.copytree(tmp_path / "first" / "b", tmp_path / "second" / "b")
            await nodes.start("b")
            with pytest.raises(MqcoreError, match="start b with an empty storage"):
                await nodes.call("a", "replica.add", name="b")


@in_virtual_time
async def test_r16_a_node_that_is_not_of_the_set_is_told_the_order_that_adds_it_and_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries again every few seconds for as long as it runs."""
    attempts: list[str] = []
    say_why = Feeder._say_why

    async def counted(feeder: Feeder, error: BaseException) -> None:
        await say_why(feeder, error)
        attempts.append(feeder.name)

    monkeypatch.setattr(Feeder, "_say_why", counted)
    async with set_of_nodes(tmp_path, "abc", **coordinated("stranger"), **SYNC) as nodes:
        await begin(nodes)
        removed = nodes.node("c").store.node_id
        await nodes.call("a", "replica.remove", name="c")
        await nodes.until(lambda: removed not in nodes.node("a").reign.set.record.names)  # type: ignore[union-attr]
        for _ in range(2):
            await nodes.cut_off("c")
            attempts.clear()
            await nodes.start("c")
            await nodes.until(lambda: attempts == ["c"] * 3)
        remedy = f"node c, of the id {removed.hex()}, is not in the set: `mqcore replica add c --wait` takes it in"
        told = [notice.text for name, notice in nodes.notices if (name, notice.kind) == ("a", "follower-refused")]
        assert len(told) == 1
        assert remedy in told[0]
        assert remedy in nodes.node("c").roles.follower.why  # type: ignore[union-attr]
        await nodes.call("a", "replica.add", name="c")
        await nodes.until_in_sync("a")
        await nodes.call("a", "replica.remove", name="c")
        await nodes.until(lambda: removed not in nodes.node("a").reign.set.record.names)  # type: ignore[union-attr]
        await nodes.cut_off("c")
        await nodes.start("c")
        await nodes.until(lambda: nodes.kinds("a").count("follower-refused") == 2)


@in_virtual_time
@pytest.mark.parametrize("asked", ["a", "b"])
async def test_r14_a_recovery_that_is_not_needed_is_refused_and_the_primary_reigns_on(
    tmp_path: Path, asked: str
) -> None:
    async with set_of_nodes(tmp_path, **coordinated(f"needless-{asked}"), **SYNC) as nodes:
        await begin(nodes)
        await nodes.until(lambda: follows(nodes, "b"))
        reign, follower = nodes.node("a").reign, nodes.node("b").roles.follower  # type: ignore[union-attr]
        with pytest.raises(MqcoreError, match="there is nothing to recover"):
            await nodes.call(asked, "set.recover")
        assert reign is not None
        assert nodes.node("a").reign is reign
        assert follower is not None
        assert nodes.node("b").roles.follower is follower  # type: ignore[union-attr]


@in_virtual_time
@pytest.mark.parametrize("orders", [(1, 2, 1), (1, 1, 1)])
async def test_r17_of_several_orders_to_cap_the_copies_one_is_in_force_and_no_caller_waits_for_ever(
    tmp_path: Path, orders: tuple[int, ...]
) -> None:
    three = {"flush": "sync", "replication": "sync(copies=3, level=disk)"}
    async with set_of_nodes(tmp_path, "abc", **coordinated(f"caps-{orders[1]}"), **three) as nodes:
        await begin(nodes)
        reign = nodes.node("a").reign
        assert reign is not None
        own_set = reign.set
        assert own_set is not None
        answers: list[str] = []

        async def order(copies_cap: int) -> None:
            try:
                await own_set.cap(copies_cap)
                answers.append("in force")
            except CommandNotPossibleError as error:
                answers.append(str(error))

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for copies_cap in orders:
                    nursery.start_soon(order, copies_cap)
        assert len(answers) == 3
        assert "in force" in answers
        assert own_set.record.copies_cap in (1, 2)


@in_virtual_time
async def test_g13_a_node_that_cannot_reign_leaves_it_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose disk failed a flush of its identity: it took the lease again and again."""
    async with set_of_nodes(tmp_path, "abc", **coordinated("g13-cannot"), **SYNC) as nodes:
        await begin(nodes)
        failing: list[LogStore] = []
        reign = LogStore.reign

        async def fails_for_the_first(store: LogStore, *arguments: Any, **named: Any) -> Any:
            failing[1:] = []
            failing.append(store)
            if failing[0] is store:
                raise FlushFailedError("a flush failed: restart", logs=["identity"])
            return await reign(store, *arguments, **named)

        monkeypatch.setattr(LogStore, "reign", fails_for_the_first)
        await nodes.cut_off("a")
        await nodes.until(lambda: primary_of(nodes) in ("b", "c"))
        primary = primary_of(nodes)
        assert primary is not None
        assert failing
        assert nodes.node(primary).store is not failing[0]
