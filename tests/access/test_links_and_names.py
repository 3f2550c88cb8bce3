"""Who is at the other end of a link, on all of its streams and for as long as it lasts: TLS, and QUIC with logins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from guarded import PASSWORD, allow, as_user, broker_with

import mqcore
from mqcore.abc import ByteStream, Credentials, Link, Notice, Secret, Transport
from mqcore.errors import RejectedError, RemoteProtocolError
from mqcore.logins import _log_in, transport_as
from mqcore.protocol import VERSION_MAX, VERSION_MIN, Call, Connection, Failed, Fatal, Hello, Role, Welcome
from mqcore.registry import create_transport

pytest.importorskip("scramp")
pytest.importorskip("qh3")

from mqcore_access.users import changing_users


class Files:
    """An authority, and certificates of a server and a client, in files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca, self.server, self.client = (str(folder / f"{name}.pem") for name in ("ca", "server", "client"))
        authority.cert_pem.write_to_path(self.ca)
        for path, name in ((self.server, "broker"), (self.client, "carol")):
            made = authority.issue_cert("127.0.0.1", common_name=name, organization_name="Example")
            made.private_key_and_cert_chain_pem.write_to_path(path)
            Path(path).chmod(0o600)

    @property
    def quic(self) -> str:
        return f"quic://127.0.0.1:0?cert={self.server}"

    def transport(self, url: str, user: str | None = "alice") -> Transport:
        return transport_as(None if user is None else alike(user), create_transport(f"{url}?ca={self.ca}"))


def alike(user: str) -> Credentials:
    return Credentials(user=user, password=Secret(PASSWORD))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def greet(stream: ByteStream) -> Any:
    """Say hello, and return what is answered."""
    machine = Connection(Role.CLIENT, frame_bytes_max=1 << 20)
    await stream.send_buffers(machine.send(Hello(VERSION_MIN, VERSION_MAX, "x")))
    return await hear(stream, machine)


async def hear(stream: ByteStream, machine: Connection) -> Any:
    """Return the next message."""
    while (message := machine.next_message()) is None:
        machine.received(await stream.receive_into(machine.receive_buffer()))
    return message


def run(main: Callable[[], Any]) -> None:
    async def within() -> None:
        with trio.fail_after(60):
            await main()

    trio.run(within)


def test_a_certificate_that_a_client_shows_is_who_it_is_at_a_broker(files: Files) -> None:
    async def main() -> None:
        access = {"authenticators": ["tls"], "rules": [allow("tls:CN=carol,*", "create", resource="topic:t")]}
        listen = f"tls://127.0.0.1:0?cert={files.server}&client_ca={files.ca}"
        async with (
            mqcore.open_broker(storage="memory://", flush="none", listen=listen, access=access) as broker,
            mqcore.connect(f"{broker.urls[0]}?ca={files.ca}&cert={files.client}") as client,
        ):
            await client.admin.create_topic("t")
            with pytest.raises(RejectedError, match=r"tls:CN=carol,.* may not create topic:u"):
                await client.admin.create_topic("u")

    run(main)


def test_a_user_that_was_deleted_is_nobody_on_further_streams_of_its_link(users: str, files: Files) -> None:
    async def main() -> None:
        ended = trio.Event()

        def report(notice: Notice) -> None:
            if notice.kind == "login-ended":
                ended.set()

        limits = {"idle_timeout_ms": 200}
        async with (
            broker_with(users, allow("*", "*"), listen=files.quic, limits=limits, report=report) as broker,
            await files.transport(broker.urls[0]).connect() as link,
        ):
            assert isinstance(await greet(await link.open_stream()), Welcome)
            with changing_users(users) as known:
                del known["alice"]
            await ended.wait()
            assert isinstance(await greet(await link.open_stream()), Fatal)

    run(main)


def test_two_logins_at_once_on_one_link_are_of_one_user(users: str, files: Files) -> None:
    found: dict[str, Any] = {}

    async def log_in(link: Link, user: str) -> None:
        stream = await link.open_stream()
        try:
            await _log_in(stream, alike(user))
            found[user] = await greet(stream)
        except RemoteProtocolError as error:
            found[user] = error

    async def main() -> None:
        async with broker_with(users, allow("*", "*"), listen=files.quic) as broker:
            async with await files.transport(broker.urls[0], None).connect() as link:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(log_in, link, "alice")
                    nursery.start_soon(log_in, link, "bob")
        first, second = sorted(found.values(), key=lambda each: isinstance(each, Welcome))
        assert isinstance(second, Welcome)
        assert "one has one name on all of its streams" in str(first)

    run(main)


def test_streams_beyond_those_of_one_connection_log_in_as_well(users: str, files: Files) -> None:
    """The engine lets a peer have 128 at once; the further connection knew nobody."""

    async def main() -> None:
        async with (
            broker_with(users, allow("*", "*"), listen=files.quic) as broker,
            await files.transport(broker.urls[0]).connect() as link,
        ):
            streams = []
            for _ in range(135):
                streams.append(await link.open_stream())
                assert isinstance(await greet(streams[-1]), Welcome)

    run(main)


def test_links_on_which_nobody_says_who_is_there_make_way(users: str, files: Files) -> None:
    async def main() -> None:
        limits = {"handshake_timeout_ms": 300, "connections_max": 3}
        async with broker_with(users, allow("*", "*"), listen=files.quic, limits=limits) as broker:
            silent = [await files.transport(broker.urls[0], None).connect() for _ in range(3)]
            with trio.fail_after(20):
                async with await files.transport(broker.urls[0]).connect() as link:
                    assert isinstance(await greet(await link.open_stream()), Welcome)
                    await trio.sleep(1)  # who is known may be without a stream for as long as it likes
                    assert isinstance(await greet(await link.open_stream()), Welcome)
            for each in silent:
                await each.aclose()

    run(main)


def test_a_refusal_is_one_line_of_bounded_length_whatever_was_asked_for(users: str) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        async with broker_with(users, allow("*", "create", resource="topic:t"), report=notices.append) as broker:
            async with as_user(broker) as client:
                for name in ("t\nlogin-refused: nobody", "x" * 100_000, "\ud800"):
                    with pytest.raises(RejectedError, match="may not describe topic"):
                        await client.admin.describe_topic(name)

    run(main)
    assert len(notices) == 3
    for notice in notices:
        for text in (notice.text, str(notice.facts["resource"])):
            assert text.isprintable()
            assert len(text) < 1_000


def test_who_may_reset_a_group_learns_of_no_topic_that_it_may_not_describe(users: str) -> None:
    rules = (
        allow("user:alice", "*"),
        allow("user:bob", "describe", "alter", "delete", resource="group:*"),
        allow("user:bob", "consume", resource="topic:open"),
    )

    async def main() -> None:
        async with broker_with(users, *rules) as broker, as_user(broker) as alice, as_user(broker, "bob") as bob:
            for topic in ("open", "secret"):
                await alice.admin.create_topic(topic)
                await alice.groups.reset("g", topic, to="start")
            for topic in ("secret", "there-is-none"):
                with pytest.raises(RejectedError, match=f"may not describe topic:{topic}"):
                    await bob.groups.reset("g", topic, to="start")
            assert [each.topics for each in await bob.groups.list_groups()] == [("open",)]
            assert [each.topic for each in await bob.groups.describe("g")] == ["open"]

    run(main)


@pytest.mark.parametrize("spell", [str, str.upper, lambda text: f" {text[:2]} {text[2:]}"])
def test_the_end_of_a_producer_needs_a_rule_however_its_topic_is_spelled(
    users: str, spell: Callable[[str], str]
) -> None:
    async def main() -> None:
        rules = (allow("user:alice", "*"), allow("user:bob", "consume", resource="topic:t"))
        async with broker_with(users, *rules) as broker, as_user(broker) as alice:
            topic = await alice.admin.create_topic("t")
            credentials = alike("bob")
            async with await transport_as(credentials, create_transport(broker.urls[0])).connect() as link:
                stream = await link.open_stream()
                machine = Connection(Role.CLIENT, frame_bytes_max=1 << 20)
                await stream.send_buffers(machine.send(Hello(VERSION_MIN, VERSION_MAX, "x")))
                assert isinstance(await hear(stream, machine), Welcome)
                request = {"producer_id": 1, "topic_id": spell(topic.id), "partitions": []}
                await stream.send_buffers(machine.send(Call(1, "producer.end", request)))
                said = await hear(stream, machine)
                assert isinstance(said, Failed)
                assert "may not produce topic:t" in said.text

    run(main)
