"""Errors, sorted by what the caller can do about them.

Every error that can cross the wire has a ``code`` (a stable number, see ``docs/protocol.md``); the same table is used
in both directions. Messages name the value that was wrong and the remedy. This module knows nothing of I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BatchUndecodableError",
    "BrokenLinkError",
    "BufferFullError",
    "CertificateError",
    "ClosedError",
    "CommandNotPossibleError",
    "ConfigurationError",
    "CoordinatorConflictError",
    "CoordinatorError",
    "CoordinatorOutcomeUnknownError",
    "CoordinatorUnreachableError",
    "CoordinatorWentBackError",
    "CorruptionError",
    "FlushFailedError",
    "LocalProtocolError",
    "LostFromError",
    "MessagesMissingError",
    "MqcoreError",
    "NotPrimaryError",
    "NotReachedError",
    "OffsetStoreError",
    "OffsetStoreFencedError",
    "OffsetStoreForeignError",
    "OffsetStoreOutcomeUnknownError",
    "OffsetStoreUnavailableError",
    "OutcomeUnknownError",
    "PluginError",
    "PluginInvalidError",
    "PluginNotFoundError",
    "ProducerFencedError",
    "ProtocolError",
    "RefusedError",
    "RejectedError",
    "RemoteProtocolError",
    "StorageError",
    "TransportError",
    "exit_code",
]


class MqcoreError(Exception):
    """Root of everything mqcore raises on purpose.

    ``exit_status`` is what the command line ends with when this error reaches it (documented in ``docs/cli.md``).
    """

    exit_status = 1

    def __reduce__(self) -> tuple[object, ...]:
        # Python's own would call the class with ``args``, which are the message alone: a class that needs more could
        # not come back from a process pool.
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(cls: type[MqcoreError], arguments: tuple[object, ...], attributes: dict[str, object]) -> MqcoreError:
    error = cls.__new__(cls, *arguments)
    error.__dict__.update(attributes)
    return error


class ConfigurationError(MqcoreError):
    """An option, a URL, a key or a value that cannot be used; the message names it and what is allowed."""

    exit_status = 2


class RefusedError(ConfigurationError):
    """A build that cannot keep a promise that it states (clause G18). The message says which and why."""

    exit_status = 3


class PluginError(MqcoreError):
    """Something is wrong with a part, not with the configuration that names it."""

    exit_status = 2


class PluginNotFoundError(PluginError):
    """No part of that name is installed; the message lists those that are."""


class PluginInvalidError(PluginError):
    """A part is installed but breaks its contract (missing method, impossible capability, contract version)."""


class ProtocolError(MqcoreError):
    """A peer, or this side, broke the wire protocol."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol forbids now: a programming error, nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids.

    ``code`` is the wire code to answer with before the link is closed.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class TransportError(MqcoreError):
    """A transport could not listen, connect or go on; the message names the URL and the remedy.

    ``retryable``: whether the same may succeed later without anybody's help; a client gives up at once if not.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class BrokenLinkError(TransportError):
    """The link broke while something was in flight."""


class CertificateError(TransportError, ConfigurationError):
    """A file of certificates or a key that cannot be used; the message names it, what is wrong, and what to do.

    One of this end's own: what is wrong with a certificate that the other end shows is another matter.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class NotReachedError(MqcoreError):
    """No server answered in time."""

    exit_status = 4


class StorageError(MqcoreError):
    """A storage backend failed.

    ``kind`` is one of ``KINDS``; ``retryable`` says whether the same call may succeed later without an operator;
    ``path`` and ``position`` say where, as far as known. When ``append`` raises it, ``appended`` says whether any
    byte may have reached the log (then the caller has to truncate before it may call the send rejected).
    """

    KINDS = ("full", "too-many-files", "flush", "io", "closed", "permission", "busy", "foreign", "missing", "limit")

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        retryable: bool = False,
        path: str | None = None,
        position: int | None = None,
        appended: bool = False,
    ) -> None:
        if kind not in self.KINDS:
            raise ValueError(f"unknown storage error kind {kind!r}; one of {', '.join(self.KINDS)}")
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable
        self.path = path
        self.position = position
        self.appended = appended


class FlushFailedError(StorageError):
    """A flush failed: every log in ``logs`` stops (clause G11). Final: a later success proves nothing."""

    def __init__(self, message: str, *, logs: Iterable[str], path: str | None = None) -> None:
        super().__init__(message, kind="flush", retryable=False, path=path)
        self.logs = frozenset(logs)


class CoordinatorError(MqcoreError):
    """A coordinator did not do what was asked; the message names its URL, the name asked for, and what to do."""


class CoordinatorConflictError(CoordinatorError):
    """What a write expected is not there: it was not applied and never will be. Read, then decide anew."""


class CoordinatorUnreachableError(CoordinatorError):
    """Not applied, and never will be: nothing was sent, or the server said that it refused. May be tried again."""


class CoordinatorOutcomeUnknownError(CoordinatorError):
    """A write was sent and no answer says what became of it. It may be applied *later* still, after any read.

    Only another write with the same expectation settles it: if that one is applied, the first never will be; if it
    meets a conflict, a read shows whose write id is there.
    """


class CoordinatorWentBackError(CoordinatorError):
    """The coordinator's state is older than what this process has seen of it: a backup was restored (rule R14)."""

    exit_status = 5


class OffsetStoreError(MqcoreError):
    """An offset store did not do what was asked; the message names its URL, the group, and what to do."""


class OffsetStoreFencedError(OffsetStoreError):
    """A later commit of the group was applied: this one was not and never will be. Its owner was replaced."""


class OffsetStoreUnavailableError(OffsetStoreError):
    """Not applied, and never will be: the store is down, too slow or full. May be tried again once that is mended."""


class OffsetStoreOutcomeUnknownError(OffsetStoreError):
    """A commit was sent and no answer says what became of it: it may be applied later still, unless a later one is.

    The same commit with the same stamp, or the next one, settles it.
    """


class OffsetStoreForeignError(OffsetStoreError):
    """What is at the store's place is not its own, of another version, or damaged: nothing was read or changed."""

    exit_status = 5


class CorruptionError(MqcoreError):
    """Bytes are not what they must be: what was expected, what was found, where (clause G12)."""

    exit_status = 5

    def __init__(self, message: str, *, where: str, expected: str = "", found: str = "") -> None:
        detail = f" (expected {expected}, found {found})" if expected or found else ""
        super().__init__(f"{where}: {message}{detail}")
        self.where = where
        self.expected = expected
        self.found = found


class BatchUndecodableError(CorruptionError):
    """A consumer met a batch that it cannot read; going on starts after it.

    The messages from ``first_offset`` to before ``next_offset`` of ``topic`` and ``partition`` are passed over.
    """

    def __init__(self, message: str, *, topic: str, partition: int, first_offset: int, next_offset: int) -> None:
        super().__init__(
            message, where=f"topic {topic!r} partition {partition} offsets {first_offset} to {next_offset - 1}"
        )
        self.topic = topic
        self.partition = partition
        self.first_offset = first_offset
        self.next_offset = next_offset


class MessagesMissingError(MqcoreError):
    """Messages that a consumer was to read, or has read, are not in the log any more; going on starts at ``position``.

    ``reason`` is ``"retention"`` (they were trimmed: reading goes on after them) or ``"loss"`` (a permitted loss took
    them, from ``position`` on; other messages may have their offsets now).
    """

    def __init__(self, message: str, *, topic: str, partition: int, reason: str, position: int) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.reason = reason
        self.position = position


class RejectedError(MqcoreError):
    """Refused before a byte was appended anywhere: it will never be read. May be sent again.

    ``code`` is the wire code (``mqcore.protocol.codes``), ``name`` its stable name such as ``unknown-topic``.
    """

    def __init__(self, message: str, *, code: int = 0, name: str = "rejected", retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.retryable = retryable


class NotPrimaryError(RejectedError):
    """The node is not the primary of what was asked for; nothing was appended. May be sent again, to the primary.

    ``epoch`` is the number of the reign that the node knows (0: of none), ``urls`` are where that reign's primary
    listens, as far as the node knows.
    """

    def __init__(self, message: str, *, code: int, epoch: int = 0, urls: Iterable[str] = ()) -> None:
        super().__init__(message, code=code, name="not-primary", retryable=True)
        self.epoch = epoch
        self.urls = tuple(urls)


class LostFromError(RejectedError):
    """A permitted loss took batches of this producer that were acknowledged (rule R12); this batch was not appended.

    Receipts of messages with ``sequence`` or a later one are void: their outcome is that they are lost. The producer
    goes on under a new producer epoch.
    """

    def __init__(self, message: str, *, code: int, sequence: int) -> None:
        super().__init__(message, code=code, name="lost-from")
        self.sequence = sequence


class ProducerFencedError(RejectedError):
    """Another process goes on under the producer's name: nothing that this one sends is appended any more (rule R12).

    ``producer_name`` is the name, ``epoch`` the one that was given out last, ``producer_id`` the id under which the
    name sends; empty and 0 where the broker knows of no such name (any more). What this process has sent and no answer
    came to stays unknown.
    """

    def __init__(
        self, message: str, *, code: int, producer_name: str = "", epoch: int = 0, producer_id: int = 0
    ) -> None:
        super().__init__(message, code=code, name="producer-fenced")
        self.producer_name = producer_name
        self.epoch = epoch
        self.producer_id = producer_id


class OutcomeUnknownError(MqcoreError):
    """The message may or may not be in the log. A retry under the same sequence does not duplicate it."""


class BufferFullError(MqcoreError):
    """The producer holds as much as ``buffer_bytes_max`` allows; nothing was queued. Wait for room, then post again.

    Raised by ``mqcore.aio`` and ``mqcore.sync``, where the Trio client raises ``trio.WouldBlock``.
    """


class ClosedError(MqcoreError):
    """What was asked is closed, or its client is.

    Raised by ``mqcore.aio`` and ``mqcore.sync``, where the Trio client raises ``trio.ClosedResourceError``.
    """


class CommandNotPossibleError(MqcoreError):
    """A request that is understood and cannot be done now; the message says why and what would help."""


def exit_code(error: BaseException) -> int:
    """Exit status of the command line for ``error`` (0 to 255); 130 for an interrupt, 1 for the unforeseen."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_status if isinstance(error, MqcoreError) else 1
