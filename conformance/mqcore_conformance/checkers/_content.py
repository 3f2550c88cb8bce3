"""G04, G05, G07, G15: is what was read what was sent, once, and never what was rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mqcore_conformance.checkers._facts import Facts, SendFacts
from mqcore_conformance.checkers._kept import check_names
from mqcore_conformance.histories import FetchAnswered
from mqcore_conformance.verdicts import Anomaly, Violation


def _reads(facts: Facts) -> Iterator[tuple[str, str, int, int, int, str]]:
    """Every message read: process, partition, event index, epoch, offset, digest."""
    for (process, partition), events in facts.reads.items():
        for index, event in events:
            for batch in event.batches if isinstance(event, FetchAnswered) else ():
                for offset, digest in enumerate(batch.messages, batch.base_offset):
                    yield process, partition, index, batch.epoch, offset, digest


def _senders(facts: Facts) -> dict[str, SendFacts]:
    return {digest: send for send in facts.sends.values() for digest in send.invoked.messages}


def check_g04(facts: Facts) -> Iterator[Violation]:
    """Every message read was sent to this partition, byte for byte."""
    senders = _senders(facts)
    seen: set[tuple[str, str]] = set()
    for process, partition, index, epoch, offset, digest in _reads(facts):
        if (partition, digest) in seen:
            continue
        seen.add((partition, digest))
        send = senders.get(digest)
        if send is None or send.invoked.partition != partition:
            origin = "it was never sent" if send is None else f"it was sent to {send.invoked.partition}"
            text = f"{process} read a message at offset {offset} of epoch {epoch} (event {index}): {origin}"
            yield Violation("G04", Anomaly.PHANTOM, text, partition, (index,))
        elif send.attempts[0].invoked_at > index:
            text = f"{process} read {send.name} at event {index}, before it was sent"
            yield Violation("G04", Anomaly.PHANTOM, text, partition, (index,))


def check_g05(facts: Facts) -> Iterator[Violation]:
    """One (partition, epoch, offset) has one content, for readers and in receipts."""
    content: dict[tuple[str, int, int], tuple[str, int]] = {}

    def meet(partition: str, epoch: int, offset: int, digest: str, index: int) -> Iterator[Violation]:
        first = content.setdefault((partition, epoch, offset), (digest, index))
        if first[0] != digest:
            text = f"offset {offset} of epoch {epoch} holds one message at event {first[1]} and another at {index}"
            yield Violation("G05", Anomaly.INCONSISTENT_OFFSET, text, partition, (first[1], index))

    for _, partition, index, epoch, offset, digest in _reads(facts):
        yield from meet(partition, epoch, offset, digest, index)
    for send, attempt, receipt in facts.acknowledged():
        if not receipt.duplicate:
            for offset, digest in enumerate(send.invoked.messages, receipt.offset):
                yield from meet(send.invoked.partition, receipt.epoch, offset, digest, attempt.completed_at)


def check_g07(facts: Facts) -> Iterator[Violation]:
    """A rejected message is never read."""
    rejected = {digest: send for send in facts.sends.values() if send.rejected for digest in send.invoked.messages}
    for process, partition, index, epoch, offset, digest in _reads(facts):
        send = rejected.get(digest)
        if send is not None:
            last = send.attempts[-1].completed
            assert last is not None
            text = (
                f"{process} read {send.name} at offset {offset} of epoch {epoch} (event {index}); it was rejected "
                f"as {last.code} at event {send.attempts[-1].completed_at}"
            )
            yield Violation("G07", Anomaly.ABORTED_READ, text, partition, (send.attempts[-1].completed_at, index))


def check_g15(facts: Facts) -> Iterator[Violation]:
    """Duplicates come from retries of unknown outcomes only, and never from an idempotent producer or its name."""
    for partition, log in facts.drain.items():
        counts = Counter(digest for _, _, digest in log.order)
        if len(counts) == len(log.order):
            continue
        senders = _senders(facts)
        for digest, count in counts.items():
            send = senders.get(digest)
            if count < 2 or send is None:
                continue
            tries = sum(1 for one in send.attempts if one.completed is None or one.completed.outcome != "rejected")
            allowed = 1 if send.invoked.idempotent else max(tries, 1)
            if count > allowed:
                offsets = [offset for offset, _, found in log.order if found == digest]
                kind = "an idempotent producer" if send.invoked.idempotent else f"{tries} attempts"
                text = f"{send.name} of {kind} is in the log {count} times, at offsets {offsets[:5]}"
                yield Violation(
                    "G15", Anomaly.DUPLICATE, text, partition, tuple(one.invoked_at for one in send.attempts)
                )
                break
    yield from check_names(facts)
