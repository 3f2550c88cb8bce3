"""Events about what brokers keep for clients beside messages: cursors of groups, names of producers.

Part of ``histories``. An offset of -1 stands for none.
"""

from __future__ import annotations

from typing import Literal

import attrs

from mqcore_conformance.recorded import Recorded

__all__ = ["CursorCommitted", "CursorSeen", "NameClaimed"]


@attrs.frozen(kw_only=True)
class CursorSeen(Recorded):
    """A broker said where a group stands in a partition: with a grant, or because it was asked (with a ``status``)."""

    process: str
    group: str
    partition: str
    asked_at: int
    offset: int
    epoch: int
    status: str = ""


@attrs.frozen(kw_only=True)
class CursorCommitted(Recorded):
    """A member committed (offset, epoch). ``done``: the cursor in force from then on was told with it.

    ``is_diverged``: the reader had been told, since it knew the cursor before, that the log had lost what it read.
    """

    process: str
    group: str
    partition: str
    asked_at: int
    offset: int
    epoch: int
    outcome: Literal["done", "refused", "unknown"]
    in_force: int = -1
    in_force_epoch: int = 0
    is_diverged: bool = False
    code: str = ""


@attrs.frozen(kw_only=True)
class NameClaimed(Recorded):
    """A process was given the name of a producer, under an epoch, and told its last message in the partition."""

    process: str
    name: str
    partition: str
    asked_at: int
    epoch: int
    last: int
