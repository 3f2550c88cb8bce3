"""What this machine can do: which cells of T1 make sense here, and whether brokers can be run whose flushes do nothing.

The second is libeatmydata, preloaded: a machine that lies about its disk, for nothing.
"""

from __future__ import annotations

import ctypes.util
import os
import tempfile
from functools import cache

from mqcore.abc import Capabilities
from mqcore.guarantees import Level
from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.worlds._addresses import why_no_address

DISK_FAMILIES = frozenset({"kill-at-call", "power-cut", "full", "flush-error"})
PORT_FAMILIES = DISK_FAMILIES - {"power-cut"}


def why_not_in_processes(transport: str, flush: str, family: str, capabilities: Capabilities) -> str:
    """Why a storage of ``capabilities`` is not run in this cell; empty when it is.

    A storage with I/O of its own has no port in which a fault could be injected. Its power cuts lose what the kernel
    was never asked to write to the disk: less than those of a storage on the ports, and never too much.
    """
    if capabilities.append_level is Level.NONE:
        return "it keeps nothing, so that no fault can take anything"
    if capabilities.flush_level < Level.DISK:
        if flush != "none":
            return f"refused at composition: a flush reaches {capabilities.flush_level.label} (probed by G18)"
        if family in DISK_FAMILIES:
            return "it has no disk"
    if family == "flush-error" and flush == "none":
        return "nothing is flushed under this policy"
    if family in PORT_FAMILIES and not capabilities.simulable:
        return "own I/O: it does not go through the ports, where this fault is injected"
    why = why_no_address(transport)
    if not why and family == "power-cut":
        why = why_no_dirty_pages(tempfile.gettempdir())
    return why


@cache
def _library() -> str:
    return ctypes.util.find_library("eatmydata") or ""


def why_no_eatmydata() -> str:
    """Why brokers cannot be run without flushes here, with the remedy; empty when they can."""
    return "" if _library() else "libeatmydata is not installed: apt-get install eatmydata"


def eatmydata_environment() -> dict[str, str]:
    """Variables with which a process flushes nothing."""
    others = os.environ.get("LD_PRELOAD", "")
    return {"LD_PRELOAD": f"{_library()}:{others}" if others else _library()}
