"""Saboteurs inside the broker and its log: they replace a method while a run lasts.

The only modules of the suite that know private names of the core; a name that is gone is a ``LookupError`` of the
selftest, not a saboteur that silently does nothing.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from mqcore.batch import HEADER_BYTES, unpack_header
from mqcore.errors import CorruptionError
from mqcore_conformance.simulation import Sabotage

__all__ = [
    "AnyRecordAccepted",
    "CloseUnflushed",
    "CutAtFirstBadChecksum",
    "DuplicateAnsweredAtOnce",
    "EpochResumed",
    "ReadsAboveCommitted",
    "RejectedAfterAppend",
    "RecoverySkippedAfterCrash",
    "ReplyBeforeFlush",
    "StaleBytesAccepted",
    "StartsEmpty",
    "WindowIgnored",
]


@contextlib.contextmanager
def replaced(module: str, owner: str, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace ``module.owner.name`` (``owner`` empty: a name of the module) by ``make(original)``."""
    target: Any = importlib.import_module(module)
    if owner:
        target = getattr(target, owner)
    original = target.__dict__.get(name)
    if original is None:
        raise LookupError(f"{module}.{owner}.{name} is gone: give the saboteur its new name")
    setattr(target, name, make(original))
    try:
        yield
    finally:
        setattr(target, name, original)


class DuplicateAnsweredAtOnce(Sabotage):
    """A duplicate is answered from the table before the original is flushed."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(_: Any) -> Any:
            def answer(partition: Any, send: Any, original: Any) -> None:
                if send.sink is not None:
                    level = partition._flush_level
                    send.sink.produced(send.request_id, original.base_offset, partition.epoch, level, True)

            return answer

        with replaced("mqcore.broker._partition", "Partition", "_answer_duplicate", make):
            yield


class WindowIgnored(Sabotage):
    """The window's bound is ignored: acknowledgements go on while a flush is stalled."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""
        with replaced("mqcore.broker._window", "AsyncWindow", "_fits", lambda _: lambda *_: True):
            yield


class ReplyBeforeFlush(Sabotage):
    """The broker replies that a batch is on disk before the flush."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(original: Any) -> Any:
            def appended(partition: Any, sends: Any, base_offsets: Any) -> None:
                original(partition, sends, base_offsets)
                while partition._waiting_sync:
                    waiting = partition._waiting_sync.popleft()
                    waiting.sink.produced(
                        waiting.request_id, waiting.base_offset, partition.epoch, partition._flush_level, False
                    )

            return appended

        with replaced("mqcore.broker._partition", "Partition", "_appended", make):
            yield


class ReadsAboveCommitted(Sabotage):
    """Readers see everything that was appended, above the committed offset."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(original: Any) -> Any:
            def appended(partition: Any, sends: Any, base_offsets: Any) -> None:
                original(partition, sends, base_offsets)
                partition.committed_offset = partition.log.end_offset
                partition._unpark()

            return appended

        with replaced("mqcore.broker._partition", "Partition", "_appended", make):
            yield


class RejectedAfterAppend(Sabotage):
    """A batch is appended, then every seventh is called rejected."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""
        counter = iter(range(1, 1 << 60))

        def make(original: Any) -> Any:
            def appended(partition: Any, sends: Any, base_offsets: Any) -> None:
                for index, send in enumerate(sends):
                    if send.sink is not None and next(counter) % 7 == 0:
                        send.sink.failed(send.request_id, 103, "the batch is too large")
                        sends[index] = send._replace(sink=None)
                original(partition, sends, base_offsets)

            return appended

        with replaced("mqcore.broker._partition", "Partition", "_appended", make):
            yield


class EpochResumed(Sabotage):
    """A reign goes on under its own epoch after a power cut."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(original: Any) -> Any:
            def next_identity(store: Any, old: Any) -> Any:
                identity = original(store, old)
                if old is None:
                    return identity
                return attrs.evolve(identity, reign_number=old.reign_number, highest_epoch=old.highest_epoch)

            return next_identity

        def open_epoch(original: Any) -> Any:
            def open_unless_same(state: Any, number: int, *facts: Any) -> None:
                if number != state.epoch:
                    original(state, number, *facts)

            return open_unless_same

        with (
            replaced("mqcore.log._state", "LogState", "open_epoch", open_epoch),
            replaced("mqcore.log._store", "LogStore", "_next_identity", make),
            replaced("mqcore.log._store", "LogStore", "_check_metadata", lambda _: lambda *_: None),
        ):
            yield


class _Anything:
    """Equal to every checksum."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class AnyRecordAccepted(Sabotage):
    """A record is accepted by its length field, whatever its checksums say."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(_: Any) -> Any:
            return lambda *_: _Anything()

        with replaced("mqcore.log._scan", "", "crc32c", make), replaced("mqcore.log._collect", "", "crc32c", make):
            yield


class CutAtFirstBadChecksum(Sabotage):
    """A log is cut at its first bad checksum, wherever it lies."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(original: Any) -> Any:
            async def scan(log: Any, scanner: Any, **facts: Any) -> None:
                await original(log, scanner, **{**facts, "durable_end": 0})

            return scan

        with replaced("mqcore.log._recovery", "", "scan_past_damage", make):
            yield


class StartsEmpty(Sabotage):
    """An identity that cannot be read is answered by starting empty."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def read(original: Any) -> Any:
            async def read_or_nothing(log: Any) -> Any:
                try:
                    return await original(log)
                except CorruptionError:
                    await log._log.truncate(0)
                    return None

            return read_or_nothing

        def open_log(original: Any) -> Any:
            async def open_anew(store: Any, name: str, salt: int) -> Any:
                if name == "metadata" and store.epoch == 1:
                    await store.backend.delete_log(name)
                return await original(store, name, salt)

            return open_anew

        with (
            replaced("mqcore.log._identity", "IdentityLog", "read", read),
            replaced("mqcore.log._store", "LogStore", "_refuse_orphans", lambda _: lambda *_: None),
            replaced("mqcore.log._store", "LogStore", "_check_metadata", lambda _: lambda *_: None),
            replaced("mqcore.log._store", "LogStore", "_open_log", open_log),
        ):
            yield


def _as_if_ours(view: memoryview, state: Any) -> memoryview:
    """Give every whole batch in ``view`` the offset and the epoch that it would have here."""
    copy = bytearray(view)
    at, offset, epoch = 0, state.end_offset, state.epoch
    with contextlib.suppress(CorruptionError):
        while len(copy) - at >= HEADER_BYTES:
            header = unpack_header(copy[at : at + HEADER_BYTES])
            if not header.is_control:
                epoch = max(epoch, 1)
                copy[at + 72 : at + 80] = offset.to_bytes(8, "little")
                copy[at + 80 : at + 88] = epoch.to_bytes(8, "little")
            else:
                epoch = max(epoch, header.epoch)
            offset += header.count
            at += header.size
    return memoryview(copy)


class StaleBytesAccepted(Sabotage):
    """A record is known by its body checksum alone: bytes left over from another log or offset are accepted."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(_: Any) -> Any:
            return lambda view, salt, where: unpack_header(view, where)

        def feed(original: Any) -> Any:
            return lambda scanner, view: original(scanner, _as_if_ours(view, scanner.state))

        with (
            replaced("mqcore.log._scan", "", "intact_header", make),
            replaced("mqcore.log._collect", "", "intact_header", make),
            replaced("mqcore.log._scan", "BatchScanner", "feed", feed),
        ):
            yield


class CloseUnflushed(Sabotage):
    """An orderly stop answers what waits for the group commit without waiting for the flush."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""

        def make(original: Any) -> Any:
            def stop(broker: Any) -> None:
                original(broker)
                for partition in broker.partitions.values():
                    while partition._waiting_sync:
                        waiting = partition._waiting_sync.popleft()
                        level = partition._flush_level
                        waiting.sink.produced(
                            waiting.request_id, waiting.base_offset, partition.epoch, level, False
                        )

            return stop

        with replaced("mqcore.broker._broker", "Broker", "stop", make):
            yield


class RecoverySkippedAfterCrash(Sabotage):
    """After a start that crashed while it loaded, the next one trusts what it finds and scans nothing."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """See ``Sabotage``."""
        unfinished = 0
        trusting = False

        def opening(original: Any) -> Any:
            async def count(store: Any) -> None:
                nonlocal unfinished, trusting
                unfinished += 1
                trusting = trusting or unfinished > 1
                await original(store)

            return count

        def appended(original: Any) -> Any:
            async def append(log: Any, batches: Any) -> Any:
                nonlocal unfinished
                result = await original(log, batches)
                unfinished = 0
                return result

            return append

        def checksum(original: Any) -> Any:
            return lambda *arguments: _Anything() if trusting else original(*arguments)

        with (
            replaced("mqcore.log._store", "LogStore", "_open", opening),
            replaced("mqcore.log._partition_log", "PartitionLog", "append", appended),
            replaced("mqcore.log._scan", "", "crc32c", checksum),
            replaced("mqcore.log._collect", "", "crc32c", checksum),
        ):
            yield
