"""Listening with several transports: all of them or none, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from mqcore.abc import ByteStream, Peer, Transport
from mqcore.broker._listeners import accept_links, listening
from mqcore.errors import TransportError
from mqcore.registry import create_transport


def test_a_second_listen_that_fails_closes_the_first_listener_and_removes_its_file(
    run_real: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mq.sock"
    transports = [create_transport(f"unix://{path}"), create_transport(f"unix://{tmp_path}/missing/mq.sock")]

    async def main() -> None:
        with pytest.raises(TransportError, match="missing"):
            async with listening(transports):
                raise AssertionError("it listens")
        assert not path.exists()
        async with listening(transports[:1]):
            assert path.exists()
        assert not path.exists()

    run_real(main)


def test_every_listener_is_closed_when_the_block_is_cancelled(run_real: Any, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.sock" for number in range(3)]

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with listening([create_transport(f"unix://{path}") for path in paths]) as listeners:
                assert [listener.url.path for listener in listeners] == [str(path) for path in paths]
                scope.cancel()
                await trio.sleep_forever()
        assert not any(path.exists() for path in paths)

    run_real(main)


def test_streams_are_served_on_after_accepting_has_ended_and_a_peer_that_leaves_is_no_error(run_virtual: Any) -> None:
    transport: Transport = create_transport("inproc://listeners")
    served: list[Peer] = []

    async def serve(stream: ByteStream, peer: Peer) -> None:
        served.append(peer)
        while data := await stream.receive_some():
            await stream.send_all(data)
        raise trio.BrokenResourceError

    async def main() -> None:
        async with trio.open_nursery() as nursery, listening([transport]) as (listener,):
            async with trio.open_nursery() as accepting:
                accepting.start_soon(accept_links, listener, False, nursery, serve)
                link = await transport.connect()
                stream = await link.open_stream()
                await stream.send_all(b"first")
                assert await stream.receive_some() == b"first"
                accepting.cancel_scope.cancel()
            await stream.send_all(b"second")
            assert await stream.receive_some() == b"second"
            await link.aclose()
        assert len(served) == 1

    run_virtual(main)
