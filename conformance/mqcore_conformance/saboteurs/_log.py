"""Saboteurs inside the log and the storage below it: what counts as a batch, what recovery does, what a reign is.

Knows private names of ``mqcore.log`` and ``mqcore_mmap``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

from typing import Any

import attrs

from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log import Damage, DamagedRangeError, ProducerTable
from mqcore_conformance.saboteurs._replacing import Replacement, in_place_of, replacing

STORE = "mqcore.log._store"
HIDDEN_OFFSET = 3


class _Anything:
    """Equal to every checksum."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


@in_place_of(("mqcore.log._scan", "", "crc32c"), ("mqcore.log._collect", "", "crc32c"))
def any_record_accepted(_: Any) -> Any:
    """A record is accepted by its length field, whatever its checksums say."""
    return lambda *_: _Anything()


@in_place_of(("mqcore.log._collect", "", "crc32c"))
def damage_served(_: Any) -> Any:
    """Recovery checks what it finds; what is read afterwards is served unchecked."""
    return lambda *_: _Anything()


@in_place_of(("mqcore.log._readable", "ReadableLog", "read"))
def damage_invented(original: Any) -> Any:
    """One offset of every log is reported as damaged, although nothing ever happened to it."""

    async def read(log: Any, offset: int, *bounds: Any, **how: Any) -> Any:
        if offset == HIDDEN_OFFSET:
            raise DamagedRangeError(log.name, Damage(1, 2, offset, offset + 1, "invented"))
        return await original(log, offset, *bounds, **how)

    return read


@in_place_of(("mqcore.log._recovery", "", "locate_damage"), ("mqcore.log._readable", "", "locate_damage"))
def damage_too_wide(original: Any) -> Any:
    """A damaged batch takes the whole one behind it along."""

    async def locate(log: Any, position: int, *, salt: int, search_end: int, **facts: Any) -> Damage:
        damage: Damage = await original(log, position, salt=salt, search_end=search_end, **facts)
        header = await original.__globals__["header_at"](log, damage.end_position, search_end, salt)
        if header is None or header.base_offset != damage.next_offset:
            return damage
        return damage._replace(end_position=damage.end_position + header.size, next_offset=header.end_offset)

    return locate


@in_place_of(("mqcore.log._history", "EpochHistory", "divergence"))
def divergence_too_low(original: Any) -> Any:
    """A reader whose history parts from the log's is sent back too far."""

    def divergence(history: Any, offset: int, number: int, end_offset: int) -> int | None:
        point: int | None = original(history, offset, number, end_offset)
        return None if point is None else max(point - 1, 0)

    return divergence


@replacing
def one_salt() -> tuple[Replacement, ...]:
    """A record's header does not say of which log it is, and nothing marks the end: what another log left counts."""

    def make(original: Any) -> Any:
        async def open_log(store: Any, name: str, salt: int) -> Any:
            return await original(store, name, 0)

        return open_log

    return (
        (STORE, "LogStore", "_open_log", make),
        ("mqcore_mmap._segment", "", "_END_MARK", lambda _: b""),
    )


@in_place_of(("mqcore.log._recovery", "", "scan_past_damage"))
def cut_at_bad_checksum(original: Any) -> Any:
    """A log is cut at its first bad checksum, wherever it lies (NATS JetStream #7549)."""

    async def scan(log: Any, scanner: Any, **facts: Any) -> None:
        await original(log, scanner, **{**facts, "durable_end": 0})

    return scan


@replacing
def starts_empty() -> tuple[Replacement, ...]:
    """An identity that cannot be read is answered by starting empty (NATS JetStream #7556)."""

    def read(original: Any) -> Any:
        async def read_or_nothing(log: Any) -> Any:
            try:
                return await original(log)
            except CorruptionError:
                for copy in log._copies:
                    await copy.log.truncate(0)
                    copy.end = copy.sequence = 0
                return None

        return read_or_nothing

    def open_log(original: Any) -> Any:
        async def open_anew(store: Any, name: str, salt: int) -> Any:
            if name == "metadata" and store._identity.highest_epoch == 0:
                await store.backend.delete_log(name)
            return await original(store, name, salt)

        return open_anew

    return (
        ("mqcore.log._identity", "IdentityLog", "read", read),
        (STORE, "", "check_owner", lambda _: lambda *_, **__: None),
        (STORE, "", "check_metadata", lambda _: lambda *_: None),
        (STORE, "LogStore", "_open_log", open_log),
    )


@replacing
def epoch_resumed() -> tuple[Replacement, ...]:
    """A reign goes on under its own epoch after a power cut."""

    def begin_term(original: Any) -> Any:
        async def same_reign(store: Any, term: Any, change: Any) -> None:
            number = max(change(store._identity).reign_number - 1, 1)

            def resumed(identity: Any) -> Any:
                return attrs.evolve(change(identity), reign_number=number, highest_epoch=number)

            await original(store, type(term)(reign=term.reign._replace(number=number)), resumed)

        return same_reign

    def open_epoch(original: Any) -> Any:
        def open_unless_same(state: Any, number: int, *facts: Any) -> None:
            if number != state.epoch:
                original(state, number, *facts)

        return open_unless_same

    return (
        ("mqcore.log._state", "LogState", "open_epoch", open_epoch),
        (STORE, "LogStore", "_begin_term", begin_term),
    )


@replacing
def recovery_skipped() -> tuple[Replacement, ...]:
    """After a start that crashed while it loaded, the next one trusts what it finds (KAFKA-10471)."""
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

    return (
        (STORE, "LogStore", "_open", opening),
        ("mqcore.log._partition_log", "PartitionLog", "append", appended),
        ("mqcore.log._scan", "", "crc32c", checksum),
        ("mqcore.log._collect", "", "crc32c", checksum),
    )


@in_place_of(("mqcore.log._partition_log", "PartitionLog", "trim"))
def forgets_with_a_trim(original: Any) -> Any:
    """A trim takes what is remembered of producers with the messages that it was learned from."""

    async def trim(log: Any, offset: int, position: int | None = None) -> int:
        start: int = await original(log, offset, position)
        log.producers.restore(ProducerTable(Limits()).snapshot())
        return start

    return trim


@in_place_of(("mqcore_mmap._engine", "Engine", "close_logs"))
def clean_mark_laundered(original: Any) -> Any:
    """A stop after a failed flush flushes again, and states a clean end of what never reached the disk."""

    async def close_logs(engine: Any, logs: Any) -> None:
        engine.failure = None
        for log in logs:
            log._failure = None
        await original(engine, logs)

    return close_logs
