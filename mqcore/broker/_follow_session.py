"""One stream of a replica to its primary: takes in logs and data, reports positions, grants credit, asks for signs of
life (R4, R5).

The shell around ``mqcore.protocol.FollowStream``. Everything that arrived with one read is taken in together, and one
report says what came of it. Must not know of links, of reconnecting or of topics.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from mqcore.abc import Buffer, ByteStream, Notice
from mqcore.broker._copy import PartitionCopy
from mqcore.broker._parting import leaves_too_little
from mqcore.broker._rotten_ends import note_rotten_cut
from mqcore.errors import BrokenLinkError, CorruptionError, MqcoreError, RemoteProtocolError, StorageError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log import PARTED, DamagedRangeError, LogStart, LogStore
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Code,
    CommittedOffsets,
    Credit,
    Diverged,
    Fatal,
    Follow,
    Followed,
    FollowMessage,
    FollowRole,
    FollowStream,
    Heartbeat,
    LogBegins,
    LogData,
    LogNamed,
    LogPositions,
    PositionRefused,
    Positions,
)
from mqcore.replication import PartsAt, cut_of_divergence

__all__ = ["CREDIT_BYTES", "FollowSession"]

CREDIT_BYTES = 8 * 1024 * 1024
"""What a primary may have on the way to a replica, and one frame more."""


class FollowSession:
    """The replica's end of one stream. ``run`` it.

    ``name``, ``session``: this node's name and 16 fresh random bytes. ``open_copy`` returns the copy of a log by topic
    id and partition, or None where it is of no use any more; ``committed`` is awaited when the committed offset of one
    is first confirmed, and whenever it has moved. ``begin_anew`` returns another copy in the place of one, empty, that
    begins at a position: of the metadata log where the primary says that it does. ``damaged`` is awaited for a copy
    that is damaged, once the primary is known to hold all of it. ``append_level``: what an append reaches here.
    """

    def __init__(
        self,
        stream: ByteStream,
        store: LogStore,
        *,
        name: str,
        session: bytes,
        limits: Limits,
        append_level: Level,
        open_copy: Callable[[bytes, int], Awaitable[PartitionCopy | None]],
        committed: Callable[[PartitionCopy], Awaitable[None]],
        begin_anew: Callable[[PartitionCopy, int, LogStart], Awaitable[PartitionCopy]],
        damaged: Callable[[PartitionCopy], Awaitable[None]],
        report: Callable[[Notice], None],
    ) -> None:
        self.confirmed_at: float | None = None
        """When the question was sent whose answer was the last sign that the primary reigns; None before the first."""
        self.bytes_received = 0
        self._stream = stream
        self._store = store
        self._open_copy = open_copy
        self._committed = committed
        self._begin_anew = begin_anew
        self._damaged = damaged
        self._report = report
        self._machine = FollowStream(
            FollowRole.FOLLOWER,
            set_id=store.set_id,
            epoch=store.epoch,
            logs_max=2 * limits.partitions_max + 2,
            frame_bytes_max=limits.frame_bytes_max,
        )
        self._follow = Follow(
            VERSION_MIN,
            VERSION_MAX,
            store.set_id,
            store.node_id,
            store.incarnation,
            session,
            store.epoch,
            append_level,
            CREDIT_BYTES,
            limits.frame_bytes_max,
            name,
        )
        self._copies: list[PartitionCopy | None] = []
        self._number_of: dict[PartitionCopy, int] = {}
        self._unreported: set[int] = set()
        self._reported_reigns: dict[int, tuple[int, bytes]] = {}
        self._told: set[PartitionCopy] = set()
        self._wake = trio.Event()
        self._heartbeats = 0
        self._asked_at = 0.0
        self._is_asked = False
        self._owes_sign = False
        self._broken: BrokenLinkError | None = None
        self._metadata_begins = LogStart()

    async def run(self) -> None:
        """Follow until the stream ends. Raises ``BrokenLinkError``, ``RemoteProtocolError``, ``StorageError``.

        If cancelled, the stream is of no more use.
        """
        await self._send(self._machine.send(self._follow))
        while not isinstance(message := await self._receive(), Followed):
            if isinstance(message, Fatal):
                raise RemoteProtocolError(f"the primary refuses this node: {message.text}", code=message.code)
        self._check_reign(message)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            nursery.start_soon(self._ask, message.heartbeat_ms / 1000)
            await self._read(3 * message.heartbeat_ms / 1000)
        if self._broken is not None:
            raise self._broken

    def _check_reign(self, followed: Followed) -> None:
        if followed.reign_id != self._store.reign_id:
            text = f"the primary reigns in another reign {followed.epoch} than the one that this node follows"
            raise RemoteProtocolError(text, code=Code.WRONG_EPOCH)

    # receiving

    async def _receive(self) -> FollowMessage:
        machine = self._machine
        while (message := machine.next_message()) is None:
            if machine.at_end:
                raise BrokenLinkError("the primary closed the stream")
            try:
                size = await self._stream.receive_into(machine.receive_buffer())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise BrokenLinkError(f"the stream to the primary broke: {error}") from error
            self.bytes_received += size
            machine.received(size)
        return message

    async def _read(self, silence_s: float) -> None:
        machine = self._machine
        with trio.CancelScope() as silent:
            while True:
                silent.deadline = trio.current_time() + silence_s
                message: FollowMessage | None = await self._receive()
                silent.deadline = math.inf  # while this node is busy with what it was told, nobody is silent
                while message is not None:
                    if isinstance(message, Fatal):
                        text = f"the primary ends the stream: {message.text}"
                        raise RemoteProtocolError(text, code=message.code)
                    await self._take(message)
                    message = machine.next_message()
                self._wake.set()
        if silent.cancelled_caught:
            raise BrokenLinkError(f"the primary said nothing for {silence_s:g} s")

    async def _take(self, message: FollowMessage) -> None:
        if isinstance(message, LogData):
            copy = self._copies[message.number]
            if copy is not None and copy.failure is None:
                await self._append(copy, message)
                await self._commit(copy, message.committed_offset)
        elif isinstance(message, CommittedOffsets):
            for each in message.logs:
                copy = self._copies[each.number]
                if copy is not None:
                    await self._commit(copy, each.offset)
        elif isinstance(message, LogNamed):
            copy = await self._open_copy(message.topic_id, message.partition)
            self._copies.append(copy)
            if copy is not None:
                self._number_of[copy] = message.number
                self._unreported.add(message.number)
        elif isinstance(message, LogBegins):
            self._metadata_begins = self._begins(message)
        elif isinstance(message, Diverged):
            await self._part(message)
        elif isinstance(message, PositionRefused):
            await self._refused(message)
        elif isinstance(message, Heartbeat):
            self.confirmed_at, self._is_asked = self._asked_at, False

    def _begins(self, message: LogBegins) -> LogStart:
        """Where the primary says that its metadata log begins; of a later reign than its own no start would take it."""
        begins = LogStart(*message[1:])
        is_sound = begins.reign_position <= begins.position and begins.reign_offset <= begins.offset
        if message.number or begins.epoch > self._store.epoch or not is_sound:
            text = f"the primary says of log number {message.number} that it begins at {begins}: that cannot be"
            raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
        return begins

    async def _append(self, copy: PartitionCopy, data: LogData) -> None:
        try:
            await copy.append(data.batches, data.position, data.committed_offset)
        except CorruptionError as error:
            # What the primary sends is no part of this log: nothing of it was taken, and the next session begins anew.
            text = f"the primary sent what cannot follow: {error}"
            raise RemoteProtocolError(text, code=Code.MALFORMED_BATCH) from error
        except MqcoreError as error:
            if copy.failure is None:
                raise  # such as a full disk: what is not here is not reported, and is asked for again later
            self._report(Notice("copy-stopped", f"log {copy.log.name} is not copied any more: {error}"))

    async def _commit(self, copy: PartitionCopy, offset: int) -> None:
        before = copy.committed_offset
        copy.commit(offset)
        # The first time in any case: what a copy was known to have before is new to who follows another reign.
        if copy.committed_offset != before or copy not in self._told:
            self._told.add(copy)
            await self._committed(copy)
        if copy.log.is_damaged and offset >= copy.log.end_offset and copy.failure is None:
            await self._damaged(copy)  # what the primary has committed it holds: all that this copy has, and whole

    async def _part(self, diverged: Diverged) -> None:
        """Give up what the primary's history has not got, and report again (R5)."""
        copy = self._copies[diverged.number]
        if copy is None or copy.failure is not None:
            return
        log = copy.log
        if was_hidden := log.hides_reign:
            await log.mend_damages()
        # What opened its last reign may have been mended just now, or while the answer was on its way.
        reported = self._reported_reigns.pop(diverged.number, None)
        if (was_hidden and not log.hides_reign) or log.last_batch[:2] != reported:
            self._unreported.add(diverged.number)
            return
        if diverged.start > log.end_position:
            await self._replace(diverged, copy)
            return
        try:
            cut = cut_of_divergence(log.history, log.end_position, PartsAt(diverged.epoch, diverged.position))
        except ValueError as error:
            raise RemoteProtocolError(f"log {log.name}: {error}", code=Code.UNEXPECTED_FRAME) from error
        if await leaves_too_little(self._store, log, cut):
            # The histories meet in nothing that is here still.
            await self._replace(diverged, copy)
            return
        end_offset, end_position = log.end_offset, log.end_position
        try:
            is_rotten = await note_rotten_cut(self._store, log, cut)
            name = await copy.part_at(cut)
        except DamagedRangeError:
            await self._replace(diverged, copy)
            return
        text = (
            f"log {log.name}: {end_offset - log.end_offset} messages from offset {log.end_offset} on are not in the "
            f"reign of epoch {self._store.epoch}; they are kept in {name or 'no file, for there are none'}"
        )
        facts: dict[str, object] = {
            "log": log.name,
            "offset": log.end_offset,
            "end_offset": end_offset,
            "position": cut,
            "end_position": end_position,
            "quarantine": name,
        }
        self._report(Notice("log-diverged", text, facts))
        if is_rotten:
            text = f"log {log.name} is damaged at {cut}, where it is cut: following begins again"
            raise StorageError(text, kind="closed", retryable=True)
        self._unreported.add(diverged.number)

    async def _replace(self, diverged: Diverged, copy: PartitionCopy) -> None:
        """Begin a copy anew where the primary's log begins (R15). Raises what ends the session, or cannot be done."""
        anew = self._copies[diverged.number] = await self._begin_anew(copy, diverged.start, self._metadata_begins)
        del self._number_of[copy]
        self._number_of[anew] = diverged.number
        self._reported_reigns.pop(diverged.number, None)
        self._unreported.add(diverged.number)

    async def _refused(self, refused: PositionRefused) -> None:
        copy = self._copies[refused.number]
        name = "?" if copy is None else copy.log.name
        cut = None if copy is None else copy.log.open_end
        if copy is not None and cut is not None:
            # What rotted at the end here hides what the last batch is. The primary has it, and all below.
            # First what may be in vain, again and again: nothing has changed then.
            await copy.log.keep_aside(cut, epoch=copy.log.term.epoch, reason=PARTED)
            await self._store.raise_incarnation()
            aside = await copy.part_at(cut)
            text = f"log {name}: its end was damaged from {cut} on, is kept in {aside}, and is copied anew"
            self._report(Notice("log-end-damaged", text, {"log": name, "position": cut, "quarantine": aside}))
            raise StorageError(f"{text}: following begins again", kind="closed", retryable=True)
        text = f"the primary refuses the end of log {name}: {refused.text}"
        raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)

    # sending

    def forget(self, copy: PartitionCopy) -> None:
        """Take note that a copy was deleted with its topic: a stream may last for months, and keeps nothing of it."""
        self._told.discard(copy)
        number = self._number_of.pop(copy, None)
        if number is not None:
            self._copies[number] = None
            self._reported_reigns.pop(number, None)

    def moved(self, copy: PartitionCopy) -> None:
        """Take note that a copy has something new to report."""
        number = self._number_of.get(copy)
        if number is not None:
            self._unreported.add(number)
            self._wake.set()

    async def _ask(self, heartbeat_s: float) -> None:
        while True:
            if not self._is_asked:
                self._is_asked = True
                self._heartbeats = (self._heartbeats + 1) % (1 << 32)
                self._asked_at = trio.current_time()
            else:
                # The answer waits behind what this node is busy with, such as thousands of logs to be made: that it
                # lives has to be said all the same.
                self._owes_sign = True
            self._wake.set()
            await trio.sleep(heartbeat_s)

    async def _write(self, session: trio.CancelScope) -> None:
        try:
            await self._write_on()
        except BrokenLinkError as error:
            # Not raised here: the reader meets the same break, and two errors of one link would be a group.
            self._broken = error
            session.cancel()

    async def _write_on(self) -> None:
        asked = 0
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if self._machine.error is not None:
                return  # the primary's stream was cut in a frame, or broke a rule: the reader says so
            buffers: list[Buffer] = []
            if self._unreported:
                numbers, self._unreported = sorted(self._unreported), set()
                reports = [report for number in numbers if (report := self._report_of(number)) is not None]
                if reports:
                    buffers += self._machine.send(Positions(tuple(reports)))
            used = CREDIT_BYTES - self._machine.credit_bytes
            if 2 * used >= CREDIT_BYTES:
                buffers += self._machine.send(Credit(used))
            if asked != self._heartbeats:
                asked = self._heartbeats
                buffers += self._machine.send(Heartbeat(asked))
            if self._owes_sign and not buffers:
                buffers += self._machine.send(Credit(0))
            self._owes_sign = False
            if buffers:
                await self._send(buffers)

    def _report_of(self, number: int) -> LogPositions | None:
        copy = self._copies[number]
        if copy is None or copy.failure is not None:
            return None
        log = copy.log
        epoch, reign_id, position = log.last_batch
        self._reported_reigns.setdefault(number, (epoch, reign_id))  # of the first that is not answered
        end, durable = log.end_position, log.durable_position
        return LogPositions(number, epoch, reign_id, position, end, durable, log.durable_level)

    async def _send(self, buffers: list[Buffer]) -> None:
        try:
            await self._stream.send_buffers(buffers)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokenLinkError(f"the stream to the primary broke: {error}") from error
