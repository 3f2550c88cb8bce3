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
from mqcore_conformance.syscalls import why_not_diverted
from mqcore_conformance.worlds._addresses import why_no_address
from mqcore_conformance.worlds.processes._set_coordinator import SERVERS, why_no_coordinator

DISK_FAMILIES = frozenset({"kill-at-call", "power-cut", "full", "flush-error"})


def why_not_in_processes(transport: str, flush: str, family: str, capabilities: Capabilities) -> str:
    """Why a storage of ``capabilities`` is not run in this cell; empty when it is.

    A storage with I/O of its own has no port in which a fault could be injected: its system calls are diverted.
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
    why = why_no_address(transport)
    if not why and family in DISK_FAMILIES and not capabilities.simulable:
        why = why_not_diverted()
    if not why and family == "power-cut":
        why = why_no_dirty_pages(tempfile.gettempdir())
    return why


def why_not_a_set(transport: str, flush: str, family: str, capabilities: Capabilities, coordinator: str = "") -> str:
    """Why a storage of ``capabilities`` is not run in this cell of a set; empty when it is."""
    if why := why_no_coordinator(coordinator):
        return why
    if family == "coordinator-frozen" and coordinator not in SERVERS:
        return "a file has no server that could be frozen (--set-coordinator etcd)"
    if not capabilities.simulable and family in DISK_FAMILIES:
        return "it does its own I/O: in a set its system calls are not diverted"
    if capabilities.flush_level < Level.DISK:
        return "what it keeps goes with its process: no kill would leave a set anything"
    return why_not_in_processes(transport, flush, family, capabilities)


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
