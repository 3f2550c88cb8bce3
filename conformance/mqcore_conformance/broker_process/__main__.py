"""The child process of T1: one broker, given its configuration and its faults as JSON, ended by a signal.

Reports who it is once it serves (node, epoch, URLs), when it reigns in a set, what was injected. SIGTERM stops it in
order. One JSON object per line in both directions; the end of the standard input means that the suite is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import trio

from mqcore.abc import Notice
from mqcore.broker import Node, serve_broker
from mqcore.config import make_config
from mqcore.ports import Ports, system_ports
from mqcore_conformance.broker_process.diverting import divert_to
from mqcore_conformance.broker_process.parts import register_parts
from mqcore_conformance.broker_process.ports import FaultyFiles, Injection, faulty_ports

__all__ = ["main", "report", "run"]

LINE_BYTES_MAX = 65_536
READ_BYTES = 4096


def report(facts: dict[str, Any]) -> None:
    """Write one line, at once and in one piece. Any thread."""
    line = json.dumps({"at_us": system_ports().clock.monotonic_us(), **facts}, separators=(",", ":")) + "\n"
    os.write(1, line.encode())


async def commands() -> AsyncIterator[dict[str, Any]]:
    """Give what the suite asks, until it is gone."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        rest = b""
        while data := await stream.receive_some(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                asked: dict[str, Any] = json.loads(line[:LINE_BYTES_MAX])
                yield asked


async def _serve(keys: dict[str, object], ports: Ports, files: FaultyFiles | None) -> None:
    serving: list[Node] = []

    def noticed(notice: Notice) -> None:
        role = serving[0].roles.role if serving and serving[0].roles is not None else None
        if notice.kind == "role-changed" and (set_up := getattr(role, "set_up", None)) is not None:
            report({"reigns": set_up.record.epoch})

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
                await serve_broker(make_config(**keys), ports=ports, report=noticed, task_status=task_status)
                nursery.cancel_scope.cancel()

            nursery.start_soon(_obey, files)
            broker: Node = await nursery.start(serve)
            serving.append(broker)
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
    """Serve what the first argument says, as ``run`` takes it, in JSON."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the suite, which ends its children itself
    run(json.loads(sys.argv[1]))


def run(asked: dict[str, Any]) -> None:
    """Serve: ``keys`` of the configuration, what to inject, where calls are diverted to, parts to register."""
    if asked["diverted_to"] is not None:
        divert_to(asked["diverted_to"])  # before any thread is started: each inherits it
    register_parts(asked["parts"])
    if asked["injection"] is None:
        trio.run(_serve, asked["keys"], system_ports(), None)
    else:
        ports, files = faulty_ports(Injection(**asked["injection"]), report)
        trio.run(_serve, asked["keys"], ports, files)


if __name__ == "__main__":
    main()
