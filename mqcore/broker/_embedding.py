"""A broker inside any Trio program: ``async with mqcore.open_broker(storage="memory://") as broker: ...``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from mqcore.abc import GatewayContext, Notice, ignore_notice
from mqcore.broker._metrics import NodeView
from mqcore.broker._node import Node
from mqcore.config import BrokerConfig, make_config
from mqcore.nurseries import one_error
from mqcore.ports import Ports, system_ports
from mqcore.registry import create_gateway

__all__ = ["open_broker", "serve_broker"]


@asynccontextmanager
async def open_broker(
    config: BrokerConfig | None = None,
    *,
    ports: Ports | None = None,
    report: Callable[[Notice], None] = ignore_notice,
    **arguments: Any,
) -> AsyncIterator[Node]:
    """Run a broker for the length of the block; ``broker.urls`` are what clients connect to.

    ``arguments`` are those of ``mqcore.config.make_config`` (``storage``, ``listen``, ``flush``, ...), instead of a
    ``config``. Leaving the block stops in order; an exception in the block cancels. Raises ``ConfigurationError``,
    ``RefusedError``, ``PluginError``, ``StorageError``, ``CorruptionError``, ``TransportError``.
    """
    if config is None:
        config = make_config(**arguments)
    elif arguments:
        raise TypeError("give either a config or keyword arguments")
    with one_error():
        async with trio.open_nursery() as nursery:
            broker = await nursery.start(partial(serve_broker, config, ports=ports, report=report))
            yield broker
            broker.stop()


async def serve_broker(
    config: BrokerConfig,
    *,
    ports: Ports | None = None,
    report: Callable[[Notice], None] = ignore_notice,
    task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a broker until its ``stop`` is called; ``task_status`` gets the running one. Raises as ``open_broker``.

    Where the configuration has ``http``, the gateway shows the broker for as long, at ``broker.http_url``.
    """
    broker = Node(config, ports=ports or system_ports(), report=report)
    gateway = None
    if config.http is not None:
        gateway = create_gateway(f"http://{config.http}", GatewayContext(view=NodeView(broker), report=report))
    with one_error():
        async with trio.open_nursery() as showing:
            async with trio.open_nursery() as nursery:
                await nursery.start(broker.serve)
                if gateway is not None:
                    broker.http_url = await showing.start(gateway.serve)
                task_status.started(broker)
            showing.cancel_scope.cancel()
