"""The child process of T1: one broker, told its configuration as JSON, ended by SIGTERM in order or by SIGKILL.

Says on standard output who it is once it serves: node, epoch and URLs as one JSON line.
"""

from __future__ import annotations

import json
import signal
import sys

import trio

from mqcore.broker import Broker, serve_broker
from mqcore.config import make_config

__all__ = ["main"]


async def _serve(keys: dict[str, object]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[Broker] = trio.TASK_STATUS_IGNORED) -> None:
                await serve_broker(make_config(**keys), task_status=task_status)
                nursery.cancel_scope.cancel()

            broker: Broker = await nursery.start(serve)
            facts = {"node": broker.store.node_id.hex()[:8], "epoch": broker.store.epoch, "urls": broker.urls}
            print(json.dumps(facts), flush=True)
            async for _ in signals:
                broker.stop()


def main() -> None:
    """Serve what the first argument says."""
    trio.run(_serve, json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
