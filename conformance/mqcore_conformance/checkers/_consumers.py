"""G06, G08: order and stability of what consumers see."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from mqcore_conformance.checkers._facts import Facts
from mqcore_conformance.checkers._tags import check_passed_over, check_stays_below
from mqcore_conformance.histories import FetchAnswered, FetchFailed, NodeLife, Seeked
from mqcore_conformance.verdicts import Anomaly, Violation


def check_g06(facts: Facts) -> Iterator[Violation]:
    """No consumer goes back or skips, except by seek, by retention, or over a loss that is reported to it."""
    for process, partition, events in facts.readers():
        yield from _check_order(facts, process, partition, events)
        yield from _check_seeks(facts, process, partition, events)
        yield from _check_reported_loss(facts, process, partition, events)


def _check_order(
    facts: Facts, process: str, partition: str, events: list[tuple[int, FetchAnswered | FetchFailed | Seeked]]
) -> Iterator[Violation]:
    position: int | None = None
    for index, event in events:
        if isinstance(event, Seeked):
            position = event.offset
        elif isinstance(event, FetchAnswered):
            for batch in event.batches:
                end = batch.base_offset + len(batch.messages)
                if position is None:
                    position = max(event.offset, batch.base_offset)
                if end <= position:
                    yield _order(Anomaly.NONMONOTONIC_POLL, process, partition, index, position, batch.base_offset)
                elif batch.base_offset > position and not event.tags:
                    yield _order(Anomaly.SKIPPED_POLL, process, partition, index, position, batch.base_offset)
                position = end
            if position is not None and event.batches and event.next_offset < position:
                yield _order(Anomaly.NONMONOTONIC_POLL, process, partition, index, position, event.next_offset)
            if event.tags:
                position = max(position or 0, event.next_offset)
                yield from check_passed_over(facts, process, partition, index, event)


def _order(anomaly: Anomaly, process: str, partition: str, index: int, position: int, found: int) -> Violation:
    text = f"{process} stood at offset {position} and was given offset {found} at event {index}, without a seek"
    return Violation("G06", anomaly, text, partition, (index,))


def _check_seeks(
    facts: Facts, process: str, partition: str, events: list[tuple[int, FetchAnswered | FetchFailed | Seeked]]
) -> Iterator[Violation]:
    """A consumer is sent elsewhere only over a loss, back to what was lost first, or to a start that can have moved."""
    position: int | None = None
    known: list[tuple[int, int, str]] = []
    refused: tuple[int, FetchFailed] | None = None
    for index, event in events:
        if isinstance(event, FetchFailed):
            refused = index, event
        elif isinstance(event, FetchAnswered):
            position = event.next_offset
            for batch in event.batches:
                known += [(at, batch.epoch, digest) for at, digest in enumerate(batch.messages, batch.base_offset)]
        elif isinstance(event, Seeked):
            wrong = None
            if event.why == "below-start" and not facts.has_retention(partition):
                wrong = Anomaly.SKIPPED_POLL, "was sent to a beginning of the log; nothing can have taken the rest"
            elif event.why == "diverged" and position is not None and event.offset > position:
                wrong = Anomaly.SKIPPED_POLL, f"stood at offset {position} and was sent to a divergence point after it"
            elif event.why == "diverged" and (kept := _kept(facts, partition, known, event, refused)) is not None:
                wrong = Anomaly.NONMONOTONIC_POLL, f"was sent to a divergence point; offset {kept} is as it was read"
            if wrong is not None:
                text = f"{process} was sent to offset {event.offset} at event {index}: it {wrong[1]}"
                yield Violation("G06", wrong[0], text, partition, (index,))
            while known and (known[-1][0] >= event.offset or event.why == "asked"):
                known.pop()
            position = event.offset


def _kept(
    facts: Facts,
    partition: str,
    known: list[tuple[int, int, str]],
    sent: Seeked,
    refused: tuple[int, FetchFailed] | None,
) -> int | None:
    """The first offset of what was read (``known``), from where it was ``sent`` on, if the final log has it: no loss.

    None where the node that said so (``refused``) never had it: it told what it knew, and whoever has it reigned again
    later. Whether it may have reigned without it is for others to judge.
    """
    log = facts.log(partition)
    first = bisect_left(known, (sent.offset, 0, ""))
    if not log.complete or first == len(known):
        return None
    offset, epoch, digest = known[first]
    if log.messages.get(offset) != (epoch, digest):
        return None
    if refused is not None and not _had(facts, partition, epoch, offset, *refused):
        return None
    return offset


def _had(facts: Facts, partition: str, epoch: int, offset: int, index: int, refused: FetchFailed) -> bool:
    """Whether who refused may be asked to have had a message of the final log, at event ``index``."""
    if facts.records_storage:
        return facts.appended_before(partition, refused.node, epoch, offset, index)
    return not facts.reigns.promoted_after(facts.reigns.epoch_at(refused.by, index))


def _check_reported_loss(
    facts: Facts, process: str, partition: str, events: list[tuple[int, FetchAnswered | FetchFailed | Seeked]]
) -> Iterator[Violation]:
    """What a consumer has read and went on from is in the final log, or the loss was reported to it.

    Only a fetch in a later life can be asked to say so: before the fault the message was there.
    """
    log = facts.log(partition)
    if not log.complete:
        return
    consumed: list[tuple[int, NodeLife, str]] = []
    for index, event in events:
        if isinstance(event, Seeked):
            while consumed and (consumed[-1][0] >= event.offset or event.why == "asked"):
                consumed.pop()
        elif isinstance(event, FetchAnswered) and event.batches:
            offset, by, digest = consumed[-1] if consumed else (-1, event.by, "")
            lost = offset >= log.start_offset and not log.has(offset, digest) and not log.is_damaged(offset)
            if lost and _knows_of_losses(facts, event, by, index):
                text = (
                    f"{process} had read offset {offset} in {by}, which is lost; its fetch from offset "
                    f"{event.offset} of epoch {event.epoch} was answered with messages (event {index}) instead of the "
                    "divergence point"
                )
                yield Violation("G06", Anomaly.SKIPPED_POLL, text, partition, (index,))
                return
            for batch in event.batches:
                consumed += [(at, event.by, found) for at, found in enumerate(batch.messages, batch.base_offset)]


def _knows_of_losses(facts: Facts, event: FetchAnswered, by: NodeLife, index: int) -> bool:
    """Whether who answers may be asked to know what was lost after it was read in the life ``by``.

    A later life of the same node may; another node once it reigns to the end, for until then it may have it still.
    """
    if event.node == by.node:
        return event.life > by.life
    return not facts.reigns.promoted_after(facts.reigns.epoch_at(event.by, index))


def check_g08(facts: Facts) -> Iterator[Violation]:
    """What a consumer has read satisfies its topic's policy, and exists after any fault that the policy survives."""
    for process, partition, events in facts.readers():
        level = facts.visible_level(partition, 0, 0)
        is_constant = facts.has_constant_policies(partition)
        log = facts.log(partition)
        for index, event in events:
            if not isinstance(event, FetchAnswered):
                continue
            yield from check_stays_below(process, partition, index, event)
            if not event.batches:
                continue
            if not is_constant:
                level = facts.visible_level(partition, facts.first_sent_at(event), index)
            if facts.shows_flushed(event, level):
                yield from _check_flushed(facts, process, partition, index, event)
            if log.complete and facts.shown_is_kept(event, index, level):
                for batch in event.batches:
                    for offset, digest in enumerate(batch.messages, batch.base_offset):
                        gone = not log.has(offset, digest) and not log.is_damaged(offset)
                        voided = gone and facts.voided(partition, event.by, level, offset + 1)
                        if gone and offset >= log.start_offset and not voided:
                            text = (
                                f"{process} read offset {offset} of epoch {batch.epoch} at event {index}, at "
                                f"level {level.label}; it is not in the final log"
                            )
                            yield Violation("G08", Anomaly.UNSTABLE_READ, text, partition, (index,))
                            return


def _check_flushed(facts: Facts, process: str, partition: str, index: int, event: FetchAnswered) -> Iterator[Violation]:
    last = event.batches[-1]
    end = last.base_offset + len(last.messages)
    durable = facts.durable_before(partition, event.node, index)
    if end > durable and not facts.recovered(partition, event.by, end - 1):
        text = (
            f"{process} read up to offset {end - 1} at event {index}; the topic shows flushed messages only, no "
            f"flush covered more than offset {durable - 1}"
        )
        yield Violation("G08", Anomaly.UNSTABLE_READ, text, partition, (index,))
