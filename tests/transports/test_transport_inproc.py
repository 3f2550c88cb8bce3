"""What only the in-process transport has: names within one Trio run, virtual time, no sockets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mqcore.errors import ConfigurationError, TransportError
from mqcore.registry import create_transport


def test_an_unknown_name_says_which_are_known() -> None:
    async def main() -> None:
        async with await create_transport("inproc://here").listen():
            with pytest.raises(TransportError, match=r"inproc://there: nothing listens .*\(listening: here\)"):
                await create_transport("inproc://there").connect()

    trio.run(main)


def test_two_runs_of_one_process_do_not_meet() -> None:
    async def listening() -> None:
        listener = await create_transport("inproc://name").listen()
        with pytest.raises(TransportError, match="in use"):
            await create_transport("inproc://name").listen()
        assert listener.url.rest == "name"

    async def other_run() -> None:
        with pytest.raises(TransportError, match="nothing listens"):
            await create_transport("inproc://name").connect()

    trio.run(listening)
    trio.run(other_run)
    trio.run(listening)


def test_it_works_on_virtual_time_and_connects_wait_for_a_full_backlog() -> None:
    async def main() -> None:
        transport = create_transport("inproc://name?backlog=2")
        async with await transport.listen() as listener:
            links = []

            async def connect() -> None:
                links.append(await transport.connect())

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(connect)
                await trio.sleep(3_600)
                assert len(links) == 2
                await listener.accept()
            assert len(links) == 3

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_waits_to_be_accepted_is_dropped_with_the_listener() -> None:
    async def main() -> None:
        transport = create_transport("inproc://name")
        async with await transport.listen():
            stream = await (await transport.connect()).open_stream()
        assert await stream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")

    trio.run(main)


def test_a_buffer_that_the_sender_changes_later_arrives_as_it_was() -> None:
    async def main() -> None:
        transport = create_transport("inproc://name")
        async with await transport.listen() as listener:
            ours = await (await transport.connect()).open_stream()
            theirs = await (await listener.accept()).accept_stream()
            data = bytearray(b"before")
            await ours.send_all(memoryview(data))
            data[:] = b"after!"
            assert await theirs.receive_some() == b"before"

    trio.run(main)


def test_a_name_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="needs a name"):
        create_transport("inproc://")
