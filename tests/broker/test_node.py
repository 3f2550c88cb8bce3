"""The node alone: what it refuses to be composed of, and what stays when it cannot start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mqcore.broker
from mqcore.errors import RefusedError, TransportError


def test_g18_a_node_without_a_set_does_not_start_with_a_replication_policy(run_virtual: Any) -> None:
    async def main() -> None:
        with pytest.raises(RefusedError, match=r"sync.copies=2.* takes other nodes, and the configuration names none"):
            async with mqcore.broker.open_broker(storage="memory://", replication="sync(copies=2, level=memory)"):
                raise AssertionError("it runs")

    run_virtual(main)


def test_a_node_that_cannot_listen_everywhere_listens_nowhere_and_can_start_again(
    run_real: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        first, second = f"unix://{tmp_path}/mq.sock", f"unix://{tmp_path}/missing/mq.sock"
        for _ in range(2):
            with pytest.raises(TransportError, match="missing"):
                async with mqcore.broker.open_broker(storage="memory://", listen=[first, second]):
                    raise AssertionError("it runs")
            assert not (tmp_path / "mq.sock").exists()
        (tmp_path / "missing").mkdir()
        async with mqcore.broker.open_broker(storage="memory://", listen=[first, second]) as node:
            assert node.urls == [first, second]

    run_real(main)
