"""Saboteurs inside the storage ``mmap``: what only its own code can do wrong.

Knows private names of ``mqcore_mmap``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

from typing import Any

from mqcore_conformance.saboteurs._replacing import in_place_of


@in_place_of(("mqcore_mmap._engine", "Engine", "close_logs"))
def clean_mark_laundered(original: Any) -> Any:
    """A stop after a failed flush flushes again, and states a clean end of what never reached the disk."""

    async def close_logs(engine: Any, logs: Any) -> None:
        engine.failure = None
        for log in logs:
            log._failure = None
        await original(engine, logs)

    return close_logs
