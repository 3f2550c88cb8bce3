"""What a peer that is not known can do to a broker: nothing, for a short time, in small numbers."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from guarded import PASSWORD, allow, as_user, broker_with, private

import mqcore
from mqcore.abc import Credentials, LoginServer, Notice, Secret
from mqcore.errors import NotReachedError, RejectedError, RemoteProtocolError
from mqcore.logins import transport_as
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Code,
    Connection,
    Fatal,
    Hello,
    Login,
    LoginBegin,
    Mechanism,
    Role,
    Welcome,
)
from mqcore.registry import create_transport, register, unregister
from mqcore_access import TokenAuthenticator

pytest.importorskip("scramp")


async def hear(stream, machine):
    """Return the next message, None where the stream ended without one."""
    while (message := machine.next_message()) is None:
        if machine.at_end:
            return None
        machine.received(await stream.receive_into(machine.receive_buffer()))
    return message


async def what_is_said_to(url: str, data: bytes) -> Any:
    """Send ``data`` on a fresh stream and return how it is refused."""
    machine = Connection(Role.CLIENT, frame_bytes_max=1 << 20)
    machine.send(Hello(VERSION_MIN, VERSION_MAX, "x"))
    async with await create_transport(url).connect() as link:
        stream = await link.open_stream()
        await stream.send_buffers([data])
        return await hear(stream, machine)


def test_before_a_login_nothing_else_is_parsed(users):
    hello = b"".join(map(bytes, Connection(Role.CLIENT, frame_bytes_max=1 << 20).send(Hello(2, 2, "x"))))
    begin = b"".join(map(bytes, Login(Role.CLIENT).send(LoginBegin(VERSION_MIN, VERSION_MAX, ("scram-sha-256",)))))
    produce = struct.pack("<IBBHI", 1 << 30, 3, 0, 0, 1)

    async def main():
        async with broker_with(users, allow("*", "*")) as broker:
            for data, code in (
                (hello, Code.LOGIN_REQUIRED),
                (produce, Code.LOGIN_REQUIRED),
                (b"GET / HTTP/1.1\r\n\r\n", Code.LOGIN_REQUIRED),
                (begin + hello, Code.UNEXPECTED_FRAME),
                (struct.pack("<IBBHI", 4097, 48, 0, 0, 0), Code.FRAME_TOO_LARGE),
                (struct.pack("<IBBHI", 4, 48, 0, 0, 0) + b"rubb", Code.MALFORMED_FRAME),
            ):
                with trio.fail_after(10):
                    said = await what_is_said_to(broker.urls[0], data)
                assert isinstance(said, Fatal)
                assert said.code == code, said
                assert not broker.connections

    trio.run(main)


def test_half_open_logins_are_few_and_end_and_the_oldest_gives_way(users):
    async def main():
        limits = {"logins_max": 2, "handshake_timeout_ms": 1_000}
        async with broker_with(users, allow("*", "*"), limits=limits) as broker:
            url = broker.urls[0]
            async with await create_transport(url).connect() as one, await create_transport(url).connect() as two:
                streams = [await link.open_stream() for link in (one, two)]
                await streams[0].send_buffers([b"\0" * 5])
                await trio.sleep(0.1)
                with trio.fail_after(10):
                    async with as_user(broker):  # who does say so is kept out by nobody's silence
                        pass
                    machine = Connection(Role.CLIENT, frame_bytes_max=1 << 20)
                    machine.send(Hello(VERSION_MIN, VERSION_MAX, "x"))
                    said = await hear(streams[0], machine)
                    assert isinstance(said, Fatal)
                    assert said.code == Code.TOO_MANY_LOGINS
                    for stream in streams:  # each is let go when its time is over
                        while await stream.receive_some(4096):
                            pass
            async with as_user(broker):
                pass

    trio.run(main)


def test_a_session_is_joined_by_its_own_principal_only(users):
    async def greet(url: str, name: str, session: bytes) -> Any:
        credentials = Credentials(user=name, password=Secret(PASSWORD))
        link = await transport_as(credentials, create_transport(url)).connect()
        stream = await link.open_stream()
        machine = Connection(Role.CLIENT, frame_bytes_max=1 << 20)
        await stream.send_buffers(machine.send(Hello(VERSION_MIN, VERSION_MAX, "x", session)))
        return link, await hear(stream, machine)

    async def main():
        async with broker_with(users, allow("*", "*")) as broker:
            first, welcome = await greet(broker.urls[0], "alice", b"")
            assert isinstance(welcome, Welcome)
            again, same = await greet(broker.urls[0], "alice", welcome.session)
            assert isinstance(same, Welcome)
            thief, said = await greet(broker.urls[0], "bob", welcome.session)
            assert isinstance(said, Fatal)
            assert said.code == Code.UNKNOWN_SESSION
            for link in (first, again, thief):
                await link.aclose()

    trio.run(main)


def test_what_may_be_read_may_not_be_written_and_the_reverse(users):
    notices: list[Notice] = []

    async def main():
        rules = (
            allow("user:alice", "create", "produce", resource="topic:t"),
            allow("user:bob", "consume", resource="topic:t"),
        )
        async with broker_with(users, *rules, report=notices.append) as broker:
            async with as_user(broker) as alice, as_user(broker, "bob") as bob:
                await alice.admin.create_topic("t")
                async with alice.producer("t") as producer:
                    await producer.send(b"mine")
                async with bob.producer("t") as producer:
                    with pytest.raises(RejectedError, match="user:bob may not produce topic:t: no rule allows it"):
                        await producer.send(b"not mine")
                    await producer.send_one_way(b"not mine either")
                async with bob.consumer("t", start="start") as consumer:
                    assert (await consumer.__anext__()).value == b"mine"
                async with alice.consumer("t", start="start") as consumer:
                    with trio.fail_after(10), pytest.raises(RejectedError, match="user:alice may not consume topic:t"):
                        await consumer.__anext__()
                async with alice.producer("t") as producer:
                    receipt = await producer.send(b"next")
                assert receipt.offset == 1, "something of bob's was appended"

    trio.run(main)
    told = {(notice.facts["principal"], notice.facts["operation"]) for notice in notices}
    assert told == {("user:bob", "produce"), ("user:alice", "consume")}


def test_refusals_are_told_line_by_line_until_nobody_could_read_them(users):
    notices: list[Notice] = []

    async def main():
        async with broker_with(users, allow("user:alice", "describe"), report=notices.append) as broker:
            async with as_user(broker) as alice:
                for number in range(300):
                    with pytest.raises(RejectedError):
                        await alice.admin.create_topic(f"t{number}")

    trio.run(main)
    assert 100 <= len(notices) < 300


def test_a_topic_that_is_made_anew_is_asked_for_anew(users):
    async def main():
        rules = (allow("*", "*"), allow("user:bob", "produce", resource="topic:other", effect="deny"))
        async with broker_with(users, *rules) as broker, as_user(broker, "bob") as bob:
            await bob.admin.create_topic("t")
            async with bob.producer("t") as producer:
                await producer.send(b"x")
            await bob.admin.delete_topic("t")
            await bob.admin.create_topic("other")
            async with bob.producer("other") as producer:
                with pytest.raises(RejectedError, match=r"rule 2 \(deny user:bob produce on topic:other\)"):
                    await producer.send(b"x")

    trio.run(main)


def test_a_token_is_not_sent_where_others_could_read_it(tmp_path):
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("t" * 20)

    async def main():
        with pytest.raises(mqcore.errors.ConfigurationError, match=r"tcp://192.0.2.1:7400: a token is sent as it is"):
            async with mqcore.connect("tcp://192.0.2.1:7400", token_file=str(path)):
                pass

    trio.run(main)


class Brittle(TokenAuthenticator):
    """Breaks at what some peers say, or answers with what is no challenge."""

    def begin_login(self, peer):
        return BrittleServer(super().begin_login(peer))


class BrittleServer(LoginServer):
    def __init__(self, inner):
        self._inner = inner

    def answer(self, response):
        if response.startswith(b"break"):
            raise KeyError(response.decode())
        return None if response.startswith(b"nothing") else self._inner.answer(response)


@pytest.mark.parametrize("said", ["break" + "x" * 20, "nothing" + "x" * 20])
def test_an_authenticator_that_breaks_costs_that_peer_its_login_and_nobody_else_anything(tmp_path, said):
    """Nobody who is not known yet may end a broker, and what was said stays out of what is reported."""
    notices: list[Notice] = []
    register("authenticators", "brittle", Brittle)
    good, bad = (private(tmp_path / name, text) for name, text in (("good", "t" * 20), ("bad", said)))
    tokens = private(tmp_path / "tokens", f"me {'t' * 20}\n")
    table = [{"name": "brittle", "tokens": tokens}]

    async def main():
        async with broker_with("", allow("*", "*"), authenticators=table, report=notices.append) as broker:
            async with mqcore.connect(broker.urls[0], token_file=good) as before:
                with pytest.raises((RemoteProtocolError, NotReachedError), match="the login failed"):
                    async with mqcore.connect(broker.urls[0], token_file=bad, connect_timeout_ms=2000):
                        pass
                assert await before.admin.list_topics() == []
                async with mqcore.connect(broker.urls[0], token_file=good) as after:
                    assert await after.admin.list_topics() == []

    try:
        trio.run(main)
    finally:
        unregister("authenticators", "brittle")
    told = [notice for notice in notices if notice.kind == "login-refused"]
    assert told
    assert "authenticator 'brittle' has a defect" in told[0].text
    assert said not in repr(notices)


def test_a_broker_that_asks_for_the_token_of_a_user_with_a_password_is_not_given_it_in_the_clear(monkeypatch):
    """A client has both, and the link is not encrypted: whoever is in between might ask for what can be read."""
    offered: list[tuple[str, ...]] = []

    async def main():
        plain = create_transport("tcp://127.0.0.1:0")
        monkeypatch.setattr(type(plain), "is_loopback", False)
        async with await plain.listen() as listener, trio.open_nursery() as nursery:

            async def ask_for_the_token():
                async with await listener.accept() as link:
                    stream = await link.accept_stream()
                    machine = Login(Role.BROKER)
                    begin = await hear(stream, machine)
                    assert isinstance(begin, LoginBegin)
                    offered.append(begin.mechanisms)
                    await stream.send_buffers(machine.send(Mechanism("token")))
                    assert await hear(stream, machine) is None, "the token was sent"

            nursery.start_soon(ask_for_the_token)
            both = Credentials(user="alice", password=Secret(PASSWORD), token=Secret("t" * 20))
            link = await transport_as(both, create_transport(str(listener.url))).connect()
            with pytest.raises(RemoteProtocolError, match="chose a mechanism that was not offered"):
                await link.open_stream()
            await link.aclose()

    trio.run(main)
    assert offered == [("scram-sha-256",)]


def test_a_server_that_wants_another_login_than_it_was_offered_is_left(users):
    async def main():
        async with broker_with(users, allow("*", "*")) as broker:
            with pytest.raises(RemoteProtocolError, match=r"user:|the login failed|refused"):
                async with as_user(broker, "al=ice,"):
                    pass

    trio.run(main)
