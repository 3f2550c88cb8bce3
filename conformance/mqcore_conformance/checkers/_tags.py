"""G06, G08 and G13 of readers that name tags: what was passed over for them has none, and they come forward.

A position says of what was passed over that it was read. Where it is in the final log's history, everything below it
was in the log that answered, offset by offset; where it is not, the reader has to be told, which others look at.
"""

from __future__ import annotations

from collections.abc import Iterator

from mqcore_conformance.checkers._facts import Facts
from mqcore_conformance.histories import FetchAnswered
from mqcore_conformance.verdicts import Anomaly, Violation


def check_passed_over(
    facts: Facts, process: str, partition: str, index: int, event: FetchAnswered
) -> Iterator[Violation]:
    """A reader gets every message that has one of its tags, up to the position that it is given (G06)."""
    log = facts.log(partition)
    last = log.messages.get(event.next_offset - 1)
    if last is None or last[0] != event.next_epoch:
        return
    given = {batch.base_offset + at for batch in event.batches for at in range(len(batch.messages))}
    for offset in range(event.offset, event.next_offset):
        found = log.messages.get(offset)
        if found is not None and offset not in given and facts.tags.get(found[1]) in event.tags:
            text = (
                f"{process} named the tags {', '.join(event.tags)}; offset {offset} has {facts.tags[found[1]]} and was "
                f"passed over at event {index}, on the way from {event.offset} to {event.next_offset}"
            )
            yield Violation("G06", Anomaly.SKIPPED_POLL, text, partition, (index,))
            return


def check_stays_below(process: str, partition: str, index: int, event: FetchAnswered) -> Iterator[Violation]:
    """Nobody is told to have read what is not committed (G08); who stands beyond it by another node stays there."""
    if event.tags and event.next_offset > max(event.offset, event.committed_offset):
        text = (
            f"{process} was given the position {event.next_offset} at event {index}; no more than "
            f"{event.committed_offset} is committed"
        )
        yield Violation("G08", Anomaly.UNSTABLE_READ, text, partition, (index,))


def check_comes_forward(facts: Facts) -> Iterator[Violation]:
    """An answer below the committed offset has messages, or says how far was looked for them (G13)."""
    for process, partition, events in facts.readers():
        for index, event in events:
            if not isinstance(event, FetchAnswered) or not event.tags or event.batches:
                continue
            if event.next_offset <= event.offset < event.committed_offset:
                text = (
                    f"{process} stood at offset {event.offset} below {event.committed_offset}, which is committed, and "
                    f"was given neither a message nor a position at event {index}"
                )
                yield Violation("G13", Anomaly.NO_PROGRESS, text, partition, (index,))
                return
