"""Options of ``raid://``."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators

from mqcore.guarantees import OnDegraded

__all__ = ["RaidOptions"]

MIB = 1024 * 1024


def _member_size(help: str) -> int | None:
    return attrs.field(
        default=None, validator=validators.optional(validators.ge(0)), metadata={"help": f"of each member: {help}"}
    )


@attrs.frozen(kw_only=True)
class RaidOptions:
    """What a URL's query or a configuration table may set."""

    level: Literal["0", "1", "10"] = attrs.field(
        default="1", metadata={"help": "1: every member a copy; 0: stripes, no copy; 10: stripes over mirrors"}
    )
    copies: int = attrs.field(
        default=2, validator=validators.ge(2), metadata={"help": "members of each mirror group at level 10"}
    )
    min_members: int = attrs.field(
        default=1, validator=validators.ge(1), metadata={"help": "members that a mirror group needs to take appends"}
    )
    on_degraded: OnDegraded | None = attrs.field(
        default=None,
        metadata={
            "help": "what becomes of sends while a mirror group is down to one member; none: they go on, unless the "
            "broker's survive promises disk-loss and no synchronous replication covers it"
        },
    )
    member_timeout_ms: int = attrs.field(
        default=10_000,
        validator=validators.ge(1),
        metadata={"help": "a member that lags so far behind the others of its group is ejected"},
    )
    create: bool = attrs.field(default=True, metadata={"help": "false: refuse to make a new array"})
    member: str = attrs.field(
        default="mmap://{path}/storage", metadata={"help": "URL of a member's storage; {path} is its directory"}
    )
    scrub_interval_ms: int | None = attrs.field(
        default=None,
        validator=validators.optional(validators.ge(1)),
        metadata={"help": "time between two scrubs that begin by themselves; none: none does"},
    )
    stripe_bytes: int = attrs.field(
        default=64 * MIB,
        validator=validators.ge(4096),
        metadata={"help": "bytes of a log on one group before the next; fixed when the array is made"},
    )
    segment_bytes: int | None = _member_size("size of a full segment")
    first_extent_bytes: int | None = _member_size("what a new log takes")
    extent_bytes_max: int | None = _member_size("most zeros written ahead of a log's end")
    journal_bytes: int | None = _member_size("size of each journal")
    journal_range_bytes_max: int | None = _member_size("largest range that shares a journal")

    def of_members(self) -> dict[str, object]:
        """The options that each member's storage is given, those that are set."""
        names = (
            "segment_bytes", "first_extent_bytes", "extent_bytes_max", "journal_bytes", "journal_range_bytes_max"
        )  # fmt: skip
        return {name: value for name in names if (value := getattr(self, name)) is not None}
