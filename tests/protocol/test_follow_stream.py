"""A follower's stream: any cut of the bytes, hostile bytes, the table, names, credit, heartbeats, cost of a commit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.guarantees import Level
from mqcore.protocol import (
    FOLLOW_TRANSITIONS,
    Code,
    CommittedOffsets,
    Credit,
    Diverged,
    End,
    Fatal,
    Follow,
    Followed,
    FollowKind,
    FollowMessage,
    FollowRole,
    FollowStream,
    Heartbeat,
    LogBegins,
    LogCommitted,
    LogData,
    LogNamed,
    LogPositions,
    PositionRefused,
    Positions,
    State,
)
from mqcore.protocol._follow_frames import FOLLOW_DECODERS, FOLLOW_ENCODERS
from mqcore.protocol._follow_messages import FOLLOW_KIND_OF

pytestmark = pytest.mark.quick

REIGN = b"i" * 16
SET = b"s" * 16
FOLLOW = Follow(2, 2, SET, b"f" * 16, 3, b"r" * 16, 7, Level.PAGE_CACHE, 10_000, 1 << 20, "b")
FOLLOWED = Followed(2, SET, b"p" * 16, 1, 7, REIGN, 500, 1 << 20)
TOPIC = bytes(range(16))


def bytes_of(stream: FollowStream, *messages: FollowMessage) -> bytes:
    return b"".join(bytes(part) for message in messages for part in stream.send(message))


def raw_frame(message: FollowMessage) -> bytes:
    """The bytes of ``message``, allowed or not."""
    return b"".join(bytes(part) for part in FOLLOW_ENCODERS[FOLLOW_KIND_OF[type(message)]](message))


def feed(target: FollowStream, data: bytes, pieces: Sequence[int] = ()) -> list[FollowMessage]:
    """Deliver ``data`` in pieces; messages are copied out of the views before the next piece."""
    messages: list[FollowMessage] = []
    at, sizes = 0, iter(pieces)
    while at < len(data):
        buffer = target.receive_buffer()
        size = min(len(buffer), len(data) - at, next(sizes, 1 << 30))
        buffer[:size] = data[at : at + size]
        target.received(size)
        at += size
        while (message := target.next_message()) is not None:
            if isinstance(message, LogData):
                message = message._replace(batches=tuple(bytes(each) for each in message.batches))
            messages.append(message)
    return messages


def stream_of(role: FollowRole, *, logs_max: int = 100, frame_bytes_max: int = 1 << 20) -> FollowStream:
    return FollowStream(role, set_id=SET, epoch=7, logs_max=logs_max, frame_bytes_max=frame_bytes_max)


def opened(credit: int = 10_000, logs: int = 3) -> tuple[FollowStream, FollowStream]:
    """A follower and a primary that have greeted, and as many logs with a name."""
    follower, primary = stream_of(FollowRole.FOLLOWER), stream_of(FollowRole.PRIMARY)
    feed(primary, bytes_of(follower, FOLLOW._replace(credit_bytes=credit)))
    feed(follower, bytes_of(primary, FOLLOWED, *(LogNamed(number, TOPIC, number) for number in range(logs))))
    return follower, primary


u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
named = st.integers(0, 2)
levels = st.sampled_from(Level)
texts = st.text(st.characters(codec="utf-8"), max_size=50)


@st.composite
def log_positions(draw: st.DrawFn, number: int) -> LogPositions:
    end = draw(st.integers(0, 2**64 - 1))
    position = draw(st.integers(0, end - 1)) if end else 0
    epoch = draw(st.integers(1, 2**64 - 1)) if end else 0
    return LogPositions(number, epoch, REIGN, position, end, draw(st.integers(0, end)), draw(levels))


from_follower = st.one_of(
    st.sets(named, min_size=1)
    .flatmap(lambda numbers: st.tuples(*(log_positions(number) for number in sorted(numbers))))
    .map(Positions),
    st.integers(0, 2**40).map(Credit),
)
from_primary = st.one_of(
    st.builds(LogData, named, u64, u64, st.binary(min_size=1, max_size=300).map(lambda batches: (batches,))),
    st.sets(named, min_size=1)
    .flatmap(lambda numbers: st.tuples(*(st.builds(LogCommitted, st.just(each), u64) for each in sorted(numbers))))
    .map(CommittedOffsets),
    st.builds(Diverged, named, u64, u64, u64),
    st.builds(PositionRefused, named, texts),
    st.builds(LogBegins, named, u64, u64, u64, st.binary(min_size=16, max_size=16), u64, u64),
)
cuts = st.lists(st.integers(1, 200), max_size=40)


@settings(deadline=None, max_examples=150)
@given(st.lists(from_follower, max_size=8), st.lists(from_primary, max_size=8), cuts)
def test_every_message_arrives_unchanged_however_the_bytes_are_cut(
    up: list[FollowMessage], down: list[FollowMessage], pieces: list[int]
) -> None:
    follower, primary = opened(1 << 40)
    assert feed(primary, bytes_of(follower, *up, Heartbeat(9), End()), pieces) == [*up, Heartbeat(9), End()]
    assert feed(follower, bytes_of(primary, *down, Heartbeat(9), End()), pieces) == [*down, Heartbeat(9), End()]
    assert (follower.credit_bytes, follower.logs) == (primary.credit_bytes, primary.logs)


def test_cut_at_every_byte_a_frame_is_taken_whole_or_not_at_all() -> None:
    _, primary = opened()
    messages = LogData(1, 10, 5, (b"batch",)), Diverged(2, 1, 2, 0), CommittedOffsets((LogCommitted(0, 4),))
    data = bytes_of(primary, *messages)
    for cut in range(len(data) + 1):
        follower, _ = opened()
        before = feed(follower, data[:cut])
        follower.received(0)
        if any(cut == end for end in frame_ends(data)):
            assert follower.next_message() is None
        else:
            with pytest.raises(RemoteProtocolError, match="bytes into a frame"):
                follower.next_message()
        assert len(before) == sum(end <= cut for end in frame_ends(data)[1:])


def frame_ends(data: bytes) -> list[int]:
    ends = [0]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 12 + int.from_bytes(data[ends[-1] : ends[-1] + 4], "little"))
    return ends


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_frames_raise_a_protocol_error_or_parse_and_nothing_else(data: st.DataObject) -> None:
    follower, primary = opened()
    to_primary = data.draw(st.booleans())
    messages = data.draw(st.lists(from_follower if to_primary else from_primary, min_size=1, max_size=4))
    raw = bytearray(b"".join(map(raw_frame, messages)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    target = primary if to_primary else follower
    try:
        feed(target, bytes(raw))
    except RemoteProtocolError as error:
        assert 1 <= error.code < 100
    assert target.buffer_bytes <= 256 * 1024


@settings(deadline=None, max_examples=200)
@given(raw=st.binary(max_size=200), is_first=st.booleans(), role=st.sampled_from(FollowRole))
def test_any_bytes_raise_a_protocol_error_or_wait(raw: bytes, is_first: bool, role: FollowRole) -> None:
    target = stream_of(role) if is_first else opened()[role is FollowRole.PRIMARY]
    try:
        feed(target, raw)
    except RemoteProtocolError as error:
        assert 1 <= error.code < 100


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(FollowKind), payload=st.binary(max_size=120), number=u32)
def test_any_payload_of_any_kind_is_decoded_or_malformed(kind: FollowKind, payload: bytes, number: int) -> None:
    try:
        message = FOLLOW_DECODERS[kind](0, 1, number, memoryview(payload))
    except RemoteProtocolError as error:
        assert error.code in (Code.MALFORMED_FRAME, Code.NOT_THIS_PROTOCOL)
    else:
        assert FOLLOW_KIND_OF[type(message)] is kind


SAMPLES: dict[FollowKind, FollowMessage] = {
    FollowKind.FOLLOW: FOLLOW,
    FollowKind.FOLLOWED: FOLLOWED,
    FollowKind.LOG_NAMED: LogNamed(3, TOPIC, 0),
    FollowKind.LOG_DATA: LogData(0, 0, 0, (b"x",)),
    FollowKind.COMMITTED_OFFSETS: CommittedOffsets((LogCommitted(0, 1),)),
    FollowKind.POSITIONS: Positions((LogPositions(0, 1, REIGN, 0, 9, 9, Level.DISK),)),
    FollowKind.DIVERGED: Diverged(0, 1, 2, 0),
    FollowKind.POSITION_REFUSED: PositionRefused(0, "beyond the end"),
    FollowKind.CREDIT: Credit(1),
    FollowKind.HEARTBEAT: Heartbeat(5),
    FollowKind.LOG_BEGINS: LogBegins(0, 5, 900, 2, REIGN, 100, 1),
    FollowKind.END: End(),
    FollowKind.FATAL: Fatal(Code.STALLED, "over"),
}


@pytest.mark.parametrize("peer_state", State)
@pytest.mark.parametrize("own_state", State)
@pytest.mark.parametrize("role", FollowRole)
def test_every_kind_is_sent_and_received_when_the_table_lists_it_and_refused_otherwise(
    role: FollowRole, own_state: State, peer_state: State
) -> None:
    assert SAMPLES.keys() == set(FollowKind)
    for kind, message in SAMPLES.items():
        sender, receiver = opened()[:: 1 if role is FollowRole.FOLLOWER else -1]
        sender._enter((own_state, peer_state))
        receiver._enter((peer_state, own_state))
        if role is FollowRole.PRIMARY:  # its heartbeats are answers
            sender._heartbeat = receiver._heartbeat = 5
        data = raw_frame(message)
        receiver.receive_buffer()[: len(data)] = data
        receiver.received(len(data))
        target = FOLLOW_TRANSITIONS.get((role, own_state, kind))
        if target is None:
            with pytest.raises(LocalProtocolError):
                sender.send(message)
            with pytest.raises(RemoteProtocolError):
                receiver.next_message()
            assert receiver.error is not None
        else:
            assert sender.send(message)
            assert receiver.next_message() is not None
            assert sender.own_state is receiver.peer_state is target


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        ({"version_min": 8, "version_max": 9}, Code.VERSION),
        ({"set_id": b"other set" + bytes(7)}, Code.WRONG_SET),
        ({"epoch": 6}, Code.WRONG_EPOCH),
        ({"epoch": 8}, Code.WRONG_EPOCH),
    ],
)
def test_R4_a_follower_of_another_set_reign_or_release_is_refused(spoil: dict[str, object], code: Code) -> None:
    follower, primary = stream_of(FollowRole.FOLLOWER), stream_of(FollowRole.PRIMARY)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(primary, bytes_of(follower, FOLLOW._replace(**spoil)))  # type: ignore[arg-type]
    assert caught.value.code == code
    primary.send(Fatal(code, str(caught.value)))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [({"version": 9}, Code.VERSION), ({"set_id": bytes(16)}, Code.WRONG_SET), ({"epoch": 8}, Code.WRONG_EPOCH)],
)
def test_R4_a_follower_takes_answers_of_the_reign_that_it_follows_only(spoil: dict[str, object], code: Code) -> None:
    follower, primary = stream_of(FollowRole.FOLLOWER), stream_of(FollowRole.PRIMARY)
    feed(primary, bytes_of(follower, FOLLOW))
    with pytest.raises(RemoteProtocolError) as caught:
        feed(follower, bytes_of(primary, FOLLOWED._replace(**spoil)))  # type: ignore[arg-type]
    assert caught.value.code == code


def refused(sender: FollowStream, receiver: FollowStream, message: FollowMessage, code: Code) -> None:
    """The account forbids ``message``: before it is sent at one end, and when it arrives at the other."""
    with pytest.raises(LocalProtocolError):
        sender.send(message)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(receiver, raw_frame(message))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "message",
    [
        LogData(3, 0, 0, (b"x",)),
        CommittedOffsets((LogCommitted(0, 1), LogCommitted(3, 1))),
        Diverged(3, 1, 1, 0),
        LogBegins(3, 5, 900, 2, REIGN, 100, 1),
        PositionRefused(3, ""),
    ],
)
def test_a_log_without_a_name_is_refused(message: FollowMessage) -> None:
    follower, primary = opened(logs=3)
    refused(primary, follower, message, Code.UNEXPECTED_FRAME)


def test_positions_of_a_log_without_a_name_are_refused() -> None:
    follower, primary = opened(logs=0)
    refused(follower, primary, SAMPLES[FollowKind.POSITIONS], Code.UNEXPECTED_FRAME)


@pytest.mark.parametrize("number", [0, 2, 4, 1 << 31])
def test_names_come_in_sequence(number: int) -> None:
    follower, primary = opened(logs=3)
    refused(primary, follower, LogNamed(number, TOPIC, 0), Code.UNEXPECTED_FRAME)


def test_G20_names_are_bounded_at_their_limit() -> None:
    follower, primary = (stream_of(role, logs_max=2) for role in FollowRole)
    feed(primary, bytes_of(follower, FOLLOW))
    feed(follower, bytes_of(primary, FOLLOWED, LogNamed(0, TOPIC, 0), LogNamed(1, TOPIC, 1)))
    refused(primary, follower, LogNamed(2, TOPIC, 2), Code.UNEXPECTED_FRAME)


def test_data_spends_credit_may_overdraw_it_once_and_then_waits_for_more() -> None:
    follower, primary = opened(credit=100)
    data = LogData(0, 0, 0, (b"x" * 60,))
    assert len(feed(follower, bytes_of(primary, data, data))) == 2
    assert not primary.may_send_data
    assert primary.credit_bytes == follower.credit_bytes < 0
    feed(primary, bytes_of(follower, Credit(1000)))
    assert primary.may_send_data
    feed(follower, bytes_of(primary, data))


def test_data_without_credit_is_refused() -> None:
    follower, primary = opened(credit=0)
    refused(primary, follower, LogData(0, 0, 0, (b"x",)), Code.CREDIT_EXCEEDED)


def test_credit_has_a_bound() -> None:
    follower, primary = opened(credit=0)
    refused(follower, primary, Credit((1 << 48) + 1), Code.MALFORMED_FRAME)
    follower, primary = opened(credit=0)
    feed(primary, bytes_of(follower, Credit(1 << 48)))


def test_one_heartbeat_at_a_time_and_its_answer_repeats_the_number() -> None:
    follower, primary = opened()
    feed(primary, bytes_of(follower, Heartbeat(1)))
    feed(follower, bytes_of(primary, Heartbeat(1)))
    feed(primary, bytes_of(follower, Heartbeat(2)))
    refused(follower, primary, Heartbeat(3), Code.UNEXPECTED_FRAME)
    follower, primary = opened()
    refused(primary, follower, Heartbeat(1), Code.UNEXPECTED_FRAME)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (LogPositions(1, 1, REIGN, 0, 9, 9, Level.DISK), LogPositions(0, 1, REIGN, 0, 9, 9, Level.DISK)),
        (LogPositions(0, 1, REIGN, 0, 9, 9, Level.DISK),) * 2,
        (LogPositions(0, 1, REIGN, 0, 9, 10, Level.DISK),),
        (LogPositions(0, 1, REIGN, 9, 9, 9, Level.DISK),),
        (LogPositions(0, 0, REIGN, 1, 9, 9, Level.DISK),),
        (LogPositions(0, 1, REIGN, 0, 9, 9, 200),),  # type: ignore[arg-type]
    ],
    ids=["none", "out of order", "twice", "flushed beyond the end", "last batch at the end", "no batch", "level"],
)
def test_positions_that_cannot_be_are_malformed(logs: tuple[LogPositions, ...]) -> None:
    _, primary = opened()
    with pytest.raises(RemoteProtocolError) as caught:
        feed(primary, raw_frame(Positions(logs)))
    assert caught.value.code == Code.MALFORMED_FRAME


def test_a_frame_larger_than_the_peer_takes_is_not_sent_and_not_taken() -> None:
    follower, primary = stream_of(FollowRole.FOLLOWER, frame_bytes_max=100), stream_of(FollowRole.PRIMARY)
    feed(primary, bytes_of(follower, FOLLOW._replace(frame_bytes_max=100)))
    feed(follower, bytes_of(primary, FOLLOWED, LogNamed(0, TOPIC, 0)))
    feed(follower, bytes_of(primary, LogData(0, 0, 0, (b"x" * 84,))))
    refused(primary, follower, LogData(0, 0, 0, (b"x" * 85,)), Code.FRAME_TOO_LARGE)


def test_after_a_broken_rule_nothing_is_parsed_and_one_fatal_is_sent() -> None:
    follower, primary = opened()
    with pytest.raises(RemoteProtocolError):
        feed(primary, bytes([0, 0, 0, 0, 200]) + bytes(7))
    data = bytes_of(follower, Heartbeat(1))
    primary.receive_buffer()[: len(data)] = data
    primary.received(len(data))
    with pytest.raises(RemoteProtocolError) as caught:
        primary.next_message()
    assert caught.value is primary.error
    assert primary.bytes_pending == 0
    with pytest.raises(LocalProtocolError):
        primary.send(Heartbeat(1))
    primary.send(Fatal(caught.value.code, "what was that"))


def test_a_commit_costs_one_frame_each_way_and_an_idle_set_a_heartbeat() -> None:
    """Of a thousand logs one changed: what travels does not grow with the others."""
    follower, primary = (stream_of(role, logs_max=1000) for role in FollowRole)
    feed(primary, bytes_of(follower, FOLLOW))
    feed(follower, bytes_of(primary, FOLLOWED, *(LogNamed(number, TOPIC, number) for number in range(1000))))
    batch = b"b" * 200
    down = bytes_of(primary, LogData(900, 0, 0, (batch,)))
    up = bytes_of(follower, Positions((LogPositions(900, 7, REIGN, 0, 200, 200, Level.DISK),)))
    assert len(down) - len(batch) <= 32
    assert len(up) <= 66
    assert len(frame_ends(down)) == len(frame_ends(up)) == 2
    assert len(bytes_of(follower, Heartbeat(1))) == 12
