"""A child of the suite that is interrupted while it begins prints nothing, and says afterwards that it was."""

from __future__ import annotations

import subprocess
import sys

BEGINS_SLOWLY = """
import os, signal, time
os.register_at_fork(after_in_child=lambda: time.sleep(0.5))
from mqcore_conformance.children._forked import ForkedChild

child = ForkedChild(lambda: time.sleep(30), returns=int, seconds_max=30.0, interruptible=True)
os.kill(child.process_id, signal.SIGINT)
while not child.is_done:
    child.receive()
print(child.end().problem)
"""


def test_a_signal_waits_until_the_child_has_begun() -> None:
    done = subprocess.run([sys.executable, "-c", BEGINS_SLOWLY], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert "KeyboardInterrupt" in done.stdout
