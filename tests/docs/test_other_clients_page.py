"""docs/other-clients.md: its three programs run as they stand, against a broker as the page starts it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import mqcore

pytestmark = [pytest.mark.needs("source-tree"), pytest.mark.slow]
PROGRAM = re.compile(r"<!-- file: (\w+\.py) -->\n```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("name", ["greet_trio.py", "greet_asyncio.py", "greet_blocking.py"])
def test_the_program_sends_and_reads(name: str, pages: Any, tmp_path: Path) -> None:
    programs = dict(PROGRAM.findall((pages.docs / "other-clients.md").read_text()))

    async def main() -> subprocess.CompletedProcess[bytes]:
        build: Any = {"storage": f"mmap://{tmp_path}/mq", "flush": "sync", "topics": {"greetings": {}}}
        async with mqcore.open_broker(listen="tcp://127.0.0.1:0", **build) as broker:
            command = [sys.executable, "-c", programs[name], str(broker.urls[0])]
            return await trio.run_process(command, capture_stdout=True, check=False)

    done = trio.run(main)
    assert (done.returncode, done.stdout.decode()) == (0, "sent: DISK\nread: b'hello'\n")
