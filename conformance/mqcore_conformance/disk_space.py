"""Room on the disk of a run: a part that meets a full disk by chance is not to blame for it.

Knows file systems; judges nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mqcore.errors import ConfigurationError

__all__ = ["RUN_BYTES_MIN", "require_room", "why_no_room"]

RUN_BYTES_MIN = 512 * 1024 * 1024
"""Least room with which a run on real files begins: checks and brokers of several processes write beside each other."""
CHECK_BYTES_MIN = 80 * 1024 * 1024
"""Room below which a failure proves nothing: the largest append of a check is 64 MiB."""


def require_room(folder: Path | None) -> None:
    """Raise ``ConfigurationError`` when ``folder`` (None: the folder for temporary files) has no room for a run."""
    place = folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if free < RUN_BYTES_MIN:
        raise ConfigurationError(
            f"{place}: {free / 1e6:.1f} MB free, contract checks and T1 need {RUN_BYTES_MIN / 1e6:.0f}; "
            "make room, name another disk with --dir, or run --tier T0 alone"
        )


def why_no_room(folder: Path) -> str:
    """Return why what failed in ``folder`` says nothing about a part; empty when there is room."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f"no room to judge it: {folder} has {free / 1e6:.1f} MB free" if free < CHECK_BYTES_MIN else ""
