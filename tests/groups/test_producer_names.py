"""R12: of all claims of a name one is admitted, the last one of the log, whatever is lost, deleted or made short."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mqcore.errors import ConfigurationError, CorruptionError
from mqcore.groups import CursorTable, NamedProducer, check_producer_name, pack_cursors, pack_life, pack_producer_name

TOPICS = [bytes([number]) * 16 for number in (1, 2)]
NAMES = ["billing", "ü", "n" * 200]


def table() -> CursorTable:
    return CursorTable(8)


class Names(RuleBasedStateMachine):
    """A log of records, and a table that is fed it; the model is a dict per log prefix."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.random = Random(seed)
        self.log: list[tuple[bytes, bytes, str, NamedProducer | None]] = []
        self.given: dict[tuple[bytes, str], list[NamedProducer]] = {}
        self.table = table()

    @property
    def model(self) -> dict[tuple[bytes, str], NamedProducer]:
        state: dict[tuple[bytes, str], NamedProducer] = {}
        for _, topic, name, named in self.log:
            if named is None:
                state.pop((topic, name), None)
            else:
                state[topic, name] = named
        return state

    def write(self, topic: bytes, name: str, named: NamedProducer | None) -> None:
        record = pack_producer_name(topic, name, named)
        self.log.append((record, topic, name, named))
        self.table.apply(record, "test")

    @rule(topic=st.sampled_from(TOPICS), name=st.sampled_from(NAMES))
    def claim(self, topic: bytes, name: str) -> None:
        known = self.model.get((topic, name))
        identity = self.random.getrandbits(64) or 1 if known is None else known.producer_id
        named = NamedProducer(name, identity, 1 if known is None else known.epoch + 1, self.random.getrandbits(64))
        self.write(topic, name, named)
        self.given.setdefault((topic, name), []).append(named)

    @rule(topic=st.sampled_from(TOPICS), name=st.sampled_from(NAMES))
    def delete(self, topic: bytes, name: str) -> None:
        self.write(topic, name, None)

    @rule(data=st.data())
    def lose_a_suffix(self, data: st.DataObject) -> None:
        """A loss that the policy permits: another node has less of the log."""
        del self.log[data.draw(st.integers(0, len(self.log))) :]
        self.replay()

    @rule()
    def replay(self) -> None:
        self.table = table()
        self.table.apply(b"".join(record for record, *_ in self.log), "test")

    @rule()
    def make_short(self) -> None:
        """What a snapshot has is what the log had; cursors stand beside it."""
        records = list(self.table.records())
        short = table()
        short.apply(
            b"".join([pack_life("g", TOPICS[0], 5), *records, pack_cursors("g", TOPICS[0], [(0, 1, 1)])]), "test"
        )
        assert sorted(short.names.items()) == sorted(self.table.names.items())
        assert short.names.snapshot_bytes == sum(map(len, records)) == self.table.names.snapshot_bytes

    @invariant()
    def one_claim_of_a_name_is_admitted_and_it_is_the_last_one(self) -> None:
        model = self.model
        assert {(topic, named.name): named for topic, named in self.table.names.items()} == model
        assert self.table.names.count == len(model)
        for (topic, name), given in self.given.items():
            names = self.table.names.of_topic(topic)
            admitted = [each for each in given if names.admits(each.producer_id, each.claim)]
            assert admitted == [each for each in given if each == model.get((topic, name))]
            for each in given:
                assert not names.admits(each.producer_id ^ 1, each.claim), "a claim is of its own id"
                other = self.table.names.of_topic(TOPICS[topic == TOPICS[0]])
                assert not other.admits(each.producer_id, each.claim), "and of its own topic"
                known = model.get((topic, name))
                is_in_force = known is not None and known.producer_id == each.producer_id
                assert names.admits(each.producer_id, b"") is not is_in_force
            assert names.admits(0, b"")


Names.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestNames = Names.TestCase


def test_r12_a_claim_is_its_epoch_and_its_bits_and_reads_back() -> None:
    named = NamedProducer("n", 7, 3, 2**64 - 1)
    assert named.claim == struct.pack("<QQ", 3, 2**64 - 1)
    assert NamedProducer.of_claim("n", 7, named.claim) == named
    with pytest.raises(ValueError, match="16 bytes"):
        NamedProducer.of_claim("n", 7, b"short")


def test_r12_names_of_topics_that_are_gone_are_not_taken_in() -> None:
    known = CursorTable(8, is_known=lambda topic_id: topic_id == TOPICS[0])
    for topic in TOPICS:
        known.apply(pack_producer_name(topic, "n", NamedProducer("n", 1, 1, 1)), "test")
    assert [topic for topic, _ in known.names.items()] == TOPICS[:1]
    known.drop_topic(TOPICS[0])
    assert (known.names.count, known.names.snapshot_bytes, known.snapshot_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    "record",
    [
        pack_producer_name(TOPICS[0], "n", NamedProducer("n", 1, 1, 1))[:-1],
        pack_producer_name(TOPICS[0], "n", NamedProducer("n", 0, 1, 1)),
        pack_producer_name(TOPICS[0], "n", NamedProducer("n", 1, 0, 1)),
        pack_producer_name(TOPICS[0], "n", None).replace(struct.pack("<I", 0), struct.pack("<I", 2)) + bytes(48),
        pack_producer_name(TOPICS[0], "n", None)[:-1] + b"\xff",
        b"".join(pack_producer_name(TOPICS[0], name, NamedProducer(name, 1, 1, 1)) for name in "ab"),
    ],
    ids=["cut", "no id", "no epoch", "two", "no utf-8", "one id twice"],
)
def test_g12_a_record_of_a_name_that_cannot_be_is_damage(record: bytes) -> None:
    with pytest.raises(CorruptionError):
        table().apply(record, "test")


@pytest.mark.parametrize(("name", "is_one"), [("", 0), ("a", 1), ("é" * 100, 1), ("é" * 100 + "x", 0), ("a\nb", 0)])
def test_a_name_has_1_to_200_bytes_of_printable_text(name: str, is_one: int) -> None:
    if is_one:
        check_producer_name(name)
    else:
        with pytest.raises(ConfigurationError, match="producer name"):
            check_producer_name(name)
