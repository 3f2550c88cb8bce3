"""Cursors of groups in an offset store, for a broker that is told to keep them outside its own logs (G16).

The store orders commits by stamps (decision 0024): here the generation is the epoch of the reign, so that a reign which
was replaced can write nothing any more, and each group counts its commits. A store that is down is asked again until it
answers: nothing that was accepted is dropped, and nothing is acknowledged before it is there. Must not know members.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import attrs
import trio

from mqcore.abc import CommitStamp, Cursor, CursorKey, Notice, OffsetStore, OffsetStoreContext
from mqcore.broker._reach import check_reach
from mqcore.config import BrokerConfig
from mqcore.errors import (
    MqcoreError,
    OffsetStoreError,
    OffsetStoreFencedError,
    OffsetStoreForeignError,
    OffsetStoreOutcomeUnknownError,
    OffsetStoreUnavailableError,
)
from mqcore.groups import CursorTable, pack_cursors, pack_deleted
from mqcore.log import EpochEntry
from mqcore.nurseries import one_error
from mqcore.ports import Ports
from mqcore.registry import create_offset_store

__all__ = ["IN_LOG", "StoredCursors", "make_offset_store"]

T = TypeVar("T")
Done = Callable[[MqcoreError | None], None]
Entry = tuple[int, int, int]
"""Partition, offset and epoch."""

IN_LOG = "log"
"""What ``offset_store`` says of cursors that are in a log of the broker, whatever was kept elsewhere before."""

_MARK = ""
"""The group, of a name that no group has, whose stamp says which reign was here last: number, and bits of its id."""
_NO_ID = 1
"""The mark's number where the reign's id is not known."""
_REMEDY = f'Name the one that has them, put back a copy, or write offset_store = "{IN_LOG}" to begin without them'
_AT_ONCE = 16
"""Groups that are read or written beside each other."""
_ENTRIES_WAITING_MAX = 250_000
_PAUSE_S = (0.2, 5.0)


@attrs.frozen
class _Change:
    """``entries`` to put in a topic; None: the group ends there."""

    topic_id: bytes
    entries: tuple[Entry, ...] | None
    done: Done


def make_offset_store(config: BrokerConfig, ports: Ports, report: Callable[[Notice], None]) -> OffsetStore | None:
    """Compose the offset store that ``config`` names; None where cursors are in a log. Opens nothing.

    Raises ``ConfigurationError``, ``RefusedError`` for one that not every node of the set would reach.
    """
    if config.offset_store in (None, IN_LOG):
        return None
    store = create_offset_store(
        config.offset_store, OffsetStoreContext(ports=ports, limits=config.limits, report=report)
    )
    if store.capabilities.one_host and config.own_set is not None:
        check_reach(f"the offset store {store.url}", config.own_set)  # a failover would lose every cursor
    return store


def _why_not(found: int, before: int, since: int) -> str:
    if not found:
        where = f"whose cursors were in an offset store in reign {before}"
        return f"has nothing of this set, {where}: it is another store, or was emptied"
    return f"was left in reign {found}: since reign {since} another one has the cursors of this set"


def _mark_number(reign_id: bytes) -> int:
    return _NO_ID + 1 + int.from_bytes(reign_id[:7], "little")


class StoredCursors:
    """The cursors of one reign in ``store``. ``take_over`` where they were elsewhere, ``load`` them, then ``run`` it.

    ``table`` is what is committed. ``reign``: number and id of the reign; ``earlier``: those before it, as the log has
    them. ``set_id``: of the logs that the cursors are about; brokers of several sets may share a store. ``topic_name``
    gives the name of a topic by its id, None for one that is not there any more; ``is_settled`` says whether that is
    committed.
    """

    def __init__(
        self,
        store: OffsetStore,
        table: CursorTable,
        *,
        set_id: bytes,
        reign: tuple[int, bytes],
        earlier: Sequence[EpochEntry] = (),
        topic_name: Callable[[bytes], str | None],
        is_settled: Callable[[], bool] = lambda: True,
        report: Callable[[Notice], None],
    ) -> None:
        self.store = store
        self.failure: MqcoreError | None = None
        """Why nothing is written any more: another reign has the cursors, or what is there is not ours."""
        self._failing = 0  # calls that are made again, as they got no answer
        self._table = table
        self._suffix = f"/{set_id.hex()}"
        self._generation, reign_id = reign
        self._mark = CommitStamp(self._generation, _mark_number(reign_id))
        self._earlier = earlier
        self._topic_name = topic_name
        self._is_settled = is_settled
        self._report = report
        self._numbers: dict[str, int] = {}
        self._waiting: dict[str, list[_Change]] = {}
        self._entries_waiting = 0
        self._busy: set[str] = set()
        self._wake = trio.Event()
        self._limiter = trio.CapacityLimiter(_AT_ONCE)

    @property
    def is_down(self) -> bool:
        """Whether a call of the store has got no answer, and is made again."""
        return self._failing > 0

    # reading

    async def mark(self, before: int = 0, since: int = 0) -> None:
        """Leave the mark of this reign in the store, which has that of reign ``before`` or a later one; 0: no matter.

        By it a store is known that is another one, or was emptied: to begin anew there in silence would pass over
        whatever groups have not read. So is one that cursors were kept in before reign ``since`` began with another.
        Of an older copy groups read again, which is told. Returns when it is there, however long the store is down;
        ``failure`` otherwise.
        """
        if self.failure is not None:
            return
        try:
            found = await self._found_mark()
            if before and found < max(since, 1):
                raise OffsetStoreForeignError(f"{self.store.url} {_why_not(found, before, since)}. {_REMEDY}")
            if found < before:
                text = (
                    f"{self.store.url} is as it was in reign {found}, and had the cursors in reign {before}: an older "
                    "copy was put back; groups go on where they were then, and younger ones begin anew"
                )
                self._report(Notice("cursors-went-back", text, {"found": found, "marked": before}))
            await self._answer(lambda: self.store.commit(_MARK + self._suffix, self._mark, {}))
        except MqcoreError as error:
            self._fail(error)

    async def _found_mark(self) -> int:
        """Number of the reign whose mark is in the store; 0 for none.

        Raises ``OffsetStoreForeignError`` where that reign is none of those that this one comes after: the storage was
        put back to an older state, and the numbers of its reigns stand for other messages than those of cursors here.
        """
        found = (await self._answer(lambda: self.store.load(_MARK + self._suffix))).stamp
        ids = {each.number: each.reign_id for each in self._earlier if any(each.reign_id)}
        own = _mark_number(ids[found.generation]) if found.generation in ids else found.number
        is_later = found.generation >= self._generation and found != self._mark
        if is_later or (found.number > _NO_ID and own != found.number):
            raise OffsetStoreForeignError(
                f"{self.store.url} has the mark of a reign {found.generation} that is not the one of this storage: it "
                "was put back to an older state, or is a copy, and cursors there may be about messages that it never "
                f'had. Put back the storage that goes with them, or write offset_store = "{IN_LOG}" to begin without '
                "them; after that, name a store that has nothing of this set"
            )
        return found.generation

    async def take_over(self) -> None:
        """Have the store hold what ``table`` has, and of this set nothing else: until now cursors were kept elsewhere.

        Returns when that is so, however long the store is down; what cannot be written is ``failure``.
        """
        known: dict[str, dict[bytes, list[Entry]]] = {}
        for (group, topic_id), cursors in self._table.topics.items():
            if cursors.count:
                known.setdefault(group, {})[topic_id] = list(cursors.items())

        async def take(group: str, is_there: bool) -> None:
            topics = known.get(group, {})
            if is_there:
                await self._commit(group, {})
                found = await self._answer(lambda: self.store.load(group + self._suffix))
                kept = {self._topic(topic_id) for topic_id in topics}
                for topic in sorted({key.topic for key in found.cursors} - kept):
                    await self._delete(group, topic)
            for topic_id, entries in topics.items():
                await self._put(group, topic_id, entries)
            if not topics:
                await self._delete(group, None)

        try:
            if self.failure is None:
                await self._found_mark()
        except MqcoreError as error:
            self._fail(error)
        await self._each_group(take, known)

    async def load(self) -> None:
        """Shut out earlier reigns, and read what there is into ``table``.

        Returns when all is read, however long the store is down; what cannot be read is ``failure``.
        """

        async def load(group: str, is_there: bool) -> None:
            await self._commit(group, {})
            found = await self._answer(lambda: self.store.load(group + self._suffix))
            topics: dict[str, list[Entry]] = {}
            for key, cursor in found.cursors.items():
                if key.partition >= self._table.partitions_max:
                    text = f"a cursor of partition {key.partition} of {key.topic[:60]!r}, which no topic can have"
                    raise OffsetStoreForeignError(f"{self.store.url}: {text}: no broker wrote that")
                topics.setdefault(key.topic, []).append((key.partition, cursor.offset, cursor.epoch))
            for topic, entries in topics.items():
                topic_id = self._topic_id(topic)
                if self._topic_name(topic_id) is not None:
                    self._apply(pack_cursors(group, topic_id, entries))
                elif self._is_settled():  # else another reign may yet have it that the topic was not deleted
                    await self._delete(group, topic)
            if not any(each == group for each, _ in self._table.topics) and self._is_settled():
                await self._delete(group, None)

        await self._each_group(load, ())

    async def _each_group(self, call: Callable[[str, bool], Awaitable[None]], more: Iterable[str]) -> None:
        """Call for every group of this set that the store has, and for ``more``, some of them beside each other."""

        async def one(group: str, is_there: bool) -> None:
            async with self._limiter:
                await call(group, is_there)

        try:
            if self.failure is not None:
                return
            names = await self._answer(self.store.groups)
            own = {name.removesuffix(self._suffix) for name in names if name.endswith(self._suffix)} - {_MARK}
            with one_error():
                async with trio.open_nursery() as nursery:
                    for group in sorted(own.union(more)):
                        nursery.start_soon(one, group, group in own)
        except MqcoreError as error:
            self._fail(error)

    def _topic_id(self, topic: str) -> bytes:
        try:
            topic_id = bytes.fromhex(topic.rpartition("/")[2])
        except ValueError:
            topic_id = b""
        if len(topic_id) != 16:
            raise OffsetStoreForeignError(f"{self.store.url}: a cursor of topic {topic[:60]!r}: no broker wrote that")
        return topic_id

    # writing

    @property
    def is_full(self) -> bool:
        """Whether so much waits for the store that no more is taken in."""
        return self._entries_waiting > _ENTRIES_WAITING_MAX

    def write(self, group: str, topic_id: bytes, entries: Iterable[Entry] | None, done: Done) -> None:
        """Put cursors, or with None end the group in a topic; ``done`` is called once that is in the store."""
        if self.failure is not None:
            done(self.failure)
            return
        change = _Change(topic_id, None if entries is None else tuple(entries), done)
        self._entries_waiting += len(change.entries or ())
        self._waiting.setdefault(group, []).append(change)
        self._wake.set()

    async def run(self) -> None:
        """Write what is asked for, until cancelled: of one group in order, of several beside each other."""
        async with trio.open_nursery() as nursery:
            while True:
                for group in self._waiting.keys() - self._busy:
                    self._busy.add(group)
                    nursery.start_soon(self._write_group, group)
                await self._wake.wait()
                self._wake = trio.Event()

    def close(self, error: MqcoreError) -> None:
        """Write nothing any more; what waits may or may not be in the store."""
        self.failure = self.failure or error
        waiting, self._waiting = self._waiting, {}
        for change in (each for changes in waiting.values() for each in changes):
            change.done(error)

    async def _write_group(self, group: str) -> None:
        try:
            while changes := self._waiting.get(group):
                async with self._limiter:
                    count, error = await self._write_some(group, changes)
                if self._waiting.get(group) is not changes:
                    return  # ``close`` has told all that stood in the list, which these did until now
                taken = changes[:count]
                del changes[:count]
                self._entries_waiting -= sum(len(change.entries or ()) for change in taken)
                if not changes:
                    self._waiting.pop(group, None)
                for change in taken:
                    change.done(error)
        finally:
            self._busy.discard(group)

    async def _write_some(self, group: str, changes: list[_Change]) -> tuple[int, MqcoreError | None]:
        """Write the first change, and those behind it that go with it into one commit; return how many, and why not."""
        first = changes[0]
        entries = [] if first.entries is None else list(first.entries)
        count = 1
        for each in [] if first.entries is None else changes[1:]:
            if each.entries is None or each.topic_id != first.topic_id:
                break
            entries += each.entries
            count += 1
        try:
            if self.failure is not None:
                raise self.failure
            if first.entries is None:
                await self._delete(group, self._topic(first.topic_id))
                self._apply(pack_deleted(group, first.topic_id))
            else:
                await self._put(group, first.topic_id, entries)
                self._apply(pack_cursors(group, first.topic_id, entries))
        except MqcoreError as error:
            self._fail(error)
            return count, error
        return count, None

    def _apply(self, record: bytes) -> None:
        self._table.apply(record, f"{self.store.url}")

    def _fail(self, error: MqcoreError) -> None:
        if self.failure is None:
            self.failure = error
            self._report(Notice("cursors-not-kept", f"no group is served: {error}"))

    # the store

    def _topic(self, topic_id: bytes) -> str:
        # Its name is for who looks into the store; a topic that was made again is another one.
        return f"{self._topic_name(topic_id) or ''}/{topic_id.hex()}"

    async def _put(self, group: str, topic_id: bytes, entries: Iterable[Entry]) -> None:
        topic = self._topic(topic_id)
        left = iter(entries)
        while part := list(islice(left, self.store.capabilities.commit_cursors_max)):
            cursors = {CursorKey(topic, partition): Cursor(offset, epoch) for partition, offset, epoch in part}
            await self._commit(group, cursors)

    async def _commit(self, group: str, cursors: dict[CursorKey, Cursor]) -> None:
        stamp = self._next_stamp(group)
        await self._answer(lambda: self.store.commit(group + self._suffix, stamp, cursors))

    async def _delete(self, group: str, topic: str | None) -> None:
        stamp = self._next_stamp(group)
        await self._answer(lambda: self.store.delete(group + self._suffix, stamp, topic))

    def _next_stamp(self, group: str) -> CommitStamp:
        number = self._numbers[group] = self._numbers.get(group, 0) + 1
        return CommitStamp(self._generation, number)

    async def _answer(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call until there is an answer: by its stamp a commit that is sent again is done once."""
        pause_s, is_failing = _PAUSE_S[0], False
        try:
            while True:
                try:
                    result = await call()
                except (OffsetStoreUnavailableError, OffsetStoreOutcomeUnknownError) as error:
                    if not is_failing:
                        is_failing = True
                        self._failing += 1
                        if self._failing == 1:
                            self._report(Notice("offset-store-down", f"commits of groups wait: {error}"))
                    await trio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _PAUSE_S[1])
                else:
                    if is_failing and self._failing == 1:  # others may go on failing, as where it is full
                        self._report(Notice("offset-store-answers", f"{self.store.url} answers again"))
                    return result
        except OffsetStoreFencedError as error:
            raise OffsetStoreFencedError(
                "a later reign has the cursors, of another node or of this one before its storage was put back to an "
                f"older state: {error}"
            ) from error
        except MqcoreError:
            raise
        except Exception as error:  # a part that is not ours ends groups, not the broker
            raise OffsetStoreError(f"{self.store.url}: it raised {type(error).__name__}: {error}") from error
        finally:
            self._failing -= is_failing
