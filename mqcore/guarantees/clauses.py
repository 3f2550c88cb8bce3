"""The texts of the clauses G01 to G20: they stand here once, everything else prints or compares them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

__all__ = ["CLAUSES", "Clause", "clauses_as_markdown"]


@attrs.frozen
class Clause:
    """One clause: ``id`` such as ``G11``, ``name``, and the ``statement`` that is tested (Markdown)."""

    id: str
    name: str
    statement: str


_CLAUSES = (
    Clause(
        "G01",
        "no lost acknowledgement",
        "every batch of `must_survive` is in the final drain, byte for byte",
    ),
    Clause(
        "G02",
        "loss is a suffix",
        "where loss is allowed, what is lost is a suffix of that epoch's log; no hole below a surviving message",
    ),
    Clause(
        "G03",
        "loss is bounded",
        "under an asynchronous policy what is lost of the acknowledged is at most so many messages and bytes, "
        "acknowledged within a span of so much time (last lost minus first lost); no declared bound means the "
        "cell says *unbounded*",
    ),
    Clause(
        "G04",
        "no phantom",
        "every message read was sent, byte for byte (checksummed by the checker, not by the broker)",
    ),
    Clause(
        "G05",
        "one content",
        "one (partition, epoch, offset) has one content, for all observers, for ever",
    ),
    Clause(
        "G06",
        "consumer order",
        "no consumer sees offsets go back or skips an acknowledged message, except by seek, by retention, or "
        "over a loss that is reported to it. A position is (offset, epoch); a fetch whose position is not in "
        "the log's history is answered with the divergence point; one beyond what this node knows waits or is "
        'redirected, and is never "out of range"',
    ),
    Clause(
        "G07",
        "rejected is invisible",
        "a rejected message is never read",
    ),
    Clause(
        "G08",
        "visible is stable",
        "what a consumer has read satisfies its topic's policy, and still exists after any fault that the "
        "policy survives",
    ),
    Clause(
        "G09",
        "one writer per epoch",
        "batches of an epoch are appended by one node only. Once a newer record is written, a batch that is "
        "not in the log with which the newer reign began is not acknowledged under `sync`; under `async` and "
        "`none` the old primary gives no reply later than `lease_ms` less the margin after it *sent* its last "
        "successful renewal, by a clock that counts suspension, checked where the reply is handed to the "
        "transport",
    ),
    Clause(
        "G10",
        "convergence",
        "after healing, replicas are byte-identical from the log's start to the committed offset; cut is only "
        "what the new reign does not have: under `sync` never an acknowledged batch, under `async` "
        "acknowledged ones within G03; all that is cut is quarantined and reported",
    ),
    Clause(
        "G11",
        "a failed flush is final",
        "after a flush error every batch which that flush was to cover counts as not written: it ends "
        "unknown, is not acknowledged, not served, not reported. The unit is everything that the flush "
        'covered (with a shared journal or `syncfs`: all logs of that file system). A later "successful" '
        "flush proves nothing",
    ),
    Clause(
        "G12",
        "damage is loud",
        "corrupt bytes are never served; damage below the durable mark (section 7) is repaired from a good "
        'copy or reported for its range; never "truncate here", never "start empty"',
    ),
    Clause(
        "G13",
        "liveness",
        "within `lease_ms` + `replica_lag_ms` + 1 s after healing, send and drain succeed (later by "
        "`silence_ms`, where the transport of a client learns that late of a peer that was killed); while the policy "
        "cannot be met, sends block or are rejected and reads of committed data go on. Stated limit: while "
        "the set is smaller than `copies` after a failover, the newest committed messages may stay unreadable "
        "until a member returns",
    ),
    Clause(
        "G14",
        "honest receipt",
        "for each receipt, the flush and replica events that justify it come before it",
    ),
    Clause(
        "G15",
        "duplicates",
        "only from retries of unknown outcomes; none from an idempotent producer within `producer_retention`; "
        "once a process was given the name of a producer, nothing that an earlier process of it sends is stored",
    ),
    Clause(
        "G16",
        "cursors",
        "a cursor is (offset, epoch) and obeys the oracle of the store that holds it; it goes back only to "
        "the divergence point of a permitted loss, and says so; a node that is merely behind never moves it",
    ),
    Clause(
        "G17",
        "recovery is idempotent",
        "a crash during recovery, then recovery, equals one recovery; recovering twice gives the same bytes, "
        "up to the epoch batch of the new reign",
    ),
    Clause(
        "G18",
        "refusal",
        "an unknown policy, option or capability is refused by name; a build that cannot meet its stated "
        "`survive` does not start",
    ),
    Clause(
        "G19",
        "stale reads are bounded",
        "a replica serves nothing past the committed offset that it knows, and says how old its knowledge is "
        "(counted from the answer of a primary that held the lease, `lease_ms` being the unknown part)",
    ),
    Clause(
        "G20",
        "resources stay bounded",
        "a slow or malicious peer costs bounded memory; a full broker rejects before it stores",
    ),
)

CLAUSES: Mapping[str, Clause] = MappingProxyType({clause.id: clause for clause in _CLAUSES})
"""Clauses by id, in order."""


def clauses_as_markdown() -> str:
    """Return the table of the clauses as it stands in docs/design/guarantees.md."""
    rows = [f"| {clause.id} | {clause.name} | {clause.statement} |" for clause in CLAUSES.values()]
    return "\n".join(["| id | name | statement |", "|---|---|---|", *rows])
