"""A login on the wire: turns, sizes, and nothing else before it is over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.protocol import (
    LOGIN_BYTES_MAX,
    LOGIN_TRANSITIONS,
    VERSION_MAX,
    VERSION_MIN,
    Accepted,
    AuthResponse,
    Challenge,
    Code,
    Connection,
    Fatal,
    Hello,
    Login,
    LoginBegin,
    LoginMessage,
    Mechanism,
    Role,
    State,
)

BEGIN = LoginBegin(VERSION_MIN, VERSION_MAX, ("scram-sha-256", "token"))
PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def take(machine: Login, data: bytes) -> LoginMessage | None:
    for at in range(0, len(data), 1000):
        piece = data[at : at + 1000]
        machine.receive_buffer()[: len(piece)] = piece
        machine.received(len(piece))
    return machine.next_message()


def pass_on(sender: Login, receiver: Login, message: LoginMessage) -> LoginMessage | None:
    return take(receiver, b"".join(map(bytes, sender.send(message))))


def test_a_whole_login_closes_both_sides() -> None:
    client, broker = Login(Role.CLIENT), Login(Role.BROKER)
    for sender, receiver, message in (
        (client, broker, BEGIN),
        (broker, client, Mechanism("scram-sha-256")),
        (client, broker, AuthResponse(b"one")),
        (broker, client, Challenge(b"two")),
        (client, broker, AuthResponse(b"")),
        (broker, client, Accepted("user:alicé", b"three")),
    ):
        assert pass_on(sender, receiver, message) == message
    assert {client.own_state, client.peer_state, broker.own_state, broker.peer_state} == {State.CLOSED}
    with pytest.raises(LocalProtocolError):
        client.send(AuthResponse(b"more"))


@pytest.mark.parametrize("size", [LOGIN_BYTES_MAX, LOGIN_BYTES_MAX + 1])
def test_no_frame_of_a_login_is_larger_than_its_limit(size: int) -> None:
    client, broker = Login(Role.CLIENT), Login(Role.BROKER)
    pass_on(client, broker, BEGIN)
    pass_on(broker, client, Mechanism("token"))
    if size <= LOGIN_BYTES_MAX:
        assert pass_on(client, broker, AuthResponse(bytes(size))) == AuthResponse(bytes(size))
        return
    with pytest.raises(RemoteProtocolError) as caught:
        pass_on(client, broker, AuthResponse(bytes(size)))
    assert caught.value.code == Code.FRAME_TOO_LARGE


def test_nothing_is_parsed_that_comes_before_its_turn() -> None:
    client, broker = Login(Role.CLIENT), Login(Role.BROKER)
    hello = Connection(Role.CLIENT, frame_bytes_max=1 << 16).send(Hello(VERSION_MIN, VERSION_MAX, "eager"))
    data = b"".join(map(bytes, [*client.send(BEGIN), *hello]))
    with pytest.raises(RemoteProtocolError, match="behind a frame that has to be answered first") as caught:
        take(broker, data)
    assert caught.value.code == Code.UNEXPECTED_FRAME


@pytest.mark.parametrize("message", [AuthResponse(b""), Fatal(0, "")])
def test_a_login_begins_with_its_beginning(message: LoginMessage) -> None:
    client, other, broker = Login(Role.CLIENT), Login(Role.BROKER), Login(Role.BROKER)
    pass_on(client, other, BEGIN)
    pass_on(other, client, Mechanism("token"))
    with pytest.raises(RemoteProtocolError) as caught:
        pass_on(client, broker, message)
    assert caught.value.code == Code.NOT_THIS_PROTOCOL


@pytest.mark.parametrize(
    "names", [(), ("",), ("a", ""), ("x" * 65,), tuple("abcdefghijklmnopq")], ids=["none", "no", "no2", "long", "many"]
)
def test_names_of_mechanisms_are_bounded(names: tuple[str, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="1 to 16 mechanisms") as caught:
        pass_on(Login(Role.CLIENT), Login(Role.BROKER), LoginBegin(VERSION_MIN, VERSION_MAX, names))
    assert caught.value.code == Code.MALFORMED_FRAME


def test_another_version_is_refused_with_both_ranges() -> None:
    with pytest.raises(RemoteProtocolError, match=f"versions 90 to 91.*{VERSION_MIN} to {VERSION_MAX}") as caught:
        pass_on(Login(Role.CLIENT), Login(Role.BROKER), LoginBegin(90, 91, ("token",)))
    assert caught.value.code == Code.VERSION


def test_a_broker_that_knows_no_users_says_so() -> None:
    broker = Connection(Role.BROKER, frame_bytes_max=1 << 16)
    data = b"".join(map(bytes, Login(Role.CLIENT).send(BEGIN)))
    broker.receive_buffer()[: len(data)] = data
    broker.received(len(data))
    with pytest.raises(RemoteProtocolError, match="knows no users") as caught:
        broker.next_message()
    assert caught.value.code == Code.UNKNOWN_MECHANISM


@given(st.binary(max_size=200), st.sampled_from(list(Role)))
def test_any_bytes_raise_a_protocol_error_or_wait(raw: bytes, role: Role) -> None:
    machine = Login(role)
    try:
        take(machine, raw)
    except RemoteProtocolError as error:
        assert error.code


def test_a_response_is_not_shown() -> None:
    assert "tiger" not in repr(AuthResponse(b"tiger"))


@pytest.mark.needs("source-tree")
def test_the_page_has_the_table_of_states() -> None:
    text = PAGE.read_text()
    part = text[text.index("## Logins") : text.index("## A follower's stream")]
    rows = set()
    for side, state, sends, after in re.findall(r"\| (client|broker) \| ([^|]+) \| ([^|]+) \| (\w+) \|", part):
        if "any but" in state:
            names = set(State) - {State(name) for name in state.removeprefix("any but ").split(", ")}
        else:
            names = {State(state)}
        rows |= {(Role(side), name, sends, State(after)) for name in names}
    expected = {
        (role, state, kind.name.lower().replace("_", "-"), after)
        for (role, state, kind), after in LOGIN_TRANSITIONS.items()
    }
    assert rows == expected
