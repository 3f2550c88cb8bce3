"""The producer table (rule R12): what a log remembers of its idempotent producers, so that a retry is no duplicate.

Sans-IO. The state is a function of the log's prefix: it is fed every batch in log order and nothing else, not even a
clock. Ends of producers are batches too; what is noted of them before that is no part of it. Sequences count messages
per producer and log, from 0, modulo 2**32. Must not know of storage, sockets or trio.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import islice

from mqcore.batch import BatchHeader, PlainBatch
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log._control import ProducerEnd
from mqcore.log._one_producer import GIVEN_UP, SEQUENCE_MASK, OneProducer, facts_of
from mqcore.log._producer_bytes import (
    ENDED_BYTES,
    KEPT_PART_BYTES,
    KeptProducers,
    RememberedProducer,
    batches_that_fit,
    facts_bytes,
    pack_ended,
    pack_producers,
    unpack_ended,
    unpack_producers,
)
from mqcore.log._verdicts import (
    ACCEPT,
    Fenced,
    Forgotten,
    Gap,
    SentBefore,
    TableFull,
    Verdict,
)
from mqcore.ports import Buffer

__all__ = ["ProducerTable"]

NO_PRODUCER = 0
"""Producer id of a batch that is not idempotent."""

CLOCK_STEP_MS_MAX = 3_600_000
"""Most that one batch moves the table's clock: an hour, so that no jump of the wall clock expires anything (R15)."""

ENDS_TOGETHER = 64
"""Ends noted before a batch is made of them, unless their room is needed: a batch of one would be all header."""

ENDS_TOGETHER_MAX = 2048
"""Most of them in one batch, which goes out with somebody's messages and fits the smallest frame limit: 32 KiB."""

ENDED_KEPT_MAX = 16_384
"""Producers remembered to have ended, the last ones of a log.

No retry of theirs can be under way: an end is stated only by a client all of whose attempts were answered. They are
kept for a link that repeats what it carried, and a client that errs.
"""

KEPT_BYTES_MAX = 8 * 1024 * 1024
"""Most that is written of a table before a trim, at one batch of each producer: that is written however many there are.

One that was left out would have its first batch taken for a new one when it is sent again.
"""

KEPT_BATCHES_MAX = 1000
"""Most batches of one producer there: more than may be in flight, and with them a part fits every frame."""

HOUR_MS = 3_600_000
HIDDEN_HOURS_MAX = 0xFFFF

_TABLE = struct.Struct("<IIqqB")
_FORGOT, _HIDES = 1, 2
_UNTIL = struct.Struct("<q")
"""At the end of a snapshot that says ``_HIDES``: those of logs of which nothing has rotted are as they always were."""


class ProducerTable:
    """Producers of one log; costs nothing while empty, bounded by ``producers_max`` and ``producer_batches_kept``."""

    __slots__ = (
        "_clock_ms",
        "_ended",
        "_forgot",
        "_hidden_until_ms",
        "_kept",
        "_newest_ms",
        "_next_part",
        "_producers",
        "_producers_max",
        "_retention_ms",
        "ending",
    )

    def __init__(self, limits: Limits) -> None:
        self._producers_max = limits.producers_max
        self._retention_ms = limits.producer_retention_ms
        self._kept = 2 * limits.producer_batches_kept
        self._producers: dict[int, OneProducer] | None = None  # in order of their last batch
        self._clock_ms = 0
        self._newest_ms = 0
        self._forgot = False
        self._hidden_until_ms = 0  # until then a first batch may be one that has rotted, with who sent it
        self._next_part = 0  # of what is kept of them, where the parts before it were taken in
        self._ended: dict[int, int] = {}  # producer id: its last epoch; in order of their ends
        self.ending: dict[int, ProducerEnd] = {}
        """Ends that were noted and are in no batch yet, by producer id."""

    def __len__(self) -> int:
        return len(self._producers) if self._producers else 0

    def sent_by(self, producer_id: int) -> SentBefore | None:
        """Return what is remembered of a producer, None if nothing is; ``has_forgotten`` says what that means."""
        producer = self._producers.get(producer_id) if self._producers else None
        if producer is None:
            return None
        base_offset, facts = producer.batches[-2:]
        is_sure = producer.is_sure and not base_offset & GIVEN_UP
        return SentBefore(producer.epoch, (base_offset & ~GIVEN_UP) + (facts & SEQUENCE_MASK), is_sure)

    def who_sent(self, begin: int, end: int) -> tuple[int, int, int] | None:
        """Id, epoch, first sequence of the batch that takes the offsets from ``begin`` to ``end``; None if unknown."""
        for identity, producer in (self._producers or {}).items():
            sequence, batches = producer.next_sequence, producer.batches
            for at in range(len(batches) - 2, -1, -2):
                count = batches[at + 1] & SEQUENCE_MASK
                sequence = (sequence - count) & SEQUENCE_MASK
                if batches[at] & ~GIVEN_UP == begin and count == end - begin > 0:
                    return identity, producer.epoch, sequence
        return None

    @property
    def has_forgotten(self) -> bool:
        """Whether producers were forgotten: of one that is not remembered, something may be in the log."""
        return self._forgot

    def check(self, header: BatchHeader) -> Verdict:
        """Say what to do with a batch that arrives now. Changes nothing.

        The verdict holds until the next ``record``: batches that will be appended together go through ``check_many``.
        """
        if header.producer_id == NO_PRODUCER:
            return ACCEPT
        producer = self._producers.get(header.producer_id) if self._producers else None
        if producer is None:
            return self._check_new(header)
        return self._check_known(
            producer.epoch,
            producer.next_sequence,
            producer,
            header,
        )

    def check_many(self, headers: Iterable[BatchHeader]) -> list[Verdict]:
        """Verdicts for batches that would be appended in this order, each seeing those before it as appended.

        A batch that repeats one of the same call is answered ``Gap`` at the sequence after it: it arrived twice at
        once, and its sender asks again.
        """
        verdicts: list[Verdict] = []
        ahead: dict[int, tuple[int, int]] = {}  # producer id: its epoch and next sequence, counting this call
        fresh = 0
        for header in headers:
            identity = header.producer_id
            if identity == NO_PRODUCER:
                verdicts.append(ACCEPT)
                continue
            pending = ahead.get(identity)
            known = self._producers.get(identity) if self._producers else None
            if pending is not None:
                verdict = self._check_known(pending[0], pending[1], known, header, pending=True)
            else:
                verdict = self.check(header)
                if verdict is ACCEPT and known is None:
                    fresh += 1
                    if not self._has_room(fresh):
                        verdict = TableFull(self._producers_max)
            if verdict is ACCEPT:
                next_sequence = (header.first_sequence + header.count) & SEQUENCE_MASK
                ahead[identity] = (header.producer_epoch, next_sequence)
            verdicts.append(verdict)
        return verdicts

    def record(
        self,
        producer_id: int,
        producer_epoch: int,
        first_sequence: int,
        count: int,
        body_checksum: int,
        base_offset: int,
        appended_ms: int,
    ) -> None:
        """Take in a batch that was appended, or met in the log by recovery. Every batch, in order."""
        if producer_id == NO_PRODUCER:
            return
        step_ms = appended_ms - self._newest_ms
        if step_ms > 0:
            self._newest_ms = appended_ms
            self._clock_ms += step_ms if step_ms < CLOCK_STEP_MS_MAX else CLOCK_STEP_MS_MAX
        producers = self._producers
        if producers is None:
            producers = self._producers = {}
        if self.ending:
            self.ending.pop(producer_id, None)  # it goes on, whatever it said
        producer = producers.pop(producer_id, None)
        next_sequence = (first_sequence + count) & SEQUENCE_MASK
        facts = body_checksum << 32 | count
        if producer is None:
            self._expire()
            self._ended.pop(producer_id, None)
            producer = OneProducer(producer_epoch, next_sequence, self._clock_ms, array("Q", (base_offset, facts)))
        else:
            batches = producer.batches
            if not batches[-1] & SEQUENCE_MASK:
                del batches[-2:]  # what follows without a gap says that there was nothing
            if producer.epoch != producer_epoch or producer.next_sequence != first_sequence:
                del batches[:]
            batches.append(base_offset)
            batches.append(facts)
            if len(batches) > self._kept:
                del batches[:2]
            producer.epoch = producer_epoch
            producer.next_sequence = next_sequence
            producer.last_ms = self._clock_ms
        producers[producer_id] = producer

    def record_run(self, batches: Sequence[PlainBatch]) -> None:
        """Take in batches as ``record`` does, one after the other; those of one producer in a row cost a loop only."""
        at, number = 0, len(batches)
        while at < number:
            _, count, identity, epoch, sequence, base_offset, appended_ms, checksum = batches[at]
            self.record(identity, epoch, sequence, count, checksum, base_offset, appended_ms)
            at += 1
            producer = self._producers.get(identity) if self._producers else None
            if producer is None or at == number or batches[at].producer_id != identity:
                continue
            # It is the last one of the table now, and stays that: only its own facts and the clock go on.
            following = producer.next_sequence
            clock_ms, newest_ms, kept = self._clock_ms, self._newest_ms, producer.batches
            while at < number:
                _, count, other, epoch, sequence, base_offset, appended_ms, checksum = batches[at]
                if other != identity or epoch != producer.epoch or sequence != following:
                    break
                if appended_ms > newest_ms:
                    clock_ms += min(appended_ms - newest_ms, CLOCK_STEP_MS_MAX)
                    newest_ms = appended_ms
                kept.append(base_offset)
                kept.append(checksum << 32 | count)
                following = (sequence + count) & SEQUENCE_MASK
                at += 1
            del kept[: max(len(kept) - self._kept, 0)]
            producer.next_sequence = following
            self._clock_ms = producer.last_ms = clock_ms
            self._newest_ms = newest_ms

    def note_end(self, end: ProducerEnd) -> bool:
        """Note that a producer says it has ended; False, and nothing noted, unless it stands where ``end`` says.

        Its room counts as free from now on; it is remembered until ``end`` meets the batch that says so.
        """
        producer = self._producers.get(end.producer_id) if self._producers else None
        if producer is None or (producer.epoch, producer.next_sequence) != end[1:]:
            return False
        self.ending[end.producer_id] = end
        return True

    def ends_due(self, batches: int) -> list[ProducerEnd]:
        """What an ends batch before so many ``batches`` should say; empty while it is not worth one."""
        if len(self.ending) < ENDS_TOGETHER and len(self) + batches <= self._producers_max:
            return []
        return list(islice(self.ending.values(), ENDS_TOGETHER_MAX))

    def end(self, ends: Iterable[ProducerEnd]) -> None:
        """Take in an ends batch that was appended, or met in the log: forget who has not gone on since."""
        producers = self._producers or {}
        for end in ends:
            identity = end.producer_id
            self.ending.pop(identity, None)
            producer = producers.get(identity)
            if producer is not None and (producer.epoch, producer.next_sequence) == end[1:]:
                del producers[identity]
                self._ended[identity] = end.producer_epoch
        while len(self._ended) > ENDED_KEPT_MAX:
            del self._ended[next(iter(self._ended))]

    def snapshot(self) -> bytes:
        """The whole state as bytes, for ``restore``."""
        producers = self._producers or {}
        hides = self._clock_ms < self._hidden_until_ms
        flags = _FORGOT * self._forgot | _HIDES * hides
        head = _TABLE.pack(len(producers), len(self._ended), self._clock_ms, self._newest_ms, flags)
        until = _UNTIL.pack(self._hidden_until_ms) if hides else b""
        return head + pack_producers(map(facts_of, producers.items())) + pack_ended(self._ended) + until

    def restore(self, data: Buffer) -> None:
        """Replace the state by that of ``snapshot``. Raises ``CorruptionError`` when ``data`` is not one."""
        view = memoryview(data)
        try:
            count, ended_count, clock_ms, newest_ms, flags = _TABLE.unpack_from(view)
            hidden_until_ms = 0
            if flags & _HIDES:
                view, until = view[: -_UNTIL.size], view[-_UNTIL.size :]
                (hidden_until_ms,) = _UNTIL.unpack(until)
            known, rest = unpack_producers(view[_TABLE.size :], count)
            ended = unpack_ended(rest, ended_count)
        except (struct.error, ValueError) as error:
            raise CorruptionError(f"producer snapshot is cut short: {error}", where="producer table") from None
        self._producers = {each.producer_id: OneProducer(*each[1:]) for each in known} or None
        self._ended = ended
        self._clock_ms, self._newest_ms, self._forgot = clock_ms, newest_ms, bool(flags & _FORGOT)
        self._hidden_until_ms = hidden_until_ms

    @property
    def is_empty(self) -> bool:
        """Whether it knows of nobody, not even that somebody ended."""
        return not self._producers and not self._ended

    def parts(self) -> list[KeptProducers]:
        """The whole state in parts that go into a log, for ``take_part``: what a trim takes from later readers."""
        newest_first = [*map(facts_of, reversed(list((self._producers or {}).items())))]
        held = (len(each.batches) // 2 for each in newest_first)
        most = 2 * batches_that_fit(held, KEPT_BYTES_MAX, batches_max=KEPT_BATCHES_MAX)
        known = [each._replace(batches=each.batches[-most:]) for each in newest_first]
        ended = list(self._ended.items())
        parts: list[KeptProducers] = []
        while known or ended or not parts:
            taken, size = list[RememberedProducer](), 0
            while known and size < KEPT_PART_BYTES:
                taken.append(known.pop())
                size += facts_bytes(len(taken[-1].batches) // 2)
            room = 0 if known else max(0, KEPT_PART_BYTES - size) // ENDED_BYTES
            some, ended = ended[:room], ended[room:]
            is_last = not known and not ended
            hidden_hours = -(-max(0, self._hidden_until_ms - self._clock_ms) // HOUR_MS)
            facts = self._forgot, min(hidden_hours, HIDDEN_HOURS_MAX), self._clock_ms, self._newest_ms
            parts.append(KeptProducers(len(parts), is_last, *facts, taken, dict(some)))
        return parts

    def take_part(self, kept: KeptProducers) -> None:
        """Take in a part that was appended, or met in the log: it is what was known there, by who had everything.

        Of a log that was read from its beginning it says nothing new.
        """
        producers = self._producers = self._producers or {}
        for identity, epoch, next_sequence, last_ms, batches in kept.producers:
            own = producers.pop(identity, None)
            is_same = own is not None and (own.epoch, own.next_sequence) == (epoch, next_sequence)
            if own is None or not is_same or not own.is_sure or len(own.batches) < len(batches):
                own = OneProducer(epoch, next_sequence, last_ms, batches[-self._kept :])
            own.last_ms = last_ms
            producers[identity] = own
            self._ended.pop(identity, None)
        for identity, epoch in kept.ended.items():
            if identity not in producers:
                self._ended.pop(identity, None)
                self._ended[identity] = epoch
        self._clock_ms, self._newest_ms = kept.clock_ms, kept.newest_ms
        if kept.hidden_hours and self._hidden_until_ms <= self._clock_ms:  # who knows it knows it better than by hours
            self._hidden_until_ms = self._clock_ms + kept.hidden_hours * HOUR_MS
        is_next = kept.part in (0, self._next_part)
        self._next_part = kept.part + 1 if is_next and not kept.is_last else 0
        if is_next and kept.is_last:
            self._forgot = self._forgot and kept.has_forgotten

    def forgot(self, *, may_have_sent: bool = False) -> None:
        """Note that state may be missing: from now on an unknown producer in mid-sequence is ``Forgotten``.

        ``may_have_sent``: so is the next batch of a known one, which what is missing may have been: that may come back;
        and, while producers are remembered, the very first of an unknown one. That goes on by itself under epoch 1.
        """
        self._forgot, self._next_part = True, 0
        if may_have_sent:
            # The step: what comes after what has rotted moves the clock, which stands where it was before that.
            self._hidden_until_ms = self._clock_ms + CLOCK_STEP_MS_MAX + self._retention_ms + 1
        for producer in (self._producers or {}).values() if may_have_sent else ():
            if producer.is_sure:
                base_offset, facts = producer.batches[-2:]
                producer.batches.extend(((base_offset & ~GIVEN_UP) + (facts & SEQUENCE_MASK), 0))

    def mark(self, begin: int, end: int, *, is_given_up: bool) -> None:
        """Take in that the batches from offset ``begin`` to ``end`` were given up, or are whole again."""
        for batches in [each.batches for each in (self._producers or {}).values()]:
            if batches[-2] & ~GIVEN_UP >= begin and batches[0] & ~GIVEN_UP < end:
                for at in range(0, len(batches), 2):
                    if begin <= (base_offset := batches[at] & ~GIVEN_UP) < end:
                        batches[at] = base_offset | GIVEN_UP if is_given_up else base_offset

    def _check_new(self, header: BatchHeader) -> Verdict:
        if header.producer_epoch <= self._ended.get(header.producer_id, -1):
            return Forgotten()
        if header.first_sequence != 0:
            return Forgotten() if self._forgot else Gap(0)
        if not header.producer_epoch and self._clock_ms < self._hidden_until_ms:
            return Forgotten()
        return ACCEPT if self._has_room(1) else TableFull(self._producers_max)

    @staticmethod
    def _check_known(
        epoch: int,
        next_sequence: int,
        producer: OneProducer | None,
        header: BatchHeader,
        *,
        pending: bool = False,
    ) -> Verdict:
        if header.producer_epoch != epoch:
            if header.producer_epoch < epoch:
                return Fenced(epoch)
            return ACCEPT if header.first_sequence == 0 else Gap(0)
        first_sequence = header.first_sequence
        if first_sequence == next_sequence:
            is_sure = producer is None or pending or producer.batches[-1] & SEQUENCE_MASK
            return ACCEPT if is_sure else Forgotten()
        ahead = (first_sequence - next_sequence) & SEQUENCE_MASK
        if ahead < 1 << 31 or producer is None or (pending and producer.epoch != epoch):
            return Gap(next_sequence)
        if pending and (first_sequence - producer.next_sequence) & SEQUENCE_MASK < 1 << 31:
            return Gap(next_sequence)
        return producer.find(first_sequence, header.count, header.body_checksum)

    def _has_room(self, wanted: int) -> bool:
        producers, ending = self._producers, self.ending
        if not producers or len(producers) - len(ending) + wanted <= self._producers_max:
            return True
        over = len(producers) - len(ending) + wanted - self._producers_max
        for identity, producer in producers.items():
            if self._clock_ms - producer.last_ms <= self._retention_ms:
                return False
            if identity in ending:
                continue
            over -= 1
            if over == 0:
                return True
        return False

    def _expire(self) -> None:
        """Drop up to two expired producers, oldest first: called once per new producer, so the table shrinks."""
        assert self._producers is not None
        for _ in range(2):
            oldest = next(iter(self._producers), None)
            if oldest is None or self._clock_ms - self._producers[oldest].last_ms <= self._retention_ms:
                return
            del self._producers[oldest]
            self.ending.pop(oldest, None)
            self._forgot = True
