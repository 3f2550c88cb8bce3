"""Operations on the replica set of the node that is asked."""

from __future__ import annotations

from typing import Literal

import trio

from mqcore.broker._good_copies import stored_batch
from mqcore.broker._roles import Following, RoleKeeper, Waiting, describe_role
from mqcore.broker.operations._scope import AdminScope
from mqcore.errors import CommandNotPossibleError, RejectedError
from mqcore.operations import (
    AddReplica,
    CapCopies,
    ClusterNode,
    ClusterSet,
    DemoteNode,
    DescribeSet,
    DescribeState,
    FetchBatch,
    FetchSuffix,
    InitSet,
    ListReplicas,
    LogSuffix,
    MemberState,
    PrimaryNode,
    PromoteNode,
    RecoveredSet,
    RecoverSet,
    RemoveReplica,
    SetDescription,
    StateDescription,
    StoredBatch,
    SwitchOver,
)
from mqcore.protocol import Code

__all__ = [
    "add_replica",
    "cap_copies",
    "demote_node",
    "describe_set",
    "describe_state",
    "fetch_batch",
    "fetch_suffix",
    "init_set",
    "list_replicas",
    "promote_node",
    "recover_set",
    "remove_replica",
    "switch_over",
]


def _keeper(scope: AdminScope) -> RoleKeeper:
    if scope.roles is None:
        text = "this broker is in no replica set: its configuration has no [cluster]"
        raise RejectedError(text, code=Code.REFUSED, name=Code.REFUSED.label)
    return scope.roles


async def describe_set(scope: AdminScope, request: DescribeSet) -> SetDescription:
    """Return what this node knows of its set; answered at once, from its own knowledge."""
    keeper = _keeper(scope)
    await trio.lowlevel.checkpoint()
    store, role = keeper.store, keeper.role
    record = keeper.set_record()
    reign, follower = keeper.reign, keeper.follower
    played: Literal["primary", "replica", "waiting"] = "primary" if reign is not None else "waiting"
    if reign is None and follower is not None:
        played = "replica"
    begun = bool(store.newest_epoch)
    primary = None
    if reign is not None:
        own = keeper.set.node(keeper.config.name)
        primary = PrimaryNode(
            name=keeper.config.name, node_id=store.node_id.hex(), urls=own.urls if own is not None else ()
        )
    elif isinstance(role, Following):
        primary = PrimaryNode(name=role.name, node_id=role.node_id.hex(), urls=role.urls)
    return SetDescription(
        set_name=keeper.set.name,
        set_id=store.set_id.hex() if begun else "",
        node_id=store.node_id.hex(),
        name=keeper.config.name,
        incarnation=store.incarnation,
        role=played,
        epoch=store.epoch if reign is not None or follower is not None else store.newest_epoch,
        reign_id=store.reign_id.hex() if reign is not None or follower is not None else "",
        primary=primary,
        admitted=record is not None and keeper.own_member in record.members,
        members=_members(keeper),
        known_age_ms=0 if reign is not None else follower.known_age_ms if follower is not None else 1 << 31,
        coordinator=keeper.cluster.coordinator.url,
        copies_cap=None if record is None else record.copies_cap,
        sets=_sets(keeper),
        why=role.why if isinstance(role, Waiting) else follower.trouble if follower is not None else "",
    )


def _sets(keeper: RoleKeeper) -> tuple[ClusterSet, ...]:
    return tuple(
        ClusterSet(name=each.name, nodes=tuple(ClusterNode(name=node.name, urls=node.urls) for node in each.nodes))
        for each in keeper.cluster.sets
    )


def _members(keeper: RoleKeeper) -> tuple[MemberState, ...]:
    record = keeper.set_record()
    own_set = keeper.reign.set if keeper.reign is not None else None
    # A node that takes the place of one that is lost learns from this that it is expected: it is in no record before
    # it has joined.
    names = own_set.names if own_set is not None else {} if record is None else record.names
    by_name = {name: node_id for node_id, name in names.items()}
    members = []
    for node in keeper.set.nodes:
        node_id = by_name.get(node.name, b"")
        member = record.member_of(node_id) if record is not None else None
        members.append(_member(keeper, node.name, node.urls, node_id, 0 if member is None else member.incarnation))
    return tuple(members)


def _member(keeper: RoleKeeper, name: str, urls: tuple[str, ...], node_id: bytes, incarnation: int) -> MemberState:
    if node_id == keeper.store.node_id:
        return MemberState(
            name=name, urls=urls, node_id=node_id.hex(), incarnation=keeper.store.incarnation, last_seen_ms=0,
            in_sync=incarnation == keeper.store.incarnation, lag_messages=0 if keeper.reign is not None else None,
        )  # fmt: skip
    own_set = keeper.reign.set if keeper.reign is not None else None
    facts = None
    if own_set is not None:
        facts = next((each for each in own_set.facts() if each.member.node_id == node_id), None)
    if facts is None or own_set is None:
        return MemberState(
            name=name, urls=urls, node_id=node_id.hex(), incarnation=incarnation, in_sync=incarnation > 0
        )
    sync = own_set.sync_state_of(node_id)
    return MemberState(
        name=name,
        urls=urls,
        node_id=node_id.hex(),
        incarnation=facts.member.incarnation,
        in_sync=facts.is_in_sync and facts.member.incarnation > 0,
        lag_messages=own_set.lag_of(node_id),
        lag_ms=own_set.behind_ms(facts),
        last_seen_ms=own_set.heard_ms(node_id),
        synced_bytes=None if sync is None else sync.held_bytes,
        sync_bytes_total=None if sync is None else sync.bytes_total,
        sync_bytes_per_s=None if sync is None else sync.bytes_per_s,
        sync_left_ms=None if sync is None else sync.left_ms,
    )


async def describe_state(scope: AdminScope, request: DescribeState) -> StateDescription:
    """Return what this node holds, log by log."""
    return await _keeper(scope).state()


async def fetch_suffix(scope: AdminScope, request: FetchSuffix) -> LogSuffix:
    """Return what a node that is about to reign lacks of a log, a piece at a time."""
    return await _keeper(scope).suffix(request)


async def fetch_batch(scope: AdminScope, request: FetchBatch) -> StoredBatch:
    """Return one batch for a node on which it has rotted."""
    _keeper(scope)
    return await stored_batch(scope.store, request, scope.limits.admin_bytes_max // 2)


async def init_set(scope: AdminScope, request: InitSet) -> SetDescription:
    """Begin the set, with this node as its first primary; returns when it reigns."""
    keeper = _keeper(scope)
    await keeper.init()
    await keeper.until_played()
    return await describe_set(scope, DescribeSet())


async def promote_node(scope: AdminScope, request: PromoteNode) -> SetDescription:
    """Make this node the primary; returns when it reigns."""
    keeper = _keeper(scope)
    await keeper.promote(old_primary_is_stopped=request.old_primary_is_stopped, unclean=request.unclean)
    await keeper.until_played()
    return await describe_set(scope, DescribeSet())


async def recover_set(scope: AdminScope, request: RecoverSet) -> RecoveredSet:
    """Write the record anew and reign by it; returns what each node of the set was found to hold."""
    keeper = _keeper(scope)
    found = await keeper.found()
    record = await keeper.recover(missing_are_lost=request.missing_are_lost)
    await keeper.until_played()
    return RecoveredSet(epoch=record.epoch, found=found)


async def demote_node(scope: AdminScope, request: DemoteNode) -> SetDescription:
    """Stop reigning; returns when nothing of the reign acts any more."""
    await _keeper(scope).demote(request.epoch, bytes.fromhex(request.reign_id))
    return await describe_set(scope, DescribeSet())


async def switch_over(scope: AdminScope, request: SwitchOver) -> SetDescription:
    """Hand the set over to another member, which has everything by then; returns when that reigns."""
    await _keeper(scope).switch_over(request.to)
    return await describe_set(scope, DescribeSet())


async def cap_copies(scope: AdminScope, request: CapCopies) -> SetDescription:
    """Lower what synchronous replication waits for in an emergency (R17); in force when it returns."""
    keeper = _keeper(scope)
    own_set = keeper.reign.set if keeper.reign is not None else None
    if own_set is None:
        raise CommandNotPossibleError(f"this node {describe_role(keeper.role)}: ask the primary")
    if keeper.cluster.coordinator.is_manual and request.copies is not None and not request.other_side_is_stopped:
        raise CommandNotPossibleError(
            "R17: no coordinator says that this node alone reigns. Make sure that no other node of the set does, then "
            "repeat with --other-side-is-stopped"
        )
    await own_set.cap(request.copies)
    return await describe_set(scope, DescribeSet())


async def list_replicas(scope: AdminScope, request: ListReplicas) -> tuple[MemberState, ...]:
    """Return the nodes of the set as this node sees them."""
    await trio.lowlevel.checkpoint()
    return _members(_keeper(scope))


async def add_replica(scope: AdminScope, request: AddReplica) -> tuple[MemberState, ...]:
    """Take a configured node into the set."""
    keeper = _keeper(scope)
    await keeper.add(request.name, request.sync_bytes_per_s)
    return _members(keeper)


async def remove_replica(scope: AdminScope, request: RemoveReplica) -> tuple[MemberState, ...]:
    """Take a node out of the set."""
    keeper = _keeper(scope)
    own_set = keeper.reign.set if keeper.reign is not None else None
    if own_set is None:
        raise CommandNotPossibleError(f"this node {describe_role(keeper.role)}: ask the primary")
    record = own_set.record
    node_id = next((each for each, name in record.names.items() if name == request.name), None)
    if node_id is None:
        known = ", ".join(sorted(record.names.values()))
        raise CommandNotPossibleError(f"no node {request.name!r} in the set; it has {known}")
    own_set.remove(node_id)
    await trio.lowlevel.checkpoint()
    return _members(keeper)
