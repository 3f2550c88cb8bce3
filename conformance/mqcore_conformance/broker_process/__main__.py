"""The child process of T1: one broker, given its configuration and its faults as JSON, ended by a signal.

Reports who it is once it serves (node, epoch, URLs), and what was injected. SIGTERM stops it in order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import trio

from mqcore.broker import Node, serve_broker
from mqcore.config import make_config
from mqcore.ports import Ports, system_ports
from mqcore_conformance.broker_process.child import commands, ignore_interrupt, report
from mqcore_conformance.broker_process.ports import FaultyFiles, Injection, faulty_ports

__all__ = ["main"]


async def _serve(keys: dict[str, object], ports: Ports, files: FaultyFiles | None) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
                await serve_broker(make_config(**keys), ports=ports, task_status=task_status)
                nursery.cancel_scope.cancel()

            nursery.start_soon(_obey, files)
            broker: Node = await nursery.start(serve)
            report({"node": broker.store.node_id.hex()[:8], "epoch": broker.store.epoch, "urls": broker.urls})
            async for _ in signals:
                broker.stop()


async def _obey(files: FaultyFiles | None) -> None:
    async for asked in commands():
        if files is not None and "fill" in asked:
            files.fill(asked["fill"])
        if files is not None and "fail_flush" in asked:
            files.fail_flush(asked["fail_flush"])
    os.kill(os.getpid(), signal.SIGKILL)  # the suite is gone


def main() -> None:
    """Serve what the first argument says: ``keys`` of the configuration, and what to inject, if anything."""
    ignore_interrupt()
    asked: dict[str, Any] = json.loads(sys.argv[1])
    if asked["injection"] is None:
        trio.run(_serve, asked["keys"], system_ports(), None)
    else:
        ports, files = faulty_ports(Injection(**asked["injection"]), report)
        trio.run(_serve, asked["keys"], ports, files)


if __name__ == "__main__":
    main()
