"""What only TCP has: addresses, ports, descriptors."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from mqcore.abc import Buffer, Notice, TransportContext, Url
from mqcore.errors import ConfigurationError, TransportError
from mqcore.registry import create_transport
from mqcore.sockets import ACCEPT_PAUSE_SECONDS, SocketListener, SocketStream


@contextmanager
def no_more_descriptors(leave: int) -> Iterator[None]:
    """Leave the process ``leave`` free descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 20, limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        held: list[int] = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range(leave):
                os.close(held.pop())
        for descriptor in held:
            stack.callback(os.close, descriptor)
        yield


def test_the_listeners_url_has_the_port_that_was_bound_and_connects() -> None:
    async def main() -> None:
        async with await create_transport("tcp://127.0.0.1:0?backlog=5").listen() as listener:
            assert listener.url.address[1] != 0
            assert not listener.url.query
            async with await create_transport(listener.url).connect() as client, await listener.accept() as broker:
                assert client.peer.address == listener.url.rest
                assert broker.peer.address.startswith("127.0.0.1:")

    trio.run(main)


@pytest.mark.needs("ipv6")
def test_ipv6_addresses_are_in_brackets() -> None:
    async def main() -> None:
        async with await create_transport("tcp://[::1]:0").listen() as listener:
            assert str(listener.url).startswith("tcp://[::1]:")
            client = create_transport(str(listener.url))
            async with await client.connect(), await listener.accept() as broker:
                assert broker.peer.address.startswith("[::1]:")

    trio.run(main)


def test_out_of_descriptors_is_reported_once_waited_out_and_survived() -> None:
    notices: list[Notice] = []

    async def main() -> None:
        context = TransportContext(report=notices.append)
        async with await create_transport("tcp://127.0.0.1:0", context).listen() as listener:
            client = create_transport(f"{listener.url}?socket_buffer_bytes=0")
            with no_more_descriptors(leave=1):
                link = await client.connect()  # takes the last one: the accepted socket has none left
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(listener.accept)
                    with trio.fail_after(20):
                        while not notices:  # noqa: ASYNC110 - told from inside the accept
                            await trio.sleep(0.01)
                    nursery.cancel_scope.cancel()
                assert [notice.kind for notice in notices] == ["accept-waits"]
                assert "ulimit -n" in notices[0].text
                assert str(listener.url) in notices[0].text
            with trio.fail_after(60):
                await (await listener.accept()).aclose()
            await link.aclose()

    trio.run(main)
    assert [notice.kind for notice in notices] == ["accept-waits", "accept-resumed"]


class FailingSocket:
    """A listening socket whose accepts fail with ``errors`` in turn, then wait for ever."""

    def __init__(self, errors: Iterable[int]) -> None:
        self.errors = iter(errors)
        self.asked = 0

    async def accept(self) -> Any:
        self.asked += 1
        for number in self.errors:
            raise OSError(number, "accept failed")
        await trio.sleep_forever()

    def close(self) -> None: ...


@pytest.mark.parametrize(("number", "asked"), [(errno.EIO, 3), (errno.EHOSTUNREACH, 10_001)])
def test_an_accept_error_that_is_not_known_waits_and_one_dead_connection_does_not(number: int, asked: int) -> None:
    notices: list[Notice] = []
    socket: Any = FailingSocket([number] * 10_000)

    async def main() -> None:
        listener = SocketListener(socket, Url("tcp", "here"), lambda _, __: None, notices.append)  # type: ignore[arg-type,return-value]
        with trio.move_on_after(2.5 * ACCEPT_PAUSE_SECONDS):
            await listener.accept()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert socket.asked == asked
    assert [notice.kind for notice in notices] == (["accept-waits"] if number == errno.EIO else [])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://192.0.2.1:0", "no such address"),
        ("tcp://host.invalid:0", "is not known"),
    ],
)
def test_an_address_that_cannot_be_bound_names_the_url_and_the_remedy(url: str, words: str) -> None:
    async def main() -> None:
        with pytest.raises(TransportError, match=words) as caught:
            await create_transport(url).listen()
        assert url in str(caught.value)
        assert "\n" not in str(caught.value)

    trio.run(main)


def test_nobody_listening_names_the_url_and_the_remedy() -> None:
    async def main() -> None:
        async with await create_transport("tcp://127.0.0.1:0").listen() as listener:
            url = listener.url
        with pytest.raises(TransportError, match=r"nothing listens there: start the broker") as caught:
            await create_transport(url).connect()
        assert str(url) in str(caught.value)

    trio.run(main)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1", "tcp://:7400", "tcp://host:70000", "tcp://::1:7400"])
def test_an_impossible_address_is_refused_when_composed(url: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        create_transport(url)


@pytest.mark.parametrize("query", ["backlog=0", "backlog=many", "socket_buffer_bytes=-1", "no_delay=1"])
def test_an_impossible_option_is_refused_by_name(query: str) -> None:
    with pytest.raises(ConfigurationError, match=query.partition("=")[0]):
        create_transport(f"tcp://127.0.0.1:0?{query}")


def test_what_the_socket_takes_at_once_goes_without_waiting_unless_a_subclass_looks_at_what_is_sent() -> None:
    class Framing(SocketStream):
        async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
            await super().send_buffers((b"<", *buffers, b">"))

    async def main() -> None:
        near, far = trio.socket.socketpair()
        async with SocketStream(near) as stream, SocketStream(far) as peer:
            assert stream.send_now((b"one", b"two")) == 6
            assert await peer.receive_some() == b"onetwo"
            while stream.send_now((bytes(100_000),)):
                pass
            assert stream.send_now((b"full",)) == 0
            await peer.aclose()
            assert stream.send_now((b"broken",)) == 0
            stream.close()
            assert stream.send_now((b"closed",)) == 0
        near, far = trio.socket.socketpair()
        async with Framing(near) as framing, SocketStream(far):
            assert framing.send_now((b"bare",)) == 0

    trio.run(main)
