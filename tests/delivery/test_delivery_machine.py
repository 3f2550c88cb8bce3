"""The rule of delivery: order within a lane, bounds, retries, and a position that passes over nothing."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.delivery import DeliveryMachine, DeliveryRules, Task

SECOND = 1_000_000


def machine(count: int = 4, keys: str = "", **rules: object) -> DeliveryMachine[int]:
    made: DeliveryMachine[int] = DeliveryMachine(DeliveryRules(**rules))  # type: ignore[arg-type]
    for offset in range(count):
        made.take(offset, 0, offset, 3, keys[offset].encode() if keys else None)
    return made


def begun(made: DeliveryMachine[int], now_us: int = 0) -> list[int]:
    return [task.item for task in made.begin(now_us)]


def test_in_order_by_partition_one_message_is_handled_at_a_time_however_many_may_be() -> None:
    made = machine(in_flight_max=8)
    (task,) = made.begin(0)
    assert begun(made) == []
    made.done(task)
    assert begun(made) == [1]
    assert made.position(0) == (1, 3)


def test_in_order_by_key_each_key_goes_on_by_itself_within_the_bound() -> None:
    made = machine(6, "aabbcc", ordering="key", in_flight_max=2)
    first, second = made.begin(0)
    assert (first.item, second.item) == (0, 2)
    made.done(second)
    assert begun(made) == [4]
    assert made.position(0) is None
    made.done(first)
    assert made.position(0) == (1, 3)


def test_nothing_of_a_partition_on_hold_is_begun_and_what_runs_of_it_ends_as_ever() -> None:
    made = machine(4, "aabb", ordering="key", in_flight_max=1)
    made.take(7, 1, 7, 3, None)
    first, other = made.begin(0)
    made.done(first)
    made.done(other)
    assert made.begin(0, on_hold={0}) == []
    assert (made.position(0), made.position(1)) == ((1, 3), (8, 3))
    assert begun(made) == [2]


def test_without_a_key_there_is_no_order_by_key() -> None:
    assert begun(machine(ordering="key", in_flight_max=3)) == [0, 1, 2]


def test_a_message_that_failed_holds_its_lane_up_and_no_other() -> None:
    made = machine(4, "abab", ordering="key", in_flight_max=4, pause_us_first=SECOND)
    first, second = made.begin(0)
    made.failed(first, 0)
    made.done(second)
    assert begun(made) == [3]
    assert made.next_us() == SECOND
    assert begun(made, SECOND - 1) == []
    assert begun(made, SECOND) == [0]
    assert made.position(0) is None


def test_pauses_double_up_to_the_longest() -> None:
    rules = DeliveryRules(pause_us_first=SECOND, pause_us_max=5 * SECOND)
    assert [rules.pause_us(attempts) // SECOND for attempts in range(1, 6)] == [1, 2, 4, 5, 5]


def test_after_its_last_attempt_a_message_is_to_be_buried_until_that_succeeds() -> None:
    made = machine(2, attempts_max=2, pause_us_first=SECOND)
    (task,) = made.begin(0)
    made.failed(task, 0)
    (task,) = made.begin(SECOND)
    assert not task.is_dead
    made.failed(task, SECOND)
    (dead,) = made.begin(SECOND)
    assert dead.is_dead
    assert dead.attempts == 2
    made.not_buried(dead, SECOND)
    assert begun(made, SECOND) == []
    (dead,) = made.begin(2 * SECOND)
    assert dead.is_dead
    made.done(dead)
    assert made.position(0) == (1, 3)
    assert begun(made, 2 * SECOND) == [1]


def test_attempts_of_an_earlier_process_count() -> None:
    made: DeliveryMachine[int] = DeliveryMachine(DeliveryRules(attempts_max=2))
    made.take(0, 0, 0, 1, None, attempts=2)
    (task,) = made.begin(0)
    assert task.is_dead


def test_what_was_dropped_ends_without_effect() -> None:
    made = machine(3)
    (task,) = made.begin(0)
    made.failed(task, 0)
    made.drop(0)
    assert made.next_us() is None
    made.take(7, 0, 0, 4, None)
    made.done(task)
    assert made.position(0) is None
    assert made.in_flight == 0
    assert begun(made, 10 * SECOND) == [7]


def test_an_offset_that_goes_back_is_refused() -> None:
    made = machine(2)
    with pytest.raises(ValueError, match="offset 1 where 2 or a later one is due"):
        made.take(9, 0, 1, 3, None)


@settings(deadline=None)
@given(st.data())
def test_order_and_bounds_hold_and_no_position_passes_over_what_is_not_done(
    data: st.DataObject,
) -> None:
    ordering = data.draw(st.sampled_from(["partition", "key"]))
    bound = data.draw(st.integers(1, 3))
    made: DeliveryMachine[tuple[int, int]] = DeliveryMachine(
        DeliveryRules(ordering=ordering, in_flight_max=bound, attempts_max=2, pause_us_first=1)  # type: ignore[arg-type]
    )
    keys: dict[tuple[int, int], object] = {}
    running: list[Task[tuple[int, int]]] = []
    done: set[tuple[int, int]] = set()
    ended: list[tuple[int, int]] = []
    nexts = Counter[int]()
    now_us = 0
    for _ in range(data.draw(st.integers(1, 60))):
        verb = data.draw(st.sampled_from(["take", "begin", "done", "failed", "wait"]))
        if verb == "take":
            partition = data.draw(st.integers(0, 1))
            key = data.draw(st.sampled_from([b"a", b"b", None]))
            item = (partition, nexts[partition])
            keys[item] = (partition, "" if ordering == "partition" else key if key is not None else item)
            made.take(item, *item, 1, key)
            nexts[partition] += 1
        elif verb == "begin":
            running += made.begin(now_us)
        elif verb == "wait":
            now_us += data.draw(st.integers(1, 10))
        elif running:
            task = running.pop(data.draw(st.integers(0, len(running) - 1)))
            if verb == "done":
                made.done(task)
                done.add(task.item)
                ended.append(task.item)
            elif task.is_dead:
                made.not_buried(task, now_us)
            else:
                made.failed(task, now_us)
        lanes = Counter(keys[task.item] for task in running)
        assert all(count == 1 for count in lanes.values())
        assert all(count <= bound for count in Counter(task.partition for task in running).values())
        for partition in (0, 1):
            position = made.position(partition)
            assert all((partition, offset) in done for offset in range((position or (0, 0))[0]))
        for lane in set(keys.values()):
            offsets = [item[1] for item in ended if keys[item] == lane]
            assert offsets == sorted(offsets)
    while made.held:
        now_us += 100
        for task in running + made.begin(now_us):
            made.done(task)
        running = []
    assert all(made.position(partition) == (nexts[partition], 1) for partition in (0, 1) if nexts[partition])
