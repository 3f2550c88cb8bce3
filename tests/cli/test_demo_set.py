"""The demonstration of a set: both of its primaries are killed, and what it says of that is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from mqcore.cli._demo_set import ASYNC, SYNC, demonstrate_set

pytestmark = pytest.mark.slow


def test_g01_g03_nothing_is_lost_synchronously_and_no_more_than_was_said_asynchronously(tmp_path: Path) -> None:
    events: list[tuple[str, dict[str, Any]]] = []

    def note(text: str, kind: str, **facts: Any) -> None:
        events.append((kind, facts))

    async def main() -> bool:
        posts = [[b"%d of %d" % (line, post) for line in range(200)] for post in range(50)]
        with trio.fail_after(100):
            return await demonstrate_set(tmp_path / "set", posts, note)

    assert trio.run(main)
    facts: dict[str, list[dict[str, Any]]] = {}
    for kind, each in events:
        facts.setdefault(kind, []).append(each)
    killed = [(each["replication"], each["node"]) for each in facts["set-killed"]]
    assert [policy for policy, _ in killed] == [SYNC, ASYNC]
    successors = [each["node"] for each in facts["set-failover"]]
    assert successors[0] == killed[1][1], "the one that took over is killed next"
    assert successors[1] != killed[1][1]
    assert facts["set-compared"][0]["missing"] == 0
    assert facts["set-compared"][0]["acknowledged"] > facts["set-killed"][0]["acknowledged"] > 0
    assert facts["set-lost"][0]["lost"] <= facts["set-lost"][0]["bound"]
