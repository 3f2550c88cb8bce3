"""Times in order: what is due comes first, and a key has one time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqcore.groups import DueTimes

keys = st.sampled_from("abcde")
steps = st.lists(st.one_of(st.tuples(keys, st.integers(0, 20)), st.tuples(keys, st.none()), st.integers(0, 20)))


@given(steps)
def test_what_is_due_is_taken_once_and_in_order(steps):
    due, model = DueTimes(), {}
    for step in steps:
        if isinstance(step, int):
            taken = due.take(step)
            times = [model.pop(key) for key in taken]
            assert times == sorted(times)
            assert all(at <= step for at in times)
            assert all(at > step for at in model.values())
        elif step[1] is None:
            due.discard(step[0])
            model.pop(step[0], None)
        else:
            due.set(*step)
            model[step[0]] = step[1]
        assert due.first_us == min(model.values(), default=None)
