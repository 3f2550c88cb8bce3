"""The record of a set: its bytes, and the changes that the rules allow (R1, R2, R3, R7, R8, R17)."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import CommandNotPossibleError, CorruptionError
from mqcore.replication import NODES_PER_SET_MAX, RECORD_BYTES_MAX, Member, SetRecord

A, B, C = (Member(letter * 16, 1) for letter in (b"A", b"B", b"C"))
NAMES = {A.node_id: "a", B.node_id: "b", C.node_id: "c"}
REIGN = b"r" * 16


def record_of(*members: Member, **changes: Any) -> SetRecord:
    """A record of three nodes under the reign of A in epoch 4."""
    facts: dict[str, Any] = {
        "set_id": b"s" * 16,
        "epoch": 4,
        "reign_id": REIGN,
        "primary": A.node_id,
        "members": members or (A, B),
        "names": NAMES,
        "copies_min": 2,
    }
    return SetRecord(**{**facts, **changes})


IDS = st.binary(min_size=16, max_size=16)
NODE_NAMES = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable() and len(text.encode()) <= 128)


@st.composite
def records(draw: st.DrawFn) -> SetRecord:
    names = draw(st.dictionaries(IDS, NODE_NAMES, min_size=1, max_size=5).filter(_are_distinct))
    nodes = draw(st.lists(st.sampled_from(sorted(names)), min_size=1, unique=True))
    epoch = draw(st.integers(0, (1 << 63) - 1))
    return SetRecord(
        set_id=draw(IDS),
        epoch=epoch,
        reign_id=draw(IDS.filter(any)) if epoch else bytes(16),
        primary=nodes[0] if epoch else None,
        members=[Member(node, draw(st.integers(0, (1 << 63) - 1))) for node in nodes],
        names=names,
        copies_min=draw(st.integers(1, 9)),
        copies_cap=draw(st.none() | st.integers(1, 9)),
    )


def _are_distinct(names: dict[bytes, str]) -> bool:
    return len(set(names.values())) == len(names)


@given(records())
def test_r1_a_record_comes_back_from_its_bytes_and_equal_ones_are_equal_bytes(record: SetRecord) -> None:
    data = record.pack()
    assert SetRecord.unpack(memoryview(data), where="here") == record
    shuffled = attrs.evolve(record, names=dict(reversed(list(record.names.items()))))
    assert shuffled.pack() == data


def test_r1_the_largest_record_fits_into_what_every_coordinator_takes() -> None:
    names = {bytes([number]) * 16: f"{number:02}" + '"' * 126 for number in range(NODES_PER_SET_MAX)}
    largest = record_of(*(Member(node, (1 << 63) - 1) for node in names), names=names, primary=bytes(16))
    assert len(largest.pack()) <= RECORD_BYTES_MAX
    assert SetRecord.unpack(largest.pack(), where="here") == largest


@given(records(), st.data())
def test_r14_a_record_with_a_byte_changed_is_another_valid_record_or_refused(record: SetRecord, data: Any) -> None:
    packed = bytearray(record.pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = SetRecord.unpack(packed, where="here")
    except CorruptionError as error:
        assert "the record of the set" in str(error)
    else:
        assert found.pack() == packed


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_r14_what_is_no_record_is_refused_by_one_error(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="cannot be read"):
        SetRecord.unpack(data, where="here")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("format", 2, "format 2"),
        ("epoch", True, "not an integer"),
        ("epoch", 4.0, "not an integer"),
        ("epoch", -1, "epoch -1"),
        ("set", "61", "an id"),
        ("set", None, "cannot be read"),
        ("reign", "00" * 16, "without the id"),
        ("primary", "43" * 16, "not in the in-sync set"),
        ("primary", None, "without a primary"),
        ("members", {}, "without a member"),
        ("members", ["41" * 16], "cannot be read"),
        ("members", {"44" * 16: 1, "41" * 16: 1}, "no node of the set"),
        ("members", {"41" * 16: -1}, "an incarnation"),
        ("names", {"41" * 16: "a", "42" * 16: 7}, "not a text"),
        ("names", {"41" * 16: "a", "42" * 16: "b\x1b[2J"}, "node name"),
        ("names", {"41" * 16: "a", "42" * 16: "a"}, "one name"),
        ("names", {}, "0 nodes"),
        ("copies_min", 0, "copies_min = 0"),
        ("copies_cap", 0, "copies_cap = 0"),
        ("more", 1, "keys"),
    ],
)
def test_r14_a_record_with_a_value_that_cannot_be_is_refused_by_name(key: str, value: object, text: str) -> None:
    facts = {**json.loads(record_of().pack()), key: value}
    data = json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(CorruptionError, match=text):
        SetRecord.unpack(data, where="here")


def test_r14_a_record_that_is_written_another_way_is_refused() -> None:
    packed = record_of().pack()
    loose = json.dumps(json.loads(packed)).encode()
    twice = packed.replace(b'{"copies_cap":null,', b'{"copies_cap":null,"copies_cap":null,')
    long = packed + b" " * RECORD_BYTES_MAX
    for data in (loose, twice, long, packed + b"\n", b"[" * 60_000):
        with pytest.raises(CorruptionError):
            SetRecord.unpack(data, where="here")


def test_r4_a_node_is_in_a_set_once() -> None:
    with pytest.raises(ValueError, match="count twice"):
        record_of(A, B, B._replace(incarnation=2))


def test_r8_a_promotion_changes_epoch_and_primary_only() -> None:
    before = record_of(A, B, C)
    after = before.promoted(B, epoch=7, reign_id=b"n" * 16)
    assert after == attrs.evolve(before, epoch=7, reign_id=b"n" * 16, primary=B.node_id)


def test_r3_an_epoch_that_was_used_opens_no_other_reign() -> None:
    with pytest.raises(CommandNotPossibleError, match="R3: epoch 4 does not follow 4"):
        record_of().promoted(B, epoch=4, reign_id=b"n" * 16)


@pytest.mark.parametrize(
    ("by", "text"),
    [(C, "c is not in the in-sync set"), (B._replace(incarnation=2), "now has incarnation 2")],
)
def test_r2_only_a_present_pair_of_the_record_is_promoted(by: Member, text: str) -> None:
    with pytest.raises(CommandNotPossibleError, match=f"R2: .*{text}"):
        record_of().promoted(by, epoch=5, reign_id=b"n" * 16)


def test_r8_an_unclean_promotion_adds_its_node_and_removes_none() -> None:
    returned = B._replace(incarnation=2)
    assert record_of(A, B).promoted(C, epoch=5, reign_id=b"n" * 16, unclean=True).members == {A, B, C}
    assert record_of(A, B).promoted(returned, epoch=5, reign_id=b"n" * 16, unclean=True).members == {A, returned}


def test_r8_the_set_does_not_fall_below_its_floor_but_a_member_is_replaced_there() -> None:
    with pytest.raises(CommandNotPossibleError, match=r"R8: .* would have 1 node, .* `mqcore cluster cap 1`"):
        record_of(A, B).with_members([A])
    assert record_of(A, B).with_members([A, C]).members == {A, C}
    assert record_of(A, B, C).with_members([A, B]).members == {A, B}


def test_r8_a_set_below_its_floor_stays_or_grows() -> None:
    small = record_of(A, B, copies_min=3)
    assert small.with_members([A, C]).members == {A, C}
    assert small.with_members([A, B, C]).members == {A, B, C}
    with pytest.raises(CommandNotPossibleError):
        small.with_members([A])


def test_r8_a_floor_that_rises_does_not_make_the_set_smaller() -> None:
    assert record_of(A, B).with_members([A, B], copies_min=3).floor == 3
    with pytest.raises(CommandNotPossibleError):
        record_of(A, B, C).with_members([A, B], copies_min=3)


def test_r7_the_primary_does_not_leave_its_own_set() -> None:
    for members in ([B, C], [A._replace(incarnation=2), B]):
        with pytest.raises(CommandNotPossibleError, match="R7"):
            record_of(A, B, C).with_members(members)


def test_r17_a_cap_lowers_the_floor_and_only_lowers_it() -> None:
    capped = record_of(A, B).capped(1)
    assert capped.floor == 1
    assert capped.with_members([A]).members == {A}
    assert capped.capped(None) == record_of(A, B)
    for cap in (0, 2, 3):
        with pytest.raises(CommandNotPossibleError, match="R17"):
            record_of(A, B).capped(cap)
