"""Who may come in, and what they may do, through a real broker on real sockets."""

from __future__ import annotations

import os
import pwd

import pytest
import trio
from guarded import PASSWORD, allow, as_user, broker_with, private

import mqcore
from mqcore.abc import Notice
from mqcore.broker import check_exposure
from mqcore.config import make_config
from mqcore.errors import ConfigurationError, NotReachedError, RejectedError, RemoteProtocolError
from mqcore_access.users import changing_users

pytest.importorskip("scramp")

TOKEN = "0123456789abcdef0123456789abcdef"
MY_NAME = f"unix:{pwd.getpwuid(os.geteuid()).pw_name}"


@pytest.fixture
def tokens(tmp_path):
    return private(tmp_path / "tokens", f"# tokens\nrobot {TOKEN}\n")


def test_a_user_with_a_password_does_what_the_rules_allow_and_no_more(users):
    notices: list[Notice] = []

    async def main():
        rules = (
            allow("user:alice", "create", "produce", "consume", resource="topic:open-*"),
            allow("user:*", "*", resource="topic:open-secret", effect="deny"),
        )
        async with broker_with(users, *rules, report=notices.append) as broker, as_user(broker) as client:
            await client.admin.create_topic("open-1")
            async with client.producer("open-1") as producer:
                await producer.send(b"x")
            async with client.consumer("open-1", start="start") as consumer:
                assert (await consumer.__anext__()).value == b"x"
            with pytest.raises(RejectedError, match=r"user:alice may not create topic:closed: no rule allows it"):
                await client.admin.create_topic("closed")
            with pytest.raises(RejectedError, match=r"rule 2 \(deny user:\* \* on topic:open-secret\)") as caught:
                await client.admin.create_topic("open-secret")
            assert caught.value.name == "access-denied"
            with pytest.raises(RejectedError, match="may not delete topic:open-1"):
                await client.admin.delete_topic("open-1")

    trio.run(main)
    denied = [notice for notice in notices if notice.kind == "access-denied"]
    assert [notice.facts["operation"] for notice in denied] == ["create", "create", "delete"]
    assert all(notice.facts["principal"] == "user:alice" and notice.facts["address"] for notice in denied)


def test_a_producer_has_the_names_that_rules_allow_and_sees_and_deletes_no_others(users):
    async def main():
        rules = (
            allow("user:alice", "create", "produce", resource="topic:t"),
            allow("user:alice", "produce", resource="producer:billing"),
            allow("user:bob", "produce", resource="topic:t"),
            allow("user:bob", "produce", "delete", resource="producer:b-*"),
        )
        async with (
            broker_with(users, *rules) as broker,
            as_user(broker) as alice,
            as_user(broker, "bob") as bob,
        ):
            await alice.admin.create_topic("t")
            async with alice.producer("t", name="billing") as producer, bob.producer("t", name="b-1"):
                assert producer.epoch == 1
                with pytest.raises(RejectedError, match="user:bob may not produce producer:billing: no rule allows it"):
                    async with bob.producer("t", name="billing"):
                        pass
                await producer.send(b"nobody has taken the name")
                for request in (bob.producers.describe, bob.producers.delete, alice.producers.delete):
                    with pytest.raises(RejectedError, match=r"may not (describe|delete) producer:billing") as caught:
                        await request("billing", "t")
                    assert caught.value.name == "access-denied"
                assert [each.name for each in await alice.producers.list_names()] == ["billing"]
                assert [each.name for each in await bob.producers.list_names()] == ["b-1"]
                assert await bob.producers.delete("b-1", "t") == 1

    trio.run(main)


@pytest.mark.parametrize(("name", "password"), [("alice", "not-it-4711"), ("nobody", PASSWORD)])
def test_a_wrong_password_and_an_unknown_user_are_told_the_same(users, name, password):
    notices: list[Notice] = []
    told: list[str] = []

    async def main():
        async with broker_with(users, allow("*", "*"), report=notices.append) as broker:
            with pytest.raises((RemoteProtocolError, NotReachedError), match=r"the login failed \(user '") as caught:
                async with as_user(broker, name, password):
                    pass
            told.append(str(caught.value).replace(broker.urls[0], "URL"))

    trio.run(main)
    assert [notice.kind for notice in notices] == ["login-refused"]
    assert f"of user {name} failed: " in notices[0].text
    assert notices[0].facts["user"] == name
    assert password not in repr(notices)
    # What the client adds is what it was told to try: the broker says the same of either.
    assert told == [f"the server refused the connection: the login failed (user {name!r})"]


def test_who_says_nothing_is_refused_and_told_by_what_it_could_log_in(users):
    notices: list[Notice] = []
    asked = [{"name": "unix"}, {"name": "scram-sha-256", "users": users}]

    async def main():
        async with broker_with(users, allow("*", "*"), authenticators=asked, report=notices.append) as broker:
            with pytest.raises((RemoteProtocolError, NotReachedError), match="; log in by one of scram-sha-256 "):
                async with mqcore.connect(broker.urls[0], connect_timeout_ms=2000):
                    pass

    trio.run(main)
    assert {notice.kind for notice in notices} == {"authenticator-unused", "login-refused"}
    assert "it did not log in" in notices[1].text


def test_a_user_at_a_broker_that_knows_none_is_told_so():
    async def main():
        async with mqcore.open_broker(storage="memory://", flush="none", listen="tcp://127.0.0.1:0") as broker:
            with pytest.raises((RemoteProtocolError, NotReachedError), match="this broker knows no users"):
                async with as_user(broker):
                    pass

    trio.run(main)


def test_a_mechanism_that_the_broker_has_not_is_refused_by_name(users, tokens, tmp_path):
    token_file = private(tmp_path / "token", TOKEN + "\n")

    async def main():
        async with broker_with(users, allow("*", "*")) as broker:
            text = "knows no mechanism token; it has scram-sha-256"
            with pytest.raises((RemoteProtocolError, NotReachedError), match=text):
                async with mqcore.connect(broker.urls[0], token_file=token_file, connect_timeout_ms=2000):
                    pass

    trio.run(main)


def test_a_token_names_its_holder(users, tokens, tmp_path):
    token_file = private(tmp_path / "token", TOKEN + "\n")

    async def main():
        table = [{"name": "token", "tokens": tokens}]
        async with broker_with(users, allow("token:robot", "create"), authenticators=table) as broker:
            async with mqcore.connect(broker.urls[0], token_file=token_file) as client:
                await client.admin.create_topic("t")
                with pytest.raises(RejectedError, match="token:robot may not delete topic:t"):
                    await client.admin.delete_topic("t")

    trio.run(main)


def test_a_unix_socket_says_who_is_there_without_a_login(tmp_path):
    async def main():
        listen = f"unix://{tmp_path}/mq.sock"
        async with broker_with("", allow(MY_NAME, "create"), authenticators=["unix"], listen=listen) as broker:
            async with mqcore.connect(broker.urls[0]) as client:
                await client.admin.create_topic("t")
                with pytest.raises(RejectedError, match=f"{MY_NAME} may not delete topic:t"):
                    await client.admin.delete_topic("t")

    trio.run(main)


def test_topics_that_may_not_be_described_are_not_listed(users):
    async def main():
        rules = (allow("user:alice", "*"), allow("user:bob", "consume", resource="topic:b*"))
        async with broker_with(users, *rules) as broker:
            async with as_user(broker) as alice, as_user(broker, "bob") as bob:
                for name in ("a", "b1", "b2"):
                    await alice.admin.create_topic(name)
                assert [topic.name for topic in await bob.admin.list_topics()] == ["b1", "b2"]

    trio.run(main)


def test_without_rules_everything_is_denied_and_the_start_says_so(users):
    notices: list[Notice] = []

    async def main():
        async with broker_with(users, report=notices.append) as broker, as_user(broker) as client:
            with pytest.raises(RejectedError, match="no rule allows it"):
                await client.admin.create_topic("t")

    trio.run(main)
    assert notices[0].kind == "access-without-rules"


def test_a_user_added_while_the_broker_runs_may_log_in_and_one_deleted_is_let_go(users, verifier):
    async def main():
        ended = trio.Event()

        def report(notice):
            if notice.kind == "login-ended":
                ended.set()

        limits = {"idle_timeout_ms": 200}  # what is looked at, and how often, goes by the shortest of the times
        async with broker_with(users, allow("*", "*"), limits=limits, report=report) as broker:
            with changing_users(users) as known:
                known["carol"] = verifier
            async with as_user(broker, "carol") as client:
                await client.admin.create_topic("t")
                with changing_users(users) as known:
                    del known["carol"]
                with trio.fail_after(30):
                    await ended.wait()
            with pytest.raises((RemoteProtocolError, NotReachedError), match="the login failed"):
                async with as_user(broker, "carol"):
                    pass

    trio.run(main)


def test_a_broken_file_of_users_leaves_the_old_one(users):
    notices: list[Notice] = []

    def spoil():
        with open(users, "w") as file:
            file.write("rubbish\n")

    async def main():
        async with broker_with(users, allow("*", "*"), report=notices.append) as broker:
            spoil()
            async with as_user(broker):
                pass

    trio.run(main)
    assert "access-file" in [notice.kind for notice in notices]
    assert "rubbish" not in repr(notices)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_of_users_that_others_can_read_is_refused(users, mode):
    os.chmod(users, mode)

    async def main():
        with pytest.raises(ConfigurationError, match=rf"users: its mode is {mode:04o}.*chmod 600"):
            async with broker_with(users):
                pass

    trio.run(main)


def test_elsewhere_without_authentication_needs_a_word(users):
    notices: list[Notice] = []

    async def main():
        with pytest.raises(ConfigurationError, match=r"tcp://0.0.0.0:0: whoever reaches it .* say --insecure"):
            async with mqcore.open_broker(storage="memory://", flush="none", listen="tcp://0.0.0.0:0"):
                pass
        keys = {"storage": "memory://", "flush": "none", "listen": "tcp://0.0.0.0:0"}
        async with mqcore.open_broker(**keys, insecure=True, report=notices.append):
            pass
        async with broker_with(users, listen="tcp://0.0.0.0:0", report=notices.append):
            pass

    trio.run(main)
    assert [notice.kind for notice in notices] == ["insecure", "access-without-rules"]


@pytest.mark.parametrize("address", ["0.0.0.0:7480", "[::]:7480", "192.0.2.1:7480", "example.com:7480"])
def test_figures_shown_elsewhere_without_authentication_need_the_same_word(users, address):
    keys = {"storage": "memory://", "flush": "none", "listen": "inproc://figures", "http": address}

    async def main():
        with pytest.raises(ConfigurationError, match=r"sees the names and figures of every topic; .* say --insecure"):
            async with mqcore.open_broker(**keys):
                pass

    trio.run(main)
    config = make_config(**keys, insecure=True)
    assert (
        check_exposure(config, []) == f"http://{address}: whoever reaches it sees the names and figures of every "
        "topic (insecure = true)"
    )
    assert check_exposure(make_config(**{**keys, "http": "127.0.0.1:7480"}), []) is None


def test_a_client_is_who_its_certificate_says_and_a_login_goes_before_it(users, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("broker", "carol"):
        made = authority.issue_cert("127.0.0.1", common_name=name).private_key_and_cert_chain_pem
        private(tmp_path / f"{name}.pem", made.bytes().decode())
    ca, own = str(tmp_path / "ca.pem"), {"ca": str(tmp_path / "ca.pem"), "cert": str(tmp_path / "carol.pem")}
    keys = {
        "listen": "tls://127.0.0.1:0",
        "tls": {"cert": str(tmp_path / "broker.pem"), "ca": ca, "client_ca": ca},
        "authenticators": [{"name": "scram-sha-256", "users": users}, {"name": "tls"}],
    }

    async def main():
        async with broker_with(users, allow("tls:CN=carol,*", "create"), **keys) as broker:
            async with mqcore.connect(broker.urls[0], **own) as client:
                await client.admin.create_topic("open")
                with pytest.raises(RejectedError, match=r"tls:CN=carol,.* may not delete topic:open"):
                    await client.admin.delete_topic("open")
            async with as_user(broker, **own) as client:
                with pytest.raises(RejectedError, match=r"user:alice may not create topic:other"):
                    await client.admin.create_topic("other")

    trio.run(main)


def test_failed_logins_of_one_address_are_made_to_wait(users):
    async def main():
        limits = {"login_failures_max": 2}
        async with broker_with(users, allow("*", "*"), limits=limits) as broker:
            for expected in ("the login failed", "the login failed", "too many failed logins from 127.0.0.1"):
                with pytest.raises((RemoteProtocolError, NotReachedError), match=expected):
                    async with as_user(broker, password="wrong", connect_timeout_ms=300):
                        pass

    trio.run(main)


def test_logins_that_succeed_are_not_counted(users):
    async def main():
        async with broker_with(users, allow("*", "*"), limits={"login_failures_max": 1}) as broker:
            for _ in range(4):
                async with as_user(broker) as client:
                    assert await client.admin.list_topics() == []

    trio.run(main)
