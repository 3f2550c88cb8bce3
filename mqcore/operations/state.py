"""What a node says to the others of its set about what it holds, when one of them is to reign."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from attrs import validators

__all__ = ["DescribeState", "FetchBatch", "FetchSuffix", "LogSuffix", "StateDescription", "StoredBatch"]


@attrs.frozen(kw_only=True)
class DescribeState:
    """State what the node that is asked holds: of each log how far its valid copy goes."""


@attrs.frozen(kw_only=True)
class StateDescription:
    """What a node holds.

    ``node_id`` and ``set_id`` in hexadecimal. ``seen_epoch``: the highest that its storage has seen. ``tips``: of each
    log the epoch of its last batch, and the position of its end. ``record``: the newest record of the set in its
    metadata log, empty for none. ``is_empty``: whether its storage holds nothing of any set. ``has_failed``: whether
    its last reign could not be held, as with a disk that fails: it leaves the next one to others.
    """

    node_id: str
    name: str
    set_id: str
    incarnation: int
    seen_epoch: int
    tips: Mapping[str, tuple[int, int]]
    record: str
    reigns: bool
    is_empty: bool
    has_failed: bool = False


@attrs.frozen(kw_only=True)
class FetchSuffix:
    """Return what follows in a log after what the asking node has of it, while nobody reigns.

    ``log``: its name. ``epoch``, ``reign_id`` (hexadecimal) and ``position``: of the asking node's last batch; zeros
    where its log is empty. ``end``: where its log ends.
    """

    log: str
    epoch: int = attrs.field(validator=validators.ge(0))
    reign_id: str = attrs.field(validator=validators.matches_re("[0-9a-f]{32}"))
    position: int = attrs.field(validator=validators.ge(0))
    end: int = attrs.field(validator=validators.ge(0))


@attrs.frozen(kw_only=True)
class LogSuffix:
    """Whole batches as they are stored, in base64, none at the log's end; or where the histories part.

    ``start``: where the log begins. ``parts_epoch``: of reigns up to the stated one, the last that the log has, up to
    ``parts_position``; None: the stated batch is in it.
    """

    start: int
    batches: str = ""
    parts_epoch: int | None = None
    parts_position: int = 0


@attrs.frozen(kw_only=True)
class FetchBatch:
    """Return the batch that begins at ``position`` of a log, if the reign named by ``epoch`` and ``reign_id`` wrote it.

    Asked by a node whose own copy of it has rotted. ``reign_id``: hexadecimal; zeros where it is not known.
    ``begin``: how many of its bytes were sent before, where it is larger than one answer.
    """

    log: str
    position: int
    epoch: int
    reign_id: str
    begin: int = 0


@attrs.frozen(kw_only=True)
class StoredBatch:
    """One whole batch as it is stored, in base64; empty where it is not here, or is damaged here, too.

    ``size``: bytes of all of it; where ``batch`` has fewer, it goes on behind those. ``is_of_primary``: whether the
    node that answers reigns.

    Where it is damaged: at which position and offset that range ends, and what is known of the reign that wrote there:
    its number, its id in hexadecimal, the position and the offset of its first batch.
    """

    batch: str = ""
    size: int = 0
    is_of_primary: bool = False
    end_position: int = 0
    end_offset: int = 0
    epoch: int = 0
    reign_id: str = ""
    start_position: int = 0
    start_offset: int = 0
