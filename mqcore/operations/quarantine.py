"""Quarantine: what a node cut from a log and kept aside, because the reign that goes on does not have it (R5).

Asked of the node that keeps it. What is kept aside is removed by an operator only.
"""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = [
    "DeleteQuarantined",
    "DeletedQuarantined",
    "ListQuarantined",
    "QuarantinedBatches",
    "QuarantinedSuffix",
    "ShowQuarantined",
]


@attrs.frozen(kw_only=True)
class ListQuarantined:
    """List what is kept aside, by name: those ``after`` a name, at most ``limit``, as many as fit one reply."""

    after: str = ""
    limit: int = attrs.field(default=1_000, validator=validators.ge(1))


@attrs.frozen(kw_only=True)
class ShowQuarantined:
    """Return the batches of the side file called ``name`` from byte ``position`` on, as many as fit one reply."""

    name: str
    position: int = attrs.field(default=0, validator=validators.ge(0))


@attrs.frozen(kw_only=True)
class DeleteQuarantined:
    """Delete the side file called ``name``."""

    name: str


@attrs.frozen(kw_only=True)
class QuarantinedSuffix:
    """A side file: its ``name``, the partition it was cut from, and what it holds.

    ``topic`` is empty when the topic is not known any more; ``topic_id`` in hexadecimal. ``epoch`` and ``position``:
    where in the log it began. ``first_offset`` to ``end_offset`` (not included) are the ``messages`` that can be read
    of it, 0 of them when nothing of it is whole; ``unreadable_bytes``, before, between or behind them, cannot.
    """

    name: str
    topic: str
    topic_id: str
    partition: int
    epoch: int
    position: int
    bytes: int
    messages: int
    first_offset: int
    end_offset: int
    unreadable_bytes: int


@attrs.frozen(kw_only=True)
class QuarantinedBatches:
    """One page of a side file: whole batches as they were stored, in base64, and where to go on (None: at the end)."""

    batches: tuple[str, ...]
    next_position: int | None


@attrs.frozen(kw_only=True)
class DeletedQuarantined:
    """The side file that was deleted, and its size."""

    name: str
    bytes: int
