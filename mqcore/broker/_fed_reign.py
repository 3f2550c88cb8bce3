"""What the stream of a replica uses of the reign that it belongs to.

Must not know how a reign decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from mqcore.broker._fed_log import FedLog
from mqcore.broker._partition import Partition
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log import LogStore

__all__ = ["FedReign"]

StreamT_contra = TypeVar("StreamT_contra", contravariant=True)


class FedReign(Protocol[StreamT_contra]):
    """What a replica's stream, ``StreamT_contra``, uses of the reign."""

    store: LogStore
    limits: Limits
    is_over: bool

    @property
    def metadata_partition(self) -> Partition:
        """The metadata log under the commit rule."""
        ...

    def fed_partitions(self) -> Iterable[tuple[tuple[bytes, int], Partition]]:
        """Every partition that replicas get, by topic id and index."""
        ...

    def follower_began(self, feeder: StreamT_contra) -> None:
        """A replica's stream is open; an older one of the same node is ended. Raises ``RemoteProtocolError``."""

    def follower_refused(self, feeder: StreamT_contra, why: str) -> None:
        """A replica's stream was refused; it comes again."""

    def sync_rate_of(self, feeder: StreamT_contra) -> int | None:
        """Bytes a second that the replica is sent while it is filled; None: it gives way to what is appended."""

    def waits_for(self, feeder: StreamT_contra, partition: Partition) -> bool:
        """Whether anything waits for what the replica holds of a log."""
        ...

    def follower_reported(self, feeder: StreamT_contra, fed: FedLog, counted: Sequence[tuple[int, Level]]) -> None:
        """A report of one log was counted: offsets held, each with its level."""

    def follower_fell(self, feeder: StreamT_contra, level: Level) -> None:
        """A report says that nothing is held there at more than ``level`` any more."""

    def follower_ended(self, feeder: StreamT_contra) -> None:
        """The stream is over."""
