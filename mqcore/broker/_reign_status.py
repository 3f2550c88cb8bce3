"""What a reign says of itself in a broker's status."""

from __future__ import annotations

from mqcore.broker._reign import Reign

__all__ = ["reign_status"]

_FAILURES_SHOWN_MAX = 100


def reign_status(reign: Reign) -> dict[str, object]:
    """Facts of the running reign, as JSON values."""
    failures = [str(each.failure) for each in reign.partitions.values() if each.failure is not None]
    return {
        "topics": len(reign.topics.by_name),
        "partitions_open": len(reign.partitions),
        "flushes": reign.group_commit.flushes,
        "logs_flushed": reign.group_commit.logs_flushed,
        "unflushed_bytes": reign.unflushed.bytes_now,
        "partitions_failed": len(failures),
        "failures": failures[:_FAILURES_SHOWN_MAX],
    }
