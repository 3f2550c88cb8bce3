"""The protocol's state machine: any cut of the bytes, credit, limits, what is allowed when."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.guarantees import Copy, Level
from mqcore.protocol import (
    TRANSITIONS,
    Call,
    Code,
    Commit,
    Committed,
    Connection,
    End,
    Failed,
    Fatal,
    Fetch,
    Fetched,
    FollowKind,
    Hello,
    Kind,
    Message,
    Ping,
    Pong,
    Produce,
    Produced,
    Result,
    Role,
    State,
    Sync,
    Synced,
    Welcome,
)
from mqcore.protocol._messages import KIND_OF
from mqcore.protocol._writers import ENCODERS

pytestmark = pytest.mark.quick

TOPIC = bytes(range(16))
LIMITS = {"requests_in_flight_max": 8, "bytes_in_flight_max": 100_000, "frame_bytes_max": 1 << 20, "unheard_of": 1}
WELCOME = Welcome(2, b"s" * 16, b"n" * 16, "node", 3, 4, b"t" * 16, "primary", LIMITS)


def pair(frame_bytes_max: int = 1 << 20) -> tuple[Connection, Connection]:
    client = Connection(Role.CLIENT, frame_bytes_max=frame_bytes_max)
    broker = Connection(
        Role.BROKER, frame_bytes_max=frame_bytes_max, requests_in_flight_max=8, bytes_in_flight_max=100_000
    )
    return client, broker


def feed(target: Connection, data: bytes, pieces: list[int] | None = None) -> list[object]:
    """Deliver ``data`` in pieces; messages are copied out of the views before the next piece."""
    messages: list[object] = []
    at = 0
    sizes = iter(pieces or [])
    while at < len(data):
        buffer = target.receive_buffer()
        assert len(buffer) > 0
        size = min(len(buffer), len(data) - at, next(sizes, 1 << 30))
        buffer[:size] = data[at : at + size]
        target.received(size)
        at += size
        while (message := target.next_message()) is not None:
            if isinstance(message, Produce):
                message = message._replace(batch=bytes(message.batch))
            elif isinstance(message, Fetched):
                message = message._replace(batches=tuple(bytes(each) for each in message.batches))
            messages.append(message)
    return messages


def opened() -> tuple[Connection, Connection]:
    client, broker = pair()
    feed(broker, b"".join(client.send(Hello(2, 2, "test"))))
    feed(client, b"".join(broker.send(WELCOME)))
    return client, broker


COPIES = (Copy(b"n" * 16, 3, Level.DISK), Copy(b"m" * 16, 1, Level.PAGE_CACHE))
REQUESTS: list[Message] = [
    Produce(1, TOPIC, 7, 0, False, b"x" * 300),
    Produce(0, TOPIC, 7, 3, True, b""),
    Produce(7, TOPIC, 7, 0, False, b"x" * 300, b"claim of a name!"),
    Produce(0, TOPIC, 7, 0, True, b"", b"claim of a name!"),
    Fetch(9, TOPIC, 1, 2**63, 9, 4096, 500, True, ("größe".encode(), b"paid")),
    Fetch(2, TOPIC, 1, 2**63, 9, 4096, 500, True),
    Call(3, "topic.list", {"a": [1, None, "é"]}),
    Ping(4),
    Sync(
        5, TOPIC, "gruppe é", "m1", b"t" * 16, 9, False, True, 2**40, 10_000, 60_000, 3_000, "sticky", [(0, 7), (3, 8)]
    ),
    Commit(6, TOPIC, "g1", "m1", b"t" * 16, [(0, 7, 2**63, 5), (3, 8, 0, 0)]),
    End(),
]
REPLIES: list[Message] = [
    Produced(1, 2**40, 5, True, COPIES),
    Fetched(9, 10, 0, 12, (b"batches",), 1200, 2**64 - 1),
    Fetched(2, 10, 0, 12, (b"batches",), 1200),
    Result(3, {"any": ["json"]}),
    Pong(4),
    Synced(5, 2**41, [(0, 9, 2**64 - 1, 0)]),
    Committed(6, [(0, 2**63, 5)]),
    End(),
]


@settings(deadline=None, max_examples=60)
@given(pieces=st.lists(st.integers(1, 400), max_size=40))
def test_every_message_arrives_unchanged_however_the_bytes_are_cut(pieces: list[int]) -> None:
    client, broker = opened()
    data = b"".join(bytes(part) for message in REQUESTS for part in client.send(message))
    assert feed(broker, data, pieces) == REQUESTS
    data = b"".join(bytes(part) for message in REPLIES for part in broker.send(message))
    assert feed(client, data, pieces) == REPLIES


def test_handshake_states_the_credit_and_all_limits_and_who_the_broker_is() -> None:
    client, broker = pair()
    feed(broker, b"".join(client.send(Hello(2, 2, "test"))))
    assert feed(client, b"".join(broker.send(WELCOME))) == [WELCOME]
    assert (client.requests_in_flight_max, client.bytes_in_flight_max) == (8, 100_000)
    assert client.peer_frame_bytes_max == 1 << 20


@pytest.mark.parametrize("versions", [(3, 9), (1, 1)])
def test_another_version_is_told_both_ranges(versions: tuple[int, int]) -> None:
    client, broker = pair()
    with pytest.raises(RemoteProtocolError, match=r"versions .* use a client of the broker's release") as caught:
        feed(broker, b"".join(client.send(Hello(*versions, "old"))))
    assert caught.value.code == Code.VERSION


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03AAAA", b"\xff" * 64]
)
def test_garbage_is_not_this_protocol(garbage: bytes) -> None:
    _, broker = pair()
    with pytest.raises(RemoteProtocolError) as caught:
        feed(broker, garbage)
    assert caught.value.code == Code.NOT_THIS_PROTOCOL


def test_a_replica_at_a_broker_that_takes_none_is_told_so_and_not_to_check_the_address() -> None:
    _, broker = pair()
    with pytest.raises(RemoteProtocolError, match="takes no replicas") as caught:
        feed(broker, bytes([0, 0, 0, 0, FollowKind.FOLLOW]) + bytes(7))
    assert caught.value.code == Code.UNEXPECTED_FRAME


def test_a_request_before_the_handshake_is_refused() -> None:
    client, _ = pair()
    with pytest.raises(LocalProtocolError):
        client.send(Ping(1))
    _, broker = pair()
    other, _ = opened()
    with pytest.raises(RemoteProtocolError):
        feed(broker, b"".join(other.send(Ping(1))))


@pytest.mark.parametrize(("size", "fits"), [(65535, True), (65536, True), (65537, False)])
def test_frame_limit_at_its_edge(size: int, fits: bool) -> None:
    client, broker = pair(65536)
    feed(broker, b"".join(client.send(Hello(2, 2, "test"))))
    feed(client, b"".join(broker.send(WELCOME)))
    data = b"".join(bytes(part) for part in client.send(Produce(1, TOPIC, 0, 0, False, b"x" * (size - 24))))
    if fits:
        assert len(feed(broker, data)) == 1
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            feed(broker, data)
        assert caught.value.code == Code.FRAME_TOO_LARGE


def test_credit_counts_requests_and_comes_back_with_replies() -> None:
    client, broker = opened()
    for number in range(8):
        assert client.may_send(0)
        feed(broker, b"".join(client.send(Ping(number))))
    assert not client.may_send(0)
    with pytest.raises(LocalProtocolError):
        client.send(Ping(8))
    feed(client, b"".join(broker.send(Pong(3))))
    assert client.may_send(0)
    feed(broker, b"".join(client.send(Ping(8))))
    assert client.requests_in_flight == broker.requests_in_flight == 8


def test_credit_overdrawn_by_bytes_is_refused_by_the_broker() -> None:
    client, broker = opened()
    client.bytes_in_flight_max = 1 << 30
    feed(broker, b"".join(bytes(p) for p in client.send(Produce(1, TOPIC, 0, 0, False, b"x" * 60_000))))
    with pytest.raises(RemoteProtocolError) as caught:
        feed(broker, b"".join(bytes(p) for p in client.send(Produce(2, TOPIC, 0, 0, False, b"x" * 60_000))))
    assert caught.value.code == Code.CREDIT_EXCEEDED


def test_one_request_larger_than_the_byte_credit_passes_alone() -> None:
    client, broker = opened()
    assert client.may_send(500_000)
    request = Produce(1, TOPIC, 0, 0, False, b"x" * 500_000)
    assert len(feed(broker, b"".join(bytes(part) for part in client.send(request)))) == 1
    assert not client.may_send(1)


def test_a_one_way_send_costs_no_credit() -> None:
    client, broker = opened()
    for _ in range(50):
        feed(broker, b"".join(bytes(p) for p in client.send(Produce(0, TOPIC, 0, 0, True, b"x"))))
    assert broker.requests_in_flight == client.requests_in_flight == 0


def test_a_reply_to_nothing_and_a_request_id_used_twice_are_refused() -> None:
    client, broker = opened()
    with pytest.raises(LocalProtocolError):
        broker.send(Pong(1))
    feed(broker, b"".join(client.send(Ping(1))))
    pong = b"".join(broker.send(Pong(1)))
    feed(client, pong)
    with pytest.raises(RemoteProtocolError):
        feed(client, pong)
    first, second = opened()[0], opened()[0]
    feed(broker, b"".join(first.send(Ping(5))))
    with pytest.raises(RemoteProtocolError):
        feed(broker, b"".join(second.send(Ping(5))))


def test_a_stream_that_ends_inside_a_frame_is_an_error_and_between_frames_is_not() -> None:
    client, broker = opened()
    data = b"".join(client.send(Ping(1)))
    feed(broker, data[:-3])
    broker.received(0)
    with pytest.raises(RemoteProtocolError, match="bytes into a frame"):
        broker.next_message()
    _, broker = opened()
    broker.received(0)
    assert broker.next_message() is None
    assert broker.at_end


def test_an_announced_size_allocates_nothing() -> None:
    """G20: a frame header that promises 16 MiB costs the buffer that its bytes need, not 16 MiB."""
    client = Connection(Role.CLIENT, frame_bytes_max=1 << 24)
    broker = Connection(Role.BROKER, frame_bytes_max=1 << 24, requests_in_flight_max=8, bytes_in_flight_max=1 << 26)
    feed(broker, b"".join(client.send(Hello(2, 2, "test"))))
    broker.send(WELCOME)
    head = (16_000_000).to_bytes(4, "little") + bytes([Kind.PRODUCE]) + bytes(7)
    feed(broker, head)
    broker.receive_buffer()
    assert broker.buffer_bytes <= 256 * 1024


def test_a_connection_at_rest_goes_back_to_a_small_buffer() -> None:
    client, broker = opened()
    feed(broker, b"".join(bytes(p) for p in client.send(Produce(1, TOPIC, 0, 0, False, b"x" * 90_000))))
    assert broker.buffer_bytes > 16 * 1024
    broker.shrink_buffer()
    assert broker.buffer_bytes == 16 * 1024
    assert feed(broker, b"".join(client.send(Ping(2)))) == [Ping(2)]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_frames_raise_a_protocol_error_or_parse_and_nothing_else(data: st.DataObject) -> None:
    client, broker = opened()
    raw = bytearray(b"".join(bytes(part) for message in REQUESTS for part in client.send(message)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        feed(broker, bytes(raw))
    except RemoteProtocolError as error:
        assert 1 <= error.code < 100


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_mutated_replies_raise_a_protocol_error_or_parse_and_nothing_else(data: st.DataObject) -> None:
    client, broker = opened()
    feed(broker, b"".join(bytes(part) for message in REQUESTS for part in client.send(message)))
    raw = bytearray(b"".join(bytes(part) for message in REPLIES for part in broker.send(message)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        feed(client, bytes(raw))
    except RemoteProtocolError as error:
        assert 1 <= error.code < 100


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Sync(1, TOPIC, "g", "m", b"t" * 16, 1, True, False, 0, 1, 1, 0, "", [(2, 1), (2, 1)]), "a partition twice"),
        (Commit(1, TOPIC, "g", "m", b"t" * 16, [(2, 1, 0, 0), (2, 1, 5, 0)]), "a partition twice"),
        (Commit(1, TOPIC, "g" * 201, "m", b"t" * 16, []), "a name of 201 bytes"),
    ],
)
def test_frames_of_groups_that_cannot_be_meant_are_malformed(message: Message, says: str) -> None:
    client, broker = opened()
    with pytest.raises(RemoteProtocolError, match=says) as caught:
        feed(broker, b"".join(client.send(message)))
    assert caught.value.code == Code.MALFORMED_FRAME


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_commit_frame_that_ends_inside_an_entry_is_malformed(cut: int) -> None:
    client, broker = opened()
    data = b"".join(client.send(Commit(1, TOPIC, "g", "m", b"t" * 16, [(2, 1, 0, 0)])))[:-cut]
    with pytest.raises(RemoteProtocolError) as caught:
        feed(broker, (len(data) - 12).to_bytes(4, "little") + data[4:])
    assert caught.value.code == Code.MALFORMED_FRAME


@settings(deadline=None, max_examples=200)
@given(raw=st.binary(max_size=200))
def test_any_bytes_after_the_handshake_raise_a_protocol_error_or_wait(raw: bytes) -> None:
    _, broker = opened()
    try:
        feed(broker, raw)
    except RemoteProtocolError as error:
        assert 1 <= error.code < 100


def test_deep_json_is_refused_and_does_not_end_the_process() -> None:
    _, broker = opened()
    name = b"topic.list"
    payload = len(name).to_bytes(2, "little") + name + b"[" * 200_000
    head = len(payload).to_bytes(4, "little") + bytes([Kind.CALL, 0, 0, 0, 1, 0, 0, 0])
    with pytest.raises(RemoteProtocolError):
        feed(broker, head + payload)


def test_after_its_end_a_client_sends_nothing_more_but_is_still_answered() -> None:
    client, broker = opened()
    feed(broker, b"".join(bytes(p) for m in (Ping(1), End()) for p in client.send(m)))
    with pytest.raises(LocalProtocolError):
        client.send(Ping(2))
    assert feed(client, b"".join(broker.send(Pong(1)))) == [Pong(1)]


def test_fatal_closes_this_side_for_good() -> None:
    _, broker = opened()
    broker.send(Fatal(Code.STALLED, "too slow"))
    assert broker.own_state is State.CLOSED
    with pytest.raises(LocalProtocolError):
        broker.send(Failed(1, 100, "", {}))


@pytest.mark.parametrize(
    "spoil",
    [{"frame_bytes_max": -1}, {"bytes_in_flight_max": True}, {"requests_in_flight_max": 1 << 63}, {"other": "1 MB"}],
)
def test_a_welcome_with_limits_that_cannot_be_is_malformed(spoil: dict[str, object]) -> None:
    client, broker = pair()
    feed(broker, b"".join(client.send(Hello(2, 2, "test"))))
    welcome = WELCOME._replace(limits={**LIMITS, **spoil})  # type: ignore[dict-item]
    with pytest.raises(RemoteProtocolError, match=f"limit {next(iter(spoil))}") as caught:
        feed(client, b"".join(broker.send(welcome)))
    assert caught.value.code == Code.MALFORMED_FRAME


@pytest.mark.parametrize("missing", ["requests_in_flight_max", "bytes_in_flight_max", "frame_bytes_max"])
def test_a_welcome_without_a_limit_that_is_needed_is_malformed(missing: str) -> None:
    client, broker = pair()
    feed(broker, b"".join(client.send(Hello(2, 2, "test"))))
    limits = {name: value for name, value in LIMITS.items() if name != missing}
    with pytest.raises(RemoteProtocolError, match=missing):
        feed(client, b"".join(broker.send(WELCOME._replace(limits=limits))))


def broken_broker() -> tuple[Connection, Connection]:
    """A client, and a broker that it sent a frame of no known kind behind one good request."""
    client, broker = opened()
    with pytest.raises(RemoteProtocolError):
        feed(broker, b"".join(client.send(Ping(1))) + bytes([0, 0, 0, 0, 200]) + bytes(7))
    return client, broker


def test_after_a_broken_rule_no_frame_is_parsed_and_the_same_error_is_raised_again() -> None:
    client, broker = broken_broker()
    first = broker.error
    for _ in range(3):
        data = b"".join(client.send(Ping(client.requests_in_flight + 1)))
        broker.receive_buffer()[: len(data)] = data
        broker.received(len(data))
        with pytest.raises(RemoteProtocolError) as caught:
            broker.next_message()
        assert caught.value is first
    assert broker.bytes_pending == 0
    assert broker.requests_in_flight == 1  # that of before


def test_after_a_broken_rule_one_fatal_is_all_that_can_be_sent() -> None:
    _, broker = broken_broker()
    for message in (Pong(1), End(), Failed(1, 100, "", {})):
        with pytest.raises(LocalProtocolError):
            broker.send(message)
    with pytest.raises(LocalProtocolError):
        broker.send_produced(1, 0, 1, False, COPIES)
    broker.send(Fatal(Code.MALFORMED_FRAME, "what was that"))
    with pytest.raises(LocalProtocolError):
        broker.send(Fatal(Code.MALFORMED_FRAME, "twice"))


def test_after_a_broken_rule_what_still_arrives_costs_no_memory() -> None:
    """G20: a shell that goes on reading what a hostile peer sends."""
    _, broker = broken_broker()
    for _ in range(100):
        size = len(broker.receive_buffer())
        broker.received(size)
    assert broker.buffer_bytes <= 16 * 1024


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\x00\x00",
        b"\x01\x00",
        b"\x01\x00\x02\x00x",
        b"\x01\x00\x00\x00",
        b"\x01\x00\x01\x00xy",
        b"\xff\xff" + bytes(99),
    ],
    ids=repr,
)
def test_a_fetch_whose_table_of_tags_is_none_is_malformed(table: bytes) -> None:
    _, broker = opened()
    whole = b"".join(bytes(part) for part in ENCODERS[Kind.FETCH](Fetch(1, TOPIC, 0, 0, 0, 1, 0)))
    payload = whole[12:] + table
    frame = len(payload).to_bytes(4, "little") + bytes([Kind.FETCH, 2]) + whole[6:12] + payload
    with pytest.raises(RemoteProtocolError, match="table of tags") as caught:
        feed(broker, frame)
    assert caught.value.code == Code.MALFORMED_FRAME


def test_a_client_whose_broker_broke_a_rule_can_send_nothing_but_fatal() -> None:
    client, _ = opened()
    with pytest.raises(RemoteProtocolError):
        feed(client, bytes([0, 0, 0, 0, Kind.PONG, 0, 0, 0, 9, 0, 0, 0]))
    with pytest.raises(LocalProtocolError):
        client.send(Produce(1, TOPIC, 0, 0, False, b"x"))
    client.send(Fatal(Code.UNEXPECTED_FRAME, "a reply to nothing"))


def test_a_refused_send_changes_nothing() -> None:
    client, broker = opened()
    with pytest.raises(LocalProtocolError):
        broker.send(Pong(1))
    feed(broker, b"".join(client.send(Ping(1))))
    assert feed(client, b"".join(broker.send(Pong(1)))) == [Pong(1)]


ONE_OF_EACH: list[Message] = [
    Hello(2, 2, "any"), WELCOME, *REQUESTS, *REPLIES, Failed(1, 100, "", {}), Fatal(8, "over")
]  # fmt: skip
SAMPLES = {KIND_OF[type(each)]: each for each in ONE_OF_EACH}


@pytest.mark.parametrize("peer_state", State)
@pytest.mark.parametrize("own_state", State)
@pytest.mark.parametrize("role", Role)
def test_every_kind_is_sent_and_received_when_the_table_lists_it_and_refused_otherwise(
    role: Role, own_state: State, peer_state: State
) -> None:
    """The fast paths too: nothing but the table decides."""
    in_flight = range(1, 7) if role is Role.BROKER else ()  # a reply needs its request
    for kind, message in SAMPLES.items():
        sender = at_states(role, own_state, peer_state, in_flight)
        if (role, own_state, kind) in TRANSITIONS:
            assert sender.send(message)
            assert sender.own_state is TRANSITIONS[role, own_state, kind]
        else:
            with pytest.raises(LocalProtocolError):
                sender.send(message)
            assert (sender.own_state, sender.peer_state) == (own_state, peer_state)
        receiver = at_states(role.other, peer_state, own_state, in_flight)
        data = b"".join(bytes(part) for part in ENCODERS[kind](message))
        receiver.receive_buffer()[: len(data)] = data
        receiver.received(len(data))
        if (role, own_state, kind) in TRANSITIONS:
            assert receiver.next_message() is not None
            assert receiver.peer_state is TRANSITIONS[role, own_state, kind]
        else:
            with pytest.raises(RemoteProtocolError):
                receiver.next_message()
            assert receiver.error is not None


@pytest.mark.parametrize("state", State)
def test_an_acknowledgement_is_sent_when_the_table_lists_it_and_refused_otherwise(state: State) -> None:
    broker = at_states(Role.BROKER, state, State.OPEN, [1])
    if (Role.BROKER, state, Kind.PRODUCED) in TRANSITIONS:
        assert broker.send_produced(1, 5, 7, False, COPIES)
    else:
        with pytest.raises(LocalProtocolError):
            broker.send_produced(1, 5, 7, False, COPIES)
        assert broker.requests_in_flight == 1, "what was refused changed nothing"


def at_states(role: Role, own_state: State, peer_state: State, in_flight: Sequence[int]) -> Connection:
    """A connection in the middle of things."""
    connection = Connection(role, frame_bytes_max=1 << 20, requests_in_flight_max=16, bytes_in_flight_max=1 << 20)
    connection._enter((own_state, peer_state))
    connection._in_flight = dict.fromkeys(in_flight, 0)
    return connection


def test_the_state_table_lets_nobody_speak_for_the_other_side() -> None:
    for role, state, kind in TRANSITIONS:
        assert state is not State.CLOSED
        if kind in (Kind.HELLO, Kind.PRODUCE, Kind.FETCH, Kind.CALL, Kind.PING):
            assert role is Role.CLIENT
        if kind in (Kind.WELCOME, Kind.PRODUCED, Kind.FETCHED, Kind.RESULT, Kind.FAILED, Kind.PONG):
            assert role is Role.BROKER


@pytest.mark.parametrize("spoil", [b"", b"\x00" * 24, b"n" * 24 + b"\x09", b"n" * 16 + bytes(8) + b"\x03" + b"x"])
def test_copies_that_cannot_be_are_malformed(spoil: bytes) -> None:
    client, broker = opened()
    feed(broker, b"".join(bytes(part) for part in client.send(Ping(1))))
    head = (16 + len(spoil)).to_bytes(4, "little") + bytes([Kind.PRODUCED, 0, 0, 0, 1, 0, 0, 0])
    with pytest.raises(RemoteProtocolError) as caught:
        feed(client, head + bytes(16) + spoil)
    assert caught.value.code == Code.MALFORMED_FRAME
