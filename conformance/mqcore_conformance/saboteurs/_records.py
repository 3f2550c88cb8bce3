"""Saboteurs of the record: what a checker is given is not what happened. Each must turn a good history red."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from mqcore_conformance.histories import DRAIN, Completed, Event, FetchAnswered, ReadBatch


def drop_a_read(history: Sequence[Event]) -> list[Event]:
    """Lose the last read of the drain that gave messages."""
    events = list(history)
    for index in range(len(events) - 1, -1, -1):
        event = events[index]
        if isinstance(event, FetchAnswered) and event.process == DRAIN and len(event.batches) > 1:
            events[index] = attrs.evolve(event, batches=event.batches[:-1])
            break
    return events


def swap_two_offsets(history: Sequence[Event]) -> list[Event]:
    """Exchange the offsets of two messages of one drained batch."""
    events = list(history)
    for index, event in enumerate(events):
        if isinstance(event, FetchAnswered) and event.process == DRAIN:
            for number, batch in enumerate(event.batches):
                if len(batch.messages) > 1:
                    messages = (batch.messages[1], batch.messages[0], *batch.messages[2:])
                    swapped = ReadBatch(base_offset=batch.base_offset, epoch=batch.epoch, messages=messages)
                    batches = (*event.batches[:number], swapped, *event.batches[number + 1 :])
                    events[index] = attrs.evolve(event, batches=batches)
                    return events
    return events


def unknown_is_failed(history: Sequence[Event]) -> list[Event]:
    """Take every unknown outcome for a rejection."""
    return [
        attrs.evolve(event, outcome="rejected", code="timed-out")
        if isinstance(event, Completed) and event.outcome == "unknown"
        else event
        for event in history
    ]


RECORDERS: dict[str, tuple[Callable[[Sequence[Event]], list[Event]], str]] = {
    "drop-a-read": (drop_a_read, "G01"),
    "swap-two-offsets": (swap_two_offsets, "G05"),
    "unknown-is-failed": (unknown_is_failed, "G07"),
}
"""By name: the change, and the clause that must turn red."""
