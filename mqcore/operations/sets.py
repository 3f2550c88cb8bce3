"""Replica sets: describe, begin, recover, change of the primary and of the members.

Every node answers ``set.describe`` from what it knows and says how old that is; the other operations are asked of the
node that is to act, which is the primary unless the class says otherwise.
"""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators

__all__ = [
    "AddReplica",
    "CapCopies",
    "ClusterNode",
    "ClusterSet",
    "DemoteNode",
    "DescribeSet",
    "FoundNode",
    "InitSet",
    "ListReplicas",
    "MemberState",
    "PrimaryNode",
    "PromoteNode",
    "RecoverSet",
    "RecoveredSet",
    "RemoveReplica",
    "SetDescription",
    "SwitchOver",
]


@attrs.frozen(kw_only=True)
class DescribeSet:
    """Describe the replica set of the node that is asked, from that node's own knowledge."""


@attrs.frozen(kw_only=True)
class InitSet:
    """Write the first record of the set; the node that is asked becomes its first primary (R14).

    Refused where there is a record, or where a node of the set has seen an epoch.
    """


@attrs.frozen(kw_only=True)
class PromoteNode:
    """Make the node that is asked the primary.

    ``old_primary_is_stopped``: the operator's word for it, needed when the old primary does not answer and no
    coordinator fences it (R16). ``unclean``: also when this node is not in the in-sync set, or lacks what another has:
    what it lacks is lost.
    """

    old_primary_is_stopped: bool = False
    unclean: bool = False


@attrs.frozen(kw_only=True)
class DemoteNode:
    """Stop reigning, for the node that is about to: ``primary``, its id in hexadecimal, empty for none yet (R16).

    ``epoch`` and ``reign_id`` (hexadecimal) are those of the reign to leave: a later one is not the one that was meant.
    """

    epoch: int
    reign_id: str
    primary: str = ""


@attrs.frozen(kw_only=True)
class SwitchOver:
    """Hand the set over to the member called ``to``, once it holds everything; empty: the member that lacks least."""

    to: str = ""


@attrs.frozen(kw_only=True)
class RecoverSet:
    """Write the record anew after it was lost or went back (R14); asked of the node that is to reign.

    All nodes of the set are asked for what they hold. ``missing_are_lost``: the operator's word that the nodes which
    do not answer never will, and hold nothing that is needed.
    """

    missing_are_lost: bool = False


@attrs.frozen(kw_only=True)
class CapCopies:
    """Lower what synchronous replication waits for to ``copies`` (R17), for what still waits and for what comes later.

    None takes the cap away. ``other_side_is_stopped``: the operator's word for it, needed without a coordinator.
    """

    copies: int | None = attrs.field(validator=validators.optional(validators.ge(1)))
    other_side_is_stopped: bool = False


@attrs.frozen(kw_only=True)
class AddReplica:
    """Take the configured node called ``name`` into the set; it joins the in-sync set when it holds everything (R6).

    ``sync_bytes_per_s``: most that it is sent until then, in the present reign; None: what the primary's configuration
    says. Of a node that was added before it changes that.
    """

    name: str
    sync_bytes_per_s: int | None = attrs.field(
        default=None, validator=validators.optional(validators.and_(validators.ge(1), validators.le(1 << 50)))
    )


@attrs.frozen(kw_only=True)
class RemoveReplica:
    """Take the node called ``name`` out of the in-sync set, and let it not come back by itself."""

    name: str


@attrs.frozen(kw_only=True)
class ListReplicas:
    """List the members of the set as the primary sees them."""


@attrs.frozen(kw_only=True)
class ClusterNode:
    """A node of a cluster: its name, and the URLs that lead to it."""

    name: str
    urls: tuple[str, ...]


@attrs.frozen(kw_only=True)
class ClusterSet:
    """A replica set of a cluster: its name, its nodes, and the name of the one that reigns (empty: not known)."""

    name: str
    nodes: tuple[ClusterNode, ...]
    primary: str = ""


@attrs.frozen(kw_only=True)
class PrimaryNode:
    """The node that reigns: its name, its id (32 hexadecimal digits), and the URLs that lead to it."""

    name: str
    node_id: str
    urls: tuple[str, ...]


@attrs.frozen(kw_only=True)
class MemberState:
    """A node of the set as the one that answers sees it.

    ``node_id`` (hexadecimal) and ``incarnation`` are empty and 0 while it has not been heard of. ``in_sync``: it is in
    the in-sync set. ``lag_messages`` and ``lag_ms``: how far it is behind the primary; None where that is not known.
    ``last_seen_ms``: how long ago it was last heard of; None: it does not follow now. ``synced_bytes`` of
    ``sync_bytes_total`` are there while it is filled, such as for the first time; None once it was sent all that there
    was and is in sync.
    ``sync_bytes_per_s`` and ``sync_left_ms``: how fast it gets more, and how long the rest takes at that; None while
    nothing moves.
    """

    name: str
    node_id: str = ""
    incarnation: int = 0
    in_sync: bool = False
    urls: tuple[str, ...] = ()
    lag_messages: int | None = None
    lag_ms: int | None = None
    last_seen_ms: int | None = None
    synced_bytes: int | None = None
    sync_bytes_total: int | None = None
    sync_bytes_per_s: int | None = None
    sync_left_ms: int | None = None


@attrs.frozen(kw_only=True)
class SetDescription:
    """A replica set as one of its nodes knows it.

    ``set_name`` and ``set_id`` (hexadecimal, empty before the set has one) are the set's; ``name``, ``node_id``,
    ``incarnation`` and ``role`` those of the node that answers; ``role`` is ``waiting`` while it neither reigns nor
    follows, and ``why`` says in a sentence what for. ``epoch`` and ``reign_id`` (hexadecimal) are those of the newest
    reign that the node knows, ``primary`` the node that reigns. ``admitted``: this node may be promoted by hand (R16).
    ``members``: the nodes of the set, by name. ``copies_cap``: what synchronous replication is lowered to (R17), None:
    nothing. ``known_age_ms``: how old the knowledge is, 0 at the primary. ``sets``: all sets of the cluster, by name.
    """

    set_name: str
    set_id: str
    node_id: str
    name: str
    incarnation: int
    role: Literal["primary", "replica", "waiting"]
    epoch: int
    reign_id: str
    primary: PrimaryNode | None
    admitted: bool
    members: tuple[MemberState, ...]
    known_age_ms: int
    coordinator: str = "manual://"
    copies_cap: int | None = None
    sets: tuple[ClusterSet, ...] = ()
    why: str = ""


@attrs.frozen(kw_only=True)
class FoundNode:
    """What a recovery found at one node of the set: the highest epoch that its log or its identity file has seen.

    ``answered``: False when it did not answer, ``why`` in a sentence, and then the numbers are 0. ``bytes``: of all of
    its logs.
    """

    name: str
    node_id: str
    answered: bool
    incarnation: int
    epoch: int
    bytes: int
    why: str = ""


@attrs.frozen(kw_only=True)
class RecoveredSet:
    """The record that a recovery wrote: its ``epoch``, and the nodes that it was written from."""

    epoch: int
    found: tuple[FoundNode, ...]
