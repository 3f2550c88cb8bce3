"""What is sent to a partition: a batch with where its reply goes, what it is refused with, how much goes in at once.

Must not know of logs' insides, nor when a reply goes out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import trio

from mqcore.broker._flush_share import FlushShare
from mqcore.broker._group_commit import Replying
from mqcore.errors import OutcomeUnknownError, StorageError
from mqcore.guarantees import Copy
from mqcore.log import (
    Conflict,
    Fenced,
    Forgotten,
    Gap,
    GivenUp,
    IncomingBatch,
    PartitionLog,
    TableFull,
    TooOld,
    Verdict,
)
from mqcore.protocol import Code

__all__ = [
    "ReplySink",
    "Send",
    "WaitingCaller",
    "append_in_shares",
    "fail_rotted",
    "fail_by_verdict",
    "fail_send",
    "fail_sends",
    "refuse_degraded",
    "storage_code",
]


_ROTTED = "and has rotted there"


class ReplySink(Replying, Protocol):
    """Where replies go: the outbox of one connection. ``closed``: nobody waits for them any more."""

    closed: bool

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Queue the acknowledgement of one batch; ``replied`` follows when all of them are queued."""

    def failed(self, request_id: int, code: int, text: str, facts: dict[str, object] | None = None) -> None:
        """Queue a failure."""


class WaitingCaller:
    """The ``ReplySink`` of a task that waits for the commit of one batch."""

    def __init__(self) -> None:
        self.closed = False
        self.answered = trio.Event()
        self.is_committed = False

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Wake the task: the batch is committed."""
        self.is_committed = True
        self.answered.set()

    def replied(self, *, now: bool) -> None:
        """Nothing to send: ``produced`` has woken the task."""

    def failed(self, request_id: int, code: int, text: str, facts: dict[str, object] | None = None) -> None:
        """Wake the task: whether the batch will be committed is unknown."""
        self.answered.set()


class Send(NamedTuple):
    """One batch to append, checked, with where its reply goes (``sink`` None: one-way). ``claim``: of a name."""

    batch: IncomingBatch
    policy: int
    request_id: int
    sink: ReplySink | None
    claim: bytes = b""


def fail_send(send: Send, code: Code, text: str, facts: dict[str, object] | None = None) -> None:
    """Answer ``send`` with a failure, if it waits for an answer."""
    if send.sink is not None:
        send.sink.failed(send.request_id, code, text, facts)


def fail_sends(sends: Iterable[Send], code: Code, text: str) -> None:
    """Answer each of ``sends`` that waits with the same failure."""
    for send in sends:
        fail_send(send, code, text)


def fail_by_verdict(send: Send, verdict: Verdict) -> None:
    """Answer ``send`` with why the producer table does not take its batch."""
    facts: dict[str, object] = {}
    match verdict:
        case Gap(expected):
            code, text = Code.SEQUENCE_GAP, f"the producer's next sequence in this partition is {expected}"
            facts["expected_sequence"] = expected
        case TooOld(oldest):
            code, text = Code.SEQUENCE_TOO_OLD, f"only sequences from {oldest} on are remembered: outcome unknown"
        case GivenUp(base_offset):
            # Nor is it appended anew: a node that is away may come back with it.
            code, text = Code.SEQUENCE_TOO_OLD, f"it was at offset {base_offset}, {_ROTTED}: outcome unknown"
        case Forgotten():
            code, text = (
                Code.SEQUENCE_TOO_OLD,
                "the producer is not remembered, or what it sent has rotted: outcome unknown",
            )
        case Fenced(epoch):
            code, text = Code.SEQUENCE_FENCED, f"the producer went on under epoch {epoch}"
        case Conflict(base_offset):
            code, text = Code.SEQUENCE_CONFLICT, f"these sequences belong to another batch, at offset {base_offset}"
        case TableFull(limit):
            code, text = Code.TOO_MANY_PRODUCERS, f"{limit} producers are remembered already (limit producers_max)"
        case _:
            raise AssertionError(verdict)
    fail_send(send, code, text, facts)


def fail_rotted(sink: ReplySink, request_id: int, offset: int) -> None:
    """Answer a send whose batch, at ``offset``, has rotted before that could be done: no copy is to be vouched for.

    It is sent again, and what becomes of it is answered then: it may be put right.
    """
    sink.failed(request_id, Code.APPEND_FAILED, f"the outcome is unknown: it is at offset {offset}, {_ROTTED}")


def refuse_degraded(sends: Iterable[Send], log: PartitionLog) -> None:
    """Reject what would not be acknowledged, before a byte of it is appended: clients send it again, for a time."""
    text = (
        f"the storage is degraded: log {log.name} reaches {log.level.label} and needs {log.least_level.label}; replace "
        "the lost member, or write on_degraded=continue into the URL"
    )
    fail_sends(sends, Code.STORAGE_DEGRADED, text)


def storage_code(error: StorageError | OutcomeUnknownError) -> Code:
    """Return the code of an append that failed."""
    if isinstance(error, OutcomeUnknownError) or error.appended:
        return Code.APPEND_FAILED
    if error.kind == "full":
        return Code.STORAGE_FULL
    if error.kind == "too-many-files":
        return Code.TOO_MANY_FILES
    if error.kind == "limit":
        return Code.BATCH_TOO_LARGE
    return Code.STORAGE_STOPPED


class SharingLog(Protocol):
    """What is appended to in shares: a partition."""

    share: FlushShare

    @property
    def unflushed_bytes(self) -> int:
        """What no flush has covered yet."""
        ...

    @property
    def is_over_share(self) -> bool:
        """Whether that is more than the share, and a flush of it comes."""
        ...

    async def append(self, sends: Sequence[Send]) -> None:
        """Append in order; everything gets its reply now or later."""

    async def room(self) -> None:
        """Wait until it is not over its share any more."""


async def append_in_shares(log: SharingLog, sends: Sequence[Send], reply: Callable[[], Awaitable[None]]) -> None:
    """Append ``sends``, with a wait for flushes wherever the log's share is used up.

    ``reply`` sends what is queued for the sender, before each wait. If cancelled, some have been appended.
    """
    first = 0
    while first < len(sends):
        after = first + 1
        if after < len(sends):
            left = log.share.bytes_max - log.unflushed_bytes - len(sends[first].batch.data)
            while after < len(sends) and left > 0:
                left -= len(sends[after].batch.data)
                after += 1
        await log.append(sends[first:after])
        first = after
        if log.is_over_share:
            await reply()
            await log.room()
