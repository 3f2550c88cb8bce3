"""Saboteurs inside the storage ``mmap``: what only its own code can do wrong.

Knows private names of ``mqcore_mmap``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

from typing import Any

from mqcore_conformance.saboteurs._replacing import Replacement, replacing


@replacing
def clean_mark_laundered() -> tuple[Replacement, ...]:
    """A stop after a failed flush flushes again, and states a clean end of what never reached the disk."""

    def make(original: Any) -> Any:
        async def close_logs(engine: Any, logs: Any) -> None:
            engine.failure = None
            for log in logs:
                log._failure = None
            await original(engine, logs)

        return close_logs

    return (("mqcore_mmap._engine", "Engine", "close_logs", make),)
