"""What the matrix has a place for and is not built: one table, of which every list and page makes its lines."""

from __future__ import annotations

import attrs

AXES = ("tier", "storage", "transport", "flush", "replication")
NOT_BUILT_YET = "not built yet"


@attrs.frozen(kw_only=True)
class NotBuilt:
    """Cells that are to come; ``*`` stands for everything. ``what``: in words."""

    tier: str = "T0, T1"
    storage: str = "*"
    transport: str = "*"
    flush: str = "*"
    replication: str = "none"
    what: str

    @property
    def name(self) -> str:
        """Name for lists, as a cell's, with the replication where it is not none."""
        replication = "" if self.replication == "none" else f", replication {self.replication}"
        return f"{self.tier.replace(', ', '+')}/{self.storage}/{self.transport}/{self.flush}/*{replication}"


NOT_BUILT = (NotBuilt(tier="T2", what="the machine tier: real file systems, block images, device errors"),)
"""Every row of the matrix that waits for code."""
