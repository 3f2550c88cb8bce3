"""One replica as its primary serves it: names logs, sends what was appended, takes in what is held (R4, R5).

The shell around ``mqcore.protocol.FollowStream``. Data goes out as soon as it is appended, before this node has flushed
it, as far as the replica's credit allows; one writer sends what has gathered. Must not know of the in-sync set: what a
replica holds is reported, and who counts is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import trio

from mqcore.abc import Buffer, ByteStream, Notice, Peer
from mqcore.broker._fed_log import FedLog
from mqcore.broker._fed_reign import FedReign
from mqcore.broker._group_commit import Replying
from mqcore.broker._partition import Partition
from mqcore.errors import CorruptionError, MqcoreError, RemoteProtocolError, StorageError
from mqcore.guarantees import Level
from mqcore.log import LogPoint
from mqcore.nurseries import root_cause
from mqcore.pieces import PIECE_BYTES, in_pieces
from mqcore.protocol import (
    LOG_DATA_OVERHEAD_BYTES,
    VERSION_MAX,
    Code,
    CommittedOffsets,
    Credit,
    End,
    Fatal,
    Follow,
    Followed,
    FollowMessage,
    FollowRole,
    FollowStream,
    Heartbeat,
    LogData,
    LogNamed,
    LogPositions,
    Positions,
)
from mqcore.replication import Member, SyncPace, SyncProgress, SyncState

__all__ = ["Feeder"]

_METADATA_ID = bytes(16)
_DATA_BYTES_MAX = 1024 * 1024
_MESSAGES_SPARE = 64
_REPORTS_PER_TURN = 64
_FRAMES_PER_SECOND_MIN = 10
_PACED_BYTES_MIN = 16 * 1024
"""A rate is kept by frames that small, or a slow one would send nothing for seconds and then much at once."""
_GATHERED_BYTES = 256 * 1024
"""Small frames of several logs go out with one call, up to about this."""


class Feeder:
    """The primary's end of one replica's stream, in one reign. ``serve`` it; ``member``: who is at the other end.

    ``heartbeat_ms``: how often the replica asks; silence of three times that ends the stream. ``check_node`` raises
    ``RemoteProtocolError`` unless the peer may be the node of a name and an id.
    """

    def __init__(
        self,
        reign: FedReign[Feeder],
        stream: ByteStream,
        peer: Peer,
        *,
        heartbeat_ms: int,
        report: Callable[[Notice], None],
        check_node: Callable[[str, bytes], None],
    ) -> None:
        limits, store = reign.limits, reign.store
        self.peer = peer
        self.member = Member(b"", 0)
        self.name = ""
        self.session = b""
        self.cancel_scope = trio.CancelScope()
        self.heard_at = self.began_at = trio.current_time()
        self._reign = reign
        self._stream = stream
        self._report, self._check_node = report, check_node
        self._heartbeat_ms = heartbeat_ms
        self._append_level = Level.NONE
        self._logs_max = 2 * limits.partitions_max + 2
        self._machine = FollowStream(
            FollowRole.PRIMARY,
            set_id=store.set_id,
            epoch=store.epoch,
            logs_max=self._logs_max,
            frame_bytes_max=limits.frame_bytes_max,
        )
        self._numbered: list[FedLog | None] = []  # by number; None: of a topic that was deleted
        self._log_of: dict[Partition, FedLog] = {}
        self._moved: dict[FedLog, None] = {}
        self._stopped: list[FedLog] = []
        self._messages: list[FollowMessage] = []
        self._wake = trio.Event()
        self._are_named = False
        self.is_filling = True
        """Whether it has not been sent yet all that there was."""
        self._unjudged = 0
        self._pace = SyncPace()
        self._rate: int | None = None
        self._is_early = False
        self._progress = SyncProgress()

    async def serve(self, first: bytes) -> None:
        """Serve the stream, of which ``first`` was read already, until it or the reign ends; always closes it."""
        machine = self._machine
        machine.receive_buffer()[: len(first)] = first
        machine.received(len(first))
        try:
            with self.cancel_scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* RemoteProtocolError as group:
            await self._say_why(root_cause(group))
        finally:
            for partition in self._log_of:
                partition.watchers = tuple(each for each in partition.watchers if each is not self)
            if self.member.node_id:
                self._reign.follower_ended(self)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(self._stream)

    async def _say_why(self, error: BaseException) -> None:
        assert isinstance(error, RemoteProtocolError)
        self._reign.follower_refused(self, str(error))
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(1):
            await self._stream.send_buffers(self._machine.send(Fatal(error.code, str(error))))

    # what the replica says

    async def _read(self) -> None:
        machine, silence_s = self._machine, 3 * self._heartbeat_ms / 1000
        greet_until = trio.current_time() + silence_s  # to say who it is a peer has that long in all
        with trio.CancelScope() as silent:
            while True:
                while (message := machine.next_message()) is not None:
                    if isinstance(message, End | Fatal):
                        return
                    await self._take(message)
                if machine.at_end:
                    return
                self.heard_at = trio.current_time()
                silent.deadline = self.heard_at + silence_s if self.member.node_id else greet_until
                machine.received(await self._stream.receive_into(machine.receive_buffer()))
                silent.deadline = math.inf  # while this node is busy with what it was told, nobody is silent
        if silent.cancelled_caught:
            self._report(Notice("follower-silent", f"the replica {self.name} at {self.peer.address} says nothing"))

    async def _take(self, message: FollowMessage) -> None:
        if isinstance(message, Positions):
            await self._take_reports(message.logs)
        elif isinstance(message, Credit):
            self._wake.set()
        elif isinstance(message, Heartbeat):
            self._say(message)
            await self._feed_again()
        else:
            assert isinstance(message, Follow)
            self._greet(message)

    async def _take_reports(self, reports: Sequence[LogPositions]) -> None:
        replied: dict[Replying, None] = {}  # in order, so that a seed replays
        try:
            for number, report in enumerate(reports, 1):
                await self._take_report(report, replied)
                if not number % _REPORTS_PER_TURN:
                    await trio.lowlevel.checkpoint()  # a lease may have to be renewed meanwhile
        finally:
            # From here, as after a flush: a turn of the scheduler less for each message that waits for replicas.
            for sink in replied:
                sink.replied(now=True)
        if not self._are_named and self._log_of[self._reign.metadata_partition].holds_any:
            self._name_partitions()

    async def _take_report(self, report: LogPositions, replied: dict[Replying, None]) -> None:
        fed = self._numbered[report.number]
        if fed is None:
            return
        if not fed.is_judged:
            if fed.is_damaged:
                fed.unjudged = report
                return
            try:
                told = await fed.told_with(await fed.judge(report))
            except (StorageError, CorruptionError) as error:
                fed.unjudged = report
                self._stop_feeding(fed, report.end, error)
                return
            if fed.partition not in self._log_of:
                return  # deleted meanwhile
            if told:
                if len(self._messages) > 2 * len(self._numbered) + _MESSAGES_SPARE:
                    text = "reports that go on while no answer to them is read"
                    raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
                self._messages += told
                self._wake.set()
                return
            self.moved(fed.partition)
            self._unjudged -= 1
            self._progress.received(0, trio.current_time())  # what it had already says nothing of how fast it gets more
            before = report.end
        else:
            before = fed.held_end.position
        level = fed.level
        counted = fed.count(report, self.member, self._append_level, replied)
        if fed.held_end.position > before:
            self._progress.received(fed.held_end.position - before, trio.current_time())
        if fed.level < level:
            self._reign.follower_fell(self, fed.level)
        self._reign.follower_reported(self, fed, counted)

    def _greet(self, follow: Follow) -> None:
        store = self._reign.store
        self.name, self.session = follow.name, follow.session
        self._check_node(follow.name, follow.node_id)
        self.member = Member(follow.node_id, follow.incarnation)
        self._append_level = follow.append_level
        self._reign.follower_began(self)
        followed = Followed(
            VERSION_MAX,
            store.set_id,
            store.node_id,
            store.incarnation,
            store.epoch,
            store.reign_id,
            self._heartbeat_ms,
            self._reign.limits.frame_bytes_max,
        )
        self._say(followed)
        self._name(_METADATA_ID, 0, self._reign.metadata_partition)

    def _name_partitions(self) -> None:
        # After the metadata log has its first batch there: a storage with partitions and no metadata is a damaged one.
        self._are_named = True
        for (topic_id, index), partition in self._reign.fed_partitions():
            self._name(topic_id, index, partition)

    def _name(self, topic_id: bytes, index: int, partition: Partition) -> None:
        if len(self._numbered) == self._logs_max:
            # Of topics that were made and deleted while it lasted: the next stream numbers those that are left anew.
            self._report(Notice("follower-renumbered", f"the stream of {self.name} ends: it has named enough logs"))
            self.cancel_scope.cancel()
            return
        fed = FedLog(len(self._numbered), partition)
        self._numbered.append(fed)
        self._unjudged += 1
        self._log_of[partition] = fed
        partition.watchers = (*partition.watchers, self)
        self._say(LogNamed(fed.number, topic_id, index))

    @property
    def logs(self) -> list[FedLog]:
        """The logs that it is fed."""
        return list(self._log_of.values())

    @property
    def is_level(self) -> bool:
        """Whether the replica is known to hold every log to its end."""
        return self._are_named and all(each.is_level for each in self.logs)

    def pace_anew(self) -> None:
        """Take in that the replica may be sent another number of bytes a second."""
        self._pace = SyncPace()
        self._wake.set()

    def sync_state(self) -> SyncState:
        """How far the replica is with everything that the logs of the set hold; work per log."""
        shares = [fed.share() for fed in self.logs]
        held, total = sum(held for held, _ in shares), sum(size for _, size in shares)
        return self._progress.state(held, total, trio.current_time())

    def held_offset(self, partition: Partition) -> int:
        """Offset up to which the replica is known to hold a log; 0 where it has not said so yet."""
        fed = self._log_of.get(partition)
        return 0 if fed is None else fed.held_end.offset

    def opened(self, topic_id: bytes, index: int, partition: Partition) -> None:
        """Take note of a partition that the reign has opened just now."""
        if self._are_named and partition not in self._log_of:
            self._name(topic_id, index, partition)

    def gone(self, partition: Partition) -> None:
        """Take note of a partition that was deleted: a stream may last for months, and keeps nothing of it."""
        fed = self._log_of.pop(partition, None)
        if fed is not None:
            self._numbered[fed.number] = None
            self._unjudged -= not fed.is_judged and not fed.is_damaged
            self._moved.pop(fed, None)
            self._stopped = [each for each in self._stopped if each is not fed]
            partition.watchers = tuple(each for each in partition.watchers if each is not self)

    def moved(self, partition: Partition) -> None:
        """Take note that a log has grown, or that more of it is committed."""
        fed = self._log_of.get(partition)
        if fed is not None and self.is_filling and (size := fed.newly_appended()) > 0:
            self._pace.appended(size, trio.current_time())
        if fed is not None and fed.is_judged and not fed.is_damaged and fed not in self._moved:
            self._moved[fed] = None
            self._wake.set()

    # what the replica is sent

    def _say(self, message: FollowMessage) -> None:
        self._messages.append(message)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            if self._is_early and self._moved:
                with trio.move_on_after(self._pace.delay_s(trio.current_time())):
                    await self._wake.wait()
            else:
                await self._wake.wait()
            self._wake = trio.Event()
            if self._machine.error is not None:
                return  # the replica has broken a rule: nothing may be sent any more, and the reader says why
            while self._messages or self._moved:
                buffers: list[Buffer] = []
                messages, self._messages = self._messages, []
                for message in messages:
                    if isinstance(message, Heartbeat):
                        self._state_committed(buffers)
                    buffers += self._machine.send(message)
                await self._gather(buffers)
                if not buffers:
                    break  # without credit, or too early for the rate
                await self._send(buffers)

    def _state_committed(self, buffers: list[Buffer]) -> None:
        """Say what is committed of the logs that moved, sent or not: a confirmation is of all that was said before."""
        committed = [said for fed in self._moved if fed.is_judged and (said := fed.newly_committed()) is not None]
        if committed:
            buffers += self._machine.send(CommittedOffsets(tuple(sorted(committed))))

    async def _gather(self, buffers: list[Buffer]) -> None:
        """Add to ``buffers`` what of the logs that moved is to be sent now, each in its turn."""
        gathered, committed = 0, []
        now = trio.current_time()
        rate = self._rate = self._pace.bytes_per_s(self._reign.sync_rate_of(self), now) if self.is_filling else None
        self._is_early = rate is not None and self._pace.delay_s(now) > 0
        for fed in list(self._moved):
            if gathered >= _GATHERED_BYTES:
                break
            partition = fed.partition
            if fed.position is None or partition.closure is not None:
                del self._moved[fed]
                continue
            if fed.position >= partition.end_position:
                del self._moved[fed]
                if (said := fed.newly_committed()) is not None:
                    committed.append(said)
            elif self._is_early and fed.number and not self._reign.waits_for(self, partition):
                continue
            elif self._machine.may_send_data:
                # Out and in again at the end: a log with much to send does not hold up the others.
                del self._moved[fed]
                gathered += await self._add_data(fed, buffers)
        if self._are_named and not self._moved and not self._unjudged:
            self.is_filling = False  # everything is on its way: from here on it only keeps up
        if committed:
            buffers += self._machine.send(CommittedOffsets(tuple(sorted(committed))))

    async def _add_data(self, fed: FedLog, buffers: list[Buffer]) -> int:
        log = fed.partition.log
        assert fed.position is not None
        begin = fed.position
        if begin < log.start_position:
            # Trimmed while it was being copied: the replica comes again, and is told where the log begins now (R15).
            text = f"log {log.name} was trimmed to {log.start_position}, and {begin} was to be sent next"
            raise RemoteProtocolError(text, code=Code.BELOW_START)
        try:
            room = min(_DATA_BYTES_MAX, self._machine.peer_frame_bytes_max - LOG_DATA_OVERHEAD_BYTES)
            if self._rate is not None:
                room = min(room, max(self._rate // _FRAMES_PER_SECOND_MIN, _PACED_BYTES_MIN))
            is_checked = begin < fed.checked_below
            end = fed.partition.end_position
            stored = await log.read_stored(begin, room, end, is_checked=is_checked, asks=False)
        except (StorageError, CorruptionError) as error:
            self._stop_feeding(fed, begin, error)
            return 0
        if not stored.chunks or fed.position != begin:
            return 0
        if fed.partition not in self._log_of:
            return 0  # deleted meanwhile
        committed = fed.partition.committed_offset
        data = self._machine.send(LogData(fed.number, begin, committed, stored.chunks))
        fed.committed_sent = committed
        fed.sent(LogPoint(stored.next_position, stored.next_offset))
        buffers += data
        self._moved[fed] = None
        size = sum(map(len, data))
        if self._rate is not None and fed.number:
            self._pace.sent(size, self._rate, trio.current_time())
            self._is_early = True
        return size

    def _stop_feeding(self, fed: FedLog, position: int, error: MqcoreError) -> None:
        # What is damaged here is never passed on, and no other log of the set is held up by it (G12).
        if fed.partition not in self._log_of:
            return  # deleted meanwhile
        self._unjudged -= not fed.is_judged
        self._stopped.append(fed)
        if fed.stop(error):
            name = fed.partition.log.name
            self._report(Notice("log-not-fed", f"log {name} is not fed to {self.name} from {position} on: {error}"))

    async def _feed_again(self) -> None:
        """Go on with logs that could not be read for a while: they may have been mended meanwhile."""
        for fed in [each for each in self._stopped if each.is_due]:
            self._stopped.remove(fed)
            fed.is_damaged = False
            if fed.is_judged:
                try:
                    await fed.tell_again()
                except (StorageError, CorruptionError) as error:
                    self._stop_feeding(fed, fed.held_end.position, error)
                else:
                    self.moved(fed.partition)
            else:
                self._unjudged += 1
                await self._take_reports(() if fed.unjudged is None else (fed.unjudged,))

    async def _send(self, buffers: list[Buffer]) -> None:
        stall_s = self._reign.limits.send_stall_timeout_ms / 1000
        pieces = in_pieces(buffers) if sum(map(len, buffers)) > PIECE_BYTES else [buffers]
        for piece in pieces:
            with trio.move_on_after(stall_s) as stall:
                await self._stream.send_buffers(piece)
            if stall.cancelled_caught:
                text = f"the replica {self.name} at {self.peer.address} takes nothing"
                self._report(Notice("follower-stalled", text))
                self.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

    def refuse(self, error: MqcoreError) -> None:
        """End the stream: another one of this node has taken its place."""
        self._report(Notice("follower-replaced", f"the stream of {self.name} at {self.peer.address} ends: {error}"))
        self.cancel_scope.cancel()
