"""The lease: who holds it until when (R11), when it is vacant (R1), and that no two ever hold it at one moment."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_of_lease import NODES, WORDS, LeaseWorld, random_rates, run_of

from mqcore.errors import CorruptionError
from mqcore.replication import ClockReading, LeaseHolder, LeaseObserver, LeaseTerms, LeaseValue

TERMS = LeaseTerms(lease_ms=1_000, margin_ms=100, clock_drift_ppm_max=1_000)
NODE, REIGN = b"n" * 16, b"r" * 16


def at(ms: float, wall_ms: float | None = None) -> ClockReading:
    """A moment on both clocks; the wall clock goes along unless it is given."""
    return ClockReading(5_000_000 + round(ms * 1000), 1_000_000 + round(ms if wall_ms is None else wall_ms))


def wid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def holder() -> LeaseHolder:
    """A holder whose first renewal was sent at 0 and is known to be applied."""
    it = LeaseHolder(node_id=NODE, reign_id=REIGN, terms=TERMS)
    it.renewal(wid(1), at(0))
    it.applied(wid(1), at(10))
    return it


def value_of(count: int = 1, ttl_ms: int = 1_000, released: bool = False) -> bytes:
    return LeaseValue(node_id=NODE, reign_id=REIGN, count=count, ttl_ms=ttl_ms, released=released).encode()


class TestHolder:
    def test_nothing_is_held_before_the_first_write_is_known_to_be_applied(self) -> None:
        it = LeaseHolder(node_id=NODE, reign_id=REIGN, terms=TERMS)
        it.renewal(wid(1), at(0))
        assert not it.is_valid(at(0))
        assert not it.is_over
        it.applied(wid(1), at(1))
        assert it.is_valid(at(1))

    def test_validity_counts_from_the_sending_and_ends_a_margin_early(self) -> None:
        it = LeaseHolder(node_id=NODE, reign_id=REIGN, terms=TERMS)
        it.renewal(wid(1), at(0))
        it.applied(wid(1), at(400))
        assert it.valid_until_us == at(900).boottime_us
        assert it.is_valid(at(899.999))
        assert not it.is_valid(at(900))

    def test_a_renewal_moves_the_end(self) -> None:
        it = holder()
        it.renewal(wid(2), at(300))
        it.applied(wid(2), at(310))
        assert it.is_valid(at(1_199))
        assert it.renew_at_us == at(300 + 333).boottime_us

    def test_what_is_over_is_over_for_good(self) -> None:
        it = holder()
        it.renewal(wid(2), at(850))
        assert not it.is_valid(at(900))
        it.applied(wid(2), at(901))
        assert not it.is_valid(at(902))
        with pytest.raises(ValueError, match="over"):
            it.renewal(wid(3), at(903))

    def test_an_answer_that_comes_after_the_end_does_not_bridge_it(self) -> None:
        it = holder()
        it.renewal(wid(2), at(850))
        it.applied(wid(2), at(950))  # never asked between 900 and 950: the lease was not valid all the same
        assert not it.is_valid(at(950))

    def test_a_first_answer_that_comes_too_late_gives_nothing(self) -> None:
        it = LeaseHolder(node_id=NODE, reign_id=REIGN, terms=TERMS)
        it.renewal(wid(1), at(0))
        it.applied(wid(1), at(901))
        assert it.is_over

    def test_it_ends_when_the_wall_clock_ran_ahead_by_more_than_the_margin(self) -> None:
        assert holder().is_valid(at(300, wall_ms=400))
        assert not holder().is_valid(at(300, wall_ms=401))

    def test_a_wall_clock_that_is_set_back_changes_nothing(self) -> None:
        assert holder().is_valid(at(300, wall_ms=-3_600_000))
        assert not holder().is_valid(at(900, wall_ms=-3_600_000))

    def test_a_conflict_with_an_earlier_try_of_ones_own_is_none(self) -> None:
        it = holder()
        it.renewal(wid(2), at(300))  # outcome unknown
        it.renewal(wid(3), at(500))  # meets a conflict: the second was applied meanwhile
        assert it.found(wid(2), at(520))
        assert it.valid_until_us == at(300 + 900).boottime_us

    def test_a_conflict_while_the_cell_is_as_it_was_leaves_it_as_it_is(self) -> None:
        it = holder()
        it.renewal(wid(2), at(300))
        assert it.found(wid(1), at(310))
        assert it.valid_until_us == at(900).boottime_us

    def test_a_cell_of_another_run_ends_it(self) -> None:
        it = holder()
        assert not it.found(wid(9), at(20))
        assert not it.is_valid(at(20))

    def test_a_try_sent_before_the_one_applied_is_dead(self) -> None:
        it = holder()
        it.renewal(wid(2), at(300))
        it.renewal(wid(3), at(300))  # at the same moment: the order of sending decides
        it.renewal(wid(4), at(300))
        it.applied(wid(3), at(310))
        assert it.found(wid(4), at(320))
        assert not it.found(wid(2), at(330))

    def test_release_and_end_are_at_once(self) -> None:
        it = holder()
        assert LeaseValue.decode(it.release()).released
        assert not it.is_valid(at(20))
        assert LeaseValue.decode(holder().release()).to == b""
        assert LeaseValue.decode(holder().release(to=b"other node's id!")).to == b"other node's id!"
        other = holder()
        other.end()
        assert not other.is_valid(at(20))

    def test_each_write_counts_on(self) -> None:
        it = holder()
        value = LeaseValue.decode(it.renewal(wid(2), at(1)))
        assert value == LeaseValue(node_id=NODE, reign_id=REIGN, count=2, ttl_ms=1_000)
        assert LeaseValue.decode(it.release()).count == 3


class TestObserver:
    def saw(self, it: LeaseObserver, number: int, ms: float, value: bytes | None = value_of()) -> None:
        it.saw(wid(number), value, sent=at(ms - 5), received=at(ms))

    def watched(self, until_ms: int, *, value: bytes | None = value_of(), from_ms: int = 0) -> LeaseObserver:
        """An observer that saw one write id all the time."""
        it = LeaseObserver(TERMS)
        for ms in range(from_ms, until_ms + 1, 100):
            self.saw(it, 1, ms, value)
        return it

    def test_nothing_is_vacant_before_something_was_seen(self) -> None:
        it = LeaseObserver(TERMS)
        assert it.vacant_at_us is None
        assert not it.is_vacant(at(10_000))

    def test_vacancy_counts_from_the_receipt_and_is_stretched_by_the_drift(self) -> None:
        it = self.watched(1_000)
        assert it.vacant_at_us == at(1_000 * 1_000 / 999).boottime_us + 1  # to the full microsecond
        assert not it.is_vacant(at(1_001))
        assert it.is_vacant(at(1_001.002))

    def test_vacancy_follows_the_ttl_in_the_cell(self) -> None:
        it = self.watched(3_000, value=value_of(ttl_ms=3_000))
        assert not it.is_vacant(at(3_000))

    def test_a_renewal_begins_the_count_anew(self) -> None:
        it = self.watched(900)
        self.saw(it, 2, 950)
        assert not it.is_vacant(at(1_300))
        assert it.vacant_at_us is not None
        assert it.vacant_at_us > at(1_950).boottime_us

    @pytest.mark.parametrize("value", [None, value_of(released=True)])
    def test_a_cell_without_a_holder_is_vacant_at_once(self, value: bytes | None) -> None:
        assert self.watched(0, value=value).is_vacant(at(0))

    def test_who_keeps_changing_it_is_not_silent_and_who_gave_it_up_neither(self) -> None:
        it = LeaseObserver(TERMS)
        assert it.silent_us(at(500)) == 0
        it = self.watched(900)
        assert it.silent_us(at(950)) == 950_000
        self.saw(it, 2, 960)
        assert it.silent_us(at(970)) == 10_000
        self.saw(it, 3, 980, value_of(released=True))
        assert it.silent_us(at(1_500)) == 0

    def test_after_a_break_the_count_begins_anew(self) -> None:
        it = self.watched(900)
        self.saw(it, 1, 896 + 500)  # sent to received: 501 ms, more than half of the lease
        assert not it.is_vacant(at(1_400))
        whole = self.watched(900)
        self.saw(whole, 1, 895 + 500)
        assert whole.is_vacant(at(1_400))

    def test_a_look_that_is_too_old_is_none_to_promote_on(self) -> None:
        it = self.watched(1_100)
        assert it.is_vacant(at(1_095 + 500))
        assert not it.is_vacant(at(1_095 + 501))

    def test_what_is_no_lease_is_loud_and_never_vacant(self) -> None:
        it = self.watched(900)
        with pytest.raises(CorruptionError, match="lease cell"):
            self.saw(it, 2, 950, b"{}")
        assert not it.is_vacant(at(1_400))
        with pytest.raises(CorruptionError):
            self.saw(it, 2, 1_050, b"{}")
        self.saw(it, 3, 1_100)
        assert it.holder == LeaseValue.decode(value_of())

    def test_the_times_of_a_shell_fit_into_the_gap(self) -> None:
        for lease_ms in (100, 999, 1_000, 10_000, 3_600_000):
            terms = LeaseTerms(lease_ms=lease_ms)
            assert terms.call_timeout_ms < terms.call_limit_ms
            assert 2 * terms.call_limit_ms + terms.poll_ms <= terms.gap_ms


class TestValue:
    @given(
        node=st.binary(min_size=16, max_size=16),
        reign=st.binary(min_size=16, max_size=16),
        count=st.integers(1, 2**63),
        ttl_ms=st.integers(1, 2**31),
        released=st.booleans(),
        to=st.one_of(st.just(b""), st.binary(min_size=16, max_size=16)),
    )
    def test_it_comes_back_as_it_was(
        self, node: bytes, reign: bytes, count: int, ttl_ms: int, released: bool, to: bytes
    ) -> None:
        value = LeaseValue(node_id=node, reign_id=reign, count=count, ttl_ms=ttl_ms, released=released, to=to)
        assert LeaseValue.decode(value.encode()) == value

    @given(st.binary(max_size=40))
    def test_any_other_bytes_are_refused_and_nothing_else_happens(self, data: bytes) -> None:
        with pytest.raises(CorruptionError):
            LeaseValue.decode(data)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"version": 1', b'"version": 2'),
            (b'"count": 1', b'"count": 0'),
            (b'"count": 1', b'"count": true'),
            (b'"ttl_ms": 1000', b'"ttl_ms": -1'),
            (b'"ttl_ms": 1000', b'"ttl_ms": "1"'),
            (b'"released": false', b'"released": 0'),
            (b"6e6e", b"6e"),
            (b'"node"', b'"nodes"'),
        ],
    )
    def test_a_lease_with_one_thing_wrong_is_refused(self, old: bytes, new: bytes) -> None:
        assert old in value_of()
        with pytest.raises(CorruptionError):
            LeaseValue.decode(value_of().replace(old, new, 1))


def test_terms_that_cannot_work_are_refused() -> None:
    assert LeaseTerms(lease_ms=1_000).margin_ms == 100
    assert LeaseTerms(lease_ms=1_000, margin_ms=500).margin_ms == 500
    with pytest.raises(ValueError, match="margin_ms = 501"):
        LeaseTerms(lease_ms=1_000, margin_ms=501)
    with pytest.raises(ValueError, match="lease_ms"):
        LeaseTerms(lease_ms=99)


class TestNeverTwoAtOnce:
    words = st.sampled_from(sorted(WORDS)).flatmap(
        lambda word: st.tuples(st.just(word), st.tuples(*(st.integers(0, limit - 1) for limit in WORDS[word][1])))
    )

    @settings(max_examples=150, deadline=None)
    @given(rates=st.randoms(use_true_random=False).map(random_rates), steps=st.lists(words, max_size=60))
    def test_whatever_happens(self, rates: tuple[int, ...], steps: list[tuple[str, tuple[int, ...]]]) -> None:
        world = LeaseWorld(rates)
        for word, numbers in steps:
            world.step(word, *numbers)

    def test_the_runs_have_in_them_what_they_are_there_for(self) -> None:
        seen = run_of(0).seen
        for seed in range(1, 100):
            seen += run_of(seed).seen
        assert seen["reigns"] > 100
        assert seen["given up"] > 100
        assert seen["late writes"] > 5
        assert seen["restores"] > 20

    def test_an_undisturbed_set_always_has_a_primary(self) -> None:
        world = LeaseWorld((0,) * NODES)
        world.step("rush", 0)
        for _ in range(50):
            world.step("pass", 100)
            for number in range(NODES):
                world.step("rush", number)
            assert world.is_valid(world.nodes[0])
