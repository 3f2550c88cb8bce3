"""The lease as a state machine: a counter that its holder keeps changing and that others watch (rules R1 and R11).

Holder: valid until the *sending* of the last renewal known to be applied, plus the ttl, less the margin. Observer:
vacant once the same write id was seen for the ttl written beside it, stretched by the clock drift, counted from the
*receipt* of the first answer that showed it. Sent <= applied <= received, so vacancy follows the end of validity
whatever the coordinator's own clocks and timers do. Must not know of coordinators, records or tasks; times come from
the caller.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import attrs
from attrs import validators

from mqcore.errors import CorruptionError

__all__ = ["ClockReading", "LeaseHolder", "LeaseObserver", "LeaseTerms", "LeaseValue"]

_PPM = 1_000_000
_FORMAT_VERSION = 1
_ID_BYTES = 16


class ClockReading(NamedTuple):
    """One moment on a node's clocks: microseconds since boot, suspension included, and wall time in milliseconds."""

    boottime_us: int
    wall_ms: int


@attrs.frozen(kw_only=True)
class LeaseTerms:
    """The times of one set's leases.

    ``lease_ms``: from the sending of a renewal to the moment from which others may promote. ``margin_ms``: how much
    earlier the holder stops, 0 for a tenth of the lease. ``clock_drift_ppm_max``: how far the rates of two nodes'
    clocks may differ, in millionths. Raises ``ValueError`` for a margin that leaves less than half of the lease.
    """

    lease_ms: int = attrs.field(default=10_000, validator=[validators.ge(100), validators.le(3_600_000)])
    margin_ms: int = attrs.field(default=0, validator=validators.ge(0))
    clock_drift_ppm_max: int = attrs.field(default=1_000, validator=[validators.ge(0), validators.le(100_000)])

    def __attrs_post_init__(self) -> None:
        if self.margin_ms == 0:
            object.__setattr__(self, "margin_ms", self.lease_ms // 10)
        if self.margin_ms * 2 > self.lease_ms:
            raise ValueError(
                f"margin_ms = {self.margin_ms}: more than half of lease_ms = {self.lease_ms}; a reign could hardly last"
            )

    @property
    def renew_ms(self) -> int:
        """Time from one renewal to the next."""
        return self.lease_ms // 3

    # Answered call, poll, answered call must fit into ``gap_ms``, or an observer would begin again and again.

    @property
    def call_timeout_ms(self) -> int:
        """Time in which a coordinator has to end each call."""
        return self.lease_ms // 7

    @property
    def call_limit_ms(self) -> int:
        """Time after which a call that did not end is left.

        Longer than what the coordinator was given: one that is left at the very moment of its own limit would not
        learn which of its servers made it late.
        """
        return self.call_timeout_ms * 5 // 4

    @property
    def poll_ms(self) -> int:
        """Time from one look of an observer to the next."""
        return self.lease_ms // 8

    @property
    def gap_ms(self) -> int:
        """Longest time between two looks, sending to receipt, for which the cell counts as seen without a break."""
        return self.lease_ms // 2


@attrs.frozen(kw_only=True)
class LeaseValue:
    """What stands in the lease cell: who holds it, in which reign, the how many-th renewal, and for how long.

    JSON, so that an operator can read it with the coordinator's own tools. ``released``: given up, vacant at once.
    ``to``: id of the node that was asked to take it then; empty: whoever may.
    """

    node_id: bytes
    reign_id: bytes
    count: int
    ttl_ms: int
    released: bool = False
    to: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes of the cell."""
        fields = {
            "version": _FORMAT_VERSION,
            "node": self.node_id.hex(),
            "reign": self.reign_id.hex(),
            "count": self.count,
            "ttl_ms": self.ttl_ms,
            "released": self.released,
            **({"to": self.to.hex()} if self.to else {}),
        }
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, data: bytes) -> LeaseValue:
        """Return the lease in ``data``; ``CorruptionError`` when it is none that this release can read."""
        try:
            fields = json.loads(data)
            if fields["version"] != _FORMAT_VERSION:
                raise ValueError("version")
            value = cls(
                node_id=bytes.fromhex(fields["node"]),
                reign_id=bytes.fromhex(fields["reign"]),
                count=fields["count"],
                ttl_ms=fields["ttl_ms"],
                released=fields["released"],
                to=bytes.fromhex(fields.get("to", "")),
            )
            ids = len(value.node_id) == len(value.reign_id) == _ID_BYTES and len(value.to) in (0, _ID_BYTES)
            numbers = type(value.count) is int and type(value.ttl_ms) is int and value.count > 0 and value.ttl_ms > 0
            if not (ids and numbers and type(value.released) is bool):
                raise ValueError("fields")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptionError(
                "these bytes are no lease",
                where="lease cell",
                expected=f"a JSON object of version {_FORMAT_VERSION}",
                found=repr(data[:80]),
            ) from error
        return value


class LeaseHolder:
    """The holding side of one reign. ``is_over`` is final: a new reign takes a new holder with a new id.

    Each try of a write that carries the lease gets a value from ``renewal`` right before it is sent, under a fresh
    write id; afterwards ``applied`` or ``found`` takes what is known of it. A try whose outcome stays unknown needs
    nothing: it counts if it is found later.
    """

    __slots__ = ("_applied_id", "_count", "_pending", "_sent", "_terms", "is_over", "node_id", "reign_id")

    def __init__(self, *, node_id: bytes, reign_id: bytes, terms: LeaseTerms) -> None:
        self.node_id = node_id
        self.reign_id = reign_id
        self.is_over = False
        self._terms = terms
        self._count = 0
        self._pending: dict[bytes, ClockReading] = {}  # write id of each try without an outcome, and when it was sent
        self._sent: ClockReading | None = None
        self._applied_id: bytes | None = None

    def renewal(self, write_id: bytes, now: ClockReading) -> bytes:
        """Return the value to put under ``write_id`` in a write that is sent now. Raises ``ValueError`` once over."""
        if self.is_over:
            raise ValueError("this lease is over: it is not renewed, a new reign takes a new one")
        self._pending[write_id] = now
        return self._value(released=False)

    def release(self, to: bytes = b"") -> bytes:
        """Return the value by which the lease is given up; it is over now, whether or not that is ever applied.

        ``to``: id of the node that is asked to take it next; empty: whoever may.
        """
        self.end()
        return self._value(released=True, to=to)

    def applied(self, write_id: bytes, now: ClockReading) -> None:
        """Take in that the try under ``write_id`` is known, now, to have been applied."""
        sent = self._pending[write_id]
        # Tries sent before it expected what is gone now: none of them can be applied any more.
        tries = list(self._pending.items())
        self._pending = dict(tries[[key for key, _ in tries].index(write_id) + 1 :])
        self._applied_id = write_id
        # The old validity is looked at first: an answer that comes after its end must not bridge the time in between.
        if self._sent is not None and not self._holds(self._sent, now):
            self.is_over = True
        self._sent = sent
        self.is_valid(now)

    def found(self, write_id: bytes, now: ClockReading) -> bool:
        """Take in that the lease cell has ``write_id``, read after a conflict; return whether it is still this reign's.

        A conflict alone says nothing: the expectation may have been overtaken by an earlier try of our own.
        """
        if write_id in self._pending:
            self.applied(write_id, now)
        elif write_id != self._applied_id:
            self.is_over = True
        return not self.is_over

    def wrote(self, write_id: bytes) -> bool:
        """Whether ``write_id`` is the newest write of this reign that is in the cell, known so before or not."""
        return write_id in self._pending or write_id == self._applied_id

    def end(self) -> None:
        """End it for good: the record is another's, or the reign was left."""
        self.is_over = True

    def is_valid(self, now: ClockReading) -> bool:
        """Whether this node may act as primary now; after the first False it never may again."""
        if self._sent is None or self.is_over:
            return False
        if not self._holds(self._sent, now):
            self.is_over = True
        return not self.is_over

    @property
    def valid_until_us(self) -> int:
        """When it ends without another renewal, on the boot-time clock; 0 while no renewal is known to be applied."""
        return 0 if self._sent is None else self._sent.boottime_us + self._span_us

    @property
    def renew_at_us(self) -> int:
        """When the next renewal is due, on the boot-time clock; 0 while none is known to be applied."""
        return 0 if self._sent is None else self._sent.boottime_us + self._terms.renew_ms * 1000

    @property
    def _span_us(self) -> int:
        return (self._terms.lease_ms - self._terms.margin_ms) * 1000

    def _holds(self, sent: ClockReading, now: ClockReading) -> bool:
        elapsed_us = now.boottime_us - sent.boottime_us
        # The boot-time clock does not count what a hypervisor takes away (pause, migration, snapshot); the wall clock
        # shows it when it is set right. The margin has room for as much as is let pass here.
        ahead_us = (now.wall_ms - sent.wall_ms) * 1000 - elapsed_us
        return elapsed_us < self._span_us and ahead_us <= self._terms.margin_ms * 1000

    def _value(self, *, released: bool, to: bytes = b"") -> bytes:
        self._count += 1
        return LeaseValue(
            node_id=self.node_id,
            reign_id=self.reign_id,
            count=self._count,
            ttl_ms=self._terms.lease_ms,
            released=released,
            to=to,
        ).encode()


class LeaseObserver:
    """What one process has seen of a lease cell. It gives its own node's name no privilege: an earlier run is another.

    Nothing of it is kept over a restart. ``holder`` is the value seen last, None while nothing or no value was seen.
    """

    __slots__ = ("_seen_sent_us", "_since_us", "_terms", "_write_id", "holder")

    def __init__(self, terms: LeaseTerms) -> None:
        self.holder: LeaseValue | None = None
        self._terms = terms
        self._write_id: bytes | None = None
        self._since_us = 0
        self._seen_sent_us = 0

    def saw(self, write_id: bytes, value: bytes | None, *, sent: ClockReading, received: ClockReading) -> None:
        """Take in what a read showed, and when it was sent and answered.

        Raises ``CorruptionError`` for a value that is no lease; until another one is seen, nothing is vacant then.
        """
        # After a break the count begins anew: the coordinator may have been stopped meanwhile and started again with an
        # older state, in which a write id comes back that this observer has seen before its holder went on.
        broke = received.boottime_us - self._seen_sent_us > self._terms.gap_ms * 1000
        self._seen_sent_us = sent.boottime_us
        if write_id == self._write_id and not broke:
            return
        self._write_id = None
        self.holder = None if value is None else LeaseValue.decode(value)
        self._write_id = write_id
        self._since_us = received.boottime_us

    @property
    def vacant_at_us(self) -> int | None:
        """When the lease is vacant if nothing else is seen, on the boot-time clock; None while nothing was seen."""
        if self._write_id is None:
            return None
        if self.holder is None or self.holder.released:
            return self._since_us
        rate = _PPM - self._terms.clock_drift_ppm_max
        return self._since_us - (-self.holder.ttl_ms * 1000 * _PPM // rate)

    def silent_us(self, now: ClockReading) -> int:
        """How long nobody has changed the cell, as far as this process has seen; 0 where it was given up."""
        is_kept = self._write_id is not None and self.holder is not None and not self.holder.released
        return now.boottime_us - self._since_us if is_kept else 0

    def is_vacant(self, now: ClockReading) -> bool:
        """Whether another node may promote now, as far as this process has seen, lately enough."""
        vacant_at_us = self.vacant_at_us
        is_fresh = now.boottime_us - self._seen_sent_us <= self._terms.gap_ms * 1000
        return vacant_at_us is not None and is_fresh and now.boottime_us >= vacant_at_us
