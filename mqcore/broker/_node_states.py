"""What a node of a set says that it holds, and what another one makes of that, for who may reign next.

Must not know how nodes are asked, nor what is decided.
"""

from __future__ import annotations

from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore.log import METADATA_NAME, LogStore, PartitionLog, salt_of_name
from mqcore.operations import FoundNode, StateDescription
from mqcore.replication import LogTip, Member, NodeState, SetRecord

__all__ = ["describe_node", "found_node", "node_state"]


async def describe_node(
    store: LogStore, name: str, record: SetRecord | None, *, reigns: bool, has_failed: bool
) -> StateDescription:
    """Return what the node called ``name`` holds in ``store``; other arguments as in ``StateDescription``.

    A log that cannot be opened holds nothing that it could serve or give to others: it is told as empty. Then a node
    that can open it comes first, and one that cannot is still there for all other logs. A node that reports flushed
    positions only (R2 b) flushes first. Nothing else is changed, if cancelled neither.
    """
    metadata = store.metadata
    logs = {METADATA_NAME: metadata}
    for log_name in await store.list_logs():
        salt = salt_of_name(log_name)
        if salt is None:
            continue
        try:
            logs[log_name] = await store.open_log(log_name, salt=salt)
        except (StorageError, CorruptionError):  # which the store has reported
            continue
    if store.flushed_only:
        await store.flush(list(logs.values()))
    tips = {log_name: _tip(log, flushed_only=store.flushed_only) for log_name, log in logs.items()}
    return StateDescription(
        node_id=store.node_id.hex(),
        name=name,
        set_id=store.set_id.hex(),
        incarnation=store.incarnation,
        seen_epoch=store.newest_epoch,
        tips={log_name: tip for log_name, tip in tips.items() if tip[1]},
        record="" if record is None else record.pack().decode(),
        reigns=reigns,
        is_empty=not metadata.bytes_total,
        has_failed=has_failed,
    )


def _tip(log: PartitionLog, *, flushed_only: bool) -> tuple[int, int]:
    """The epoch of the last batch of a log that a node vouches for, and where that batch ends."""
    end = log.end_position
    if log.name == METADATA_NAME and not log.bytes_total:
        return 0, 0  # begun anew, and nothing has come yet: what lies below says nothing by not being there
    if log.open_end is not None and log.name != METADATA_NAME:
        end = log.open_end  # beyond that nothing is whole
    if (flushed_only or log.has_stopped) and log.durable_position < end:  # it has failed, or grows on
        end = log.durable_position
        return max((reign.number for reign in log.history if reign.start_position < end), default=0), end
    return log.last_batch[0], end


def found_node(name: str, state: StateDescription | None, why: str) -> FoundNode:
    """Return what is shown of the configured node called ``name``; ``state``: its answer, None if it gave none, and
    ``why`` it did not.
    """
    if state is None:
        return FoundNode(name=name, node_id="", answered=False, incarnation=0, epoch=0, bytes=0, why=why)
    return FoundNode(
        name=name,
        node_id=state.node_id,
        answered=True,
        incarnation=state.incarnation,
        epoch=state.seen_epoch,
        bytes=sum(end for _, end in state.tips.values()),
    )


def node_state(state: StateDescription) -> NodeState:
    """Return what a node said as it is judged. Raises ``CommandNotPossibleError`` where it states no id."""
    record = SetRecord.unpack(state.record.encode(), where=state.name) if state.record else None
    try:
        member = Member(bytes.fromhex(state.node_id), state.incarnation)
    except ValueError as error:
        raise CommandNotPossibleError(f"{state.name} states no id: {error}") from None
    return NodeState(
        member=member,
        seen_epoch=state.seen_epoch,
        tips={name: LogTip(*tip) for name, tip in state.tips.items()},
        record=record,
        reigns=state.reigns,
        has_failed=state.has_failed,
    )
