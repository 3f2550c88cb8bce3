"""``mqcore storage migrate|backup|restore``: a storage brought to another one, to a folder, and from there back."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import click

from mqcore.cli.shell import (
    Verb,
    connection_options,
    current,
    in_words,
    output_options,
    progress,
    refuse,
    run_async,
    write_json,
    write_line,
)
from mqcore.errors import ConfigurationError, NotReachedError, StorageError

if TYPE_CHECKING:
    from mqcore.abc import StorageBackend, StorageContext
    from mqcore.log import BackupFolder, StorageInspection, Transfer

__all__ = ["backup", "migrate", "restore"]

DAMAGE_OPTION = click.option(
    "--with-damage", is_flag=True, help="Copy damaged ranges as they are; they stay damage, which is reported."
)


@click.command(
    "migrate",
    cls=Verb,
    examples=[
        "mqcore storage migrate mmap:///d1/mq 'raid:///d2,/d3?level=1'",
        "mqcore storage migrate mmap:///d1/mq mmap:///d2/mq --output json",
    ],
)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@DAMAGE_OPTION
@output_options
def migrate(source: str, target: str, with_damage: bool) -> None:
    """Move what a stopped broker has stored at FROM to the empty storage TO, and check it batch by batch.

    FROM is not changed. Interrupted, the same command goes on where it was; until it ends no broker starts on TO. The
    broker keeps its identity: it must not be started on FROM again once it has run on TO.
    """
    if _place(source) == _place(target):
        refuse(f"{source} and {target} are the same storage: name another one")
    from mqcore.log import StorageInspection, Transfer

    context, limits = _context()
    backend, goal = _durable(source, context), _durable(target, context)

    async def move() -> Transfer:
        async with StorageInspection(backend, limits) as inspection:
            if inspection.beside_broker:
                raise StorageError(
                    f"storage {source} is in use by its broker: stop it first, or move it while it serves, by way of a "
                    "replica (docs/backup.md)",
                    kind="busy",
                )
            transfer = Transfer(inspection, goal, purpose="migration", limits=limits, with_damage=with_damage)
            await _bring_over(transfer, goal)
            return transfer

    transfer = run_async(move)
    _tell(transfer, "migrated", source, target)
    if not current().json:
        write_line(f"start the broker with --storage '{target}', and never on {source} again")


@click.command(
    "backup",
    cls=Verb,
    examples=[
        "mqcore storage backup /backup/monday",
        "mqcore storage backup /backup/monday --storage mmap:///var/lib/mqcore",
    ],
)
@click.argument("folder", metavar="DIR", type=click.Path(resolve_path=True))
@click.option("--storage", "url", metavar="URL", help="The storage; else the one of the broker at --server.")
@DAMAGE_OPTION
@connection_options
@output_options
def backup(folder: str, url: str | None, with_damage: bool) -> None:
    """Write what a broker has stored to the folder DIR, while it serves or while it is stopped.

    Run it where the broker runs: the storage is read, the broker is not asked. Each log is taken up to one moment, the
    topics and cursors of which are no newer. Interrupted, the same command goes on where it was.
    """
    from mqcore.log import BackupFolder, StorageInspection, Transfer, backup_identity

    context, limits = _context()
    node_id = ""
    if url is None:
        url, node_id = run_async(_ask)
    storage = url
    backend = _durable(storage, context)
    goal = BackupFolder(folder, context, writing=True)

    async def take() -> tuple[Transfer, bool]:
        async with StorageInspection(backend, limits) as inspection:
            identity = await inspection.identity()
            if node_id and identity.node_id.hex() != node_id:
                raise StorageError(f"{storage} here is not that of the broker that answered: name it", kind="foreign")
            transfer = Transfer(
                inspection,
                goal,
                purpose="backup",
                identity_of=backup_identity,
                limits=limits,
                with_damage=with_damage,
                fresh_ends=True,
                finish=lambda _: _seal(goal, transfer, inspection, context.ports.clock.wall_ms()),
            )
            await _bring_over(transfer, goal)
            return transfer, inspection.beside_broker

    transfer, beside_broker = run_async(take)
    _tell(transfer, "backed up", storage, folder, beside_broker=beside_broker)


@click.command(
    "restore",
    cls=Verb,
    examples=[
        "mqcore storage restore /backup/monday mmap:///var/lib/mqcore",
        "mqcore storage restore /backup/monday mmap:///var/lib/mqcore --as-replica",
    ],
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, resolve_path=True))
@click.argument("target", metavar="TO")
@click.option(
    "--as-replica",
    is_flag=True,
    help="The set went on meanwhile: the node joins it again, with the backup as a beginning.",
)
@click.option("--name", "node_name", metavar="NAME", default="", help="Name of the broker that is to run on TO.")
@output_options
def restore(folder: str, target: str, as_replica: bool, node_name: str) -> None:
    """Fill the empty storage TO from the finished backup in DIR, and check it batch by batch.

    What came after the backup is not in it, so the node gets a new id: no set takes it for the member that it was. Its
    next reign is above all that there were, and consumers that had read more are told. Interrupted, the same command
    goes on where it was.
    """
    from mqcore.log import BackupFolder, StorageInspection, Transfer, restored_identity

    context, limits = _context()
    goal = _durable(target, context)
    source = BackupFolder(folder, context, writing=False)

    async def bring_back() -> Transfer:
        async with StorageInspection(source, limits) as inspection:
            logs = {name: int(facts["checksum"], 16) for name, facts in source.manifest["logs"].items()}
            transfer = Transfer(
                inspection,
                goal,
                purpose="restore",
                identity_of=partial(restored_identity, as_replica=as_replica, node_name=node_name),
                node_id=secrets.token_bytes(16),
                limits=limits,
                # What was damaged when the backup was taken is so in it, as the one who took it has agreed to.
                with_damage=bool(source.manifest["with_damage"]),
                fresh_ends=True,
                checksums=logs,
            )
            await _bring_over(transfer, goal)
            return transfer

    transfer = run_async(bring_back)
    _tell(transfer, "restored", folder, target, as_replica=as_replica)


def _context() -> tuple[StorageContext, Any]:
    from mqcore.abc import StorageContext
    from mqcore.limits import Limits
    from mqcore.ports import system_ports

    limits = Limits()
    return StorageContext(ports=system_ports(), limits=limits), limits


def _durable(url: str, context: StorageContext) -> StorageBackend:
    """The storage at ``url``. Raises ``ConfigurationError`` for one that keeps nothing."""
    from mqcore.guarantees import Level
    from mqcore.registry import create_storage

    backend = create_storage(url, context)
    if backend.capabilities.flush_level < Level.DISK:
        level = backend.capabilities.flush_level.label
        raise ConfigurationError(
            f"{url} keeps nothing beyond the process of its broker (its flush reaches {level}): name a durable storage"
        )
    return backend


def _place(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{os.path.realpath(rest.partition('?')[0])}"


async def _bring_over(transfer: Transfer, goal: StorageBackend) -> None:
    import trio

    with _counted(transfer, "checking, bytes", None):
        await transfer.plan()
    try:
        with _counted(transfer, "copying and reading back, bytes", 2 * transfer.bytes_total):
            await transfer.run()
    finally:
        with trio.CancelScope(shield=True):
            await goal.aclose()


@contextmanager
def _counted(transfer: Transfer, label: str, total: int | None) -> Iterator[None]:
    with progress(label, total) as bar:
        transfer.advance = bar.advance
        yield


async def _ask() -> tuple[str, str]:
    """Return the URL of the storage of the broker that answers, and its node's id."""
    from mqcore.cli._client import connected

    try:
        async with connected(current()) as client:
            status = await client.admin.status()
    except NotReachedError as error:
        raise NotReachedError(
            f"{error}; to back up the storage of a broker that is stopped, name it: --storage"
        ) from error
    return str(status.storage["url"]), status.node_id


async def _seal(goal: BackupFolder, transfer: Transfer, inspection: StorageInspection, now_ms: int) -> None:
    identity = transfer.identity
    assert identity is not None
    await goal.seal(
        {
            "node": identity.node_name,
            "node_id": identity.node_id.hex(),
            "set_id": identity.set_id.hex(),
            "incarnation": identity.incarnation,
            "epoch": identity.highest_epoch,
            "taken_ms": now_ms,
            "beside_broker": inspection.beside_broker,
            "with_damage": any(finding.damages for finding in transfer.findings),
            "logs": {
                each.name: {
                    "start": each.start,
                    "end": each.end,
                    "messages": each.messages,
                    "checksum": f"{each.checksum:08x}",
                }
                for each in transfer.copied
            },
        }
    )


def _tell(
    transfer: Transfer, done: Literal["migrated", "backed up", "restored"], *places: str, **facts: object
) -> None:
    kinds = Counter(each.kind for each in transfer.copied)
    size = sum(each.end - each.start for each in transfer.copied)
    messages = sum(each.messages for each in transfer.copied if each.kind == "partition")
    present = sum(each.present_bytes for each in transfer.copied)
    identity = transfer.identity
    assert identity is not None
    if current().json:
        write_json(
            {
                "summary": {
                    "done": done,
                    "from": places[0],
                    "to": places[1],
                    "node": identity.node_name,
                    "logs": dict(kinds),
                    "messages": messages,
                    "bytes": size,
                    "bytes_there_already": present,
                    **facts,
                }
            }
        )
        return
    counted = ", ".join(f"{in_words(count)} {kind}" for kind, count in sorted(kinds.items()))
    there = f", {in_words(present)} of them there already" if present else ""
    write_line(f"{done} {places[0]} to {places[1]}: broker {identity.node_name!r}; logs: {counted or 'none'}")
    write_line(f"{in_words(messages)} messages, {in_words(size)} bytes{there}; each batch was read back and checked")
