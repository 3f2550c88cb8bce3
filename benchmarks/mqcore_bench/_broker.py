"""A broker of mqcore in a process of its own, its disk slowed down if asked.

Run as ``python -m mqcore_bench._broker STORAGE LISTEN FLUSH DELAY_MS``; prints one JSON object when it is ready:
``url``, and ``open_seconds``, the time from composing the broker until it listens. Ends in order on SIGTERM.
"""

from __future__ import annotations

import functools
import json
import signal
import sys
import time

import attrs
import trio

from mqcore.broker import Node, serve_broker
from mqcore.config import make_config
from mqcore.errors import MqcoreError
from mqcore.nurseries import one_error
from mqcore.ports import system_ports
from mqcore_bench._slow_disk import SlowDisk


async def main(storage: str, listen: str, flush: str, delay_ms: str) -> None:
    """Serve until SIGTERM."""
    ports = system_ports()
    if float(delay_ms):
        ports = attrs.evolve(ports, files=SlowDisk(ports.files, float(delay_ms) / 1000))
    config = make_config(storage=storage, listen=[listen], flush=flush)
    started = time.perf_counter()
    with one_error(), trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            broker: Node = await nursery.start(functools.partial(serve_broker, config, ports=ports))
            facts = {"url": broker.urls[0], "open_seconds": time.perf_counter() - started}
            print(json.dumps(facts), flush=True)
            async for _ in signals:
                broker.stop()
                break


if __name__ == "__main__":
    try:
        trio.run(functools.partial(main, *sys.argv[1:]))
    except MqcoreError as error:  # a part that does not fit the row: one line says why
        sys.exit(str(error).replace("\n", " "))
