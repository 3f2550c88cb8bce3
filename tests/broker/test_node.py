"""The node alone: what it refuses to be composed of, and what stays when it cannot start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mqcore.broker
from mqcore.errors import RefusedError, TransportError


def test_g18_a_replica_does_not_start_while_replication_is_not_built(run_virtual: Any) -> None:
    async def main() -> None:
        with pytest.raises(RefusedError, match='role = "replica": replication is not built in this version'):
            async with mqcore.broker.open_broker(storage="memory://", role="replica"):
                raise AssertionError("it runs")
        async with mqcore.broker.open_broker(storage="memory://", role="primary") as node:
            assert node.status()["reigns"] is True

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
