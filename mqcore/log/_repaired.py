"""Putting right what is damaged in a log, all of it that was met, and giving up what no node has whole (G12).

Where damage is met is ``_readable``'s to know, where good copies are ``_mending``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from mqcore.abc import Notice
from mqcore.errors import StorageError
from mqcore.log._lost import NOBODY, SentBy, lost_batches
from mqcore.log._mending import Mended, MendTry, overwrite
from mqcore.log._quarantine import QUARANTINES_MAX
from mqcore.log._scan import BatchScanner, header_at, read_exactly
from mqcore.log._types import Damage, LogPoint
from mqcore.log._writable import WritableLog

__all__ = ["RepairedLog"]

LOST = "no node that was asked has it whole"
"""Why a side file was kept of what is given up: asked for twice with one reason, it is the same file."""


def _never(_: Damage, __: MendTry) -> bool:
    return False


class RepairedLog(WritableLog):
    """A ``WritableLog`` that looks after its damage when it is told to."""

    __slots__ = ()

    async def keep_aside(self, position: int, *, epoch: int, reason: str, until: LogPoint | None = None) -> str:
        """Copy what is from ``position`` on, ``until`` a point or the end, into a side file, as ``Quarantine.keep``.

        Returns its name. Raises ``StorageError`` for too many.
        """
        end = self.end if until is None else until
        facts = {"epoch": self._state.epoch if until is None else epoch, "end_offset": end.offset, "reason": reason}
        name = await self._context.quarantine.keep(self._log, position, end.position, epoch=epoch, facts=facts)
        if name is None:
            text = "side files are kept already, and this would be one more; remove some"
            raise StorageError(f"log {self.name}: {QUARANTINES_MAX} {text}", kind="full")
        return name

    def seek_lost(self) -> None:
        """Have what is given up looked for, if there is any: a node may have it that was away."""
        if self._good.met is not None and any(damage.is_given_up for damage in self._state.damages.values()):
            self._good.met(self.name)

    async def mend_damages(
        self, *, anew: bool = False, gives_up: Callable[[Damage, MendTry], bool] = _never
    ) -> list[tuple[Damage, MendTry]]:
        """Try to put right every damaged range that was met; return those that stay, each with what came of it.

        ``anew``: others are asked even if they were a moment ago. ``gives_up``: whether what no node that answered has
        whole is given up, by what came of the try; what is given up is among what stays.
        It is ``ELSEWHERE`` only where all of it is elsewhere. Waits for other nodes. Raises ``StorageError``. If
        cancelled, some may be mended.
        """
        stay: list[tuple[Damage, MendTry]] = []
        self._mends = None if anew else self._mends
        for damage in self.damages:
            generation = self._generation
            try:
                is_left = damage.end_position > self._state.start_position
                tried = await self._mend_range(damage, gives_up) if is_left else None
            except ValueError:
                if generation == self._generation and damage.position >= self._state.start_position:
                    raise
            else:
                if tried is not None and tried.outcome is not Mended.YES:
                    stay.append((damage, tried))
            if damage.end_position <= self._state.start_position:
                self._state.damages.pop(damage.position, None)  # trimmed, before or meanwhile
        told = {damage.position for damage, _ in stay}
        given_up = [damage for damage in self.damages if damage.is_given_up and damage.position not in told]
        stay += [(damage, MendTry(Mended.NO)) for damage in given_up]
        return [each for each in stay if each[0].end_position > self._state.start_position]

    async def _mend_range(self, damage: Damage, gives_up: Callable[[Damage, MendTry], bool]) -> MendTry:
        position, offset, worst = damage.position, damage.first_offset, MendTry(Mended.YES)
        while position < damage.end_position and worst.outcome is not Mended.NO:
            tried = await self._try_to_mend(position, offset, asks=True)
            if tried.outcome is Mended.NO and gives_up(damage, tried):
                tried = await self._give_up(LogPoint(position, offset), damage, tried)
            if tried.outcome is not Mended.YES:
                worst = tried
            elif tried.end.position <= position:
                worst = MendTry(Mended.NO)
            position, offset = tried.end
        if worst.outcome is Mended.YES:
            await self._take_end(damage)
        return worst

    async def _take_end(self, damage: Damage) -> None:
        """Have the log end as what was mended says, where recovery could only guess: see ``open_end``."""
        state, generation = self._state, self._generation
        if damage.end_position != state.end_position or damage.position <= state.last_position:
            return
        view = await read_exactly(self._log, damage.position, damage.end_position - damage.position)
        # All at once, unless something was written behind it meanwhile, by another guess.
        if generation == self._generation and state.end_position == damage.end_position:
            state.end_position, state.end_offset = damage.position, damage.first_offset
            BatchScanner(state, self.salt, self.name).feed(view)
            state.end_position = damage.end_position

    # giving up

    async def _give_up(self, begin: LogPoint, damage: Damage, tried: MendTry) -> MendTry:
        """Put batches that say so in the place of what no node that answered has whole, durably; ``YES`` if they stand.

        Not beyond where another node has something whole. What stood there is kept aside. A crash leaves what is
        damaged, or what says so. Raises ``StorageError``, as where too much is kept aside already.
        """
        generation = self._generation
        end, is_given_up = self._shortest(begin, damage, tried)
        if (is_given_up and end.position >= damage.end_position) or self.open_end is not None:
            return tried  # it says so already, or where it ends is not known
        if self.hidden_reign(begin.position) is not None and not await self._name_hidden(begin, end, tried):
            return tried
        batches = lost_batches(
            begin,
            end,
            self.history,
            salt=self.salt,
            appended_ms=await self._appended_ms(begin, end),
            batch_bytes_max=self._context.limits.batch_bytes_max,
            sent_by=await self._sent_by(begin, end),
        )
        if batches is None or end.position > self._log.durable_end:
            return tried

        def is_same() -> bool:
            return generation == self._generation

        # Nothing at first: what a storage that only appends cannot give up is not kept aside for that either.
        if await overwrite(self._log, begin.position, b"", self._good.turns, is_same) is not Mended.YES:
            return tried
        aside = None
        if not is_given_up:
            number = [each.number for each in self.history if each.start_position <= begin.position][-1]
            aside = await self.keep_aside(begin.position, epoch=number, reason=LOST, until=end)
        if await overwrite(self._log, begin.position, batches, self._good.turns, is_same) is not Mended.YES:
            return tried
        if is_same():
            await self._put_right(begin.position, end)
        self._report(_lost_notice(self.name, begin, end, aside))
        return MendTry(Mended.YES, end)

    def _shortest(self, begin: LogPoint, damage: Damage, tried: MendTry) -> tuple[LogPoint, bool]:
        """Up to where nothing is whole from ``begin`` on, by what all nodes say, and whether it was given up before."""
        end, there = LogPoint(damage.end_position, damage.next_offset), tried.there
        if begin.position < there.position < end.position and begin.offset <= there.offset <= end.offset:
            end = there
        known = self._state.damages.get(begin.position)
        return end, known is not None and known.is_given_up

    async def _name_hidden(self, begin: LogPoint, end: LogPoint, tried: MendTry) -> bool:
        """Name the reign that was opened from ``begin`` to ``end`` if no node knows its id any more; whether it is.

        By what stands behind it, so that two nodes that do this name it alike.
        """
        hidden = self.hidden_reign(begin.position)
        if hidden is None or hidden.start_position != end.position or not tried.is_complete:
            return False
        header = await header_at(self._log, end.position, self._log.end, self.salt)
        if header is None:
            return False
        following = await read_exactly(self._log, end.position, header.size)
        self._state.history.learn(hidden.number, sha256(following).digest()[:16], *begin)
        return True

    async def _sent_by(self, begin: LogPoint, end: LogPoint) -> SentBy:
        """Who sent what is lost, if it is one batch: its own header says so, or what is remembered of producers."""
        header = await header_at(self._log, begin.position, end.position, self.salt)
        if header is None or header.is_control or header.base_offset != begin.offset:
            return SentBy(*self._state.producers.who_sent(begin.offset, end.offset) or NOBODY)
        if header.size != end.position - begin.position:
            return NOBODY
        return SentBy(header.producer_id, header.producer_epoch, header.first_sequence)

    async def _appended_ms(self, begin: LogPoint, end: LogPoint) -> int:
        """When what is lost was appended, as near as its own header says, or the one behind it."""
        for position in (begin.position, end.position):
            header = await header_at(self._log, position, self._log.end, self.salt)
            if header is not None:
                return header.appended_ms
        return self._state.newest_ms


def _lost_notice(name: str, begin: LogPoint, end: LogPoint, aside: str | None) -> Notice:
    place = Damage(begin.position, end.position, begin.offset, end.offset, LOST).place
    kept = f"; what is left of them is kept in {aside}" if aside else ""
    return Notice(
        "offsets-lost",
        f"log {name}: {place} are lost: no node that was asked has them whole{kept}",
        {
            "log": name,
            "position": begin.position,
            "end_position": end.position,
            "first_offset": begin.offset,
            "next_offset": end.offset,
            "quarantine": aside,
        },
    )
