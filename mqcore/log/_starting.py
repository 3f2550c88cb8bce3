"""What a start makes of the identity and the logs that it finds (rules R2, R14): which incarnation, or a refusal.

Writes nothing. Nothing that should be there and is not is answered by starting empty (clause G12).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from mqcore.abc import Notice, StorageBackend
from mqcore.errors import CorruptionError, StorageError
from mqcore.guarantees import Level
from mqcore.log._identity import Identity
from mqcore.log._names import IDENTITY_NAME, IDENTITY_NAMES, METADATA_NAME, TRANSFER_NAME, is_partition_name
from mqcore.log._partition_log import PartitionLog
from mqcore.ports import Ports, clock_base_ms

__all__ = [
    "are_flushed",
    "check_epoch",
    "check_metadata",
    "check_owner",
    "check_reigns",
    "identity_of_start",
]

INSTANCE_CHARACTERS_MAX = 64
"""What the identity keeps of the storage's ``mount``."""


def check_owner(old: Identity | None, names: Iterable[str], *, node_name: str, where: str) -> None:
    """Refuse logs without an identity (``CorruptionError``), and those of another broker (``StorageError``)."""
    if old is None:
        orphans = sorted(set(names).difference(IDENTITY_NAMES))
        if TRANSFER_NAME in orphans:
            raise CorruptionError(
                "a migration or a restore into this storage has not come to its end: give the same 'mqcore storage' "
                "command again, it goes on where it was",
                where=where,
            )
        if orphans:
            raise CorruptionError(
                f"the storage holds {len(orphans)} logs, such as {orphans[0]!r}, but no identity: restore the log "
                f"{IDENTITY_NAME!r} from a good copy, or name an empty storage",
                where=where,
            )
    elif old.node_name != node_name:
        raise StorageError(
            f"storage {where} belongs to the broker {old.node_name!r}, this one is called {node_name!r}; use its own "
            "storage, or its name",
            kind="foreign",
        )


def identity_of_start(
    old: Identity | None,
    node_name: str,
    backend: StorageBackend,
    ports: Ports,
    *,
    flushed_only: bool,
    report: Callable[[Notice], None],
) -> Identity:
    """The identity with which a start begins, after ``old``; None for an empty storage.

    ``flushed_only``: of an empty storage, whether it reports flushed positions only; later that is changed by
    ``LogStore.report_flushed_only`` alone. Reports a storage that is not where it was at the last start.
    """
    boot_id = ports.files.boot_id()
    mount = str(backend.facts().get("mount", ""))
    if old is None:
        identity = first_identity(
            node_name, flushed_only=flushed_only, boot_id=boot_id, mount=mount, random_bytes=ports.random.randbytes
        )
    else:
        if old.instance and mount and old.instance != mount[:INSTANCE_CHARACTERS_MAX]:
            report(_elsewhere(str(backend.url), old.instance, mount))
        identity = next_identity(
            old,
            boot_id=boot_id,
            mount=mount,
            append_level=backend.capabilities.append_level,
            may_lack=backend.may_lack_reported,
        )
    # Else a clock that was set while the broker was down would be the one that ages are believed by (R15).
    is_known = old is not None and bool(boot_id) and old.boot_id == boot_id and bool(old.clock_base_ms)
    return identity if is_known else attrs.evolve(identity, clock_base_ms=clock_base_ms(ports.clock))


def first_identity(
    node_name: str, *, flushed_only: bool, boot_id: str, mount: str, random_bytes: Callable[[int], bytes]
) -> Identity:
    """The identity of an empty storage: ids of its own, and no reign yet."""
    return Identity(
        node_id=random_bytes(16),
        set_id=random_bytes(16),
        node_name=node_name,
        incarnation=1,
        reign_number=0,
        reign_id=bytes(16),
        highest_epoch=0,
        metadata_end=0,
        clean=True,
        flushed_only=flushed_only,
        boot_id=boot_id,
        instance=mount[:INSTANCE_CHARACTERS_MAX],
    )


def next_identity(old: Identity, *, boot_id: str, mount: str, append_level: Level, may_lack: bool) -> Identity:
    """``old`` under the incarnation that R2 asks for: a higher one where what was reported as held may be missing.

    ``may_lack``: the storage itself says that something may.
    """
    instance = mount[:INSTANCE_CHARACTERS_MAX]
    # Unknown ids prove nothing, even if they are equal; and a copied directory is on another mount or inode: an older
    # copy of a node that reports flushed positions only lacks what was reported since.
    is_in_place = bool(instance) and old.instance == instance
    process_died_only = is_in_place and bool(boot_id) and old.boot_id == boot_id
    is_kept = old.clean or process_died_only or (old.flushed_only and is_in_place)
    nothing_missing = append_level >= Level.PAGE_CACHE and is_kept
    nothing_missing = nothing_missing and not may_lack
    return attrs.evolve(
        old,
        incarnation=old.incarnation + (not nothing_missing),
        boot_id=boot_id,
        instance=instance,
    )


def _elsewhere(where: str, before: str, now: str) -> Notice:
    # A clean stop proves that nothing was missing there, not that it is the same storage here: a copy of last week that
    # is brought back has a clean stop too (decision 0021).
    text = (
        f"storage {where} is not where the node last ran ({now}, it was {before}): moved, mounted anew "
        "or copied. Of a copy only one may ever be started again, and one that is older than the "
        "last stop lacks what came later: bring such back with `mqcore storage restore`"
    )
    return Notice("storage-elsewhere", text, {"now": now, "before": before})


def check_metadata(identity: Identity, names: Iterable[str], metadata: PartitionLog) -> None:
    """Refuse a metadata log that ends below what it must hold. Raises ``CorruptionError``."""
    # A topic is recorded before its first log exists: partitions without metadata mean that metadata are lost.
    partitions = sum(map(is_partition_name, names))
    end_position = metadata.end_position
    expected = max(identity.metadata_end, 1 if partitions and not metadata.is_begun_anew else 0)
    if end_position < expected:
        holds = f"; the storage holds {partitions} partition logs" if partitions else ""
        raise CorruptionError(
            f"the metadata log is missing or has lost its end{holds}; restore it from a good copy",
            where=f"log {METADATA_NAME}",
            expected=f"at least {expected} bytes",
            found=f"{end_position} bytes" if end_position else "an empty log",
        )


def check_reigns(metadata: PartitionLog) -> None:
    """Refuse a reign over a metadata log that was begun anew and holds nothing yet. Raises ``StorageError``."""
    if metadata.is_begun_anew:
        text = "what the metadata log said was given up for the primary's, of which nothing has come yet"
        raise StorageError(f"{text}: another node has to reign first", kind="missing")


def check_epoch(identity: Identity, log_name: str, highest: int) -> None:
    """Refuse a log with a reign ``highest`` above all that the identity has seen. Raises ``CorruptionError``.

    The identity is flushed before a reign is written to any log: so it is the identity that has gone back.
    """
    if highest > identity.highest_epoch:
        raise CorruptionError(
            f"the identity of this storage has gone back: the log {log_name} knows a newer reign; restore both from "
            "one copy",
            where=f"log {IDENTITY_NAME}",
            expected=f"reign {highest} or later",
            found=f"reign {identity.highest_epoch}",
        )


async def are_flushed(backend: StorageBackend, names: Iterable[str]) -> bool:
    """Whether the partition logs among ``names``, which this run never opened, hold nothing that is not flushed.

    Else two stops would make a clean one: the first process dies, this one touches only other logs. They are not
    flushed here, for without recovery that would put the durable mark above a torn tail.
    """
    for name in sorted(names):
        if is_partition_name(name):
            log = await backend.open_log(name)
            if log.durable_end < log.end:
                return False
    return True
