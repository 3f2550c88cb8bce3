"""What a consumer asks for, and what it makes of the answers: positions, order, gaps (clause G06). No I/O, no trio.

A position is (offset, epoch): the next message's offset, and the epoch of the one before (0 if unknown). Nothing is
passed over in silence: what cannot be delivered becomes an error that names it, once, and reading goes on past it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from mqcore.batch import ATTRIBUTE_CONTROL, BatchHeader, unpack_header
from mqcore.client._read_history import ReadHistory
from mqcore.errors import BatchUndecodableError, CorruptionError, MessagesMissingError, MqcoreError
from mqcore.protocol import Code, Failed, Fetch, Fetched, error_for

__all__ = ["FETCH_BYTES_MIN", "PARTITIONS_MAX", "STALE_MAX", "Chunk", "FetchCursor", "FetchPlan"]

PARTITIONS_MAX = 1_000
"""Partitions of one plan at most."""
FETCH_BYTES_MIN = 64 * 1024
FETCH_FRAME_BYTES = 64
"""A request without tags, about."""
STALE_MAX = 64
"""Answers on their way that are not wanted any more from which on a new stream is cheaper."""

_RESUME_FACTS: dict[int, str] = {Code.BELOW_START: "start_offset", Code.DAMAGED: "next_offset"}
"""Name of the fact that says where reading can go on."""


class FetchCursor:
    """Where one partition is read: ``offset`` and ``epoch`` of the next message to deliver, and the fetch under way.

    ``ask_offset`` runs ahead of ``offset`` by what was received and not yet delivered. ``follows_log_start``: the
    position is wherever the log starts, so that a start which moved on is no gap. ``moves``: how often it went to
    another server since one answered. ``from_replica``: a replica may answer; ``known_age_ms``: how old the knowledge
    was of the one that did (G19), None where the primary answered last. ``read``: the reigns of what was delivered.
    """

    __slots__ = (
        "ask_epoch",
        "ask_offset",
        "epoch",
        "follows_log_start",
        "from_replica",
        "known_age_ms",
        "moves",
        "offset",
        "partition",
        "read",
        "request_id",
    )

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.moves = 0
        self.from_replica = False
        self.known_age_ms: int | None = None
        self.request_id: int | None = None
        self.read = ReadHistory()
        self.offset = self.epoch = 0
        self.place(0, 0)

    def place(self, offset: int, epoch: int, *, follows_log_start: bool = False) -> None:
        """Go on from a position; an answer that is on its way for another one will be dropped."""
        if (offset, epoch) != (self.offset, self.epoch):
            self.read.clear()
        self.offset = self.ask_offset = offset
        self.epoch = self.ask_epoch = epoch
        self.follows_log_start = follows_log_start
        self.request_id = None


class Chunk(NamedTuple):
    """One batch of an answer, not yet decoded, or the error that stands in its place.

    With neither it says that the server passed over what lies from ``passed[0]`` to before ``passed[1]``, of ``epoch``,
    because it has none of the tags asked for. ``epoch``, with an error: of what was read before the place where reading
    goes on after it; 0 if unknown.
    """

    cursor: FetchCursor
    header: BatchHeader | None
    data: memoryview
    error: MqcoreError | None = None
    epoch: int = 0
    passed: tuple[int, int] = (0, 0)


class Moved(NamedTuple):
    """A partition that the server does not own, and what it says of the one that does."""

    partition: int
    facts: Mapping[str, object]


class FetchPlan:
    """The cursors of one stream. ``chunks`` are received and not yet delivered; they hold views of the answer.

    ``idle`` are cursors without a request under way, ``asked`` those that have one, by its id. ``moved`` are partitions
    to be read elsewhere, for the shell, which empties it. ``must_pause``: the server refused for now;
    ``is_round_empty``: as many answers as there are cursors brought nothing, in a row. ``tags``, encoded, are those
    wanted, empty for all messages; ``names_tags``: whether the server is asked for them, or for everything.
    """

    def __init__(
        self,
        topic: str,
        topic_id: bytes,
        bytes_max: int,
        wait_ms: int,
        on_trimmed: str = "error",
        tags: tuple[bytes, ...] = (),
    ) -> None:
        self.topic = topic
        self.cursors: dict[int, FetchCursor] = {}
        self.chunks: deque[Chunk] = deque()
        self.idle: deque[FetchCursor] = deque()
        self.moved: list[Moved] = []
        self.must_pause = False
        self.is_round_empty = False
        self.tags = tags
        self.names_tags = bool(tags)
        self._topic_id = topic_id
        self._bytes_max = bytes_max
        self._wait_ms = wait_ms
        self._on_trimmed = on_trimmed
        self.asked: dict[int, FetchCursor] = {}
        self._empty_in_a_row = 0

    def add(self, cursor: FetchCursor) -> None:
        """Read one more partition, from where its cursor is."""
        cursor.place(cursor.offset, cursor.epoch, follows_log_start=cursor.follows_log_start)
        self.cursors[cursor.partition] = cursor
        self.idle.append(cursor)

    def remove(self, partition: int) -> FetchCursor:
        """Read a partition no more and return its cursor; what was received of it is dropped."""
        cursor = self.cursors.pop(partition)
        self.chunks = deque(chunk for chunk in self.chunks if chunk.cursor is not cursor)
        self.idle = deque(each for each in self.idle if each is not cursor)
        return cursor

    # asking

    @property
    def fetch_size(self) -> int:
        """Bytes of a request, about."""
        return FETCH_FRAME_BYTES + (sum(map(len, self.tags)) + 2 * len(self.tags) if self.names_tags else 0)

    def next_fetch(self, request_id: int) -> Fetch | None:
        """Return the next request to make, under ``request_id``; None when there is none to make now."""
        while self.idle:
            cursor = self.idle.popleft()
            if cursor.request_id is None:
                cursor.request_id = request_id
                self.asked[request_id] = cursor
                return Fetch(
                    request_id, self._topic_id, cursor.partition, cursor.ask_offset, cursor.ask_epoch,
                    self._bytes_max, self._wait_ms, cursor.from_replica, self.tags if self.names_tags else (),
                )  # fmt: skip
        return None

    def broken(self) -> None:
        """Take note that the stream broke: no answer will come, everything not delivered is asked for again."""
        self.asked.clear()
        self.chunks.clear()
        for cursor in self.cursors.values():
            cursor.place(cursor.offset, cursor.epoch, follows_log_start=cursor.follows_log_start)
        self.idle = deque(self.cursors.values())

    def seek(self, partition: int, offset: int, epoch: int, *, follows_log_start: bool = False) -> None:
        """Go on from a position; what was received for the partition is dropped."""
        cursor = self.cursors[partition]
        cursor.place(offset, epoch, follows_log_start=follows_log_start)
        self.chunks = deque(chunk for chunk in self.chunks if chunk.cursor is not cursor)
        self.idle.append(cursor)

    # answers

    def fetched(self, message: Fetched) -> None:
        """Take in an answer; its batches are in ``chunks`` and hold as long as the message's views."""
        cursor = self._answered(message.request_id)
        if cursor is None:
            return
        cursor.moves = 0
        cursor.known_age_ms = message.known_age_ms
        begin = cursor.ask_offset
        cursor.ask_offset = max(message.next_offset, begin)
        next_epoch = message.next_epoch if self.names_tags else None
        for batches in message.batches:
            begin = self._split(cursor, memoryview(batches), message.next_offset, next_epoch)
        cursor.follows_log_start = False
        if next_epoch is not None:
            self._pass_over(cursor, begin, cursor.ask_offset, next_epoch)
            cursor.ask_epoch = next_epoch
        if message.batches or begin < cursor.ask_offset:
            self._empty_in_a_row = 0
        else:
            cursor.offset = cursor.ask_offset
            self._note_empty()

    def _pass_over(self, cursor: FetchCursor, begin: int, end: int, epoch: int) -> None:
        if begin < end:
            self.chunks.append(Chunk(cursor, None, memoryview(b""), None, epoch, (begin, end)))

    def _note_empty(self) -> None:
        """Count what brings nothing: the shell finds out by the time it takes whether the server lets requests wait."""
        self._empty_in_a_row += 1
        if self._empty_in_a_row >= len(self.cursors):
            self._empty_in_a_row = 0
            self.is_round_empty = True

    def failed(self, message: Failed) -> None:
        """Take in a refusal: an error in ``chunks`` and the position after it, or another try after a pause."""
        cursor = self._answered(message.request_id)
        if cursor is None:
            return
        code, facts = message.code, message.facts
        if code == Code.NOT_PRIMARY:
            self.moved.append(Moved(cursor.partition, facts))
            return
        if code in Code._value2member_map_ and (Code(code).retryable or code == Code.LIMIT_REACHED):
            self.must_pause = True
            return
        error: MqcoreError = error_for(code, message.text, dict(facts))
        target = facts.get(_RESUME_FACTS.get(code, "offset"))
        if isinstance(target, int) and code == Code.BELOW_START:
            if cursor.follows_log_start:
                cursor.place(target, 0, follows_log_start=True)
                return
            text = f"offsets {cursor.offset} to {target - 1} were trimmed"
            committed = facts.get("committed_offset")
            if self._on_trimmed == "latest" and isinstance(committed, int):
                target = max(target, committed)
            error = self._missing(cursor, "retention", target, text)
        elif isinstance(target, int) and code == Code.DIVERGED:
            target, epoch = self._where_parted(cursor, target, facts.get("epoch"))
            text = f"offsets from {target} on (of epoch {cursor.epoch}) are not in the log any more"
            error = self._missing(cursor, "loss", target, text)
            # Asked for with what was read before it: where that is not the log's either, it says so again.
            cursor.ask_offset, cursor.ask_epoch = target, epoch
            self.chunks.append(Chunk(cursor, None, memoryview(b""), error, epoch))
            return
        elif isinstance(target, int) and code == Code.DAMAGED:
            first = facts.get("offset")
            error = BatchUndecodableError(
                f"damaged on the broker: {message.text}", topic=self.topic, partition=cursor.partition,
                first_offset=max(cursor.offset, first) if isinstance(first, int) else cursor.offset, next_offset=target,
            )  # fmt: skip
        else:
            cursor.place(cursor.offset, cursor.epoch, follows_log_start=cursor.follows_log_start)
            self.chunks.append(Chunk(cursor, None, memoryview(b""), error))
            return
        # The position is left when the error is delivered: a stream that breaks before has reported nothing.
        cursor.ask_offset, cursor.ask_epoch = target, 0
        self.chunks.append(Chunk(cursor, None, memoryview(b""), error))

    def _where_parted(self, cursor: FetchCursor, offset: int, epoch: object) -> tuple[int, int]:
        """Where to go on, and the reign of what was read before that, once the log says that it has no such reign."""
        if not isinstance(epoch, int):
            return offset, 0
        read = cursor.read.copy()
        for chunk in self.chunks:  # received, and delivered before the error is
            if chunk.cursor is cursor and chunk.header is not None:
                read.note(chunk.header.epoch, chunk.header.base_offset)
            elif chunk.cursor is cursor and chunk.error is None:
                read.note(chunk.epoch, chunk.passed[0])
        at = read.left_at(offset, epoch)
        return at, read.go_back(at)

    def _answered(self, request_id: int) -> FetchCursor | None:
        """The cursor that waits for the answer, free to ask again; None when it is not wanted any more."""
        cursor = self.asked.pop(request_id, None)
        if cursor is None or cursor.request_id != request_id:
            return None
        cursor.request_id = None
        self.idle.append(cursor)
        return cursor

    def passes_over(self, error: MqcoreError) -> bool:
        """Whether ``error`` says what the caller has chosen not to be told: that retention took what is asked for."""
        is_trimmed = isinstance(error, MessagesMissingError) and error.reason == "retention"
        return is_trimmed and self._on_trimmed != "error"

    def _missing(self, cursor: FetchCursor, reason: str, position: int, text: str) -> MessagesMissingError:
        where = f"topic {self.topic!r} partition {cursor.partition}"
        return MessagesMissingError(
            f"{where}: {text}; reading goes on at {position}", topic=self.topic, partition=cursor.partition,
            reason=reason, position=position,
        )  # fmt: skip

    def _split(self, cursor: FetchCursor, view: memoryview, next_offset: int, next_epoch: int | None) -> int:
        """Cut the batches of one answer apart by their headers, into ``chunks``; return the offset after the last one.

        ``next_epoch`` None: every message of the log was asked for, and a range that is not there is missing.
        """
        chunks = self.chunks
        position = cursor.offset
        while view:
            try:
                header = unpack_header(view)
                if header.size > len(view):
                    raise CorruptionError(f"batch of {header.size} bytes, {len(view)} are left", where="answer")
            except CorruptionError as error:
                resume = max(next_offset, position + 1)
                chunks.append(Chunk(cursor, None, view, self.undecodable(cursor, position, resume, error)))
                cursor.ask_offset, cursor.ask_epoch = resume, 0
                return resume
            end_offset = header.base_offset + header.count
            if end_offset > position and not header.attributes & ATTRIBUTE_CONTROL:
                if header.base_offset > position and next_epoch is not None:
                    self._pass_over(cursor, position, header.base_offset, next_epoch)
                elif header.base_offset > position:
                    text = f"the broker passed over offsets {position} to {header.base_offset - 1}"
                    chunks.append(Chunk(cursor, None, view, self._missing(cursor, "loss", header.base_offset, text)))
                position = end_offset
                chunks.append(Chunk(cursor, header, view[: header.size]))
                cursor.ask_epoch = header.epoch
            view = view[header.size :]
        return position

    def undecodable(
        self, cursor: FetchCursor, first_offset: int, next_offset: int, error: Exception
    ) -> BatchUndecodableError:
        """The error that stands for a batch which cannot be read."""
        return BatchUndecodableError(
            f"the batch cannot be read: {error}", topic=self.topic, partition=cursor.partition,
            first_offset=first_offset, next_offset=next_offset,
        )  # fmt: skip

    # delivering

    def deliver(self, chunk: Chunk) -> None:
        """Take note that ``chunk`` was delivered, as batch or as error."""
        cursor = chunk.cursor
        if chunk.header is not None:
            header = chunk.header
            cursor.read.note(header.epoch, header.base_offset)
            cursor.offset, cursor.epoch = header.base_offset + header.count, header.epoch
        elif chunk.error is None:
            begin, end = chunk.passed
            cursor.read.note(chunk.epoch, begin)
            cursor.offset, cursor.epoch = max(cursor.offset, end), chunk.epoch
        elif isinstance(chunk.error, BatchUndecodableError):
            cursor.read.clear()
            cursor.offset, cursor.epoch = max(cursor.offset, chunk.error.next_offset), 0
            cursor.follows_log_start = False
        elif isinstance(chunk.error, MessagesMissingError):
            if chunk.epoch:
                cursor.read.go_back(chunk.error.position)
            else:
                cursor.read.clear()
            cursor.offset, cursor.epoch = chunk.error.position, chunk.epoch
            cursor.follows_log_start = False
