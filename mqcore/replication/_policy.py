"""What a topic's policy asks of a commit, and which policies of a send's own it takes (guarantees, section 1).

Must not know of offsets: a policy says what is waited for, the commit rule when that has come.
"""

from __future__ import annotations

import attrs

from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    Level,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.protocol import Code, SendPolicy

__all__ = ["CommitPolicy", "capped_replication"]


def _strength(policy: FlushPolicy) -> SendPolicy:
    if isinstance(policy, SyncFlush):
        return SendPolicy.SYNC
    return SendPolicy.ASYNC if isinstance(policy, AsyncFlush) else SendPolicy.NONE


def _bounds(*policies: FlushPolicy | None) -> AsyncFlush | None:
    return next((each for each in policies if isinstance(each, AsyncFlush)), None)


@attrs.frozen(kw_only=True)
class CommitPolicy:
    """The policies of one topic.

    ``weakest_send``: the weakest flush policy that a send may ask for (None: the topic's own). ``stable_only``:
    consumers see only what is flushed and held by every member of the in-sync set.
    """

    flush: FlushPolicy
    weakest_send: FlushPolicy | None = None
    replication: ReplicationPolicy = attrs.field(factory=NoReplication)
    stable_only: bool = False
    strength: SendPolicy = attrs.field(
        init=False, default=attrs.Factory(lambda policy: _strength(policy.flush), takes_self=True)
    )
    """What a send that names no policy of its own waits for."""
    bounds: AsyncFlush | None = attrs.field(
        init=False, default=attrs.Factory(lambda policy: _bounds(policy.flush, policy.weakest_send), takes_self=True)
    )
    """Bounds of asynchronous acknowledgements, the topic's or those of the weakest send; None: there are none."""

    @property
    def copies_min(self) -> int:
        """Nodes that the in-sync set must have for anything to be acknowledged (R8)."""
        replication = self.replication
        if isinstance(replication, SyncReplication):
            return replication.copies
        return 2 if self.max_delay_ms is not None else 1

    @property
    def max_delay_ms(self) -> int | None:
        """How far replicas may lag before acknowledgements wait; None: however far."""
        replication = self.replication
        if isinstance(replication, AsyncReplication) and replication.on_exceeded == "throttle":
            return replication.max_delay_ms
        return None

    @property
    def level(self) -> Level:
        """Level that every member of the in-sync set must reach, the primary included; ``NONE``: any will do."""
        return self.replication.level if isinstance(self.replication, SyncReplication) else Level.NONE

    @property
    def counts_flushed_only(self) -> bool:
        """Whether nothing that is not flushed is ever waited for, or counted, on a member of the set (R2 b)."""
        flushes = isinstance(self.flush, SyncFlush) or self.stable_only
        return self.level >= Level.DISK or (flushes and self.copies_min < 2)

    def refusal(self, send: int, flush_level: Level) -> tuple[Code, str] | None:
        """Return why a send under the policy ``send`` cannot be taken, or None.

        ``flush_level``: what a flush of the storage reaches now.
        """
        if send == SendPolicy.TOPIC:
            return None
        if send == SendPolicy.SYNC and flush_level < Level.DISK:
            return Code.POLICY_TOO_STRONG, "the storage cannot flush to disk; send with the topic's policy"
        weakest = self.strength if self.weakest_send is None else _strength(self.weakest_send)
        if send < weakest:
            name = SendPolicy(weakest).name.lower()
            text = f"the topic takes no sends weaker than {name}; its weakest_send would have to allow it"
            return Code.POLICY_TOO_WEAK, text
        if send == SendPolicy.ASYNC and self.bounds is None:
            return Code.POLICY_TOO_STRONG, "the topic has no asynchronous bounds: send with its own policy"
        return None


def capped_replication(replication: ReplicationPolicy, copies_cap: int | None) -> ReplicationPolicy:
    """Return what is left of ``replication`` while the set's record has ``copies_cap`` (R17); None: all of it.

    What it lets go states the copies that there are, so that a receipt never says more than was reached.
    """
    if copies_cap is None:
        return replication
    if isinstance(replication, SyncReplication) and replication.copies > copies_cap:
        return NoReplication() if copies_cap < 2 else attrs.evolve(replication, copies=copies_cap)
    if isinstance(replication, AsyncReplication) and copies_cap < 2:
        return attrs.evolve(replication, on_exceeded="report")
    return replication
