"""What a child process that ended by itself has to say: the last error in what it printed, in one line."""

from __future__ import annotations

import re
import signal
from pathlib import Path

__all__ = ["describe_end"]

TEXT_CHARS_MAX = 300
_ERROR = re.compile(r"[\s|+-]*((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Unknown|Refused|Exit)\w*(?:: .*)?)\Z")


def describe_end(status: int, printed: Path) -> str:
    """Return how a process ended: its exit status or signal, and why as far as it said."""
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    lines = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [match[1] for line in lines if (match := _ERROR.match(line)) and "ExceptionGroup" not in match[1]]
    last = errors[-1] if errors else lines[-1] if lines else ""
    return f"{how}: {last[:TEXT_CHARS_MAX]}" if last else how
