"""Brokers whose flushes do nothing: libeatmydata, preloaded. A machine that lies about its disk, for nothing."""

from __future__ import annotations

import ctypes.util
import os
from functools import cache

__all__ = ["eatmydata_environment", "why_no_eatmydata"]


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
