"""A host with several addresses: each gets a head start, the first that answers wins, nothing else stays open."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from trio import socket as tsocket

from mqcore.registry import create_transport
from mqcore_tcp._addresses import ATTEMPT_DELAY_SECONDS, Address, connect_first, order_for_racing

V4, V6 = socket.AF_INET, socket.AF_INET6


def at(name: str, family: int = V4) -> Address:
    return (family, (name, 1))


class FakeSocket:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Network:
    """``answers``: seconds until an address answers, or the error it gives at once."""

    def __init__(self, **answers: float | int | OSError | None) -> None:
        self.answers = answers
        self.tried: list[tuple[str, float]] = []
        self.sockets: list[FakeSocket] = []

    async def connect(self, address: Address) -> Any:
        name = str(address[1][0])
        self.tried.append((name, trio.current_time() - self.began))
        answer = self.answers[name]
        if isinstance(answer, OSError):
            await trio.lowlevel.checkpoint()
            raise answer
        await trio.sleep(answer)
        self.sockets.append(FakeSocket(name))
        return self.sockets[-1]

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            self.began = trio.current_time()
            await body()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_another_family_is_tried_second() -> None:
    a, b, c = at("a", V6), at("b", V6), at("c", V4)
    assert order_for_racing([a, b, c]) == [a, c, b]
    assert order_for_racing([a, c, b]) == [a, c, b]
    assert order_for_racing([a, b]) == [a, b]


def test_an_address_that_is_silent_costs_a_head_start_only() -> None:
    network = Network(dead=math.inf, alive=0.1)

    async def body() -> None:
        found: Any = await connect_first([at("dead"), at("alive")], network.connect)
        assert found.name == "alive"
        assert trio.current_time() - network.began == pytest.approx(ATTEMPT_DELAY_SECONDS + 0.1)

    network.run(body)


def test_after_one_that_fails_the_next_is_tried_at_once() -> None:
    network = Network(refused=OSError(errno.ECONNREFUSED, "no"), alive=0)

    async def body() -> None:
        found: Any = await connect_first([at("refused"), at("alive")], network.connect)
        assert (found.name, trio.current_time()) == ("alive", network.began)

    network.run(body)


def test_of_two_that_answer_at_once_one_is_kept() -> None:
    network = Network(slow=ATTEMPT_DELAY_SECONDS + 1, quick=1)

    async def body() -> None:
        found: Any = await connect_first([at("slow"), at("quick")], network.connect)
        assert [each.closed for each in network.sockets if each is not found] == [True] * (len(network.sockets) - 1)
        assert not found.closed

    network.run(body)


def test_when_all_fail_the_last_error_is_raised() -> None:
    network = Network(a=OSError(errno.ECONNREFUSED, "a"), b=OSError(errno.ENETUNREACH, "b"))

    async def body() -> None:
        with pytest.raises(OSError, match="b"):
            await connect_first([at("a"), at("b")], network.connect)

    network.run(body)


def test_a_host_whose_first_address_does_not_answer_is_reached_by_the_second() -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
            return [(V6, tsocket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
                    (V4, tsocket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]  # fmt: skip

        async def getnameinfo(self, *_: Any) -> Any:
            raise AssertionError("nobody asks for names")

    async def main() -> None:
        async with await create_transport("tcp://127.0.0.1:0").listen() as listener:
            tsocket.set_custom_hostname_resolver(Resolver())
            url = f"tcp://two-addresses:{listener.url.address[1]}"
            async with await create_transport(url).connect(), await listener.accept():
                pass

    trio.run(main)
