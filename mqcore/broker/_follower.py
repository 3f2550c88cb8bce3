"""A follower: everything of a replica that lives as long as it follows one reign, in one nursery (architecture, 3a).

The counterpart of ``Reign``. It keeps a stream to the primary, copies every log of the set, and knows what is
committed, topics included. Must not know why this reign is followed, nor of listeners and client connections.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import trio

from mqcore.abc import Link, Notice
from mqcore.broker._copy import AGE_MS_NEVER, PartitionCopy
from mqcore.broker._cursor_log import CURSORS_KEY
from mqcore.broker._follow_session import FollowSession
from mqcore.broker._group_commit import GroupCommit
from mqcore.broker._set_policy import may_report_flushed_only, vouched_level
from mqcore.broker._topics import Topics, delete_logs
from mqcore.config import BrokerConfig
from mqcore.errors import (
    CommandNotPossibleError,
    CorruptionError,
    MqcoreError,
    NotPrimaryError,
    RejectedError,
    StorageError,
)
from mqcore.guarantees import FlushPolicy, SyncFlush
from mqcore.log import IncomingBatch, LogStart, LogStore, MetadataLog, PartitionLog, partition_log_name, partition_salt
from mqcore.nurseries import one_error
from mqcore.ports import Ports
from mqcore.protocol import Code
from mqcore.replication import CommitPolicy

__all__ = ["FollowedPrimary", "Follower"]

_METADATA_ID = bytes(16)
_PAUSE_S_MIN = 0.05
_PAUSE_S_MAX = 2.0
_OPEN_AGAIN_S_MAX = 60.0


class FollowedPrimary:
    """The reign that is followed: its ``epoch``, ``reign_id`` and node, and how to ``connect`` to that."""

    def __init__(
        self, epoch: int, reign_id: bytes, node_id: bytes, urls: tuple[str, ...], connect: Callable[[], Awaitable[Link]]
    ) -> None:
        self.epoch = epoch
        self.reign_id = reign_id
        self.node_id = node_id
        self.urls = urls
        self.connect = connect


class Follower:
    """This node as replica of ``primary``, on an open store that is of its set. ``run`` it.

    ``copies`` are the partitions by topic id and index. ``lost`` is called whenever the stream could not be had or was
    ended: whether that reign is still the one to follow is decided elsewhere. ``came``: whenever it is reached.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store: LogStore,
        primary: FollowedPrimary,
        *,
        ports: Ports,
        flush_policy: FlushPolicy,
        report: Callable[[Notice], None],
        ended: Callable[[], None],
        lost: Callable[[], None],
        came: Callable[[], None] = lambda: None,
    ) -> None:
        self.primary = primary
        self.store = store
        self.copies: dict[tuple[bytes, int], PartitionCopy] = {}
        self.topics = Topics(MetadataLog(store, self._refuse_commit), config.limits, ports, report)
        self.group_commit = GroupCommit(store, ports.clock.monotonic_us)
        self.session: FollowSession | None = None
        self.why = "it has not reached the primary yet"
        self._config = config
        self._limits = config.limits
        self._ports = ports
        self._flush_policy = flush_policy
        self._report = report
        self._ended = ended
        self._lost = lost
        self._came = came
        self._metadata: PartitionCopy | None = None
        self._confirmed_at: float | None = None
        self._removing: set[bytes] = set()
        self._session_scope = trio.CancelScope()
        self._given_up: set[str] = set()
        self._unopened: set[str] = set()
        self._open_again_s = 1.0
        self._flushed_only: bool | None = None  # what the topics ask for (R2 b), as far as it is not so yet
        self._asked_in_vain: bool | None = None  # what it stayed at the contrary of

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow until cancelled; ``task_status`` is told when the number is durable (R4).

        Raises ``StorageError``. However it ends, nothing of it acts any more when this returns.
        """
        await self.store.follow(self.primary.epoch, self.primary.reign_id)
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._close_when_left)
                    await nursery.start(self.group_commit.run)
                    task_status.started()
                    await self._stay_connected()
        finally:
            self._close()
            await self.store.leave()

    async def _close_when_left(self) -> None:
        # As in a reign: what waits shielded for a flush must not hold up those that wait for an answer.
        try:
            await trio.sleep_forever()
        finally:
            self._close()

    def _close(self) -> None:
        self._ended()
        error = CommandNotPossibleError(f"this node does not follow the reign of epoch {self.primary.epoch} any more")
        for copy in self._all_copies():
            copy.close(Code.NOT_PRIMARY, error)

    def _all_copies(self) -> list[PartitionCopy]:
        own = [] if self._metadata is None else [self._metadata]
        return [*own, *self.copies.values()]

    # the stream

    async def _stay_connected(self) -> NoReturn:
        failures = 0
        while True:
            began, before = trio.current_time(), self.why
            try:
                await self._follow_once()
            except (MqcoreError, OSError) as error:
                if str(error) != self.why:
                    self._report(Notice("following-interrupted", f"following {self.primary.urls[0]}: {error}"))
                self.why = str(error)
            was_followed = self.session is not None and self.session.confirmed_at is not None
            _ = self.known_age_ms  # what the session knew goes on growing old
            self.session = None
            # What ends each session as it begins, as where the primary's log has stopped, is not tried again at once.
            is_same = self.why == before and trio.current_time() - began < _PAUSE_S_MAX
            failures = 0 if was_followed and not is_same else failures + 1
            self._lost()
            pause_s = min(_PAUSE_S_MAX, _PAUSE_S_MIN * 2 ** min(failures, 10))
            await trio.sleep(pause_s * (0.5 + self._ports.random.random() / 2))

    async def _follow_once(self) -> None:
        timeout_s = self._limits.handshake_timeout_ms / 1000
        link: Link | None = None
        with trio.move_on_after(timeout_s):
            link = await self.primary.connect()
        if link is None:
            raise CommandNotPossibleError(f"no connection within {timeout_s:g} s")
        try:
            # Between two sessions, for each says at its beginning what the node vouches for (R2 b).
            if (wanted := self._flushed_only) is not None:
                self._asked_in_vain = wanted if await self.store.report_flushed_only(wanted) != wanted else None
                self._flushed_only = None
            self._session_scope = trio.CancelScope()
            for copy in self._all_copies():
                copy.outdated()  # until it hears in this session what is committed, which the primary then confirms
            self.session = FollowSession(
                await link.open_stream(),
                self.store,
                name=self._config.name,
                session=self._ports.random.randbytes(16),
                limits=self._limits,
                append_level=vouched_level(self.store),
                open_copy=self._open_copy,
                committed=self._committed,
                begin_anew=self._begin_anew,
                damaged=self._give_up_damaged,
                report=self._report,
            )
            self._came()
            with self._session_scope, one_error():
                await self.session.run()
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(link)

    @property
    def trouble(self) -> str:
        """Why it does not follow at this moment, or not with every log; empty while it does."""
        if self.session is None or self.session.confirmed_at is None:
            return self.why
        return next(
            (f"a log is not copied any more: {each.failure}" for each in self._all_copies() if each.failure), ""
        )

    def _moved(self, copy: PartitionCopy) -> None:
        if self.session is not None:
            self.session.moved(copy)

    @property
    def known_age_ms(self) -> int:
        """How long ago the primary last confirmed that it reigns (G19); large when it never has."""
        if self.session is not None and self.session.confirmed_at is not None:
            self._confirmed_at = self.session.confirmed_at
        if self._confirmed_at is None:
            return AGE_MS_NEVER
        return max(0, round((trio.current_time() - self._confirmed_at) * 1000))

    # logs

    async def _open_copy(self, topic_id: bytes, index: int) -> PartitionCopy | None:
        if topic_id == _METADATA_ID:
            if self._metadata is None:
                self._metadata = self._copy(await self.store.open_metadata(), CommitPolicy(flush=SyncFlush()))
            return self._metadata
        copy = self.copies.get((topic_id, index))
        if copy is None:
            if topic_id in self.topics.gone:
                return None
            name, salt = partition_log_name(topic_id, index), partition_salt(topic_id, index)
            try:
                log = await self.store.open_log(name, salt=salt)
            except (StorageError, CorruptionError) as error:
                self._not_opened(name, error)
                return None
            self._unopened.discard(name)
            copy = self.copies[topic_id, index] = self._copy(log, self._policy_of(topic_id))
        return copy

    def _not_opened(self, name: str, error: MqcoreError) -> None:
        """Try again in another session, for a log is named once in each: ever more seldom, for it holds others up."""
        if name not in self._unopened:
            self._unopened.add(name)
            self._report(Notice("log-not-copied", f"log {name} cannot be copied, and is tried again: {error}"))
        if self._session_scope.deadline == math.inf:
            self._session_scope.deadline = trio.current_time() + self._open_again_s
            self._open_again_s = min(2 * self._open_again_s, _OPEN_AGAIN_S_MAX)

    def _copy(self, log: PartitionLog, policy: CommitPolicy) -> PartitionCopy:
        return PartitionCopy(
            log,
            policy=policy,
            flusher=self.group_commit,
            now_us=self._ports.clock.monotonic_us,
            moved=self._moved,
            known_age_ms=lambda: self.known_age_ms,
            report=self._report,
        )

    def _policy_of(self, topic_id: bytes) -> CommitPolicy:
        """The policy by which a copy is flushed; of a topic that is not known yet, the broker's own."""
        if topic_id == CURSORS_KEY[0]:
            return CommitPolicy(flush=SyncFlush())
        topic = self.topics.by_id.get(topic_id)
        config, default = self._config, self._config.replication.value
        if topic is None:
            return CommitPolicy(flush=self._flush_policy, replication=default)
        return CommitPolicy(
            flush=topic.config.flush or self._flush_policy,
            weakest_send=topic.config.weakest_send,
            replication=topic.config.replication or config.replication.value,
            stable_only=topic.config.visible == "stable",
        )

    async def _committed(self, copy: PartitionCopy) -> None:
        """Take in that more of a log is committed: of the metadata log, what it says is in force now (R13)."""
        if copy is not self._metadata:
            await self._trim(copy)
            return
        await self.topics.take_committed(copy.committed_offset)
        if (snapshot := self.topics.snapshot) is not None:  # what lies before it says nothing any more, on any node
            await self._trim_to(copy, LogStart(snapshot.offset, snapshot.position))
        # Once for each topic, not for each of its partitions: of ten thousand this would hold everything else up.
        policies = {each: self._policy_of(each) for each in {*self.topics.by_id, *(key[0] for key in self.copies)}}
        for (topic_id, index), each in list(self.copies.items()):
            if topic_id in self.topics.gone:
                del self.copies[topic_id, index]
                each.close(Code.UNKNOWN_TOPIC, CommandNotPossibleError("the topic was deleted"))
                self.group_commit.forget(each)
                if self.session is not None:
                    self.session.forget(each)
            else:
                each.policy = policies[topic_id]
                if each.log.name in self.topics.starts:
                    await self._trim(each)
        # Not ``deleted`` alone: where this node was away meanwhile, it learns at once that they are gone elsewhere.
        if gone := self.topics.gone.keys() - self._removing:
            self._removing = set(self.topics.gone)
            await delete_logs(self.store, gone)

        self._judge_reports([policies[each] for each in self.topics.by_id], is_current=copy.is_current)

    def _judge_reports(self, policies: Sequence[CommitPolicy], *, is_current: bool) -> None:
        """Have another session begin if this node is to vouch for less than it does, or can for more (R2 b).

        ``policies``: of the topics; ``is_current``: whether these are all.
        """
        policies = policies or [self._policy_of(_METADATA_ID)]  # that of topics to come
        may = may_report_flushed_only(self.store.backend.capabilities, policies)
        if may != self.store.flushed_only and may != self._asked_in_vain and (not may or is_current):
            self._flushed_only = may
            self._session_scope.cancel()

    async def _trim(self, copy: PartitionCopy) -> None:
        """Trim a copy to where its primary has said that the log begins, once that is committed here (R15)."""
        if (begins := self.topics.starts.get(copy.log.name)) is not None:
            await self._trim_to(copy, begins)

    async def _trim_to(self, copy: PartitionCopy, begins: LogStart) -> None:
        if copy.failure is not None:
            return
        log = copy.log
        # By position too, so that it begins where its primary's does; what is there may still be on its way.
        if log.start_offset < begins.offset <= copy.committed_offset and begins.position < log.end_position:
            for offset, at in log.trim_steps(begins.offset, begins.position):
                await log.trim(offset, at)

    async def _begin_anew(self, copy: PartitionCopy, position: int, told: LogStart) -> PartitionCopy:
        """Begin a log anew where its primary's begins, at ``position`` (R15). Raises ``StorageError``.

        ``told``: where, as the primary says of its metadata log. If it held anything, the session ends with that too:
        it was opened under the incarnation that the node had.
        """
        log, begins = copy.log, self.topics.starts.get(copy.log.name, LogStart())
        begins = told if copy is self._metadata else begins
        if begins.position != position:
            text = f"log {log.name} ends at {log.end_position}, the primary's begins at {position}, and where that is"
            raise StorageError(f"{text} is not known here yet", kind="missing", retryable=True)
        held, incarnation = log.end_offset - log.start_offset, self.store.incarnation
        key = self._drop(copy)
        await self.store.begin_anew(log.name, begins, kept_for="the primary has trimmed what follows it")
        text = f"log {log.name} begins anew at offset {begins.offset}, where its primary's begins"
        text += f"; {held} messages that it had are kept aside" if held else ""
        self._report(Notice("copy-begun-anew", text, {"log": log.name, "offset": begins.offset}))
        anew = await self._open_copy(*key)
        if anew is None or self.store.incarnation != incarnation:  # by what only opened a reign, too
            raise StorageError(f"{text}: following begins again", kind="closed", retryable=True)
        return anew

    def _drop(self, copy: PartitionCopy) -> tuple[bytes, int]:
        """Serve a copy no more, for it is begun anew; return its topic and partition."""
        copy.close(Code.NOT_PRIMARY, CommandNotPossibleError("the copy is begun anew"))
        self.group_commit.forget(copy)
        if copy is self._metadata:
            self._metadata = None
            self.topics.began_anew()
            return _METADATA_ID, 0
        (key,) = (key for key, each in self.copies.items() if each is copy)
        del self.copies[key]
        return key

    async def _give_up_damaged(self, copy: PartitionCopy) -> None:
        """Give up a damaged copy of which the primary holds everything, if ``copy_anew`` said so, to copy it anew.

        It is kept aside: what of it is good may be what another copy lacks. Raises ``StorageError``, which ends the
        session: it was opened under the incarnation that the node had.
        """
        log = copy.log
        if log.name not in self._given_up:
            return
        self._given_up.discard(log.name)  # if it cannot be kept aside the log is followed on, until it is said again
        damages = "; ".join(damage.place for damage in log.damages)
        self._drop(copy)
        begins = self.topics.starts.get(log.name, LogStart())
        await self.store.begin_anew(log.name, begins, kept_for="it is damaged, and another node has it whole")
        text = f"log {log.name}: {damages} are damaged here: it is kept aside and copied anew from the primary"
        self._report(Notice("copy-begun-anew", text, {"log": log.name, "offset": log.start_offset}))
        raise StorageError(f"{text}: following begins again", kind="closed", retryable=True)

    def copy_anew(self, log: str) -> None:
        """Take in that a copy is damaged where others are whole: a session that begins with what it has gives it up.

        That is the next one if the copy is open; else the one that opens it, which may be doing so just now.
        """
        if log in self._given_up:
            return  # said before: the session that is there now gives it up as soon as the primary is known to hold it
        self._given_up.add(log)
        if any(copy.log.name == log for copy in self.copies.values()):
            self._session_scope.cancel()

    async def _refuse_commit(self, make: Callable[[], IncomingBatch], appended: Callable[[], None]) -> int:
        raise StorageError("a replica writes nothing of its own into the metadata log", kind="closed")

    # reading

    def open_partition(self, topic_id: bytes, index: int) -> PartitionCopy:
        """Return the copy of a partition. Raises ``RejectedError`` where there is none.

        That is a ``NotPrimaryError`` where there is to be one: it has not begun yet, or is begun anew.
        """
        copy = self.copies.get((topic_id, index)) if topic_id != CURSORS_KEY[0] else None
        if copy is None:
            text = "this replica has no copy of it (yet): ask the primary"
            topic = self.topics.by_id.get(topic_id)
            if topic is not None and 0 <= index < topic.partitions:
                primary = self.primary
                raise NotPrimaryError(text, code=Code.NOT_PRIMARY, epoch=primary.epoch, urls=list(primary.urls))
            code = Code.UNKNOWN_TOPIC if topic is None else Code.UNKNOWN_PARTITION
            raise RejectedError(text, code=code, name=code.label)
        return copy
