"""A broker for clients of every kind, and the kinds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import trio

import mqcore

sys.path.insert(0, str(Path(__file__).parent))

from three_shells import Shell


@pytest.fixture(params=["trio", "aio", "sync"])
def shell(request: pytest.FixtureRequest) -> Shell:
    return Shell(request.param)


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """URL of a broker in a thread of its own, so that whoever blocks does not block it."""
    ready: Future[tuple[str, trio.lowlevel.TrioToken, trio.Event]] = Future()

    async def serve() -> None:
        async with mqcore.open_broker(storage="memory://", listen=["tcp://127.0.0.1:0"], flush="none") as broker:
            stop = trio.Event()
            ready.set_result((str(broker.urls[0]), trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    url, token, stop = ready.result(30)
    yield url
    token.run_sync_soon(stop.set)
    thread.join()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A name of its own for each test."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:200]
